"""What is wrong with the host for `ballonet serve`, and how to mend each: facts in, findings out. Pure.

The facts come from host_look.py. The guests' part is guest_check.py's.

That khugepaged refills balloons is a hint and no problem, though it undoes shrinks: the books count what resides, so
nothing is overdrawn by it, and every kernel is delivered that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .budget import budget_parts, in_words
from .finding import Finding, Level
from .model import BudgetParts, Enforce, HostFacts, Settings
from .settings_values import exact

MUCH_SWAPPED_KIB = 65536
"""What lies in the swap of a host that was never short: less than this."""
KHUGEPAGED = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs `ballonet check`."""

    uid: int
    user: str
    groups: tuple[str, ...] = ()

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True, slots=True)
class PathSight:
    """A file that the coordinator makes, as the caller may use it."""

    key: str
    """As the settings call it: `control`, `state`, `record`."""
    path: str
    error: str = ""
    """Why it cannot be used; empty where it can."""
    denied: bool = False
    """The error is one of permissions, which another user may have."""


@dataclass(frozen=True, slots=True)
class Service:
    """The running coordinator, by its control socket."""

    answers: bool = False
    error: str = ""
    denied: bool = False
    """It may run: the caller is kept from asking."""


@dataclass(frozen=True, slots=True)
class HostSight:
    """What `host_look` saw. None or empty: this kernel does not say."""

    memory: HostFacts | None = None
    memory_of_service: bool = False
    """`memory` is the service's own sight, with its cgroup; else the caller's."""
    parts: BudgetParts | None = None
    """The running service's budget, which has counted who else holds memory."""
    huge_pages: str = ""
    """transparent_hugepage/enabled: always, madvise or never."""
    max_ptes_none: int | None = None
    ksm_runs: bool = False
    hugetlb_kib: int = 0
    swap_total_kib: int = 0
    swap_free_kib: int = 0
    overcommit: int | None = None
    commit_limit_kib: int | None = None
    committed_kib: int | None = None
    psi_error: str = ""
    """Why /proc/pressure/memory cannot be read."""
    caller: Caller = Caller(0, "root")
    paths: tuple[PathSight, ...] = ()
    control_group_missing: bool = False
    control_socket_group: str = ""
    """Whose the control socket is that is there, where that is not the group of the settings."""
    service: Service = Service()
    libvirt_error: str = ""
    libvirt_denied: bool = False
    libvirt_domains: int | None = None
    """How many run; None where libvirt is not named or did not answer."""


def host_findings(settings: Settings, sight: HostSight, resident_kib: int | None) -> list[Finding]:
    """Judge the host. `resident_kib` is what all guests hold together, None where that is not known of each."""
    return [
        _caller(sight),
        *_service(sight),
        *_paths(settings, sight),
        *_libvirt(settings, sight),
        *_budget(settings, sight, resident_kib),
        *_khugepaged(sight),
        *_ksm(sight),
        _psi(sight),
        _swap(sight),
        *_enforcement(settings, sight),
        *_overcommit(settings, sight),
    ]


def _caller(sight: HostSight) -> Finding:
    caller = sight.caller
    if caller.is_root:
        return Finding("caller", Level.OK, "run as root, as the service is")
    groups = f" (groups {', '.join(caller.groups)})" if caller.groups else ""
    text = f"run as {caller.user}{groups}: what may be opened was judged for this user; the service runs as root"
    return Finding("caller", Level.OK, text)


def _service(sight: HostSight) -> Iterable[Finding]:
    service = sight.service
    if service.answers:
        yield Finding("service", Level.OK, "the coordinator runs and answers")
    elif service.denied:
        mend = "run `ballonet check` as root, or as a member of its socket's group (ballonet, if not set to another)"
        yield Finding("service", Level.HINT, service.error, mend, unjudged=True)
    elif service.error:
        yield Finding("service", Level.OK, f"the coordinator does not run ({service.error})")


