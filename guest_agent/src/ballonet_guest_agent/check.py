"""What is missing on this guest for the agent to do its work, and how to mend each: facts in, findings out.

`look` gathers the facts (the only part that touches the system), `findings` judges them.
"""

from __future__ import annotations

import errno
import os

from ballonet_guest_agent.actions import trigger_us
from ballonet_guest_agent.port import find_port
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.values import Value
from ballonet_guest_agent.watch import DEFAULT_FULL_PERMYRIAD, DEFAULT_SOME_PERMYRIAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.config import AgentSettings
    from ballonet_guest_agent.sample import Sample

OK, HINT, PROBLEM = "ok", "hint", "problem"
_CAP_SYS_RESOURCE = 1 << 24


class Facts(Value):
    """What `look` saw. Errors are the system's words, None when there was none."""

    port: str
    port_path: str | None
    port_error: str | None
    port_busy: bool
    sample: Sample
    psi_error: str | None
    has_sys_resource: bool
    config_problems: tuple[str, ...] = ()


class Finding(Value):
    """One line of `check`. `mend` is empty for what is well."""

    name: str
    level: str
    text: str
    mend: str = ""


def look(settings: AgentSettings, port: str, config_problems: list[str]) -> Facts:
    """Gather the facts. Opens the port for an instant; a running agent has it busy, which is well."""
    procfs = Procfs(settings.proc_root, settings.sys_root)
    path, error, busy = _try_port(settings, port)
    triggers = PsiTriggers(procfs.psi_path)
    psi_error = triggers.arm(trigger_us(DEFAULT_SOME_PERMYRIAD), trigger_us(DEFAULT_FULL_PERMYRIAD))
    triggers.close()
    return Facts(
        port=port,
        port_path=path,
        port_error=error,
        port_busy=busy,
        sample=procfs.sample(),
        psi_error=psi_error,
        has_sys_resource=_has_sys_resource(settings.proc_root),
        config_problems=tuple(config_problems),
    )


def _try_port(settings: AgentSettings, port: str) -> tuple[str | None, str | None, bool]:
    kind, colon, path = port.partition(":")
    if colon and kind == "unix":
        folder = os.path.dirname(path)
        error = None if os.access(folder, os.W_OK) else f"{folder} is not a directory that can be written"
        return path, error, False
    found = path if colon else find_port(port, settings.sys_root, settings.dev_root)
    if found is None:
        return None, None, False
    try:
        os.close(os.open(found, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError as error:
        return found, error.strerror or str(error), error.errno == errno.EBUSY
    return found, None, False


def _has_sys_resource(proc_root: str) -> bool:
    try:
        with open(proc_root + "/self/status", encoding="latin-1") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "CapEff":
                    return bool(int(value.strip(), 16) & _CAP_SYS_RESOURCE)
    except (OSError, ValueError):
        return False
    return False


def findings(facts: Facts) -> list[Finding]:
    """Judge the facts; problems are what keeps the agent or a shrink from working, hints what makes them worse."""
    found = [Finding("settings", PROBLEM, text, "correct that line") for text in facts.config_problems]
    found += [_port(facts), _memory(facts.sample), _psi(facts), _swap(facts.sample), *_balloon(facts.sample)]
    return found


def _port(facts: Facts) -> Finding:
    if facts.port_path is None:
        mend = (
            "add a virtio-serial channel with this name to the VM: libvirt <channel type='unix'>"
            f"<target type='virtio' name='{facts.port}'/></channel>, QEMU -device virtserialport,name={facts.port}"
        )
        return Finding("port", PROBLEM, f"no virtio port named {facts.port}", mend)
    if facts.port_busy:
        return Finding("port", OK, f"{facts.port_path} is in use, by the running agent as it should be")
    if facts.port_error is not None:
        mend = "run as the agent's user (_ballonet-agent), and see that the udev rule gives it the port"
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
    if facts.psi_error is not None:
        mend = "run as the service does (AmbientCapabilities=CAP_SYS_RESOURCE)"
        if facts.has_sys_resource:
            mend = "see whether /proc/pressure/memory may be written here (containers and old kernels refuse)"
        text = f"PSI trigger refused ({facts.psi_error}): stalls are seen up to a second late"
        return Finding("psi", PROBLEM, text, mend)
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
