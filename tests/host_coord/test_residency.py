"""The split of a QEMU process into its guest's memory and its own."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.residency import (
    MERGED_MOST_KIB,
    Mapping,
    ProcessMemory,
    guest_memory,
    guest_ram,
    parse_smaps,
    parse_status,
    split,
)  # fmt: skip

MIB = 1024
RAM_KIB = 512 * MIB


@dataclass
class Map:
    """One mapping as smaps prints it."""

    start_mib: int
    size_kib: int
    rss_kib: int = 0
    swap_kib: int = 0
    permissions: str = "rw-p"
    name: str = ""
    inode: int = 0
    flags: str = "rd wr mr mw me ac sd"

    def text(self) -> str:
        start = self.start_mib << 20
        header = f"{start:x}-{start + self.size_kib * 1024:x} {self.permissions} 0 00:01 {self.inode}  {self.name}"
        return (
            f"{header}\nSize: {self.size_kib:15} kB\nKernelPageSize:        4 kB\nRss: {self.rss_kib:15} kB\n"
            f"Pss: {self.rss_kib:15} kB\nSwap: {self.swap_kib:15} kB\nSwapPss:     0 kB\nVmFlags: {self.flags}\n"
        )


HEAP = Map(1, 30 * MIB, rss_kib=20 * MIB, name="[heap]")
CODE = Map(64, 20 * MIB, rss_kib=9 * MIB, permissions="r-xp", name="/usr/bin/qemu-system-x86_64", inode=77)


def found(*maps: Map, ram_kib: int = RAM_KIB) -> Mapping | None:
    return guest_ram(parse_smaps("".join(a_map.text() for a_map in maps)), ram_kib)


def test_anonymous_ram_is_found_by_its_size() -> None:
    """The mapping of the size of the RAM is the guest's, with what is resident of it and what is in swap."""
    ram = found(HEAP, CODE, Map(2048, RAM_KIB, rss_kib=300 * MIB, swap_kib=7), Map(4096, 200 * MIB))
    assert ram is not None
    assert (ram.size_kib, ram.rss_kib, ram.swap_kib, ram.shared) == (RAM_KIB, 300 * MIB, 7, False)


def test_shared_ram_is_found_too() -> None:
    """RAM from a memfd is shared memory of the same size."""
    ram = found(HEAP, Map(2048, RAM_KIB, 5 * MIB, permissions="rw-s", name="/memfd:pc.ram (deleted)", inode=9))
    assert ram is not None
    assert (ram.shared, ram.rss_kib) == (True, 5 * MIB)


def test_ram_that_the_kernel_merged_with_a_neighbour() -> None:
    """A mapping somewhat larger than the RAM is the RAM; one much larger is something else."""
    ram = found(Map(2048, RAM_KIB + 8 * MIB, rss_kib=MIB), HEAP)
    assert ram is not None
    assert ram.size_kib == RAM_KIB + 8 * MIB
    assert found(Map(2048, RAM_KIB + MERGED_MOST_KIB + 4)) is None


def test_ram_that_the_kernel_cut_in_pieces() -> None:
    """Neighbouring mappings of the same memory are one; others in between end it."""
    pieces = [Map(2048, 100 * MIB, 10), Map(2148, 400 * MIB, 20), Map(2548, 12 * MIB, 30)]
    ram = found(HEAP, *pieces)
    assert ram is not None
    assert (ram.size_kib, ram.rss_kib) == (RAM_KIB, 60)
    assert found(pieces[0], Map(2148, 400 * MIB, permissions="rw-s"), pieces[2]) is None
    assert found(pieces[0], Map(2148, 400 * MIB, inode=5, name="/dev/shm/x"), pieces[2]) is None
    assert found(pieces[0], pieces[2]) is None


def test_exact_size_wins_over_its_neighbourhood() -> None:
    """RAM with a large neighbour of the same kind is still told from it."""
    ram = found(Map(2048, RAM_KIB, rss_kib=11), Map(2048 + 512, 300 * MIB, rss_kib=99))
    assert ram is not None
    assert ram.rss_kib == 11


def test_what_cannot_be_written_is_no_ram() -> None:
    """A read-only mapping of the right size (firmware, a library) is not taken for the guest."""
    assert found(Map(2048, RAM_KIB, permissions="r--p")) is None
    assert found(Map(2048, RAM_KIB, permissions="---p")) is None
    assert found(Map(2048, RAM_KIB, permissions="rwxp", name="translated code")) is None


def test_among_equals_the_one_that_qemu_keeps_from_children() -> None:
    """Another mapping of just the RAM's size is told from it by the flag that QEMU gives RAM."""
    ram = Map(4096, RAM_KIB, rss_kib=5, flags="rd wr mr mw me dc ac sd hg mg")
    other = Map(2048, RAM_KIB, rss_kib=99)
    for maps in ((ram, other), (other, ram)):
        run = found(*maps)
        assert run is not None
        assert run.rss_kib == 5


