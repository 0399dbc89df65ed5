"""How much memory the guest wants: its present size, corrected by what is missing or to spare.

    comfort = 16 MiB + present/20, at most 1 GiB
    want    = present + (comfort - available) + hot swap            between floor and RAM
    DEMAND  = max(want, present + step), step by severity           at most RAM

All sizes are on the hypervisor's scale (nominal RAM less balloon), so `present` is what the hypervisor calls the
guest's size. With nothing missing the want lies below the present size: that is what the guest could do with.
`available` is the kernel's MemAvailable and already excludes its low watermarks. *Hot swap* is memory that was read
back from swap lately and fades by half each ten seconds: the guest uses it and has no room for it. A stall says that
memory is missing and not how much; the step is the answer until the next sample can measure.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample

_MIB = 1024  # KiB

#: Spare memory that keeps a guest out of reclaim between two reports: a shell or a daemon's start, plus what a busy
#: guest of that size touches in a second. Above 1 GiB it would only be cache.
COMFORT_KIB, COMFORT_PART, COMFORT_MOST_KIB = 16 * _MIB, 20, 1024 * _MIB
#: Least rise asked for by severity: (KiB, part of the present size). Below 64 MiB a balloon command is not worth its
#: round trip while tasks stall; a starving guest gets an eighth, so that doubling takes six rounds and not sixty.
STEPS = {2: (64 * _MIB, 16), 3: (128 * _MIB, 8)}
#: Half-life of swap that was read back: a working set is in use again within seconds or not at all.
HOT_SWAP_HALF_LIFE_S = 10.0


class HotSwap:
    """Memory read back from swap, fading."""

    def __init__(self) -> None:
        self._kib = 0.0

    def add(self, swapped_in_kib: int, interval_s: float) -> None:
        """`swapped_in_kib` came back during the last `interval_s` seconds."""
        fade = 0.5 ** (max(0.0, interval_s) / HOT_SWAP_HALF_LIFE_S)
        self._kib = self._kib * fade + swapped_in_kib

    def kib(self, sample: Sample) -> int:
        """Hot swap now; never more than the swap in use, and without what zram holds of it in memory already."""
        total, free = sample.memory.swap_total_kib, sample.memory.swap_free_kib
        hot = int(self._kib)
        return hot if total is None or free is None else sample.zram.missing_kib(hot, max(0, total - free))


def present_kib(sample: Sample, ram_kib: int) -> int:
    """The guest's size as the hypervisor sees it. A kernel that counts no balloon has no balloon driver."""
    return max(0, ram_kib - (sample.balloon_kib or 0))


def comfort_kib(present: int) -> int:
    """Available memory below which a guest of this size is short."""
    return min(COMFORT_KIB + present // COMFORT_PART, COMFORT_MOST_KIB)


def shortfall_kib(sample: Sample, ram_kib: int) -> int:
    """How far available memory is below comfort; 0 when it is not, or unknown."""
    available = sample.memory.available_kib
    return 0 if available is None else max(0, comfort_kib(present_kib(sample, ram_kib)) - available)


def want_kib(sample: Sample, ram_kib: int, floor_kib: int, hot_swap_kib: int, severity: int | None = None) -> int:
    """The size wanted in all; with a severity it is a DEMAND's and at least one step above the present size."""
    present = present_kib(sample, ram_kib)
    available = sample.memory.available_kib
    want = present + hot_swap_kib
    if available is not None:
        want += comfort_kib(present) - available
    if severity is not None:
        least_kib, part = STEPS.get(severity, (0, 0))
        want = max(want, present + (max(least_kib, present // part) if part else 0))
    return min(max(want, floor_kib), ram_kib)
