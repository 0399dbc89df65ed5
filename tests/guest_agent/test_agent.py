"""agent.py: reports and demands, driven on virtual time; test_agent_moves.py has the balloon commands."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.actions import SetTriggers, TakeSample, Write
from ballonet_guest_agent.cadence import COMMANDS_BURST, COMMANDS_PER_S
from ballonet_protocol import (
    AckStatus,
    AckWhy,
    BalloonAck,
    Demand,
    DemandWhy,
    Event,
    HelloAck,
    HelloReq,
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
    assert all(later - earlier >= 250 for earlier, later in zip(times, times[1:]))


def test_moving_guest_is_reported_often(stage) -> None:
    """While a consent's move is under way the host hears four times a second, whatever the period."""
    stage.open()
    stage.send(SetPolicy(gen=1, report_ms=60_000))
    stage.wait(5)
    stage.inflate(600 * MIB)
    assert len(only(stage.wait(5), Report)) in range(18, 22)
    stage.guest.inflate(424 * MIB)
    assert any(report.status == MoveStatus.REACHED for report in only(stage.wait(1), Report))
    assert only(stage.wait(20), Report) == []


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
    assert all(fifth - first >= 1000 for first, fifth in zip(times, times[4:]))


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


def test_stall_before_the_session_counts(stage) -> None:
    """A stall that no coordinator heard of still refuses the first INFLATE of the next one."""
    stage.connect()
    stage.press("full")
    stage.hello()
    assert only(stage.inflate(600 * MIB), BalloonAck)[0].why == AckWhy.PRESSURE


def test_new_coordinator_hears_of_the_shortage(stage) -> None:
    """What the last coordinator was told, the next one has not heard: a shortage is said again in a new session."""
    stage.open()
    stage.guest.inflate(300 * MIB)
    stage.guest.used_kib = stage.guest.size_kib - stage.guest.reserve_kib - 30 * MIB
    assert len(only(stage.wait(5), Demand)) == 1
    assert len(only(stage.hello() + stage.wait(2), Demand)) == 1


def test_kill_is_an_event(stage) -> None:
    """An OOM kill is told as it is, also when the guest has memory and asks for none."""
    stage.open()
    stage.guest.counters["oom_kill"] += 1
    heard = stage.wait(2)
    assert [event.event for event in only(heard, Event)] == ["oom_kill"]
    assert only(heard, Demand) == []


def test_demand_waits_for_the_frame_budget(stage) -> None:
    """A DEMAND that found no room leaves with the next sample that has it."""
    stage.open()
    stage.wait(5)
    while stage.agent.session._budget.take(stage.now.monotonic_s):
        pass
    assert only(stage.press("full"), Demand) == []
    assert [demand.severity for demand in only(stage.wait(1.5), Demand)] == [Severity.STARVING]


def test_loss_forgets_the_harm(stage) -> None:
    """A harm that waited when the host left is not told to the next one, and what happened meanwhile is no harm."""
    stage.open()
    stage.wait(3)
    stage.press("some")
    stage.press("some")  # waits for its quarter of a second
    stage.do(stage.agent.disconnected(stage.now))
    stage.guest.counters["oom_kill"] += 1
    stage.guest.inflate(400 * MIB)
    stage.guest.deflate(300 * MIB)
    stage.wait(3, ping=False)
    heard = stage.open() + stage.wait(3)
    assert only(heard, Demand) + only(heard, Event) == []


# ---- floods


def test_commands_beyond_the_rate_are_not_heard(stage) -> None:
    """A burst of 60 commands is judged, then 20 a second; one too many costs no sample and changes nothing."""
    stage.open()
    stage.wait(5)
    taken, said = stage.samples_taken, len(stage.logs)
    for _ in range(300):
        stage.inflate(700 * MIB)
    assert stage.samples_taken - taken == COMMANDS_BURST
    assert stage.agent.consent.gen == COMMANDS_BURST
    assert [text for text in stage.logs[said:] if "commands a second" in text] != []
    stage.monotonic_s += 0.5
    for _ in range(300):
        stage.inflate(700 * MIB)
    assert stage.samples_taken - taken == COMMANDS_BURST + COMMANDS_PER_S // 2


def test_policies_count_as_commands(stage) -> None:
    """Thresholds that change a thousand times are taken over sixty times."""
    stage.open()
    stage.wait(5)
    for gen in range(1, 1001):
        stage.send(SetPolicy(gen=gen, psi_some_permyriad=gen))
    assert len(stage.triggers) == COMMANDS_BURST


def test_a_hello_too_many_is_asked_for_again(stage) -> None:
    """Of too many HELLOs the last is not answered, so a second later the agent asks, and then one is."""
    stage.open()
    stage.wait(5)
    for _ in range(100):
        stage.hello()
    assert not stage.agent.session.live
    assert only(stage.wait(1.1, ping=False), HelloReq) != []
    assert only(stage.hello(), HelloAck) != []
    assert stage.agent.session.live
