"""The plot with actors of all sorts: what is scored, who is waited for, what is said. On virtual time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
import trio.testing
from tests.host_coord.builders import MIB, NOW_S, make_guest, make_snapshot, make_vm

from ballonet_host_coord.demo.play import (
    BUDGET_KIB,
    RAM_KIB,
    SHRINKABLE_AFTER_S,
    STARTUP_KIB,
    STEPS_KIB,
    has_started,
    may_be_shrunk,
    perform,
    ramp,
)
from ballonet_host_coord.demo.verdict import GuestScore, Judge
from ballonet_host_coord.model import Booking

IDLE_KIB = 100 * MIB
UP = make_snapshot(make_guest("alpha"), make_guest("beta"))


class Player:
    """Gets what it asks for `delay_s` later, up to `limit_kib`, and stalls all the while."""

    def __init__(self, name="alpha", delay_s=1.5, limit_kib=RAM_KIB, kills=0) -> None:
        self.name = name
        self.asked: list[int] = []
        self._delay_s = delay_s
        self._limit_kib = limit_kib
        self._kills = kills
        self._size_kib = IDLE_KIB
        self._stalled_us = 7_000_000  # of the boot: not the play's

    async def hold(self, kib, within_s):
        self.asked.append(kib)
        if IDLE_KIB + kib > self._limit_kib:
            await trio.sleep(within_s)
            return None
        if IDLE_KIB + kib > self._size_kib:
            await trio.sleep(self._delay_s)
            self._stalled_us += int(self._delay_s * 1e6)
            self._size_kib = IDLE_KIB + kib
            return self._delay_s
        return 0.0

    async def need_kib(self, kib):
        return IDLE_KIB + kib

    async def actual_kib(self):
        return self._size_kib

    async def stall_us(self):
        return self._stalled_us

    async def oom_kills(self):
        return 5 + (self._kills if self.asked else 0)  # five from before the play


def run(scenario):
    async def main():
        with trio.fail_after(1000):
            return await scenario()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def ramped(player: Player) -> tuple[GuestScore, list[str]]:
    score, said = GuestScore(player.name), []
    run(lambda: ramp(player, score, said.append))
    return score, said


def test_a_ramp_takes_its_steps_and_gives_all_of_it_back():
    """Each step is timed and looked at while it lasts; only stalls of the ramp count."""
    player = Player()
    score, said = ramped(player)
    assert player.asked == [*STEPS_KIB, 0]
    assert score.steps_s == [1.5, 1.5, 1.5]
    assert score.demand_met
    assert score.deepest_shortage_kib == 200 * MIB
    assert score.stall_us == 4_500_000
    assert said[-1] == "alpha has given its memory back"


def test_a_step_that_is_not_met_is_said_and_scored():
    """One unmet step is an unmet demand, and its shortage is the deepest."""
    score, said = ramped(Player(limit_kib=IDLE_KIB + 400 * MIB))
    assert score.steps_s == [1.5, 1.5, None]
    assert not score.demand_met
    assert "alpha did not get it" in said


def performed(*players, snapshot=UP, judge=None):
    coordinator = SimpleNamespace(snapshot=snapshot)
    judge = judge or Judge(BUDGET_KIB)
    return run(lambda: perform(players, coordinator, judge, False, "tcg", lambda _: None))


def test_the_verdict_holds_when_each_had_its_ramp():
    """One after the other, each with its own score; what was killed before the play is not the play's."""
    verdict = performed(Player("alpha"), Player("beta"))
    assert verdict.holds
    assert [guest.name for guest in verdict.guests] == ["alpha", "beta"]
    assert verdict.oom_kills == 0
    assert verdict.budget_kib == BUDGET_KIB < verdict.promised_kib


@pytest.mark.parametrize("fault", [{"kills": 1}, {"limit_kib": IDLE_KIB}], ids=["killed", "short"])
def test_the_second_guest_counts_as_much_as_the_first(fault):
    """A process killed or a demand unmet in either guest fails the verdict."""
    assert not performed(Player("alpha"), Player("beta", **fault)).holds


def test_the_second_ramp_waits_until_memory_may_be_taken():
    """While a guest is in its first half minute, what the first gave back cannot be given to the second."""
    young = make_snapshot(make_guest("alpha", vm=make_vm(boot_began_s=NOW_S)))
    alpha, beta = Player("alpha"), Player("beta")

    async def scenario() -> None:
        with trio.move_on_after(500):
            await perform([alpha, beta], SimpleNamespace(snapshot=young), Judge(BUDGET_KIB), False, "tcg", print)

    run(scenario)
    assert alpha.asked
    assert not beta.asked


def test_what_the_judge_saw_is_in_the_verdict():
    """Budget and refusals are the judge's word, not the actors'."""
    judge = Judge(BUDGET_KIB, booked_most_kib=BUDGET_KIB + MIB, actual_most_kib=3, resident_most_kib=2)
    judge.refused["alpha"] = {3, 7}
    verdict = performed(Player("alpha"), judge=judge)
    assert (verdict.budget_exceeded_kib, verdict.actual_most_kib, verdict.resident_most_kib) == (MIB, 3, 2)
    assert verdict.guests[0].refused == 2
    assert not verdict.holds


def waited_s(wait, *snapshots) -> float:
    """Seconds until `wait` is content, with a snapshot each second."""
    coordinator = SimpleNamespace(snapshot=None)

    async def turns() -> None:
        for snapshot in snapshots:
            await trio.sleep(1)
            coordinator.snapshot = snapshot

    async def scenario() -> float:
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns)
            await wait(coordinator)
            took_s = trio.current_time() - began_s
            nursery.cancel_scope.cancel()
        return took_s

    return run(scenario)


def test_a_guest_has_started_once_it_is_known_and_small():
    """Neither another guest nor a boot that still holds all its RAM lets the next machine begin."""
    beta, silent = make_guest("beta"), make_guest(demand_kib=None)
    claims = make_guest(booking=Booking(RAM_KIB, 0, claimed=True))
    settled = make_guest(booking=Booking(STARTUP_KIB, 0, claimed=False))
    snapshots = [make_snapshot(beta, alpha) for alpha in (silent, claims, settled)]
    took_s = waited_s(lambda coordinator: has_started(coordinator, "alpha"), make_snapshot(beta), *snapshots)
    assert took_s == pytest.approx(4, abs=0.2)


def test_the_first_half_minute_of_each_guest_is_waited_for():
    """The next ramp begins when the youngest guest may be shrunk."""
    young = make_guest("beta", vm=make_vm(boot_began_s=NOW_S))
    ages_s = (SHRINKABLE_AFTER_S - 1, SHRINKABLE_AFTER_S)
    snapshots = [make_snapshot(make_guest(), young, now_s=NOW_S + age_s) for age_s in ages_s]
    assert waited_s(may_be_shrunk, *snapshots) == pytest.approx(2, abs=0.2)
