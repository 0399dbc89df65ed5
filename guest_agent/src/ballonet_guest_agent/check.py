"""What is missing on this guest for the agent to do its work, and how to mend each: facts in, findings out.

The facts come from look.py. Permissions are judged for the agent's user, whoever asks. What the port, the service and
the agent's process say is judged here, what the guest's kernel says in check_kernel.py.
"""

from __future__ import annotations

from ballonet_guest_agent.check_kernel import kernel_findings
from ballonet_guest_agent.finding import HINT, OK, PROBLEM, Finding
from ballonet_guest_agent.look import AGENT_USER, Facts, shut_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.processes import Process

#: Exit codes; 2 is a wrong command line, as everywhere. `WELL` allows hints.
WELL, MEND, UNSURE = 0, 1, 3
VERDICTS = {WELL: "well", MEND: "mend", UNSURE: "unsure"}
#: What the service's OOMScoreAdjust= asks for.
_OOM_SCORE_ADJ = -900


def exit_code(found: list[Finding]) -> int:
    """MEND: something keeps the agent or a shrink from working. UNSURE: nothing found, but only root sees all."""
    if any(finding.level == PROBLEM for finding in found):
        return MEND
    return UNSURE if any(finding.name == "caller" for finding in found) else WELL


def findings(facts: Facts) -> list[Finding]:
    """Judge the facts; problems are what keeps the agent or a shrink from working, hints what makes them worse."""
    found = [Finding("settings", PROBLEM, text, "correct that line") for text in facts.config_problems]
    if not facts.caller_is_root:
        text = "not run as root: what only the service may do was judged by permissions and could not be tried"
        found.append(Finding("caller", HINT, text, "run `ballonet-agent check` as root"))
    if facts.is_served_by_user:
        found += [*_virtual(facts), _user(facts)]
    found.append(_port(facts))
    if facts.is_served_by_user:
        found += [*_service(facts), *_agent(facts)]
    return found + kernel_findings(facts)


def _virtual(facts: Facts) -> list[Finding]:
    if facts.machine.hypervisor is None:
        return []
    if facts.machine.hypervisor == "none":
        text = "this is no virtual machine: the service does not start here (ConditionVirtualization=vm)"
        return [Finding("vm", PROBLEM, text, "install the agent in the guests; the host has the coordinator")]
    return [Finding("vm", OK, f"a virtual machine ({facts.machine.hypervisor})")]


def _user(facts: Facts) -> Finding:
    if facts.account is None:
        mend = "install ballonet-guest-agent.sysusers to /usr/lib/sysusers.d and run systemd-sysusers"
        return Finding("user", PROBLEM, f"there is no user {AGENT_USER}, and the service cannot start", mend)
    return Finding("user", OK, f"the service's user {AGENT_USER} exists")


def channel_lines(port: str) -> str:
    """What makes this port: lines for the domain's XML, and the same for QEMU's command line."""
    return (
        "add the channel to the VM; with libvirt (virsh edit) these lines below <devices>:\n"
        "<channel type='unix'>\n"
        "  <source mode='bind'/>\n"
        f"  <target type='virtio' name='{port}'/>\n"
        "</channel>\n"
        "with QEMU alone (one virtio-serial-pci is enough for all ports):\n"
        "-device virtio-serial-pci -chardev socket,id=ballonet,path=/run/vm/NAME.agent,server=on,wait=off\n"
        f"-device virtserialport,chardev=ballonet,name={port}"
    )


def _no_port(facts: Facts) -> Finding:
    machine, mend = facts.machine, channel_lines(facts.port)
    text = f"no virtio port named {facts.port}"
    if not machine.console_device and not machine.port_names:
        return Finding("port", PROBLEM, f"{text}: the VM has no virtio-serial controller", mend)
    if not machine.console_driver:
        text += ": the VM has a virtio-serial controller, but the kernel module virtio_console is not loaded"
        return Finding("port", PROBLEM, text, "modprobe virtio_console (a kernel with CONFIG_VIRTIO_CONSOLE)")
    if machine.port_names:
        text += f"; there is {', '.join(machine.port_names)}"
        alike = [name for name in machine.port_names if "ballonet" in name]
        if alike:
            mend = f"is it that one? Then `port = {alike[0]}` in agent.conf. Else {mend}"
    return Finding("port", PROBLEM, text, mend)


def _named(processes: tuple[Process, ...]) -> str:
    return ", ".join(f"{process.command} (pid {process.pid})" for process in processes)