def test_split_adds_up_to_what_the_kernel_counts() -> None:
    """Guest and overhead together are RssAnon + RssShmem + VmSwap."""
    process = ProcessMemory(size_kib=9 * RAM_KIB, anon_kib=330 * MIB, shmem_kib=0, swap_kib=10)
    ram = found(Map(2048, RAM_KIB, rss_kib=300 * MIB, swap_kib=7))
    assert split(process, ram, RAM_KIB) == (300 * MIB + 7, 30 * MIB + 3)


def test_shared_memory_in_swap_is_the_guests() -> None:
    """VmSwap does not count shared memory, the mapping does; QEMU's own swap is not reduced by it."""
    process = ProcessMemory(size_kib=9 * RAM_KIB, anon_kib=30 * MIB, shmem_kib=200 * MIB, swap_kib=10)
    ram = found(Map(2048, RAM_KIB, 200 * MIB, swap_kib=50 * MIB, permissions="rw-s", name="/memfd:x", inode=9))
    assert split(process, ram, RAM_KIB) == (250 * MIB, 30 * MIB + 10)


def test_without_a_fitting_mapping_the_guest_is_charged() -> None:
    """Where RAM cannot be told from QEMU's own, all is the guest's up to its size."""
    held = ProcessMemory(size_kib=9 * RAM_KIB, anon_kib=RAM_KIB, shmem_kib=40, swap_kib=2)
    assert split(held, None, RAM_KIB) == (RAM_KIB, 42)
    assert split(held, None, 2 * RAM_KIB) == (RAM_KIB + 42, 0)


@given(
    anon_kib=st.integers(0, 1 << 21), shmem_kib=st.integers(0, 1 << 21), swap_kib=st.integers(0, 1 << 21),
    rss_kib=st.integers(0, 1 << 21), ram_swap_kib=st.integers(0, 1 << 21), shared=st.booleans(),
)  # fmt: skip
def test_split_is_never_negative_and_never_more_than_the_ram(
    anon_kib: int, shmem_kib: int, swap_kib: int, rss_kib: int, ram_swap_kib: int, shared: bool
) -> None:
    """However far apart the two files were read, neither part is negative nor the guest larger than its RAM."""
    process = ProcessMemory(RAM_KIB, anon_kib, shmem_kib, swap_kib)
    for ram in (None, Mapping(0, RAM_KIB * 1024, shared, "", rss_kib, ram_swap_kib)):
        guest_kib, overhead_kib = split(process, ram, RAM_KIB)
        assert 0 <= guest_kib <= RAM_KIB
        assert overhead_kib >= 0


def test_status_of_a_process_without_memory_is_none() -> None:
    """A zombie has a status without sizes."""
    assert parse_status("Name:\tqemu\nState:\tZ (zombie)\nThreads:\t1\n") is None


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS])
def test_this_very_process_is_split_as_it_is(flags: int) -> None:
    """The running kernel's own files are understood: memory that we touch is found where we touched it."""
    touched_kib, size_kib = 48 * MIB, 337 * MIB
    with mmap.mmap(-1, size_kib * 1024, flags=flags) as memory:
        for offset in range(0, touched_kib * 1024, mmap.PAGESIZE):
            memory[offset] = 1
        process = parse_status(Path("/proc/self/status").read_text())
        ram = guest_ram(parse_smaps(Path("/proc/self/smaps").read_text()), size_kib)
    assert process is not None
    assert ram is not None
    guest_kib, overhead_kib = split(process, ram, size_kib)
    # The kernel may have merged the mapping with a neighbour that holds a little.
    assert touched_kib <= guest_kib <= touched_kib + 16 * MIB
    assert guest_kib + overhead_kib == pytest.approx(process.held_kib, abs=MIB)


@pytest.mark.parametrize("device_mib", [4096, 2048 + 512])
def test_a_virtio_mem_device_is_the_guests_too(device_mib: int) -> None:
    """Boot memory and device are two mappings, or one run where they lie side by side; both are counted."""
    boot = Map(2048, RAM_KIB, rss_kib=300 * MIB, swap_kib=5)
    device = Map(device_mib, 2 * RAM_KIB, rss_kib=700 * MIB, swap_kib=2)
    mappings = parse_smaps("".join(a_map.text() for a_map in (HEAP, boot, device)))
    memory = guest_memory(mappings, 3 * RAM_KIB, 2 * RAM_KIB)
    assert memory is not None
    assert (memory.rss_kib, memory.swap_kib) == (1000 * MIB, 7)
    assert split(ProcessMemory(10**7, 1020 * MIB, 0, 9), memory, 3 * RAM_KIB) == (1000 * MIB + 7, 20 * MIB + 2)
    assert guest_memory(mappings[:2], 3 * RAM_KIB, 2 * RAM_KIB) is None
