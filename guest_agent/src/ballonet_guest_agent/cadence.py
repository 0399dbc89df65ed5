"""When something may be sent: back-off, frame budget, report rhythm. Seconds in, seconds out, no clock."""

from __future__ import annotations

from ballonet_protocol.limits import (
    FRAMES_BURST,
    FRAMES_PER_S,
    HELLO_FIRST_S,
    HELLO_GROWTH,
    HELLO_JITTER_RATIO,
    HELLO_LONGEST_S,
    REPORT_LEAST_MS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample

#: REPORTs are never closer than this, however fast the guest changes.
REPORT_CLOSEST_S = REPORT_LEAST_MS / 1000
#: Part of the guest's memory that has to move before a REPORT is worth sending early.
SIGNIFICANT_PART = 50  # 1/50 = 2 %

#: A start, a session and its end are a dozen lines; a peer that causes more has one line a second and a count.
LINES_BURST, LINES_PER_S = 20, 1

#: HELLO, INFLATE, DEFLATE and SET_POLICY: each costs a pass over /proc or new PSI triggers. A coordinator that keeps to
#: the wire's rate may send as many, so only one that does not is not heard.
COMMANDS_BURST, COMMANDS_PER_S = FRAMES_BURST, FRAMES_PER_S

#: New thresholds begin a new window, and a trigger that is armed anew all the time never fires.
ARMINGS_BURST, ARMINGS_PER_S = 4, 0.5

#: What the port may cost, in seconds of processor time: with the burst less than a twentieth of a core over any
#: three seconds. The burst is a hundred commands natively and a few under emulation; beyond it answers come later.
WORK_BURST_S, WORK_RATIO = 0.06, 0.025
#: A shorter rest saves nothing, as waking costs more than a frame. A longer one is never needed for what 4 KiB cost,
#: but a guest that thrashes charges its reclaim to whoever reads: the agent must not go deaf for that.
REST_LEAST_S, REST_LONGEST_S = 0.1, 0.5


class Backoff:
    """Pauses that grow: 1 s, x1.5, at most 15 s, less a jitter that is the guest's own."""

    def __init__(self, jitter_byte: int) -> None:
        self._factor = 1.0 - HELLO_JITTER_RATIO * jitter_byte / 255
        self.reset()

    def reset(self) -> None:
        """Begin with the short pause again."""
        self._pause_s = HELLO_FIRST_S

    def rest(self) -> None:
        """Go to the longest pause at once: the other side is known to be silent."""
        self._pause_s = HELLO_LONGEST_S

    def next_s(self) -> float:
        """The pause until the next try."""
        pause_s = self._pause_s * self._factor
        self._pause_s = min(self._pause_s * HELLO_GROWTH, HELLO_LONGEST_S)
        return pause_s


class Budget:
    """Token bucket: `most` at once, `per_s` a second in the long run."""

    def __init__(self, most: float, per_s: float) -> None:
        self._most = most
        self._per_s = per_s
        self._tokens: float = most
        self._at_s: float | None = None

    def _refill(self, now_s: float) -> None:
        if self._at_s is not None:
            self._tokens = min(self._most, self._tokens + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s

    def take(self, now_s: float, keep: int = 0) -> bool:
        """True when one may go now and `keep` more could."""
        self._refill(now_s)
        if self._tokens < 1.0 + keep:
            return False
        self._tokens -= 1.0
        return True


class FrameBudget(Budget):
    """Over every frame that the agent writes."""

    def __init__(self) -> None:
        super().__init__(FRAMES_BURST, FRAMES_PER_S)


class CommandBudget(Budget):
    """Over the commands that are heard; what goes beyond is as if it were lost on the way."""

    def __init__(self) -> None:
        super().__init__(COMMANDS_BURST, COMMANDS_PER_S)


class WorkBudget(Budget):
    """Over the processor time that the port costs."""

    def __init__(self) -> None:
        super().__init__(WORK_BURST_S, WORK_RATIO)

    def spend(self, now_s: float, work_s: float) -> float:
        """So much has been worked until now. For how long the port is to be left unread, 0.0: it may be read."""
        self._refill(now_s)
        self._tokens = max(self._tokens - work_s, -REST_LONGEST_S * WORK_RATIO)
        return 0.0 if self._tokens >= 0.0 else max(REST_LEAST_S, -self._tokens / WORK_RATIO)


class LineBudget(Budget):
    """Over every line for the operator, with a count of those that were left out."""

    def __init__(self) -> None:
        super().__init__(LINES_BURST, LINES_PER_S)
        self._left_out = 0

    def next_line(self, now_s: float) -> int | None:
        """How many lines were left out since the last, when one may be said now; else None, and it counts."""
        if not self.take(now_s):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out


class ReportRhythm:
    """A REPORT each period while the guest is quiet, and each 250 ms while it changes, moves or stalls.

    Quiet: within 2 % of what was reported last, no move under way, no stall in the last seconds. The period is the
    host's to set, from 250 ms to a minute; a guest that is not quiet is as often heard whatever it says.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.restart()

    def restart(self) -> None:
        """Forget what was reported: the next sample is due at once."""
        self._sent_s: float | None = None
        self._sent_sample: Sample | None = None
        self._sent_state: tuple[int, int] | None = None

    def due_s(self) -> float:
        """When the next REPORT is due at the latest, in the time of `is_due`."""
        return 0.0 if self._sent_s is None else self._sent_s + self.period_s

    def changed(self, sample: Sample, state: tuple[int, int] | None) -> bool:
        """Has the guest moved by more than 2 % of itself, or its move changed state, since the last REPORT?"""
        before = self._sent_sample
        if before is None or state != self._sent_state:
            return True
        enough_kib = (sample.total_kib or 0) // SIGNIFICANT_PART
        pairs = (
            (before.memory.available_kib, sample.memory.available_kib),
            (before.memory.committed_kib, sample.memory.committed_kib),
            (before.balloon_kib, sample.balloon_kib),
        )
        return any(a is not None and b is not None and abs(a - b) > enough_kib for a, b in pairs)

    def is_due(self, sample: Sample, state: tuple[int, int] | None, now_s: float, stirred: bool = False) -> bool:
        """Should this sample be reported now? `stirred`: a move is under way or tasks stall."""
        if self._sent_s is None or now_s >= self._sent_s + self.period_s:
            return True
        return now_s >= self._sent_s + REPORT_CLOSEST_S and (stirred or self.changed(sample, state))

    def sent(self, sample: Sample, state: tuple[int, int] | None, now_s: float) -> None:
        """This sample was reported now."""
        self._sent_s, self._sent_sample, self._sent_state = now_s, sample, state