def _paths(settings: Settings, sight: HostSight) -> Iterable[Finding]:
    for path in sight.paths:
        if not path.error:
            yield Finding(path.key, Level.OK, f"{path.path} can be used")
        elif sight.service.answers:
            yield Finding(path.key, Level.OK, f"{path.path} is the running coordinator's")
        elif path.denied and not sight.caller.is_root:
            mend = f"run `ballonet check` as root; a coordinator of this user needs another [host] {path.key}"
            text = f"{path.path}: {path.error} for {sight.caller.user}"
            yield Finding(path.key, Level.HINT, text, mend, unjudged=True)
        else:
            mend = f"make room for it there, or name another path: [host] {path.key}"
            yield Finding(path.key, Level.PROBLEM, f"{path.path}: {path.error}", mend)
    if sight.control_group_missing:
        group = settings.host.control_group
        mend = f"groupadd --system {group}, or another [host] control_group"
        yield Finding("control_group", Level.PROBLEM, f"there is no group {group} on this host", mend)
    elif sight.control_socket_group:
        group, where = settings.host.control_group, settings.host.control_path
        text = f"control_group = {group} is not used: {where} is of the group {sight.control_socket_group}"
        mend = f"under systemd ListenStream={where} and SocketGroup={group} in ballonet.socket (systemctl edit)"
        yield Finding("control_group", Level.HINT, text, mend)


def _libvirt(settings: Settings, sight: HostSight) -> Iterable[Finding]:
    if settings.libvirt_uri is None:
        return
    if sight.libvirt_domains is not None:
        text = f"{settings.libvirt_uri} answers: {sight.libvirt_domains} domain(s) run"
        yield Finding("libvirt", Level.OK, text)
    elif sight.libvirt_denied:
        mend = "run `ballonet check` as root, or as a user of the group libvirt"
        yield Finding("libvirt", Level.HINT, sight.libvirt_error, mend, unjudged=True)
    else:
        mend = "install python3-libvirt, see that libvirtd runs (virtqemud), or mend [libvirt]"
        yield Finding("libvirt", Level.PROBLEM, sight.libvirt_error, mend)


def _budget(settings: Settings, sight: HostSight, resident_kib: int | None) -> Iterable[Finding]:
    memory, host = sight.memory, settings.host
    if memory is None:
        yield Finding("budget", Level.HINT, "the host's memory cannot be read", "is /proc mounted?", unjudged=True)
        return
    parts = budget_parts(host, memory)
    if sight.parts is not None:  # with what the service has counted, and what the files say now
        parts = replace(sight.parts, set_kib=host.budget_kib, reserve_kib=host.reserve_kib)
    promised_kib = parts.budget_kib
    found = list(_too_much(settings, sight, memory, promised_kib))
    yield from found
    if any(finding.level is Level.PROBLEM for finding in found):
        return
    if resident_kib is not None and memory.available_kib + resident_kib < promised_kib:
        lacks_kib = promised_kib - memory.available_kib - resident_kib
        text = (
            f"the budget is {_mib(promised_kib)}; the guests hold {_mib(resident_kib)} and the host has "
            f"{_mib(memory.available_kib)} left, so {_mib(lacks_kib)} of it are not there"
        )
        mend = "what else runs on this host takes more than the reserve: lower [host] budget, or raise reserve"
        yield Finding("available", Level.HINT, text, mend)
    elif not found:
        text = f"{_mib(promised_kib)} of the host's {_mib(memory.total_kib)}"
        said = in_words(parts) if sight.parts is not None else ""
        yield Finding("budget", Level.OK, f"{text}: {said}" if said else text)


def _too_much(settings: Settings, sight: HostSight, memory: HostFacts, promised_kib: int) -> Iterable[Finding]:
    limit_kib, host = memory.cgroup_limit_kib, settings.host
    usable_kib = memory.total_kib - sight.hugetlb_kib
    huge = f" less hugepages of {_mib(sight.hugetlb_kib)}" if sight.hugetlb_kib else ""
    if promised_kib > usable_kib:
        text = f"the budget is {_mib(promised_kib)}, more than the host's {_mib(memory.total_kib)}{huge}"
        mend = f"[host] budget: at most {_mib(max(0, usable_kib - host.reserve_kib))}"
        if sight.hugetlb_kib:
            mend += ", or fewer hugepages (vm.nr_hugepages): ballooned guests cannot use them"
        yield Finding("budget", Level.PROBLEM, text, mend)
    elif promised_kib > usable_kib - host.reserve_kib:
        text = (
            f"the budget is {_mib(promised_kib)}, more than the host's {_mib(memory.total_kib)}{huge} less the reserve "
            f"of {_mib(host.reserve_kib)}"
        )
        mend = f"[host] budget: at most {_mib(max(0, usable_kib - host.reserve_kib))}, or a smaller reserve"
        yield Finding("budget", Level.HINT, text, mend)
    if limit_kib is not None and promised_kib > limit_kib:
        whose = "the coordinator's cgroup" if sight.memory_of_service else "the cgroup that this command runs in"
        text = f"the budget is {_mib(promised_kib)}, and {whose} has a memory limit of {_mib(limit_kib)}"
        mend = "raise the limit (MemoryMax=, or the container's), or lower [host] budget"
        level = Level.PROBLEM if sight.memory_of_service else Level.HINT
        yield Finding("cgroup", level, text, mend)


