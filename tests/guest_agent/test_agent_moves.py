"""agent.py: balloon commands, what they cause and what is blamed on them, driven on virtual time."""

from __future__ import annotations

import pytest

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
    Report,
    Severity,
)

MIB = 1024
MIB_BYTES = 1 << 20


def only(messages: list[object], kind: type) -> list:
    return [message for message in messages if isinstance(message, kind)]


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


def test_grant_after_the_stop_changes_nothing(stage) -> None:
    """A DEFLATE in answer to the stop: a stall half a second later is still the move's, one a second later is not."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.guest.inflate(200 * MIB)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [1]
    stage.wait(0.1)
    stage.deflate(900 * MIB)
    stage.wait(0.4)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [1]
    assert [demand.gen for demand in only(stage.wait(1.0), Demand)] == [None]


def test_next_inflate_ends_the_last_stop(stage) -> None:
    """What was stopped is not asked about again once another INFLATE has been agreed to."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.press("some")
    stage.agent.watch._harmed_s = 0.0  # as if the stall were long over
    assert stage.inflate(700 * MIB)[0].status == AckStatus.ACCEPTED
    stage.guest.psi_some_us += 10
    stage.guest.swap_total_kib = stage.guest.swap_free_kib = stage.guest.anon_kib = 900 * MIB
    stage.guest.used_kib = 950 * MIB
    assert only(stage.wait(1.2), Demand) == []


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("pieces", [1, 30])
def test_returned_step_is_the_hosts(stage, announced: bool, pieces: int) -> None:
    """A coordinator gives the last step back, with or without a DEFLATE, at once or slowly: no self-move is told."""
    stage.open()
    stage.wait(5)
    stage.inflate(600 * MIB)
    stage.guest.inflate(300 * MIB)
    stage.wait(0.3)
    assert [demand.gen for demand in only(stage.press("full"), Demand)] == [1]
    heard = stage.deflate(1024 * MIB) if announced else []
    for _ in range(pieces):
        stage.guest.deflate(300 * MIB // pieces)
        heard += stage.wait(0.1)
    heard += stage.wait(5)
    assert only(heard, Event) == []
    assert [demand.why for demand in only(heard, Demand) if demand.why != DemandWhy.PSI] == []


@pytest.mark.parametrize("ending", ["lease", "silence"])
def test_step_returned_after_the_consent_ended(stage, ending: str) -> None:
    """The same where the consent ended otherwise before the move had arrived."""
    stage.open()
    stage.wait(5)
    stage.inflate(600 * MIB, ttl_ms=5000 if ending == "lease" else 30_000)
    stage.guest.inflate(300 * MIB)
    stage.wait(6 if ending == "lease" else 11, ping=ending == "lease")
    stage.wait(1)
    heard = stage.wait(1)
    stage.guest.deflate(200 * MIB)
    heard += stage.wait(3)
    assert only(heard, Demand) + only(heard, Event) == []


def test_grant_closes(stage) -> None:
    """When a grant has been used, has run out or belonged to the last session, a self-move is told again."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.wait(3)
    stage.deflate(1024 * MIB)
    stage.guest.deflate(500 * MIB)
    stage.wait(3)
    for change in ("used", "lease over", "new session"):
        stage.guest.inflate(500 * MIB)
        if change == "lease over":
            stage.deflate(1024 * MIB, ttl_ms=5000)
            stage.wait(6)
        elif change == "new session":
            stage.deflate(1024 * MIB)
            stage.hello()
        stage.wait(3)
        stage.guest.deflate(500 * MIB)
        assert [demand.why for demand in only(stage.wait(3), Demand)] == [DemandWhy.OOM], change


def test_new_inflate_closes_the_grant(stage) -> None:
    """A grant is over with the next INFLATE: what the guest takes back while it shrinks is its own."""
    stage.open()
    stage.guest.inflate(300 * MIB)
    stage.wait(3)
    stage.deflate(1024 * MIB)
    stage.inflate(600 * MIB)
    stage.wait(1)
    stage.guest.deflate(100 * MIB)
    (demand,) = only(stage.wait(1.5), Demand)
    assert (demand.why, demand.gen) == (DemandWhy.OOM, 2)


def test_end_of_the_grace_is_no_busy_loop(stage) -> None:
    """A sample an instant before the grace ends: the agent still judges in time and does not take one after another."""
    stage.open()
    stage.guest.inflate(500 * MIB)
    stage.wait(5)
    stage.guest.deflate(100 * MIB)
    while stage.agent.watch._unannounced_s is None:
        stage.wait(0.01)
    stage.wait(stage.agent.watch._unannounced_s + 0.18 - stage.monotonic_s)
    stage.inflate(1024 * MIB)
    taken = stage.samples_taken
    heard = stage.wait(0.06)
    assert stage.samples_taken - taken <= 2
    assert [event.event for event in only(heard, Event)] == ["balloon_moved"]


def test_need_of_its_own_ends_a_finished_consent(stage) -> None:
    """Long after the arrival a DEMAND blames nobody, and still ends what was agreed to."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.guest.inflate(424 * MIB)
    stage.wait(3)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [None]
    again = only(stage.inflate(600 * MIB, gen=1), BalloonAck)[0]
    stage.guest.deflate(100 * MIB)
    stage.wait(3)
    later = only(stage.inflate(600 * MIB, gen=1), BalloonAck)[0]
    assert (again.effective_bytes, later.effective_bytes) == (600 * MIB_BYTES, 700 * MIB_BYTES)


def test_shortage_after_an_arrived_inflate_is_said(stage) -> None:
    """An INFLATE that arrived does not mute a shortage for the rest of its lease; its own effect is no shortage."""
    stage.open()
    stage.wait(3)
    stage.guest.used_kib = 495 * MIB
    stage.inflate(600 * MIB)
    stage.guest.inflate(424 * MIB)
    assert only(stage.wait(4), Demand) == []
    stage.guest.used_kib += 10 * MIB
    assert only(stage.wait(4), Demand) == []
    stage.guest.used_kib += 20 * MIB
    assert [demand.why for demand in only(stage.wait(1.2), Demand)] == [DemandWhy.COMMIT]


def test_each_inflate_brings_its_own_floor(stage) -> None:
    """A new INFLATE is not held to the floor that the one before it named."""
    stage.open()
    assert stage.inflate(700 * MIB, floor_bytes=700 * MIB_BYTES)[0].status == AckStatus.ACCEPTED
    ack = only(stage.inflate(450 * MIB, floor_bytes=400 * MIB_BYTES), BalloonAck)[0]
    assert (ack.status, ack.effective_bytes) == (AckStatus.ACCEPTED, 450 * MIB_BYTES)


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


def test_lease_ends_without_a_host(stage) -> None:
    """The lease has a deadline of its own when nothing else wakes the agent; the next coordinator learns of its end."""
    stage.open()
    stage.inflate(600 * MIB)
    stage.do(stage.agent.disconnected(stage.now))
    assert stage.agent.deadline_s(stage.now) == 30.0
    stage.wait(31, ping=False)
    stage.connect()
    ack = stage.hello()[0]
    assert (ack.gen, ack.status) == (1, MoveStatus.EXPIRED)


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
