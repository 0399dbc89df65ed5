"""What two samples say about harm: stalls, swap storms, refaults, kills, and a balloon that moved by itself.

Without PSI triggers (no PSI, or no right to arm them) this is also how a stall is noticed, a sample later.

A balloon's counters move when the hypervisor moves it and when the guest takes memory back (deflate-on-oom). The two
are told apart by what was announced: a deflation up to the size that a DEFLATE named is the coordinator's, everything
beyond is the guest's own.

Not every stall is the guest's. PSI counts kswapd's own work (balance_pgdat() runs inside psi_memstall_enter()), and an
INFLATE into page cache is little else; and it counts a cgroup that fights with its own limit while the guest has memory
to spare. Two signs of /proc/vmstat tell them apart: did the kernel scan for the whole guest (`scanned`; reclaim at a
cgroup's limit is not counted there), and did any task wait for memory or lose what it was using (`waited`).
"""

from __future__ import annotations

from ballonet_guest_agent.values import Value, increase
from ballonet_protocol import DemandWhy, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample

_MIB = 1024  # KiB

#: Swap read back faster than this is a working set that does not fit; faster than the second is a storm: at 4 KiB a
#: fault it is thousands of waits a second, and nothing else gets done.
SWAP_IN_SHORT_KIB_PER_S, SWAP_IN_STORM_KIB_PER_S = 1 * _MIB, 16 * _MIB
#: Refaults are re-reads of what was just evicted; this many make the disk the guest's memory.
REFAULT_SHORT_KIB_PER_S = 8 * _MIB
#: The kernel's OOM path takes 1 MiB out of the balloon per call, so that is the least sign of it.
SELF_MOVE_LEAST_KIB = 1 * _MIB
#: Shorter intervals make rates of single events.
SHORTEST_INTERVAL_S = 0.05


class Harm(Value):
    """One reason to ask for memory: DEMAND's `why` and `severity`."""

    why: int
    severity: int


def psi_share_permyriad(before: int | None, after: int | None, interval_s: float) -> int | None:
    """Share of the interval that was stalled, 1/10000; None when unknown."""
    stalled_us = increase(before, after)
    if stalled_us is None or interval_s <= 0:
        return None
    return min(10000, int(stalled_us / (interval_s * 100)))


def stall_harm(
    before: Sample, after: Sample, interval_s: float, some_permyriad: int, full_permyriad: int
) -> Harm | None:
    """Did tasks stall for more than the policy's share of the interval?"""
    if before.psi is None or after.psi is None:
        return None
    full = psi_share_permyriad(before.psi.full_us, after.psi.full_us, interval_s)
    if full is not None and full >= full_permyriad:
        return Harm(DemandWhy.PSI, Severity.STARVING)
    some = psi_share_permyriad(before.psi.some_us, after.psi.some_us, interval_s)
    if some is not None and some >= some_permyriad:
        return Harm(DemandWhy.PSI, Severity.STALLING)
    return None


def scanned(before: Sample, after: Sample) -> bool:
    """Did the kernel look for memory on behalf of the whole guest? Unknown counts as yes.

    mm/vmscan.c adds to pgscan_* unless the reclaim is a cgroup's (cgroup_reclaim()).
    """
    kswapd = increase(before.vm.kswapd_scan_pages, after.vm.kswapd_scan_pages)
    direct = increase(before.vm.direct_scan_pages, after.vm.direct_scan_pages)
    return kswapd != 0 or direct != 0


def waited(before: Sample, after: Sample) -> bool:
    """Did a task reclaim for itself, or read back what it had been using? Unknown counts as yes, but for swap-in."""
    old, new = before.vm, after.vm
    if increase(old.swap_in_pages, new.swap_in_pages):
        return True
    pairs = (
        (old.direct_scan_pages, new.direct_scan_pages),
        (old.alloc_stalls, new.alloc_stalls),
        (old.restored_pages, new.restored_pages),
    )
    return any(increase(a, b) != 0 for a, b in pairs)


def move_harm(before: Sample, after: Sample, interval_s: float) -> Harm | None:
    """Does an INFLATE on its way take what is in use, though memory is still available?

    MemAvailable counts nearly all page cache, also what is read every second, so it says nothing here. Restored pages
    were in use when they were evicted; a file that is streamed through makes refaults at any size, and none of these.
    A kernel that does not tell them apart (before 4.20) has its refaults counted.
    """
    lost = increase(before.vm.restored_pages, after.vm.restored_pages)
    if after.vm.restored_pages is None:
        lost = refaulted_pages(before, after)
    if (lost or 0) * after.page_kib / interval_s >= REFAULT_SHORT_KIB_PER_S:
        return Harm(DemandWhy.REFAULT, Severity.SHORT)
    swapped = increase(before.vm.swap_in_pages, after.vm.swap_in_pages) or 0
    if swapped * after.page_kib / interval_s >= SWAP_IN_SHORT_KIB_PER_S:
        return Harm(DemandWhy.SWAP_IN, Severity.SHORT)
    return None


def refaulted_pages(before: Sample, after: Sample) -> int:
    """File and anonymous refaults between two samples, as far as the kernel counts them."""
    old, new = before.vm, after.vm
    return (increase(old.refaults_file, new.refaults_file) or 0) + (increase(old.refaults_anon, new.refaults_anon) or 0)


def counter_harm(before: Sample, after: Sample, interval_s: float, short: bool) -> Harm | None:
    """The worst that the counters of /proc/vmstat show. `short`: available memory is below comfort.

    A kill or a refault with memory available is a cgroup's own limit at work, not a small guest.
    """
    old, new = before.vm, after.vm
    if short and increase(old.oom_kills, new.oom_kills):
        return Harm(DemandWhy.OOM, Severity.STARVING)
    swapped_kib_per_s = (increase(old.swap_in_pages, new.swap_in_pages) or 0) * after.page_kib / interval_s
    if short and swapped_kib_per_s >= SWAP_IN_STORM_KIB_PER_S:
        return Harm(DemandWhy.SWAP_IN, Severity.STARVING)
    if short and before.psi is None and increase(old.alloc_stalls, new.alloc_stalls):
        return Harm(DemandWhy.STALL, Severity.STALLING)
    if short and swapped_kib_per_s >= SWAP_IN_SHORT_KIB_PER_S:
        return Harm(DemandWhy.SWAP_IN, Severity.SHORT)
    if short and refaulted_pages(before, after) * after.page_kib / interval_s >= REFAULT_SHORT_KIB_PER_S:
        return Harm(DemandWhy.REFAULT, Severity.SHORT)
    return None


def self_deflated_kib(before: Sample, after: Sample, ram_kib: int, granted_kib: int | None) -> int:
    """Memory that the guest took out of its balloon by itself between two samples; 0 when none or unknown.

    `granted_kib` is the size that the last DEFLATE named, None when no grant is open.
    """
    pages = increase(before.vm.balloon_deflated_pages, after.vm.balloon_deflated_pages)
    if not pages:
        return 0
    size_before_kib = ram_kib - (before.balloon_kib or 0)
    granted = 0 if granted_kib is None else max(0, granted_kib - size_before_kib)
    taken_kib = pages * after.page_kib - granted
    return taken_kib if taken_kib >= SELF_MOVE_LEAST_KIB else 0
