"""agent.py: reports, demands and balloon commands, driven on virtual time."""

from __future__ import annotations

import itertools

import pytest

from ballonet_guest_agent.actions import SetTriggers, TakeSample, Write
from ballonet_guest_agent.config import AgentSettings
from ballonet_protocol import (
    AckStatus,
    AckWhy,
    BalloonAck,
    BalloonStatus,
    Demand,
    DemandWhy,
    Event,
    MoveStatus,
    PolicyAck,
    PolicyStatus,
    Report,
    SetPolicy,
    Severity,
)

MIB = 1024
MIB_BYTES = 1 << 20


def only(messages: list[object], kind: type) -> list:
    return [message for message in messages if isinstance(message, kind)]


# ---- reports


def test_one_report_a_second(stage) -> None:
    """A quiet guest is reported once per period, from one sample each."""
    stage.open()
    taken = stage.samples_taken
    assert len(only(stage.wait(60), Report)) in (59, 60)
    assert stage.samples_taken - taken <= 75


def test_busy_guest_is_reported_sooner(stage) -> None:
    """A guest that moves by more than 2 % is reported up to four times a second and no more."""
    stage.open()
    heard = []
    for step in range(100):
        stage.guest.used_kib = (100 + 5 * step) * MIB
        heard += stage.wait(0.1)
    reports = only(heard, Report)
    assert 20 <= len(reports) <= 41
    times = [report.boottime_ms for report in reports]
    assert all(later - earlier >= 250 for earlier, later in itertools.pairwise(times))


def test_report_period_from_the_coordinator(stage) -> None:
    """HELLO's limits and SET_POLICY set the period; a policy's gen is its own sequence."""
    stage.open()
    (ack,) = stage.send(SetPolicy(gen=1, report_ms=5000))
    assert ack == PolicyAck(re=stage.host.last_seq_sent, gen=1, status=PolicyStatus.APPLIED)
    assert len(only(stage.wait(20), Report)) <= 5
    assert stage.send(SetPolicy(gen=1, report_ms=250))[0].status == PolicyStatus.DUPLICATE
    stage.send(SetPolicy(gen=5))
    assert stage.send(SetPolicy(gen=3, report_ms=250))[0].status == PolicyStatus.STALE


def test_policy_sets_the_triggers(stage) -> None:
    """Shares of the window become stall times; a new session goes back to the defaults."""
    stage.open()
    stage.send(SetPolicy(gen=1, psi_some_permyriad=1000, psi_full_permyriad=400))
    assert stage.triggers == [SetTriggers(50_000, 20_000)]
    stage.hello()
    assert stage.triggers[-1] == SetTriggers(25_000, 10_000)


def test_policy_floor(stage) -> None:
    """A policy raises the floor, and a floor above the RAM is clamped and said so."""
    stage.open()
    assert stage.send(SetPolicy(gen=1, floor_bytes=700 * MIB_BYTES))[0].status == PolicyStatus.APPLIED
    ack = only(stage.inflate(300 * MIB), BalloonAck)[0]
    assert (ack.status, ack.effective_bytes, ack.why) == (AckStatus.CLAMPED, 700 * MIB_BYTES, AckWhy.FLOOR)
    assert stage.send(SetPolicy(gen=2, floor_bytes=7000 * MIB_BYTES))[0].status == PolicyStatus.CLAMPED


def test_want_is_left_out_without_a_balloon(stage) -> None:
    """A guest that cannot see its balloon reports no want and consents to nothing."""
    stage.guest.has_balloon = False
    report = only(stage.open(), Report)[0]
    assert report.want_bytes is None
    assert report.memory.balloon_bytes is None
    ack = only(stage.inflate(500 * MIB), BalloonAck)[0]
    assert (ack.status, ack.why) == (AckStatus.REFUSED, AckWhy.POLICY)


def test_no_mandatory_field_no_spin(stage) -> None:
    """A guest that cannot report (no MemAvailable) stays connected, says why, and does not spin."""
    stage.guest.texts = lambda: ("MemTotal: 1000000 kB\n", "", None)
    stage.open()
    taken = stage.samples_taken
    stage.wait(10)
    assert stage.samples_taken - taken <= 41
    assert any("/proc/meminfo lacks" in text for text in stage.logs)


# ---- demands


