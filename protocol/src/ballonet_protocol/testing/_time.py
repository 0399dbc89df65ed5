"""Time that moves only when a test says so: the guest's two clocks, and what is due on them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


class VirtualTime:
    """CLOCK_MONOTONIC and CLOCK_BOOTTIME of one guest, in seconds.

    They differ by the time that the guest was suspended: only the boot time counts it. `call_at` puts something on
    the monotonic clock, as a time-out of epoll is; so a suspended guest's deadlines wait with it.
    """

    def __init__(self, monotonic_s: float = 1000.0, boottime_s: float | None = None) -> None:
        """By default long after boot, never suspended."""
        self.monotonic_s = monotonic_s
        self.boottime_s = monotonic_s if boottime_s is None else boottime_s
        self._due: list[tuple[float, Callable[[], object]]] = []

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks. What falls due is called in order, each at its own time.

        Raises ValueError where the clocks would run backwards.
        """
        end_s = self.monotonic_s + _forwards(seconds)
        while self._due and self._due[0][0] <= end_s:
            at_s, action = self._due.pop(0)
            self._move_to(max(at_s, self.monotonic_s))
            action()
        self._move_to(max(end_s, self.monotonic_s))

    def sleep(self, seconds: float) -> None:
        """Suspend the guest for `seconds`: the boot time moves and nothing else does. Raises ValueError as above."""
        self.boottime_s += _forwards(seconds)

    def call_at(self, monotonic_s: float, action: Callable[[], object]) -> None:
        """Have `advance` call `action()` at that time; in the past means at the next `advance`, also by 0 seconds."""
        place = sum(at_s <= monotonic_s for at_s, _ in self._due)
        self._due.insert(place, (monotonic_s, action))

    def _move_to(self, monotonic_s: float) -> None:
        self.boottime_s += monotonic_s - self.monotonic_s
        self.monotonic_s = monotonic_s


def _forwards(seconds: float) -> float:
    if seconds < 0:
        raise ValueError(f"time does not run backwards: {seconds}")
    return seconds
