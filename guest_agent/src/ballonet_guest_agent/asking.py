"""Why the guest asks for memory now, and whether an INFLATE is to blame: the rules behind each DEMAND.

    harm while an INFLATE is on its way, or within a second of its arrival    names its gen and stops it
    harm within a second of that stop                                         names the gen again
    what cannot move outgrows by 2 % of RAM what an INFLATE on its way was agreed to   names its gen and stops it
    a second after the stop: still short, or harmed since the stop            asked again, without gen
    short without a stall    asked once, and again when the need has grown; not while an INFLATE is on its way or has
                             just arrived, and afterwards only for what goes beyond the INFLATE's own effect

Stalls that an inflation causes are over a second after it stops, and taking cache away is what it is for; both would
otherwise pass for a need of the guest's own. A DEFLATE in answer to the stop changes nothing in these rules.
"""

from __future__ import annotations

from ballonet_guest_agent.demand import DemandGate
from ballonet_guest_agent.pressure import Harm
from ballonet_guest_agent.values import Value
from ballonet_protocol import DemandWhy, Severity
from ballonet_protocol.limits import REPEAT_AFTER_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.consent import Consent
    from ballonet_guest_agent.watch import Watch

#: Without a stall, a shortage is said again when it has grown by this part of the RAM.
WORSE_PART = 50  # 1/50 = 2 %


class Need(Value):
    """The guest's sizes in one sample, KiB: nominal RAM, what it has, would like, misses, and cannot move."""

    ram_kib: int
    present_kib: int
    want_kib: int
    shortfall_kib: int
    unmovable_kib: int = 0


class Ask(Value):
    """A DEMAND that leaves now. `hurt`: it has stopped the INFLATE that it names."""

    harm: Harm
    gen: int | None
    hurt: bool


class Stop(Value):
    """An INFLATE that was stopped because it hurt."""

    at_s: float
    gen: int
    harm: Harm


class Asking:
    """Harms in, DEMANDs out; stops the consent that hurts."""

    def __init__(self, consent: Consent, watch: Watch) -> None:
        self._consent = consent
        self._watch = watch
        self._gate = DemandGate()
        self._stop: Stop | None = None
        self._arrived_s = float("-inf")
        self._asked_kib = 0

    def forget(self) -> None:
        """Nobody is there to hear it; the next coordinator hears everything anew."""
        self._gate.clear()
        self._stop = None
        self._asked_kib = 0

    def raise_(self, harm: Harm, announced: bool = False) -> None:
        """Note a harm; the worst one leaves when the rhythm allows."""
        self._gate.raise_(harm, announced)

    def due_s(self) -> float | None:
        """When a sample is wanted here: a DEMAND may leave, or a stop has to be looked at again. None: never."""
        due_s = self._gate.due_s()
        if self._stop is None:
            return due_s
        again_s = self._stop.at_s + REPEAT_AFTER_S
        return again_s if due_s is None else min(due_s, again_s)

    def inflate_began(self) -> None:
        """A new INFLATE was agreed to: the one that was stopped is history."""
        self._stop = None

    def inflate_arrived(self, need: Need, now_s: float) -> None:
        """The INFLATE has reached its size; what the guest lacks now is what was agreed to."""
        self._arrived_s = now_s
        self._asked_kib = need.want_kib

    def in_move(self, now_s: float) -> bool:
        """Is an INFLATE on its way, or so lately over that what happens is its doing?"""
        return self._consent.shrinking or self._just_arrived(now_s) or self._just_stopped(now_s)

    def look(self, need: Need, now_s: float) -> None:
        """Once per sample: raise what no harm has raised."""
        if self._consent.shrinking and need.unmovable_kib > self._agreed_kib() + need.ram_kib // WORSE_PART:
            self._gate.raise_(Harm(DemandWhy.COMMIT, Severity.SHORT))
        if not need.shortfall_kib:
            self._asked_kib = 0
        elif self._has_grown(need) and not self.in_move(now_s):
            self._gate.raise_(Harm(DemandWhy.COMMIT, Severity.SHORT))
        if self._stop is not None and not self._just_stopped(now_s):
            stop, self._stop = self._stop, None
            if need.shortfall_kib or self._watch.harmed_since(stop.at_s):
                self._gate.raise_(stop.harm)

    def take(self, now_s: float) -> Ask | None:
        """The DEMAND to send now, or None. Ends the consent; the caller says afterwards what was `asked`."""
        harm = self._gate.take(now_s)
        if harm is None:
            return None
        consent = self._consent
        if not (consent.live and consent.inflating):
            gen = self._stop.gen if self._stop is not None and self._just_stopped(now_s) else None
            return Ask(harm, gen, False)
        if not consent.shrinking and not self._just_arrived(now_s):
            consent.end()
            return Ask(harm, None, False)
        consent.stop()
        self._stop = Stop(now_s, consent.gen, harm)
        return Ask(harm, consent.gen, True)

    def asked(self, want_kib: int) -> None:
        """A DEMAND has named this size."""
        self._asked_kib = want_kib

    def _agreed_kib(self) -> int:
        return (self._consent.effective_bytes or 0) // 1024

    def _has_grown(self, need: Need) -> bool:
        return need.want_kib > max(need.present_kib, self._asked_kib + need.ram_kib // WORSE_PART)

    def _just_arrived(self, now_s: float) -> bool:
        return now_s < self._arrived_s + REPEAT_AFTER_S

    def _just_stopped(self, now_s: float) -> bool:
        return self._stop is not None and now_s < self._stop.at_s + REPEAT_AFTER_S
