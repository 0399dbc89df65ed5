"""A sample -> the memory, psi and vm parts of a REPORT, in the wire's units."""

from __future__ import annotations

from ballonet_guest_agent.want import present_kib
from ballonet_protocol import MemoryReport, PsiReport, VmReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample


def to_bytes(kib: int | None) -> int | None:
    """KiB -> bytes; unknown stays unknown."""
    return None if kib is None else kib * 1024


def memory_report(sample: Sample) -> MemoryReport | None:
    """None when the kernel does not say what a REPORT must carry: total, free, available, committed."""
    memory = sample.memory
    total_kib = sample.total_kib
    if (
        total_kib is None
        or memory.free_kib is None
        or memory.available_kib is None
        or memory.committed_kib is None
    ):
        return None
    return MemoryReport(
        total_bytes=total_kib * 1024,
        free_bytes=memory.free_kib * 1024,
        available_bytes=memory.available_kib * 1024,
        committed_bytes=memory.committed_kib * 1024,
        commit_limit_bytes=to_bytes(memory.commit_limit_kib),
        anon_bytes=to_bytes(memory.anon_kib),
        file_bytes=to_bytes(memory.file_kib),
        shmem_bytes=to_bytes(memory.shmem_kib),
        slab_unreclaimable_bytes=to_bytes(memory.slab_unreclaimable_kib),
        swap_total_bytes=to_bytes(memory.swap_total_kib),
        swap_free_bytes=to_bytes(memory.swap_free_kib),
        balloon_bytes=to_bytes(sample.balloon_kib),
    )


def psi_report(sample: Sample) -> PsiReport | None:
    """None on a kernel without PSI."""
    psi = sample.psi
    if psi is None:
        return None
    return PsiReport(
        some_avg10_permyriad=psi.some_avg10_permyriad,
        full_avg10_permyriad=psi.full_avg10_permyriad,
        some_us=psi.some_us,
        full_us=psi.full_us,
    )


def vm_report(sample: Sample) -> VmReport:
    """Counters since boot, pages of the guest."""
    vm = sample.vm
    return VmReport(
        page_faults=vm.page_faults,
        major_faults=vm.major_faults,
        refaults_anon=vm.refaults_anon,
        refaults_file=vm.refaults_file,
        swap_in_pages=vm.swap_in_pages,
        swap_out_pages=vm.swap_out_pages,
        direct_scan_pages=vm.direct_scan_pages,
        alloc_stalls=vm.alloc_stalls,
        oom_kills=vm.oom_kills,
    )


def unmovable_kib(sample: Sample, ram_kib: int) -> int:
    """The size below which nothing but a kill makes room: memory that is neither cache nor swappable.

    Anonymous and shared memory goes to swap as far as that has room and nobody locked it; in zram it keeps a part of
    itself in memory. The rest in use is the kernel's, and most of it has no line of its own that says so on every
    kernel (hugetlb, page tables, stacks, per-CPU memory, vmalloc, zram): it is what is missing from MemAvailable and is
    not anonymous or shared. Where the kernel has no MemAvailable, unreclaimable slab, zram and what it took before it
    counted. 0 when it does not say even that: then the floor alone guards.
    """
    memory = sample.memory
    total_kib, anon_kib, slab_kib = sample.total_kib, memory.anon_kib, memory.slab_unreclaimable_kib
    if total_kib is None or anon_kib is None or slab_kib is None:
        return 0
    shared_kib = anon_kib + (memory.shmem_kib or 0)
    unlocked_kib = max(0, shared_kib - (memory.unevictable_kib or 0))
    swappable_kib = sample.zram.room_kib(unlocked_kib, memory.swap_free_kib or 0)
    kernel_kib = max(0, ram_kib - total_kib) + slab_kib + (sample.zram.held_kib or 0)
    if memory.available_kib is not None:
        used_kib = present_kib(sample, ram_kib) - memory.available_kib
        kernel_kib = max(kernel_kib, used_kib - shared_kib)
    return kernel_kib + shared_kib - swappable_kib
