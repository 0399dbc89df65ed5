"""How much of a QEMU process is its guest's memory: the text of `/proc/PID/status` and `smaps` -> numbers.

The kernel counts what a process holds as RssAnon + RssShmem + VmSwap. In QEMU that is the guest's RAM and QEMU's own
(heap, stacks, translated code, queues). The guest's RAM is one mapping of the size of `-m`: anonymous, or shared
memory (memfd, a file in /dev/shm). Two things blur it: the kernel merges it with a neighbour of the same kind (the
mapping is then larger), and cuts it where parts have different flags (neighbouring mappings then make up the size).
So the smallest mapping, or run of neighbouring mappings, that can hold the RAM is it; among equals the one that
QEMU keeps from children (`dc` among its VmFlags), as it does with RAM.

A virtio-mem device's memory is a mapping of its own, found in the same way.

Where no run can (several memory backends), all that the process holds is counted as the guest's, up to the size
of its RAM: rather too much is booked than too little.

Files that QEMU maps are nobody's here: the kernel can drop their pages. Memory in huge pages is in none of the three
counters, and a balloon cannot take it anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MERGED_MOST_KIB = 65536
"""How much larger than the RAM a run may be: a neighbour is a thread's stack (8 MiB) or a malloc arena (up to 64)."""

# Read for each guest each second, so only these lines are looked for.
_SIZES = ("\nVmSize:", "\nRssAnon:", "\nRssShmem:", "\nVmSwap:")
_HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ (\S+ \d+) *(.*)$", re.MULTILINE)
_RSS = re.compile(r"^Rss: +(\d+) kB$", re.MULTILINE)
_DONT_FORK = re.compile(r"^VmFlags:.* dc\b", re.MULTILINE)
_SWAP = re.compile(r"^Swap: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What the kernel counts for one process."""

    size_kib: int
    """All that is mapped, touched or not."""
    anon_kib: int
    shmem_kib: int
    swap_kib: int
    """Of anonymous memory; shared memory in swap is in none of these."""

    @property
    def held_kib(self) -> int:
        return self.anon_kib + self.shmem_kib + self.swap_kib


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping, or a run of neighbours."""

    start: int
    end: int
    shared: bool
    backing: str
    """Device, inode and name: what two mappings of the same memory have in common."""
    rss_kib: int
    swap_kib: int
    dont_fork: bool = False

    @property
    def size_kib(self) -> int:
        return (self.end - self.start) // 1024


def parse_status(text: str) -> ProcessMemory | None:
    """None for a process without memory: a zombie, or a kernel thread."""
    sizes_kib = []
    for key in _SIZES:
        begins = text.find(key)
        if begins < 0:
            return None
        begins += len(key)
        sizes_kib.append(int(text[begins : text.index(" kB", begins)]))
    return ProcessMemory(*sizes_kib)


def parse_smaps(text: str) -> list[Mapping]:
    """The mappings that can be written to, in the order of their addresses."""
    mappings = []
    headers = list(_HEADER.finditer(text))
    for number, header in enumerate(headers):
        start, end, permissions, backing, name = header.groups()
        if not permissions.startswith("rw-"):
            continue
        until = headers[number + 1].start() if number + 1 < len(headers) else len(text)
        rss = _RSS.search(text, header.end(), until)
        swap = _SWAP.search(text, header.end(), until)
        mappings.append(
            Mapping(
                start=int(start, 16),
                end=int(end, 16),
                shared=permissions[3] == "s",
                backing=f"{backing} {name}".strip(),
                rss_kib=int(rss[1]) if rss else 0,
                swap_kib=int(swap[1]) if swap else 0,
                dont_fork=_DONT_FORK.search(text, header.end(), until) is not None,
            )
        )
    return mappings


def guest_ram(mappings: list[Mapping], ram_kib: int) -> Mapping | None:
    """The run that holds the guest's RAM, None where there is no such run."""
    candidates = [*mappings, *_runs(mappings)]
    fitting = [run for run in candidates if ram_kib <= run.size_kib <= ram_kib + MERGED_MOST_KIB]
    return min(fitting, key=lambda run: (run.size_kib, not run.dont_fork), default=None)


def guest_memory(mappings: list[Mapping], ram_kib: int, hotplug_kib: int = 0) -> Mapping | None:
    """The guest's RAM, of which `hotplug_kib` is a virtio-mem device's: a mapping of its own, or in one run with the
    rest. Both together are shown as one."""
    whole = guest_ram(mappings, ram_kib)
    if whole is not None or not hotplug_kib:
        return whole
    device = guest_ram(mappings, hotplug_kib)
    others = [mapping for mapping in mappings if device is None or not device.start <= mapping.start < device.end]
    boot = guest_ram(others, ram_kib - hotplug_kib)
    if device is None or boot is None:
        return None
    rss_kib, swap_kib = boot.rss_kib + device.rss_kib, boot.swap_kib + device.swap_kib
    return replace(boot, rss_kib=rss_kib, swap_kib=swap_kib, shared=boot.shared or device.shared)


def split(process: ProcessMemory, ram: Mapping | None, ram_kib: int) -> tuple[int, int]:
    """(the guest's, QEMU's own) KiB of what the process holds."""
    if ram is None:
        guest_kib = min(process.held_kib, ram_kib)
        return guest_kib, process.held_kib - guest_kib
    guest_kib = min(ram.rss_kib + ram.swap_kib, ram_kib)
    # The two files are read one after the other, and shared memory in swap is in no counter of the process.
    own_resident_kib = max(0, process.anon_kib + process.shmem_kib - ram.rss_kib)
    own_swap_kib = max(0, process.swap_kib - (0 if ram.shared else ram.swap_kib))
    return guest_kib, own_resident_kib + own_swap_kib


def _runs(mappings: list[Mapping]) -> list[Mapping]:
    runs: list[Mapping] = []
    for mapping in mappings:
        last = runs[-1] if runs else None
        if last and (last.end, last.shared, last.backing) == (mapping.start, mapping.shared, mapping.backing):
            runs[-1] = Mapping(
                last.start,
                mapping.end,
                last.shared,
                last.backing,
                last.rss_kib + mapping.rss_kib,
                last.swap_kib + mapping.swap_kib,
                last.dont_fork,
            )
        else:
            runs.append(mapping)
    return runs
