"""The design's invariants, held by the real Snapshot -> one_iteration -> Ledger.step whatever guests do.

`watch.py` judges every command (I1 to I5, I7 to I9, a short host); the state machine plays guests of every character
against it. `test_invariants_shares.py` looks for one snapshot that breaks a promise; `test_safeguards.py` shows that a
missing safeguard is caught.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ballonet_host_coord.model import LinkState, RunState, SetTarget

from .builders import MIB, make_settings
from .world import HOST_KIB, LEAST_KIB, OVERHEAD_KIB, RAM_KIB, Character, World

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

    @rule(place=PLACES, want_kib=SIZES, passed_s=st.sampled_from([0.25, 1.0]))
    def blames_a_step_of_ours(self, place, want_kib, passed_s):
        """A cooperative guest that has become idle, as soon as a step comes; and without the blame a second later."""
        guest = self.world[self.name(place)]
        guest.character = Character(deflate_on_oom=guest.character.deflate_on_oom)
        guest.use_kib = 800 * MIB
        self.world.turns(8)
        guest.use_kib = LEAST_KIB
        for _ in range(20):
            self.world.turn()
            if guest.target_kib < guest.size_kib and guest.agent.consent is not None:
                break
        self.world.demand(guest.name, want_kib, blames=True)
        self.world.turn(passed_s)
        self.world.demand(guest.name, want_kib)
        self.world.turn(0.25)

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

    @rule(left_percent=st.sampled_from([50, 7, 5, 3, 1, 0]))
    def others_fill_the_host(self, left_percent):
        """Processes that nobody manages leave that much of the host."""
        held_kib = sum(guest.resident_kib + OVERHEAD_KIB for guest in self.world.guests)
        self.world.others_kib = max(0, HOST_KIB * (100 - left_percent) // 100 - held_kib)
        self.world.turns(2)

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
