"""agent.py: whatever guest, host and clocks do, what the agent agrees to keeps its promises."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ballonet_guest_agent.balloon_floor import computed_floor_kib
from ballonet_guest_agent.report import unmovable_kib
from ballonet_protocol import (
    AckStatus,
    BalloonAck,
    BalloonStatus,
    Bye,
    ByeWhy,
    Demand,
    HelloAck,
    Message,
    MoveStatus,
    Report,
    SetPolicy,
)

from .conftest import MIB, Stage

CONSENTED = (AckStatus.ACCEPTED, AckStatus.CLAMPED, AckStatus.DUPLICATE)
SETTLING_S = 30.0
PRESSED_S = 2.0
sizes_mib = st.integers(0, 1500)


class Guarded(RuleBasedStateMachine):
    """A host that asks for anything at any time, and a guest that does anything meanwhile."""

    @initialize(uptime_s=st.sampled_from([0.0, 20.0, 1000.0]))
    def boot(self, uptime_s: float) -> None:
        self.stage = Stage()
        self.stage.monotonic_s = uptime_s
        self.open = False
        self.pressed_s = float("-inf")
        self.slept = False
        self.newest_gen = 0
        self.gen_of_state = 0
        self.consented_gen: int | None = None
        self.lease_end_s = 0.0
        self.policy_gen = self.policy_floor_kib = 0

    # ---- what the guest does

    @rule(used_mib=sizes_mib, part=st.floats(0, 1), locked_mib=sizes_mib)
    def use(self, used_mib: int, part: float, locked_mib: int) -> None:
        guest = self.stage.guest
        guest.used_kib = used_mib * MIB
        guest.anon_kib = int(guest.used_kib * part)
        guest.unevictable_kib = min(locked_mib * MIB, guest.anon_kib)

    @rule(free_mib=st.integers(0, 512))
    def swap(self, free_mib: int) -> None:
        self.stage.guest.swap_free_kib = free_mib * MIB

    @rule(part=st.floats(0, 1), grow=st.booleans())
    def balloon(self, part: float, grow: bool) -> None:
        guest = self.stage.guest
        if grow:
            guest.inflate(int(part * max(0, guest.size_kib - 128 * MIB)))
        else:
            guest.deflate(int(part * guest.balloon_kib))

    @rule(counter=st.sampled_from(["pswpin", "workingset_refault_file", "oom_kill"]), count=st.integers(1, 10_000))
    def count(self, counter: str, count: int) -> None:
        self.stage.guest.counters[counter] += count

    @rule(kind=st.sampled_from(["some", "full"]))
    def stall(self, kind: str) -> None:
        self.pressed_s = self.stage.monotonic_s
        self.hear(self.stage.press(kind))

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 12.0, 40.0]), ping=st.booleans())
    def pass_time(self, seconds: float, ping: bool) -> None:
        self.hear(self.stage.wait(seconds, ping=ping and self.open))
        if not ping and seconds > 10:
            self.consented_gen = None

    @rule(seconds=st.sampled_from([1.0, 60.0, 1e6]))
    def sleep(self, seconds: float) -> None:
        self.stage.asleep_s += seconds
        self.slept = True
        self.consented_gen = None
        self.hear(self.stage.do(self.stage.agent.tick(self.stage.now)))

    # ---- what the host does

    @rule()
    def greet(self) -> None:
        heard = self.stage.connect() + self.stage.hello()
        self.policy_gen = self.policy_floor_kib = 0
        self.newest_gen = self.gen_of_state = 0
        self.slept, self.consented_gen = False, None
        self.open = any(isinstance(message, HelloAck) for message in heard)
        self.hear(heard)

    @rule()
    def leave(self) -> None:
        if self.open:
            self.hear(self.stage.send(Bye(why=ByeWhy.RESTART)))
        self.open, self.consented_gen = False, None

    @rule()
    def unplug(self) -> None:
        self.stage.do(self.stage.agent.disconnected(self.stage.now))
        self.open, self.consented_gen = False, None

    @rule(floor_mib=sizes_mib)
    def raise_floor(self, floor_mib: int) -> None:
        if self.open:
            self.policy_gen += 1
            self.policy_floor_kib = floor_mib * MIB
            self.hear(self.stage.send(SetPolicy(gen=self.policy_gen, floor_bytes=floor_mib << 20)))

    @rule(
        target_mib=sizes_mib,
        step=st.integers(-2, 3),
        floor_mib=st.none() | sizes_mib,
        ttl_ms=st.sampled_from([5000, 30_000]),
    )
    def inflate(self, target_mib: int, step: int, floor_mib: int | None, ttl_ms: int) -> None:
        if not self.open:
            return
        gen = max(1, self.newest_gen + step)
        more = {} if floor_mib is None else {"floor_bytes": floor_mib << 20}
        heard = self.stage.inflate(target_mib * MIB, gen=gen, ttl_ms=ttl_ms, **more)
        self.hear(heard)
        for ack in [message for message in heard if isinstance(message, BalloonAck)]:
            self.check_answer(ack, gen, (floor_mib or 0) * MIB, ttl_ms)

    @rule(target_mib=sizes_mib, step=st.integers(0, 3))
    def deflate(self, target_mib: int, step: int) -> None:
        if not self.open:
            return
        gen = max(1, self.newest_gen + step)
        heard = self.stage.deflate(target_mib * MIB, gen=gen)
        for ack in [message for message in heard if isinstance(message, BalloonAck)]:
            if gen > self.newest_gen:
                assert ack.status in (AckStatus.ACCEPTED, AckStatus.CLAMPED)
                self.consented_gen = None
            self.newest_gen = max(self.newest_gen, ack.gen)
        self.hear(heard)

    # ---- what must hold

    def check_answer(self, ack: BalloonAck, gen: int, hosts_floor_kib: int, ttl_ms: int) -> None:
        """One answer to an INFLATE, judged by what the guest is at this moment."""
        guest, now = self.stage.guest, self.stage.now
        if gen < self.newest_gen:
            assert ack.status == AckStatus.STALE
            assert (ack.gen, ack.effective_bytes) == (self.newest_gen, None)
            return
        assert ack.gen == gen
        is_new = gen > self.newest_gen
        assert is_new == (ack.status != AckStatus.DUPLICATE)
        self.newest_gen = gen
        assert ack.effective_bytes is not None
        if is_new:
            self.consented_gen = None
        if ack.effective_bytes >= guest.size_kib * 1024:
            return  # nothing is taken from the guest
        assert ack.status in CONSENTED
        ram_kib = guest.ram_kib
        own_floor_kib = computed_floor_kib(ram_kib - guest.reserve_kib, ram_kib)
        floor_kib = max(own_floor_kib, min(self.policy_floor_kib, ram_kib))
        if is_new:
            floor_kib = max(floor_kib, min(hosts_floor_kib, ram_kib))
        assert ack.effective_bytes >= floor_kib * 1024
        assert ack.effective_bytes >= unmovable_kib(guest.sample(), ram_kib) * 1024
        assert now.boottime_s >= SETTLING_S
        assert now.monotonic_s >= self.pressed_s + PRESSED_S
        assert not self.slept
        if not is_new:
            assert self.consented_gen == gen, "a consent that had ended came back"
            assert self.stage.now.boottime_s < self.lease_end_s
        self.consented_gen = gen
        self.lease_end_s = now.boottime_s + ttl_ms / 1000

    def hear(self, heard: list[Message]) -> None:
        for message in heard:
            if isinstance(message, Demand):
                assert message.gen is None or message.gen <= self.newest_gen or message.gen == self.stage.gen
                self.consented_gen = None
            if isinstance(message, BalloonStatus) and message.status in (MoveStatus.EXPIRED, MoveStatus.STALLED):
                self.consented_gen = None
            if isinstance(message, (BalloonStatus, Report)) and message.gen is not None:
                assert message.gen >= self.gen_of_state
                self.gen_of_state = message.gen
            if isinstance(message, Report):
                assert message.floor_bytes >= computed_floor_kib(960 * MIB, 1024 * MIB) * 1024

    @invariant()
    def no_consent_outlives_its_reasons(self) -> None:
        """Without a host that hears, after a sleep or past the lease nothing is agreed to."""
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        if not stage.agent.session.live or self.slept:
            assert not (stage.agent.consent.live and stage.agent.consent.inflating)
        if stage.agent.consent.live:
            left_s = stage.agent.consent.lease_left_s(stage.now.boottime_s)
            assert left_s is not None
            assert left_s <= 30.001


Guarded.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestGuarded = Guarded.TestCase