@pytest.mark.fault(49)
@pytest.mark.parametrize(("kind", "severity"), [("some", Severity.STALLING), ("full", Severity.STARVING)])
def test_trigger_to_demand_in_one_pass(stage, kind: str, severity: int) -> None:
    """A PSI event asks for exactly one sample and answers it with the DEMAND first: no time passes in between."""
    stage.open()
    stage.wait(2.5)
    actions = stage.agent.pressed(kind, stage.now)
    assert actions == [TakeSample()]
    answer = stage.agent.sampled(stage.guest.sample(), stage.now)
    assert isinstance(answer[0], Write)
    (demand,) = only(stage.do(answer), Demand)
    assert (demand.why, demand.severity, demand.gen) == (DemandWhy.PSI, severity, None)
    assert demand.want_bytes >= stage.guest.size_kib * 1024


def test_at_most_four_demands_a_second(stage) -> None:
    """However often the triggers fire, four DEMANDs a second leave, and the last stall is not forgotten."""
    stage.open()
    heard = []
    for _ in range(200):
        heard += stage.press("some") + stage.press("full") + stage.wait(0.02)
    times = [demand.boottime_ms for demand in only(heard, Demand)]
    assert len(times) >= 12
    assert all(fifth - first >= 1000 for first, fifth in zip(times, times[4:], strict=False))


def test_no_demand_without_a_session(stage) -> None:
    """A stall that nobody hears costs no sample and is not sent to the next coordinator."""
    stage.connect()
    assert stage.press("full") == []
    assert stage.samples_taken == 0
    assert only(stage.hello(), Demand) == []


def test_self_deflation_is_demanded(stage) -> None:
    """A balloon that gives memory back by itself is a DEMAND why 5 within a sample and the grace, starving if short."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.wait(3)
    stage.guest.used_kib = stage.guest.size_kib - stage.guest.reserve_kib + 200 * MIB
    stage.guest.deflate(200 * MIB)
    heard = stage.wait(1.3)
    demand = only(heard, Demand)[-1]
    assert (demand.why, demand.severity) == (DemandWhy.OOM, Severity.STARVING)
    assert demand.want_bytes > stage.guest.size_kib * 1024
    assert Event(event="balloon_moved", boottime_ms=demand.boottime_ms) in heard


def test_granted_deflation_is_not_demanded(stage) -> None:
    """A balloon that follows a DEFLATE raises nothing, be the move or the message first."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.wait(3)
    heard = stage.deflate(800 * MIB)
    stage.guest.deflate(276 * MIB)
    heard += stage.wait(3)
    stage.guest.deflate(100 * MIB)
    stage.do(stage.agent.tick(stage.now))
    heard += stage.wait(0.05) + stage.deflate(900 * MIB) + stage.wait(3)
    assert only(heard, Demand) == []


def test_driver_unbound(stage) -> None:
    """A guest that empties its balloon with memory to spare is told of, and not as starving."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.wait(3)
    stage.guest.deflate(500 * MIB)
    (demand,) = only(stage.wait(2), Demand)
    assert (demand.why, demand.severity) == (DemandWhy.OOM, Severity.SOON)
    assert demand.want_bytes == stage.guest.ram_kib * 1024


def test_swap_storm(stage) -> None:
    """A guest that reads its memory back from swap asks without any PSI event, and wants room for what it read."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.guest.used_kib = stage.guest.size_kib - stage.guest.reserve_kib - 20 * MIB
    stage.guest.swap_free_kib = 100 * MIB
    stage.wait(3)
    heard = []
    for _ in range(8):
        stage.guest.counters["pswpin"] += 5000
        heard += stage.wait(0.25)
    storms = [demand for demand in only(heard, Demand) if demand.why == DemandWhy.SWAP_IN]
    assert storms
    assert storms[-1].severity == Severity.STARVING
    assert storms[-1].want_bytes > (stage.guest.size_kib + 64 * MIB) * 1024


def test_shortage_without_stall_is_said_once(stage) -> None:
    """Available memory below comfort is a DEMAND why 6, again when it gets worse, not each second."""
    stage.open()
    stage.guest.inflate(300 * MIB)
    stage.wait(3)
    stage.guest.used_kib = stage.guest.size_kib - stage.guest.reserve_kib - 30 * MIB
    heard = stage.wait(10)
    assert [(d.why, d.severity) for d in only(heard, Demand)] == [(DemandWhy.COMMIT, Severity.SHORT)]
    stage.guest.used_kib += 30 * MIB
    assert len(only(stage.wait(10), Demand)) == 1


