"""Swap that lives in the guest's own memory (zram): how much of the swap it is, and what a page costs there.

Sources: proc(5) for /proc/swaps; Documentation/admin-guide/blockdev/zram.rst for mm_stat and for the 2:1 it expects.
"""

from __future__ import annotations

from ballonet_guest_agent.values import Value, parse_count, total_of

#: Less than this stored says nothing about how well a guest's pages compress.
_TELLING_KIB = 4096


class Zram(Value):
    """All zram devices in use as swap, added up. 0: none; None: cannot be read.

    `size_kib` is swap space, `stored_kib` what the pages in it held before, `held_kib` the memory they hold now.
    """

    size_kib: int | None = 0
    stored_kib: int | None = 0
    held_kib: int | None = 0

    def cost(self) -> float:
        """Memory that a page still takes once it is in zram, as a part of the page. What is unknown compresses 2:1."""
        if self.stored_kib is None or self.held_kib is None or self.stored_kib < _TELLING_KIB:
            return 0.5
        return min(1.0, self.held_kib / self.stored_kib)

    def room_kib(self, kib: int, swap_free_kib: int) -> int:
        """Memory that becomes free when `kib` of pages go to swap, zram first as it usually has priority.

        Pages beyond `swap_free_kib` stay where they are.
        """
        kib = min(kib, swap_free_kib)
        zram_free_kib = max(0, (self.size_kib or 0) - (self.stored_kib or 0))
        return kib - int(min(kib, zram_free_kib) * self.cost())

    def missing_kib(self, kib: int, swap_used_kib: int) -> int:
        """Memory that `kib` of pages need to come back from swap: those in zram hold a part of it already.

        Which of them are in zram the kernel does not say; they are taken for the same mixture as all that is in swap.
        """
        kib = min(kib, swap_used_kib)
        if not kib:
            return 0
        stored_kib = min(self.stored_kib or 0, swap_used_kib)
        return kib - int(kib * stored_kib / swap_used_kib * self.cost())


def parse_swaps(text: str) -> dict[str, int]:
    """/proc/swaps -> {"zram0": size in KiB} of the zram devices in it. Never raises."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        words = line.split()
        if len(words) != 5 or words[1] != "partition" or not words[0].startswith("/dev/zram"):
            continue
        number, kib = words[0][9:], parse_count(words[2])
        if kib is not None and parse_count(number) is not None:
            found["zram" + number] = kib
    return found


def parse_mm_stat(text: str | None) -> tuple[int | None, int | None]:
    """/sys/block/zramN/mm_stat -> (orig_data_size, mem_used_total) in KiB, each None when unknown. Never raises."""
    words = (text or "").split()
    sizes = [parse_count(word) for word in words[:3]]
    if len(sizes) < 3:
        return None, None
    stored, held = sizes[0], sizes[2]
    return None if stored is None else stored // 1024, None if held is None else held // 1024


def zram_of(sizes_kib: dict[str, int], mm_stats: list[str | None]) -> Zram:
    """The sum over the devices of `parse_swaps`; `mm_stats` are their texts in the same order."""
    parsed = [parse_mm_stat(text) for text in mm_stats]
    return Zram(
        sum(sizes_kib.values()),
        total_of(*(stored for stored, _ in parsed)),
        total_of(*(held for _, held in parsed)),
    )