def _busy_port(facts: Facts) -> Finding:
    where = f"{facts.port_path} is in use"
    if facts.port_holders:
        strangers = tuple(process for process in facts.port_holders if not process.is_agent)
        if strangers:
            mend = "stop it (systemctl status PID shows what it belongs to), or give it a port with a name of its own"
            return Finding("port", PROBLEM, f"{where} by {_named(strangers)}, so the agent cannot open it", mend)
        return Finding("port", OK, f"{where} by the running agent, as it should be")
    if facts.agents or not facts.caller_is_root:
        return Finding("port", OK, f"{where}, by the running agent as it should be; by whom, only root can see")
    text = f"{where} by a process that cannot be seen from here, and no agent runs"
    return Finding("port", PROBLEM, text, "look in the containers of this guest (fuser -v on the device)")


def _port(facts: Facts) -> Finding:
    if facts.port_path is None:
        return _no_port(facts)
    if facts.serial_error is not None:
        return Finding("port", PROBLEM, facts.serial_error, "install python3-serial (or pip install pyserial)")
    if facts.port_busy:
        return _busy_port(facts)
    access = facts.port_access
    if access is not None and shut_out(facts, access):
        mend = "install the udev rule 60-ballonet-guest-agent.rules, then udevadm trigger; for a UART the group dialout"
        text = f"{facts.port_path} is {access.uid}:{access.gid} {access.mode:04o}: {AGENT_USER} cannot open it"
        return Finding("port", PROBLEM, text, mend)
    judged_by_mode = not facts.caller_is_root and facts.account is not None and access is not None
    if facts.port_error is not None and not (judged_by_mode and facts.is_served_by_user):
        mend = "see that it is the right port, and that the agent's user may open it"
        return Finding("port", PROBLEM, f"{facts.port_path}: {facts.port_error}", mend)
    return Finding("port", OK, f"{facts.port_path} can be opened")


def _service(facts: Facts) -> list[Finding]:
    unit = facts.unit
    if unit is None or facts.machine.hypervisor == "none":
        return []
    level, text, mend = OK, "the service runs", ""
    if unit.load == "not-found":
        level, text = (HINT if facts.agents else PROBLEM), "there is no unit ballonet-guest-agent.service"
        mend = "install the package, or the unit by hand; then systemctl daemon-reload"
    elif unit.load == "masked":
        level, text = PROBLEM, "the service is masked: nothing can start it"
        mend = "systemctl unmask ballonet-guest-agent"
    elif unit.active == "failed":
        level, text = PROBLEM, f"the service has failed ({unit.result})"
        mend = "journalctl -u ballonet-guest-agent says why; then systemctl restart ballonet-guest-agent"
    elif unit.file.startswith("enabled"):
        level, text = HINT, "the service is enabled, so it is started at boot also where no port is"
        mend = "systemctl disable ballonet-guest-agent; the port's appearance starts it"
    elif unit.active in ("activating", "reloading"):
        level, text = HINT, f"the service is starting, or starting again ({unit.restarts} times so far)"
        mend = "journalctl -u ballonet-guest-agent says why"
    elif unit.active != "active":
        text = "the service does not run"
        if facts.port_path is not None and not facts.agents:
            level, text = PROBLEM, "the port is there and the service does not run"
            mend = (
                "install the udev rule 60-ballonet-guest-agent.rules, then "
                "udevadm trigger --name-match=/dev/virtio-ports/org.ballonet.agent.0 --action=add"
            )
    return [Finding("service", level, text, mend)]


def _agent(facts: Facts) -> list[Finding]:
    if not facts.agents:
        return []
    first = facts.agents[0]
    if len(facts.agents) > 1:
        mend = "stop all but the service's (systemctl show -P MainPID ballonet-guest-agent)"
        return [Finding("agent", PROBLEM, f"more than one agent runs: {_named(facts.agents)}", mend)]
    lacks = []
    if first.locked_kib == 0:
        lacks.append("its memory is not locked, so a guest short of memory pages it out")
    if first.oom_score_adj is not None and first.oom_score_adj > _OOM_SCORE_ADJ:
        lacks.append(f"its oom_score_adj is {first.oom_score_adj}, so the OOM killer may take it")
    if lacks:
        mend = "let the service start it (OOMScoreAdjust=, CAP_IPC_LOCK), with lock_memory = yes in agent.conf"
        return [Finding("agent", HINT, f"the agent runs (pid {first.pid}), but {' and '.join(lacks)}", mend)]
    return [Finding("agent", OK, f"the agent runs (pid {first.pid})")]
