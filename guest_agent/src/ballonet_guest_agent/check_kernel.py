"""What the guest's kernel and memory are like, judged for `ballonet-agent check`: facts in, findings out."""

from __future__ import annotations

from ballonet_guest_agent.finding import HINT, OK, PROBLEM, Finding
from ballonet_guest_agent.look import Facts, shut_out
from ballonet_guest_agent.psi import UNREADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample

_CAP_SYS_RESOURCE = 1 << 24
_PSI_SINCE, _TRIGGERS_SINCE, _REPORTING_SINCE = (4, 20), (5, 2), (5, 7)
#: Bits of the balloon device (virtio specification 5.5.3): the statistics queue, free page reporting.
_STATISTICS_BIT, _REPORTING_BIT = 1, 5
#: vm.overcommit_memory of a kernel that refuses what it could not keep.
_NEVER_OVERCOMMIT = 2


def kernel_findings(facts: Facts) -> list[Finding]:
    """All of them, in the order in which they are shown."""
    found = [_memory(facts.sample), _psi(facts), _swap(facts), *_balloon(facts)]
    return found + _reservations(facts) + _settling(facts)


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


def _older(facts: Facts, since: tuple[int, int]) -> bool:
    return facts.machine.kernel is not None and facts.machine.kernel < since


def _psi(facts: Facts) -> Finding:
    kernel = ".".join(map(str, facts.machine.kernel or ()))
    guessed = "stalls are guessed from other counters, a second late"
    if facts.sample.psi_state == UNREADABLE:
        text = f"/proc/pressure/memory cannot be read ({facts.machine.psi_refused}): {guessed}"
        return Finding("psi", PROBLEM, text, "see who hides it: permissions, a container, a security module")
    if facts.machine.psi_refused is not None:
        text = f"PSI is switched off (/proc/pressure/memory: {facts.machine.psi_refused}): {guessed}"
        return Finding("psi", PROBLEM, text, "take psi=0 off the kernel's command line, or put psi=1 there")
    if facts.sample.psi is None and _older(facts, _PSI_SINCE):
        return Finding("psi", PROBLEM, f"Linux {kernel} has no PSI: {guessed}", "a kernel of 5.2 or later")
    if facts.sample.psi is None:
        mend = "boot with psi=1 (kernel 4.20 or later with CONFIG_PSI)"
        return Finding("psi", PROBLEM, f"no /proc/pressure/memory: {guessed}", mend)
    late = "stalls are read from the counter, up to a second late"
    if _older(facts, _TRIGGERS_SINCE):
        return Finding("psi", HINT, f"Linux {kernel} has no PSI triggers: {late}", "a kernel of 5.2 or later")
    if shut_out(facts, facts.psi_access):
        mend = "a newer kernel lets others write it; or User=root for the service (systemctl edit ballonet-guest-agent)"
        return Finding("psi", PROBLEM, f"only root may write /proc/pressure/memory here: {late}", mend)
    capabilities = facts.agents[0].capabilities if facts.agents else None
    if capabilities is not None and not capabilities & _CAP_SYS_RESOURCE:
        mend = "start it as the service does (AmbientCapabilities=CAP_SYS_RESOURCE)"
        return Finding("psi", PROBLEM, f"the running agent lacks CAP_SYS_RESOURCE: {late}", mend)
    if facts.psi_error is not None and facts.caller_is_root:
        mend = "see whether /proc/pressure/memory may be written here (containers and old kernels refuse)"
        return Finding("psi", PROBLEM, f"PSI trigger refused ({facts.psi_error}): {late}", mend)
    if facts.psi_error is not None:
        return Finding("psi", OK, "/proc/pressure/memory lets the service arm its trigger, as far as permissions tell")
    return Finding("psi", OK, "the PSI trigger can be armed")


def _swap(facts: Facts) -> Finding:
    total_kib, free_kib = facts.sample.memory.swap_total_kib, facts.sample.memory.swap_free_kib
    if not total_kib:
        mend = "add a swap file or zram, an eighth of the memory or more"
        text = "no swap: what is not used cannot be moved away, and a shortage ends in the OOM killer"
        return Finding("swap", HINT, text, mend)
    if free_kib is not None and free_kib < total_kib // 20:
        text = f"swap is full ({free_kib // 1024} of {total_kib // 1024} MiB free): nothing more can be moved away"
        return Finding("swap", HINT, text, "add swap, or let the guest have more memory")
    text = f"{total_kib // 1024} MiB of swap"
    names = facts.machine.swap_names
    if names and all("/zram" in name for name in names):
        text += ", all of it zram: what goes there stays in the guest's memory, compressed"
    return Finding("swap", OK, text)