def test_without_trigger_the_counter_is_read(make_stage) -> None:
    """Where no trigger can be armed, a rising stall counter is looked at each 250 ms and makes the DEMAND."""
    stage = make_stage(has_psi_trigger=False)
    stage.open()
    stage.wait(4)
    taken = stage.samples_taken
    stage.wait(10)
    assert stage.samples_taken - taken <= 11
    taken, heard = stage.samples_taken, []
    for _ in range(40):
        stage.guest.psi_some_us += 20_000
        heard += stage.wait(0.25)
    assert stage.samples_taken - taken >= 30
    assert only(heard, Demand)[0].why == DemandWhy.PSI
    assert only(heard, Demand)[0].severity == Severity.STALLING


def test_lost_trigger(stage) -> None:
    """When the kernel takes the trigger away the coordinator hears of it and the counter takes over."""
    stage.open()
    heard = stage.do(stage.agent.psi_lost(stage.now))
    assert [event.event for event in only(heard, Event)] == ["psi_lost"]
    assert stage.do(stage.agent.psi_lost(stage.now)) == []
    stage.guest.psi_full_us += 600_000
    assert only(stage.wait(1.5), Demand)[0].severity == Severity.STARVING


# ---- balloon commands


def test_inflate_is_acked_and_reported(stage) -> None:
    """An accepted INFLATE is answered from a fresh sample, and a fresh REPORT follows the ack."""
    stage.open()
    stage.wait(2.5)
    taken = stage.samples_taken
    ack, report = stage.inflate(600 * MIB)
    assert ack == BalloonAck(re=stage.host.last_seq_sent, gen=1, status=0, effective_bytes=600 * MIB_BYTES, why=0)
    assert isinstance(report, Report)
    assert (report.gen, report.status) == (1, MoveStatus.WORKING)
    assert report.boottime_ms == int(stage.now.boottime_s * 1000)
    assert stage.samples_taken == taken + 1


def test_settling(make_stage) -> None:
    """In the first 30 s after boot every INFLATE is refused, a DEFLATE never."""
    stage = make_stage()
    stage.monotonic_s = 29.0
    stage.open()
    ack = stage.inflate(600 * MIB)[0]
    assert (ack.status, ack.why, ack.effective_bytes) == (AckStatus.REFUSED, AckWhy.SETTLING, 1024 * MIB_BYTES)
    assert stage.deflate(1024 * MIB)[0].status == AckStatus.ACCEPTED
    stage.monotonic_s = 30.0
    assert stage.inflate(600 * MIB)[0].status == AckStatus.ACCEPTED


def test_floor_from_settings(make_stage) -> None:
    """The operator's floor holds whatever the coordinator asks, and is reported."""
    stage = make_stage(AgentSettings(floor_kib=640 * MIB))
    assert only(stage.open(), Report)[0].floor_bytes == 640 * MIB_BYTES
    ack = stage.inflate(0)[0]
    assert (ack.status, ack.effective_bytes) == (AckStatus.CLAMPED, 640 * MIB_BYTES)


def test_pressure_refuses(stage) -> None:
    """A stall within the last two seconds refuses an INFLATE; later it is taken."""
    stage.open()
    stage.press("some")
    assert stage.inflate(600 * MIB)[0].why == AckWhy.PRESSURE
    stage.wait(2.0)
    assert stage.inflate(600 * MIB)[0].status == AckStatus.ACCEPTED


def test_stall_in_the_sample_of_the_command_refuses(stage) -> None:
    """The sample that the command asked for shows a stall: refused, though no trigger has fired yet."""
    stage.open()
    stage.wait(1.5)
    stage.guest.psi_full_us += 400_000
    stage.monotonic_s += 0.1
    assert only(stage.inflate(600 * MIB), BalloonAck)[0].why == AckWhy.PRESSURE


def test_move_is_followed_to_its_end(stage) -> None:
    """The balloon arrives: BALLOON_STATUS reached, within a quarter of a second."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.guest.inflate(424 * MIB)
    (status,) = only(stage.wait(0.3), BalloonStatus)
    assert (status.gen, status.status, status.current_bytes) == (1, MoveStatus.REACHED, 600 * MIB_BYTES)


def test_inflation_that_hurts_is_stopped(stage) -> None:
    """A stall while the balloon grows: DEMAND with gen, then stalled, in the same call; the consent is over."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.guest.inflate(200 * MIB)
    stage.wait(0.3)
    demand, status = stage.press("full")[:2]
    assert isinstance(demand, Demand)
    assert (demand.gen, demand.severity) == (1, Severity.STARVING)
    assert (status.gen, status.status) == (1, MoveStatus.STALLED)
    again = stage.inflate(600 * MIB, gen=1)[0]
    assert (again.status, again.effective_bytes) == (AckStatus.DUPLICATE, 824 * MIB_BYTES)


