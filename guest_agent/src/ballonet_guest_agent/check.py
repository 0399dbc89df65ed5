"""What is missing on this guest for the agent to do its work, and how to mend each: facts in, findings out.

The facts come from look.py. Permissions are judged for the agent's user, whoever asks.
"""

from __future__ import annotations

from ballonet_guest_agent.look import AGENT_USER, Facts
from ballonet_guest_agent.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.look import Access
    from ballonet_guest_agent.sample import Sample

OK, HINT, PROBLEM = "ok", "hint", "problem"
_CAP_SYS_RESOURCE = 1 << 24


class Finding(Value):
    """One line of `check`. `mend` is empty for what is well."""

    name: str
    level: str
    text: str
    mend: str = ""


def findings(facts: Facts) -> list[Finding]:
    """Judge the facts; problems are what keeps the agent or a shrink from working, hints what makes them worse."""
    found = [Finding("settings", PROBLEM, text, "correct that line") for text in facts.config_problems]
    if not facts.caller_is_root:
        text = "not run as root: what only the service may do was judged by permissions and could not be tried"
        found.append(Finding("caller", HINT, text, "run `ballonet-agent check` as root"))
    if _is_served_by_user(facts):
        found.append(_user(facts))
    found += [_port(facts), _memory(facts.sample), _psi(facts), _swap(facts.sample), *_balloon(facts.sample)]
    return found


def _is_served_by_user(facts: Facts) -> bool:
    """The service has a port or a line; a Unix socket is for development, by whoever starts the agent."""
    return not facts.port.startswith("unix:")


def _user(facts: Facts) -> Finding:
    if facts.account is None:
        mend = "install ballonet-guest-agent.sysusers to /usr/lib/sysusers.d and run systemd-sysusers"
        return Finding("user", PROBLEM, f"there is no user {AGENT_USER}, and the service cannot start", mend)
    return Finding("user", OK, f"the service's user {AGENT_USER} exists")


def _shut_out(facts: Facts, access: Access | None) -> bool:
    """Is the agent's user kept from this file?"""
    if facts.account is None or access is None or not _is_served_by_user(facts):
        return False
    return not access.lets(facts.account)


def _port(facts: Facts) -> Finding:
    if facts.port_path is None:
        mend = (
            "add a virtio-serial channel with this name to the VM: libvirt <channel type='unix'>"
            f"<target type='virtio' name='{facts.port}'/></channel>, QEMU -device virtserialport,name={facts.port}"
        )
        return Finding("port", PROBLEM, f"no virtio port named {facts.port}", mend)
    if facts.serial_error is not None:
        return Finding("port", PROBLEM, facts.serial_error, "install python3-serial (or pip install pyserial)")
    if facts.port_busy:
        return Finding("port", OK, f"{facts.port_path} is in use, by the running agent as it should be")
    access = facts.port_access
    if access is not None and _shut_out(facts, access):
        mend = "install the udev rule 60-ballonet-guest-agent.rules, then udevadm trigger; for a UART the group dialout"
        text = f"{facts.port_path} is {access.uid}:{access.gid} {access.mode:04o}: {AGENT_USER} cannot open it"
        return Finding("port", PROBLEM, text, mend)
    judged_by_mode = not facts.caller_is_root and facts.account is not None and access is not None
    if facts.port_error is not None and not (judged_by_mode and _is_served_by_user(facts)):
        mend = "see that it is the right port, and that the agent's user may open it"
        return Finding("port", PROBLEM, f"{facts.port_path}: {facts.port_error}", mend)
    return Finding("port", OK, f"{facts.port_path} can be opened")


def _memory(sample: Sample) -> Finding:
    needed = {
        "MemTotal": sample.memory.total_kib,
        "MemFree": sample.memory.free_kib,
        "MemAvailable": sample.memory.available_kib,
        "Committed_AS": sample.memory.committed_kib,
    }
    missing = [name for name, kib in needed.items() if kib is None]
    if missing:
        mend = "needs Linux 3.14 or later with /proc mounted"
        return Finding("memory", PROBLEM, f"/proc/meminfo does not say {', '.join(missing)}", mend)
    return Finding("memory", OK, "/proc/meminfo has what a report needs")


def _psi(facts: Facts) -> Finding:
    if facts.sample.psi is None:
        mend = "boot with psi=1 (kernel 4.20 or later with CONFIG_PSI)"
        text = "no /proc/pressure/memory: stalls are guessed from other counters, a second late"
        return Finding("psi", PROBLEM, text, mend)
    late = "stalls are read from the counter, up to a second late"
    if _shut_out(facts, facts.psi_access):
        mend = "a newer kernel lets others write it; or User=root for the service (systemctl edit ballonet-guest-agent)"
        return Finding("psi", PROBLEM, f"only root may write /proc/pressure/memory here: {late}", mend)
    if facts.agent_capabilities is not None and not facts.agent_capabilities & _CAP_SYS_RESOURCE:
        mend = "start it as the service does (AmbientCapabilities=CAP_SYS_RESOURCE)"
        return Finding("psi", PROBLEM, f"the running agent lacks CAP_SYS_RESOURCE: {late}", mend)
    if facts.psi_error is not None and facts.caller_is_root:
        mend = "see whether /proc/pressure/memory may be written here (containers and old kernels refuse)"
        return Finding("psi", PROBLEM, f"PSI trigger refused ({facts.psi_error}): {late}", mend)
    if facts.psi_error is not None:
        return Finding("psi", OK, "/proc/pressure/memory lets the service arm its trigger, as far as permissions tell")
    return Finding("psi", OK, "the PSI trigger can be armed")


def _swap(sample: Sample) -> Finding:
    total_kib = sample.memory.swap_total_kib
    if not total_kib:
        mend = "add a swap file or zram, an eighth of the memory or more"
        text = "no swap: what is not used cannot be moved away, and a shortage ends in the OOM killer"
        return Finding("swap", HINT, text, mend)
    return Finding("swap", OK, f"{total_kib // 1024} MiB of swap")


def _balloon(sample: Sample) -> list[Finding]:
    if sample.vm.balloon_inflated_pages is None and sample.memory.balloon_kib is None:
        mend = "needs a kernel with CONFIG_MEMORY_BALLOON and the virtio_balloon module"
        return [Finding("balloon", PROBLEM, "the kernel counts no balloon: this guest is observed, never shrunk", mend)]
    if sample.deflate_on_oom is None:
        mend = "add <memballoon model='virtio' autodeflate='on'/>, QEMU -device virtio-balloon-pci,deflate-on-oom=on"
        return [Finding("balloon", PROBLEM, "no virtio balloon device", mend)]
    if not sample.deflate_on_oom:
        mend = "<memballoon model='virtio' autodeflate='on'/>, QEMU deflate-on-oom=on, then start the VM anew"
        text = "deflate-on-oom is off: an allocation beyond the shrunk size fails at once, so the host does not shrink"
        return [Finding("balloon", PROBLEM, text, mend)]
    return [Finding("balloon", OK, "virtio balloon with deflate-on-oom")]
