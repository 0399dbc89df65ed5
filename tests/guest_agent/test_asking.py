"""asking.py: whom a DEMAND blames, and when a shortage without a stall is worth one."""

from __future__ import annotations

from ballonet_guest_agent.asking import Ask, Asking, Need
from ballonet_guest_agent.consent import Consent, View
from ballonet_guest_agent.pressure import Harm
from ballonet_guest_agent.watch import Watch
from ballonet_protocol import DemandWhy, Inflate, Severity

MIB = 1024
STALL = Harm(DemandWhy.PSI, Severity.STALLING)
VIEW = View(
    ram_bytes=1 << 30,
    present_bytes=1 << 30,
    floor_bytes=0,
    unmovable_bytes=0,
    suspended=False,
    settling=False,
    pressed=False,
)


def need(want_mib: int, shortfall_mib: int = 10) -> Need:
    return Need(1024 * MIB, 600 * MIB, want_mib * MIB, shortfall_mib * MIB)


def asking(*, inflating: bool = False) -> Asking:
    consent = Consent()
    if inflating:
        consent.answer(Inflate(gen=7, target_bytes=600 << 20, ttl_ms=30_000), VIEW, 0.0)
    return Asking(consent, Watch(has_psi_trigger=True))


def arrived() -> Asking:
    """An INFLATE has arrived at second 10 with a want of 610 MiB."""
    asks = asking(inflating=True)
    assert asks._consent.progress(600 << 20)
    asks.inflate_arrived(need(610), 10.0)
    return asks


def test_blame_follows_the_inflate() -> None:
    """On its way and a second after its arrival the INFLATE is named and stopped; later it is only over."""
    for asks, now_s, gen in ((asking(inflating=True), 5.0, 7), (arrived(), 10.9, 7), (arrived(), 11.0, None)):
        asks.raise_(STALL)
        assert asks.take(now_s) == Ask(STALL, gen, gen is not None)
        assert not asks._consent.live


def test_asked_again_a_second_after_the_stop() -> None:
    """The stop has a deadline of its own; still short then: the same harm once more, without gen."""
    asks = asking(inflating=True)
    asks.raise_(STALL)
    assert asks.take(5.0) == Ask(STALL, 7, True)
    assert asks.due_s() == 6.0
    asks.look(need(610), 5.9)
    assert asks.take(5.9) is None
    asks.look(need(610), 6.0)
    assert asks.take(6.0) == Ask(STALL, None, False)
    assert asks.due_s() is None


def test_helped_by_the_stop() -> None:
    """No shortage and no harm since: nothing is asked."""
    asks = asking(inflating=True)
    asks.raise_(STALL)
    asks.take(5.0)
    asks.look(need(500, shortfall_mib=0), 6.0)
    assert asks.take(6.0) is None


def test_forgotten_stop() -> None:
    """When nobody listens any more there is nothing to ask again."""
    asks = asking(inflating=True)
    asks.raise_(STALL)
    asks.take(5.0)
    asks.forget()
    assert asks.due_s() is None
    asks.look(need(500, shortfall_mib=0), 6.0)
    assert asks.take(6.0) is None


def test_shortage_waits_until_the_move_is_over() -> None:
    """Grown within a second of the arrival: said after it, and not as something to stop the INFLATE for."""
    asks = arrived()
    asks.look(need(700), 10.5)
    assert asks.take(10.5) is None
    asks.look(need(700), 11.0)
    ask = asks.take(11.0)
    assert ask is not None
    assert (ask.harm.why, ask.gen) == (DemandWhy.COMMIT, None)
    asks.asked(700 * MIB)
    asks.look(need(715), 12.0)
    assert asks.take(12.0) is None
