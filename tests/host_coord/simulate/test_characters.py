"""Guests with character: each does what it is named for, whatever the engine's policy, and the same every time."""

from __future__ import annotations

from random import Random

import pytest

from ballonet_host_coord.simulate.characters import (
    BURST_PARTS,
    BURST_S,
    CHARACTERS,
    bursty,
    cache_hungry,
    hidden_floor,
    intermittently_stuck,
    lying,
    silent,
    stuck,
    thrashing,
)
from ballonet_host_coord.simulate.engine import run
from ballonet_host_coord.simulate.policies.simple import Follower

from .houses import GIB, trace

USED = [(float(t_s), (4 + t_s // 300 % 3) * GIB) for t_s in range(0, 3600, 300)]
TRACE = trace("a", *USED, end_s=3600.0)


class Watcher(Follower):
    """A follower that notes what it sees at its turns."""

    def __init__(self):
        super().__init__()
        self.sizes, self.shown, self.used = {}, {}, {}

    def turn(self, now_s, vms):
        vm = vms[0]
        self.sizes[now_s], self.shown[now_s], self.used[now_s] = vm.assigned_kib, vm.shows_kib, vm.used_kib
        return super().turn(now_s, vms)


def watched(guest):
    watcher = Watcher()
    return watcher, run([guest], watcher, 16 * GIB)


@pytest.mark.parametrize("name", CHARACTERS)
def test_each_is_the_same_every_time(name):
    """The same trace and seed make the same guest, and a run of it the same score within its machine's size."""
    one, other = (CHARACTERS[name](TRACE, Random(7)) for _ in range(2))
    assert one == other
    watcher, score = watched(one)
    assert watched(other)[1] == score
    assert all(0 <= kib <= 16 * GIB for kib in watcher.sizes.values())


def test_a_stuck_one_stays_where_it_is():
    """From its time on its balloon does not move, and its use goes on."""
    watcher, score = watched(stuck(TRACE, from_s=450.0))
    assert {kib for t_s, kib in watcher.sizes.items() if t_s > 450} == {watcher.sizes[601.0]}
    assert score.unmet_ratio > 0


def test_an_intermittently_stuck_one_moves_in_its_second():
    """1 s in 20: a rise of 1.2 GiB waits for the balloon's second, and fits it."""
    watcher, score = watched(intermittently_stuck(TRACE))
    assert score.episodes_per_vm_day > 0
    assert watcher.sizes[601.0] == pytest.approx(6 * GIB, abs=1)
    assert score.deepest_shortage_kib <= 0.2 * GIB + 1


def test_a_hidden_floor_is_kept():
    """It is never below it, unless it never had as much."""
    watcher, _ = watched(hidden_floor(TRACE, 6 * GIB))
    assert min(kib for t_s, kib in watcher.sizes.items() if t_s > 600) >= 6 * GIB


def test_a_liar_shows_more_than_it_has():
    """Twice its demand, and is believed."""
    watcher, _ = watched(lying(TRACE, 2.0))
    assert watcher.shown[301.0] == 10 * GIB
    assert watcher.sizes[601.0] == pytest.approx(12 * GIB, abs=1)


def test_a_silent_one_shows_its_last():
    """What it showed last is all that is known; demand goes on unseen."""
    watcher, score = watched(silent(TRACE, from_s=10.0))
    assert set(watcher.shown.values()) == {4 * GIB}
    assert score.unmet_ratio > 0


def test_bursts_rise_above_the_trace_and_end():
    """Between bursts it is the trace; in one it uses a quarter of the machine more, for half a minute."""
    made = bursty(TRACE, Random(1)).trace
    assert made.steps != TRACE.steps
    ends_s = [step.t_s for step in made.steps[1:]] + [made.end_s]
    base = dict(USED)
    more_s = 0.0
    for step, end_s in zip(made.steps, ends_s, strict=True):
        above_kib = step.used_kib - base[step.t_s // 300 * 300]
        assert above_kib in (0, 16 * GIB // BURST_PARTS)
        more_s += (end_s - step.t_s) if above_kib else 0
    assert 0 < more_s <= 3600 / 2
    assert more_s >= BURST_S


def test_a_thrasher_goes_over_what_it_has():
    """It is short again and again, by a little."""
    _, score = watched(thrashing(TRACE))
    assert score.shortage_vm_seconds >= 100
    assert 0 < score.deepest_shortage_kib <= 16 * GIB / 20 + 1


def test_the_cache_hungry_fill_the_machine():
    """Use and cache together are all that is provisioned; the demand is unchanged."""
    made = cache_hungry(TRACE).trace
    assert all(step.used_kib + step.cached_kib == 16 * GIB for step in made.steps)
    assert [step.demand_kib for step in made.steps] == [step.demand_kib for step in TRACE.steps]