def _balloon(facts: Facts) -> list[Finding]:
    sample, features = facts.sample, facts.machine.balloon_features
    if sample.vm.balloon_inflated_pages is None and sample.memory.balloon_kib is None:
        mend = "needs a kernel with CONFIG_MEMORY_BALLOON and the virtio_balloon module"
        return [Finding("balloon", PROBLEM, "the kernel counts no balloon: this guest is observed, never shrunk", mend)]
    if sample.deflate_on_oom is None:
        mend = (
            "add the device to the VM; with libvirt\n<memballoon model='virtio' autodeflate='on'/>\n"
            "with QEMU alone\n-device virtio-balloon-pci,deflate-on-oom=on"
        )
        return [Finding("balloon", PROBLEM, "no virtio balloon device", mend)]
    if features is not None and not facts.machine.balloon_driver:
        text = "the VM has a balloon device, but no driver is bound to it"
        return [Finding("balloon", PROBLEM, text, "modprobe virtio_balloon")]
    if not sample.deflate_on_oom:
        mend = (
            "with libvirt\n<memballoon model='virtio' autodeflate='on'/>\n"
            "with QEMU alone deflate-on-oom=on; then shut the VM down and start it anew"
        )
        text = "deflate-on-oom is off: an allocation beyond the shrunk size fails at once, so the host does not shrink"
        return [Finding("balloon", PROBLEM, text, mend)]
    found = [Finding("balloon", OK, "virtio balloon with deflate-on-oom")]
    if features is None:
        return found
    if features[_REPORTING_BIT : _REPORTING_BIT + 1] != "1":
        mend = (
            "with libvirt\n<memballoon model='virtio' autodeflate='on' freePageReporting='on'/>\n"
            "with QEMU 5.1 or later alone free-page-reporting=on; then shut the VM down and start it anew"
        )
        if _older(facts, _REPORTING_SINCE):
            mend = "a kernel of 5.7 or later in the guest, and " + mend
        text = "no free page reporting: what the guest frees stays with it until the balloon takes it"
        found.append(Finding("reporting", HINT, text, mend))
    if features[_STATISTICS_BIT : _STATISTICS_BIT + 1] != "1":
        text = "no balloon statistics: while the agent is silent the host knows nothing of this guest"
        found.append(Finding("statistics", HINT, text, "a hypervisor that offers them, as QEMU's balloon does"))
    return found


def _reservations(facts: Facts) -> list[Finding]:
    """What the guest's own settings keep from being given away, or get in the way of."""
    found = []
    huge_kib, total_kib = facts.machine.huge_kib, facts.sample.total_kib
    if huge_kib and total_kib and huge_kib > total_kib // 4:
        text = (
            f"{huge_kib // 1024} MiB are set aside as huge pages, used or not: the guest cannot be made smaller by them"
        )
        found.append(Finding("hugepages", HINT, text, "a smaller vm.nr_hugepages, or none and transparent huge pages"))
    if facts.machine.overcommit == _NEVER_OVERCOMMIT:
        text = (
            "vm.overcommit_memory is 2: allocations are refused at the commit limit, before anybody could give memory"
        )
        found.append(
            Finding("overcommit", HINT, text, "sysctl vm.overcommit_memory=0, or a larger vm.overcommit_ratio")
        )
    if facts.killers:
        names = ", ".join(sorted({process.command for process in facts.killers}))
        text = f"{names} runs: it kills by itself when memory stalls, often before the host can give any"
        found.append(Finding("killer", HINT, text, "raise its limits, or stop it where the host answers in time"))
    return found


def _settling(facts: Facts) -> list[Finding]:
    uptime_s = facts.machine.uptime_s
    if uptime_s is None or uptime_s >= facts.settling_s:
        return []
    left_s = facts.settling_s - uptime_s
    return [Finding("settling", OK, f"the guest has just booted: it is not made smaller for another {left_s:.0f} s")]