def test_wish_is_repeated_when_the_stop_did_not_help(stage) -> None:
    """Still stalling a second after the stop: the DEMAND comes again without gen. Quiet: it does not."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.press("some")
    stage.wait(0.5)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [1]
    later = only(stage.wait(1.0), Demand)
    assert [demand.gen for demand in later] == [None]

    stage.wait(5)
    assert stage.inflate(600 * MIB)[0].status == AckStatus.ACCEPTED
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [2]
    assert only(stage.wait(5), Demand) == []


def test_harm_right_after_arrival_is_the_moves(stage) -> None:
    """Within a second of arriving the inflation is blamed; later the need is the guest's own."""
    stage.open()
    stage.inflate(900 * MIB)
    stage.guest.inflate(124 * MIB)
    stage.wait(0.5)
    assert only(stage.press("some"), Demand)[0].gen == 1

    stage.wait(5)
    stage.inflate(800 * MIB)
    stage.guest.inflate(100 * MIB)
    stage.wait(3)
    assert only(stage.press("some"), Demand)[0].gen is None


def test_soft_shortage_does_not_stop_an_inflate(stage) -> None:
    """Taking cache away is what an INFLATE is for: without stalls it is not objected to."""
    stage.open()
    stage.inflate(400 * MIB)
    stage.guest.used_kib = 320 * MIB
    stage.guest.inflate(624 * MIB)
    assert only(stage.wait(5), Demand) == []


def test_lease_across_a_sleep(stage) -> None:
    """The lease runs in BOOTTIME: a long sleep ends it, and the move on its way is expired when the guest wakes."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.asleep_s = 100.0
    stage.wait(0.1)
    assert stage.agent.consent.state == (1, MoveStatus.EXPIRED)


def test_lease_expires_in_a_live_session(stage) -> None:
    """A coordinator that pings and forgets its move is told that the lease ran out."""
    stage.open()
    stage.inflate(600 * MIB, ttl_ms=5000)
    statuses = only(stage.wait(6), BalloonStatus)
    assert [status.status for status in statuses] == [MoveStatus.EXPIRED]


def test_awake_again_refuses_until_hello(stage) -> None:
    """After a sleep an old coordinator's command may be stale: refused until a session is opened again."""
    stage.open()
    stage.wait(3)
    stage.asleep_s = 50.0
    assert only(stage.inflate(600 * MIB), BalloonAck)[0].why == AckWhy.SUSPENDED
    stage.hello()
    assert stage.inflate(600 * MIB)[0].status == AckStatus.ACCEPTED


def test_silence_ends_the_consent(stage) -> None:
    """A coordinator that was silent for 10 s has no consent any more when it comes back."""
    stage.open()
    stage.inflate(600 * MIB, ttl_ms=60_000)
    stage.wait(11, ping=False)
    again = only(stage.inflate(600 * MIB, gen=1, ttl_ms=60_000), BalloonAck)[0]
    assert (again.status, again.effective_bytes) == (AckStatus.DUPLICATE, 1024 * MIB_BYTES)


def test_commands_in_one_chunk_keep_their_order(stage) -> None:
    """INFLATE and DEFLATE that arrive together are answered in order, each from a sample."""
    from ballonet_protocol import Deflate, Inflate

    stage.open()
    first = stage.host.send(Inflate(gen=1, target_bytes=600 * MIB_BYTES, ttl_ms=30_000))
    second = stage.host.send(Deflate(gen=2, target_bytes=900 * MIB_BYTES, ttl_ms=30_000))
    acks = only(stage.receive(first + second), BalloonAck)
    assert [(ack.gen, ack.status) for ack in acks] == [(1, AckStatus.ACCEPTED), (2, AckStatus.ACCEPTED)]


def test_deflate_on_oom_off(stage) -> None:
    """Where MemTotal shrinks with the balloon, the total reported does not."""
    stage.guest.deflate_on_oom = False
    before = only(stage.open(), Report)[0].memory.total_bytes
    stage.guest.inflate(300 * MIB)
    assert only(stage.wait(2), Report)[-1].memory.total_bytes == before


def test_ram_unknown(stage) -> None:
    """A HELLO without `ram` is served on the scale of what the kernel manages."""
    stage.connect()
    ack = stage.hello(ram_bytes=None)[0]
    assert ack.total_bytes == 960 * MIB_BYTES
    assert stage.deflate(5000 * MIB)[0].effective_bytes == 960 * MIB_BYTES
