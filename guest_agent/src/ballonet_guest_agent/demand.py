"""When a DEMAND may leave: at once, at most four a second, the last one wins.

A harm is noted with `raise_`; `take` gives it out when the rhythm allows. What a sample has found again waits for half
a second, so that two of the four are left to what the kernel announces: stalls are told when they happen, also in a
guest whose samples find a swap storm each time. A worse one waits for neither: full stalls follow partial ones within
milliseconds, and the severity decides who is served first.
"""

from __future__ import annotations

from ballonet_guest_agent.pressure import Harm
from ballonet_protocol.limits import DEMANDS_PER_S

#: What was found by looking, and is no worse than what was said last, is said again after this.
FOUND_AGAIN_S = 0.5
#: The same for what the kernel announced: two triggers that fire together are one need.
ANNOUNCED_AGAIN_S = 0.05


class DemandGate:
    """Keeps the worst harm until it may be sent."""

    def __init__(self) -> None:
        self._pending: Harm | None = None
        self._announced = False
        self._sent: list[float] = []
        self._last_severity = -1

    def clear(self) -> None:
        """Forget the waiting harm: nobody is there to hear it, or it is over."""
        self._pending = None
        self._announced = False

    def raise_(self, harm: Harm, announced: bool = False) -> None:
        """Note a harm. The worse of two is kept, of equals the later. `announced`: the kernel said that it is now."""
        self._announced = self._announced or announced
        if self._pending is None or harm.severity >= self._pending.severity:
            self._pending = harm

    def due_s(self) -> float | None:
        """When the waiting harm may leave; None when none waits."""
        if self._pending is None:
            return None
        earliest = 0.0
        if len(self._sent) == DEMANDS_PER_S:
            earliest = self._sent[0] + 1.0
        if self._sent and self._pending.severity <= self._last_severity:
            apart_s = ANNOUNCED_AGAIN_S if self._announced else FOUND_AGAIN_S
            earliest = max(earliest, self._sent[-1] + apart_s)
        return earliest

    def take(self, now_s: float) -> Harm | None:
        """The harm to send now, or None. The caller sends it: it counts against the rhythm."""
        due = self.due_s()
        if due is None or now_s < due:
            return None
        harm = self._pending
        self.clear()
        assert harm is not None
        self._sent = [*self._sent[1 - DEMANDS_PER_S :], now_s]
        self._last_severity = harm.severity
        return harm
