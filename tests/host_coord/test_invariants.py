"""The design's invariants, held by the real Snapshot -> one_iteration -> Ledger.step whatever guests do.

`watch.py` judges every command (I1 to I4, I7, I8); the state machine plays guests of every character against it.
`test_safeguards.py` shows that it would catch each safeguard's absence.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import LinkState, RunState, SetTarget, TellDeflate

from .builders import MIB, make_guest, make_report, make_settings, make_snapshot
from .world import LEAST_KIB, OVERHEAD_KIB, RAM_KIB, Character, World

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
SIZES = st.integers(0, 1100).map(lambda mib: mib * MIB)
PLACES = st.integers(0, 4)
SLIDERS = st.sampled_from([50, 0, 25, 37, 80, 100])


@st.composite
def guest_settings(draw, name):
    minimum_kib = draw(st.sampled_from([128, 256, 384])) * MIB
    maximum_kib = draw(st.sampled_from([640, 896, 1024])) * MIB
    startup_kib = draw(st.sampled_from([384, 512, 640])) * MIB
    return make_settings(
        name,
        minimum_kib=minimum_kib,
        startup_kib=startup_kib,
        maximum_kib=maximum_kib,
        weight=draw(st.sampled_from([1, 1000, 5000, 10000])),
        buffer_percent=draw(st.sampled_from([0, 20, 50])),
        shrink_without_deflate_on_oom=draw(st.booleans()),
    )


CHARACTERS = st.builds(
    Character,
    stuck=st.booleans(),
    hidden_floor_kib=st.sampled_from([0, 0, 450 * MIB]),
    slow=st.booleans(),
    refuses=st.booleans(),
    clamps_kib=st.sampled_from([0, 0, 400 * MIB]),
    silent=st.booleans(),
    floor_kib=st.sampled_from([None, 0, 300 * MIB, 2 * RAM_KIB]),
    helps_itself=st.booleans(),
    has_agent=st.sampled_from([True, True, True, False]),
    has_statistics=st.booleans(),
    deflate_on_oom=st.sampled_from([True, True, False]),
    refilled=st.sampled_from([False, False, True]),
)
"""Shrinks to the cooperative guest."""


class AnythingHappens(RuleBasedStateMachine):
    """Whatever guests, agents, monitors, operators and a restarted coordinator do, `Watch` finds no violation."""

    @initialize(data=st.data(), count=st.integers(2, 5), headroom_mib=st.sampled_from([0, 64, 200]), slider=SLIDERS)
    def begin(self, data, count, headroom_mib, slider):
        chosen = [data.draw(guest_settings(name)) for name in NAMES[:count]]
        minimum_kib = sum(guest.minimum_kib + OVERHEAD_KIB for guest in chosen) + headroom_mib * MIB
        budget_kib = max(RAM_KIB, minimum_kib) + data.draw(st.integers(0, count * 512)) * MIB
        characters = [data.draw(CHARACTERS) for _ in chosen]
        self.world = World(budget_kib, characters, headroom_mib * MIB, chosen, slider)
        if data.draw(st.booleans()):
            for guest in self.world.guests:  # found running for long: adopted
                guest.run_state = RunState.RUNNING
                guest.boot_began_s -= data.draw(st.sampled_from([10, 100]))
                guest.target_kib = data.draw(st.integers(200, 1024)) * MIB
                guest.live(self.world.now_s)
        self.world.turns(data.draw(st.sampled_from([1, 45, 110])))

    def name(self, place):
        return self.world.guests[place % len(self.world.guests)].name

    @rule(count=st.integers(1, 12), passed_s=st.sampled_from([0.25, 1.0, 1.0, 4.0]))
    def time_passes(self, count, passed_s):
        self.world.turns(count, passed_s)

    @rule(place=PLACES, use_kib=SIZES)
    def works(self, place, use_kib):
        self.world[self.name(place)].use_kib = max(LEAST_KIB, min(use_kib, RAM_KIB))
        self.world.turns(3)

    @rule(place=PLACES, character=CHARACTERS)
    def changes_character(self, place, character):
        guest = self.world[self.name(place)]
        character.deflate_on_oom = guest.character.deflate_on_oom
        guest.character = character
        self.world.turns(3)

    @rule(place=PLACES)
    def takes_memory_back(self, place):
        guest = self.world[self.name(place)]
        if guest.is_up:
            guest.size_kib = min(RAM_KIB, guest.size_kib + 100 * MIB)
        self.world.turn()

    @rule(place=PLACES, want_kib=SIZES, blames=st.booleans(), passed_s=st.sampled_from([0.01, 1.0]))
    def demands(self, place, want_kib, blames, passed_s):
        self.world.demand(self.name(place), want_kib, blames)
        self.world.turn(passed_s)

    @rule(place=PLACES, target_kib=SIZES)
    def another_mover_interferes(self, place, target_kib):
        self.world.lower(self.name(place), max(LEAST_KIB, target_kib))
        self.world.turn(0.25)

    @rule(place=PLACES)
    def agent_leaves(self, place):
        self.world[self.name(place)].agent.lose(LinkState.OPENING)
        self.world[self.name(place)].character.silent = True
        self.world.turn(0.25)

    @rule(place=PLACES)
    def session_is_renewed(self, place):
        self.world[self.name(place)].agent.lose(LinkState.OPENING)
        self.world.turn(0.25)

    @rule(place=PLACES)
    def resets(self, place):
        self.world.reset(self.name(place))
        self.world.turn(0.25)

    @rule(place=PLACES)
    def dies(self, place):
        self.world.die(self.name(place))
        self.world.turn()
        self.world.power_on(self.name(place))

    @rule(place=PLACES, count=st.integers(1, 5))
    def monitor_hangs(self, place, count):
        self.world[self.name(place)].reachable = False
        self.world.turns(count)
        self.world.reconnect(self.name(place))
        self.world.turn()

    @rule(place=PLACES, state=st.sampled_from([RunState.PAUSED, RunState.MIGRATING]), count=st.integers(1, 5))
    def is_paused(self, place, state, count):
        guest = self.world[self.name(place)]
        if guest.run_state is RunState.RUNNING:
            guest.run_state = state
            self.world.turns(count)
            guest.run_state = RunState.RUNNING
            guest.agent.lose(LinkState.OPENING)

    @rule(place=PLACES)
    def is_migrated_here(self, place):
        """The end of an incoming migration is a boot to the hypervisor port; the guest goes on as it was."""
        guest = self.world[self.name(place)]
        if guest.is_up:
            guest.run_state = RunState.MIGRATING
            self.world.turns(2)
            guest.run_state = RunState.RUNNING
            guest.boot += 1
            self.world.turns(2)

    @rule(place=PLACES, released=st.booleans())
    def is_released(self, place, released):
        self.world.records[self.name(place)].released = released
        self.world.turn()

    @rule(mib=st.integers(-800, 800))
    def budget_changes(self, mib):
        self.world.budget_kib = max(512 * MIB, self.world.budget_kib + mib * MIB)
        self.world.turn()

    @rule()
    def coordinator_is_restarted(self):
        self.world.restart()
        self.world.turns(2)


TestAnythingHappens = AnythingHappens.TestCase
TestAnythingHappens.settings = settings(max_examples=120, stateful_step_count=25)


MIBS = st.integers(0, 1100)
WEIGHTS = st.sampled_from([1, 500, 5000, 10000])
NEEDS = st.lists(st.tuples(MIBS, WEIGHTS, st.integers(256, 1024)), min_size=2, max_size=5)
ROUNDING_KIB = 1
"""The common level is a float, and is found along another way when one bound differs."""


def shared(needs, budget_mib, headroom_mib):
    """Targets of guests that may all be shrunk; `needs` are (demand, weight, present size) in MiB."""
    guests = [
        make_guest(
            name, actual_mib * MIB, demand_mib * MIB, settings={"weight": weight, "buffer_percent": 0}
        )
        for name, (demand_mib, weight, actual_mib) in zip(NAMES, needs, strict=False)
    ]
    snapshot = make_snapshot(*guests, budget_kib=budget_mib * MIB, headroom_kib=headroom_mib * MIB)
    return [decided.target_kib for decided in one_iteration(snapshot).guests]


@given(NEEDS, MIBS, st.integers(0, 4), st.integers(0, 3000), st.integers(0, 300))
def test_a_lie_takes_nothing_that_another_is_entitled_to(needs, lie_mib, place, more_mib, headroom_mib):
    """I5: whatever one guest says, each other one is to have at least its demand or its entitlement, if less."""
    liar = place % len(needs)
    needs[liar] = (lie_mib, *needs[liar][1:])
    budget_mib = 256 * len(needs) + headroom_mib + more_mib
    targets = shared(needs, budget_mib, headroom_mib)
    weights = sum(weight for _, weight, _ in needs)
    for index, (demand_mib, weight, _) in enumerate(needs):
        entitled_mib = 256 + more_mib * weight / weights
        if index != liar:
            assert targets[index] >= min(max(demand_mib, 256), 1024, entitled_mib) * MIB - 1


@given(NEEDS, st.integers(0, 4), st.integers(0, 3000), st.integers(0, 300))
def test_a_liar_gains_no_more_than_its_entitlement_from_those_in_need(needs, place, more_mib, headroom_mib):
    """I5: where nobody has enough, asking for everything yields the entitlement and no more."""
    liar = place % len(needs)
    needs = [(1024, weight, 256) for _, weight, _ in needs]
    targets = shared(needs, 256 * len(needs) + headroom_mib + more_mib, headroom_mib)
    assume(all(target < 1024 * MIB for target in targets))
    share = needs[liar][1] / sum(weight for _, weight, _ in needs)
    assert targets[liar] <= (256 + more_mib * share) * MIB + len(needs)  # KiB, of rounding


@given(NEEDS, st.integers(0, 3000))
def test_a_reported_floor_gives_nothing(needs, more_mib):
    """I5: a guest that claims a floor of all its RAM keeps what it has and is not given a byte for it."""
    budget_mib = 256 * len(needs) + more_mib
    guests = [
        make_guest(name, actual_mib * MIB, demand_mib * MIB, settings={"weight": weight, "buffer_percent": 0})
        for name, (demand_mib, weight, actual_mib) in zip(NAMES, needs, strict=False)
    ]
    liar = replace(guests[0], report=make_report(floor_kib=RAM_KIB))
    decision = one_iteration(make_snapshot(liar, *guests[1:], budget_kib=budget_mib * MIB))
    honest_kib = max(shared(needs, budget_mib, 0)[0], liar.vm.actual_kib)
    assert decision.guests[0].target_kib <= honest_kib + ROUNDING_KIB


@given(
    st.lists(st.tuples(st.integers(96, 1000), WEIGHTS), min_size=2, max_size=4),
    st.integers(0, 2000),
    st.sampled_from([0, 100]),
)
@settings(max_examples=40)
def test_constant_guests_are_left_in_peace(needs, more_mib, headroom_mib):
    """I6: once demand is constant and balloons have arrived, no decision and no command follows."""
    chosen = [make_settings(name, weight=weight) for name, (_, weight) in zip(NAMES, needs, strict=False)]
    characters = [Character(helps_itself=False) for _ in chosen]
    world = World((1024 + 320 * len(needs) + more_mib + headroom_mib) * MIB, characters, headroom_mib * MIB, chosen)
    world.boot_all()
    for guest, (use_mib, _) in zip(world.guests, needs, strict=True):
        guest.use_kib = use_mib * MIB
    world.turns(150, 5.0)  # the past has faded from demand by then
    decisions = set()
    for _ in range(10):
        world.turn()
        assert not [order for order in world.commands if isinstance(order, (SetTarget, TellDeflate))]
        assert world.decision is not None
        decisions.add(tuple(guest.target_kib for guest in world.decision.guests))
    assert len(decisions) == 1


def test_a_new_coordinator_answers_shortages_before_it_takes():
    """I7: with room in hand, the first command after a restart is a grant to the guest that is short."""
    world = World(2048 * MIB, [Character(helps_itself=False), Character()])
    world.boot_all()
    world["alpha"].use_kib = 800 * MIB
    world.restart()
    while not world.commands:
        world.turn()
        assert world.now_s < 1200
    first = world.commands[0]
    assert isinstance(first, SetTarget)
    assert first.guest == "alpha"
    assert first.target_kib >= 800 * MIB
