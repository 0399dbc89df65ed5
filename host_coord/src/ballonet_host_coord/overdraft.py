"""How long the books have been overdrawn, and when somebody must look (I1: it ends, or raises an alarm). Pure.

What flickers is not over: an overdraft ends when the books were balanced for `CALM_S`, and its time adds up until then.
"""

from __future__ import annotations

ALARM_S = 60.0
"""An excess that lasts a minute is not a boot any more: somebody must look."""

CALM_S = 10.0
"""As long as a guest is left alone after it objected: what comes back within it was never mended."""


class OverdraftWatch:
    """Sees every turn; says what the journal should say."""

    def __init__(self) -> None:
        self.overdrawn_s = 0.0
        self.alarm = ""
        """What an operator must be told now; empty for nothing."""
        self._under_way = False
        self._seen_s: float | None = None
        """The last turn, where that was overdrawn."""
        self._last_s = 0.0
        """When the books were overdrawn last."""

    def turn(self, overdrawn_kib: int, cause: str, now_s: float) -> str:
        """A line for the journal, empty for none. It is an alarm where `alarm` has just become true."""
        if self._seen_s is not None:
            self.overdrawn_s += now_s - self._seen_s
        if not overdrawn_kib:
            self._seen_s = None
            if not self._under_way or now_s - self._last_s < CALM_S:
                return ""
            said = f"overdraft over after {self.overdrawn_s:.0f} s"
            self._under_way, self.overdrawn_s, self.alarm = False, 0.0, ""
            return said
        self._seen_s = self._last_s = now_s
        by = f"by {overdrawn_kib // 1024} MiB: {cause}"
        if not self._under_way:
            self._under_way = True
            return f"OVERDRAWN {by}"
        if self.overdrawn_s < ALARM_S:
            return ""
        news = not self.alarm
        self.alarm = f"overdrawn for {self.overdrawn_s:.0f} s {by}"
        return self.alarm if news else ""