def _khugepaged(sight: HostSight) -> Iterable[Finding]:
    holes = sight.max_ptes_none
    if holes is None:
        return
    if sight.huge_pages == "never":
        yield Finding("khugepaged", Level.OK, "transparent huge pages are off, so nothing refills a balloon")
    elif holes == 0:
        yield Finding("khugepaged", Level.OK, "max_ptes_none is 0: khugepaged refills no balloon")
    else:
        text = (
            f"max_ptes_none is {holes}: khugepaged makes huge pages of blocks in which up to {holes} of 512 pages are "
            "missing, and so takes a balloon's pages back from the host (at 511, 256 MiB that a guest had given grew "
            "from 21 to 254 MiB in 160 s)"
        )
        mend = f"echo 0 > {KHUGEPAGED}\nat each boot, in /etc/tmpfiles.d/ballonet.conf: w {KHUGEPAGED} - - - - 0"
        yield Finding("khugepaged", Level.HINT, text, mend)


def _ksm(sight: HostSight) -> Iterable[Finding]:
    if sight.ksm_runs:
        text = "KSM merges pages: each guest is booked as if they were its own, and what is saved is not sold again"
        yield Finding("ksm", Level.OK, text)


def _psi(sight: HostSight) -> Finding:
    if not sight.psi_error:
        return Finding("psi", Level.OK, "the kernel tells its stalls (PSI)")
    text = f"the host's stalls cannot be seen (/proc/pressure/memory: {sight.psi_error}), only what it has left"
    return Finding("psi", Level.HINT, text, "boot with psi=1 (a kernel with CONFIG_PSI)")


def _swap(sight: HostSight) -> Finding:
    used_kib = sight.swap_total_kib - sight.swap_free_kib
    if sight.swap_total_kib == 0:
        return Finding("swap", Level.OK, "the host has no swap: what balloons do not relieve is the OOM killer's")
    if used_kib < MUCH_SWAPPED_KIB:
        return Finding("swap", Level.OK, f"{_mib(used_kib)} of {_mib(sight.swap_total_kib)} swap are used")
    text = (
        f"{_mib(used_kib)} of {_mib(sight.swap_total_kib)} swap are used: guests' pages there count as theirs, and "
        "come back slowly, which no agent in a guest can see"
    )
    mend = "a smaller [host] budget or a larger reserve; vm.swappiness=1 keeps guests out of swap longer"
    return Finding("swap", Level.HINT, text, mend)


def _enforcement(settings: Settings, sight: HostSight) -> Iterable[Finding]:
    said = (value for _, keys in (("", settings.rules.defaults), *settings.rules.sections) for key, value in keys
            if key == "enforce")  # fmt: skip
    if Enforce.CGROUP not in {*said, *(guest.enforce for guest in settings.guests)} or sight.swap_total_kib:
        return
    text = "guests are held to their size by their cgroups, and the host has no swap: it can only slow them down"
    yield Finding("enforce", Level.HINT, text, "give the host some swap, or take `enforce` away")


def _overcommit(settings: Settings, sight: HostSight) -> Iterable[Finding]:
    if sight.overcommit != 2:
        return
    needs_kib = sum(guest.maximum_kib + guest.overhead_kib for guest in settings.guests)
    text = "vm.overcommit_memory is 2: each guest is committed with its whole RAM, whatever its balloon holds"
    mend = "sysctl vm.overcommit_memory=0, and the same in /etc/sysctl.d"
    limit_kib = sight.commit_limit_kib
    if limit_kib is not None and needs_kib > limit_kib:
        text += f"; the named guests come to {_mib(needs_kib)}, and CommitLimit is {_mib(limit_kib)}"
        yield Finding("overcommit", Level.PROBLEM, text, mend)
    elif limit_kib is not None and sight.committed_kib is not None:
        text += f"; {_mib(max(0, limit_kib - sight.committed_kib))} are left of a CommitLimit of {_mib(limit_kib)}"
        yield Finding("overcommit", Level.HINT, text, mend)
    else:
        yield Finding("overcommit", Level.HINT, text, mend)


def _mib(kib: int) -> str:
    """Exact where it is short."""
    return exact(kib) if kib % 1024 == 0 else f"{kib / 1024:.0f} MiB"


def sum_or_none(values: Sequence[int | None]) -> int | None:
    """The sum, None where one is not known."""
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)
