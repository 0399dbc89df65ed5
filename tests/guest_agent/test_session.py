"""session.py: asking, answering, falling silent, and never answering a storm with a storm."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.session import RESERVED_FRAMES
from ballonet_protocol import (
    Bye,
    ByeWhy,
    Connection,
    ErrorCode,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    HelloReqWhy,
    Limits,
    Ping,
    Pong,
    Report,
    SetPolicy,
)
from ballonet_protocol.limits import DEMANDS_PER_S, FRAMES_BURST, FRAMES_PER_S


def kinds(messages: list[object]) -> list[str]:
    return [type(message).__name__ for message in messages]


def test_asks_with_growing_pauses(stage) -> None:
    """Without a coordinator the agent asks at once and then less and less often, and takes no sample."""
    stage.connect()
    stage.wait(120, ping=False)
    assert 10 <= len(stage.frames) <= 16
    assert stage.samples_taken == 0


def test_no_port_no_deadline(stage) -> None:
    """With no host on the port there is nothing to wake up for."""
    assert stage.agent.deadline_s(stage.now) is None
    stage.connect()
    stage.do(stage.agent.disconnected(stage.now))
    assert stage.agent.deadline_s(stage.now) is None


def test_handshake(stage) -> None:
    """HELLO is answered with its nonce and the intersection of capabilities, and a REPORT follows at once."""
    asked, ack, report = stage.open()
    assert asked == HelloReq(why=HelloReqWhy.START, implementation="ballonet-agent")
    assert isinstance(ack, HelloAck)
    assert ack.capabilities == ("psi", "refault", "events")
    assert (ack.gen, ack.status) == (0, 1)
    assert ack.total_bytes == stage.guest.sample().total_kib * 1024
    assert isinstance(report, Report)
    assert stage.samples_taken == 1


def test_only_what_the_guest_has(stage) -> None:
    """A guest without PSI does not claim it, and neither what the coordinator did not offer."""
    stage.guest.has_psi = False
    stage.connect()
    ack = stage.hello(capabilities=("psi", "own-balloon", "events"))[0]
    assert ack.capabilities == ("events",)


@pytest.mark.fault(17)
def test_hello_in_every_state(stage) -> None:
    """A HELLO is answered again and again: each begins a session, with gens from the start."""
    stage.open()
    stage.inflate(800 * 1024, gen=9)
    for _ in range(3):
        ack = stage.hello()[0]
        assert isinstance(ack, HelloAck)
    stage.deflate(900 * 1024, gen=1)
    assert stage.agent.consent.state == (1, 1)


def test_ack_tells_of_the_last_session(stage) -> None:
    """A new coordinator learns the last command and what became of it."""
    stage.open()
    stage.inflate(800 * 1024, gen=9)
    stage.guest.inflate(300 * 1024)
    stage.wait(1)
    ack = stage.hello()[0]
    assert (ack.gen, ack.status) == (9, 1)


@pytest.mark.fault(22)
def test_wrong_version(stage) -> None:
    """No common version: ERROR 4, fatal, then BYE 5, in the session that was offered; and there is none."""
    stage.connect()
    stage.host.open_session(5, Hello(major_range=(1, 3), minor=0, nonce=bytes(16), capabilities=()))
    error, bye = stage.receive(_hello_frame((2, 3)))
    assert (error.code, error.fatal) == (ErrorCode.UNSUPPORTED_VERSION, True)
    assert bye == Bye(why=ByeWhy.PROTOCOL)
    assert not stage.agent.session.live


def _hello_frame(major_range: tuple[int, int]) -> bytes:
    from ballonet_protocol import COORDINATOR, Hello

    hello = Hello(major_range=(1, 3), minor=0, nonce=bytes(16), capabilities=())
    data = Connection(COORDINATOR).open_session(5, hello)
    if major_range == (1, 3):
        return data
    from ballonet_protocol._codec import encode_message
    from ballonet_protocol._framing import encode_frame

    return encode_frame(Hello.TYPE_CODE, 1, 1, 5, encode_message(hello.replace(major_range=major_range)))


def test_ping(stage) -> None:
    """A PING is answered in the same call, with the guest's clock."""
    stage.open()
    (pong,) = stage.send(Ping(token=42))
    assert pong == Pong(re=stage.host.last_seq_sent, token=42, boottime_ms=int(stage.now.boottime_s * 1000))


def test_orphan_after_ten_seconds(stage) -> None:
    """Silence for 10 s: reports stop, one HELLO_REQ per 15 s remains, no samples; any frame brings all back."""
    stage.open()
    stage.wait(10, ping=False)
    frames, samples = len(stage.frames), stage.samples_taken
    heard = stage.wait(60, ping=False)
    assert set(kinds(heard)) == {"HelloReq"}
    assert len(stage.frames) - frames <= 6
    assert stage.samples_taken == samples
    assert any("silent" in text for text in stage.logs)
    stage.send(Ping(token=1))
    assert "Report" in kinds(stage.wait(1))


def test_orphan_after_32_frames(stage) -> None:
    """An agent that talks fast into a void stops after 32 frames, long before the port's ring is full."""
    stage.open()
    before = len(stage.frames)
    for step in range(200):
        stage.guest.used_kib = (100 + 400 * (step % 2)) * 1024
        stage.wait(0.05, ping=False)
        stage.press("full")
    assert len(stage.frames) - before <= 32


def test_asking_ends_before_the_ring_is_full(stage) -> None:
    """A host that hangs for a day hears 64 frames and then nothing; its first frame brings all back."""
    stage.open()
    before = len(stage.frames)
    for _ in range(24):
        stage.wait(3600, ping=False)
    assert 32 < len(stage.frames) - before <= 64
    stage.send(Ping(token=1))
    assert "Report" in kinds(stage.wait(1))
    stage.wait(60, ping=False)
    assert len(stage.frames) - before > 64


def test_unknown_session(stage) -> None:
    """Frames of a foreign session are answered with HELLO_REQ, once a second however many come."""
    stage.open()
    stage.wait(5)
    from ballonet_protocol import COORDINATOR, Hello

    other = Connection(COORDINATOR)
    other.open_session(999, Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=()))
    frame = _foreign_frame()
    heard = []
    for _ in range(30):
        heard += stage.receive(frame)
    assert heard == [HelloReq(why=HelloReqWhy.UNKNOWN_SESSION, implementation="ballonet-agent")]
    stage.monotonic_s += 1.0
    assert kinds(stage.receive(frame)) == ["HelloReq"]


def _foreign_frame() -> bytes:
    from ballonet_protocol._codec import encode_message
    from ballonet_protocol._framing import encode_frame

    return encode_frame(Ping.TYPE_CODE, 1, 1, 999, encode_message(Ping(token=1)))


def test_bye(stage) -> None:
    """After a BYE the agent is silent about its memory and asks for a session again."""
    stage.open()
    stage.send(Bye(why=ByeWhy.RESTART))
    assert not stage.agent.session.live
    stage.host = Connection(stage.host.our_role)
    assert kinds(stage.wait(3, ping=False))[0] == "HelloReq"
    assert kinds(stage.hello())[0] == "HelloAck"


def test_reconnect(stage) -> None:
    """The host goes and comes: no report leaves until it is heard; the agent asks at once, one second apart at most."""
    stage.open()
    stage.do(stage.agent.disconnected(stage.now))
    assert not stage.agent.session.live
    stage.wait(2, ping=False)
    heard = stage.connect()
    assert heard == [HelloReq(why=HelloReqWhy.RESYNC, implementation="ballonet-agent")]
    assert "Report" not in kinds(stage.wait(0.9, ping=False))
    assert kinds(stage.hello()) == ["HelloAck", "Report"]


@pytest.mark.fault(26)
def test_quick_reconnects(stage) -> None:
    """Twenty reconnects within a second make one or two HELLO_REQs, not twenty."""
    stage.open()
    stage.wait(3)
    before = len(stage.frames)
    for _ in range(20):
        stage.do(stage.agent.disconnected(stage.now))
        stage.connect()
        stage.monotonic_s += 0.05
    assert len(stage.frames) - before <= 2


def test_sleep(stage) -> None:
    """BOOTTIME running ahead of MONOTONIC means sleep: the agent says so and asks for a new session."""
    stage.open()
    stage.wait(3)
    stage.asleep_s = 600.0
    heard = stage.wait(0.1)
    assert Event(event="resume", boottime_ms=heard[0].boottime_ms) in heard
    assert HelloReq(why=HelloReqWhy.RESUMED, implementation="ballonet-agent") in heard


def test_bad_frames(stage) -> None:
    """Each is refused, one ERROR a second is said, and sixteen in a row end the session."""
    stage.open()
    heard = []
    for _ in range(15):
        heard += stage.receive(_bad_policy(stage))
    assert kinds(heard) == ["ErrorMessage"]
    assert heard[0].code == ErrorCode.OUT_OF_RANGE
    assert kinds(stage.receive(_bad_policy(stage))) == ["Bye"]
    assert not stage.agent.session.live


def test_echo(stage) -> None:
    """A line that sends the agent's own frames back does not end the session."""
    stage.open()
    for frame in stage.frames[1:3] * 20:
        stage.receive(frame)
    assert stage.agent.session.live


def _bad_policy(stage) -> bytes:
    """A frame of the session that lies outside its table."""
    from ballonet_protocol._codec import encode_message
    from ballonet_protocol._framing import encode_frame

    good = encode_message(SetPolicy(gen=1, report_ms=1000))
    stage.host._seq_in_session += 1
    bad = good.replace((1000).to_bytes(2, "big"), (7).to_bytes(2, "big"))
    return encode_frame(SetPolicy.TYPE_CODE, 1, stage.host._seq_in_session, stage.host.session, bad)


def test_error_is_not_answered(stage) -> None:
    """An ERROR from the coordinator is logged and not answered."""
    stage.open()
    assert stage.send(ErrorMessage(re=1, code=2, text="x", fatal=False)) == []
    assert any("error 2" in text for text in stage.logs)


def test_half_a_frame(stage) -> None:
    """The first half of a frame is let go after two seconds, and what follows is understood."""
    stage.open()
    frame = stage.host.send(Ping(token=1))
    stage.receive(frame[:8])
    stage.wait(2.5, ping=False)
    assert not stage.agent.session.connection.has_partial
    assert kinds(stage.send(Ping(token=2))) == ["Pong"]


@pytest.mark.parametrize("size", [1, 3, 4096])
def test_bytes_in_any_portions(stage, size: int) -> None:
    """How the stream is cut makes no difference."""
    stage.open()
    data = stage.host.send(Ping(token=1)) + stage.host.send(Ping(token=2)) + stage.host.send(Ping(token=3))
    heard = []
    for start in range(0, len(data), size):
        heard += stage.receive(data[start : start + size])
    assert [message.token for message in heard] == [1, 2, 3]


def test_shutdown(stage) -> None:
    """A clean stop says BYE to a coordinator that listens, and nothing to nobody."""
    stage.open()
    assert stage.do(stage.agent.shutdown(stage.now)) == [Bye(why=ByeWhy.STOP)]
    assert stage.do(stage.agent.shutdown(stage.now)) == []


def test_never_more_than_the_frame_budget(stage) -> None:
    """A coordinator that floods gets the answers that a burst of 60 has room for, some kept back, then 20 a second."""
    stage.open()
    stage.wait(5)
    stage.monotonic_s += 1.0
    assert sum(len(stage.send(Ping(token=token))) for token in range(300)) == FRAMES_BURST - RESERVED_FRAMES
    stage.monotonic_s += 0.5
    assert sum(len(stage.send(Ping(token=token))) for token in range(300)) == FRAMES_PER_S // 2
    frames = len(stage.frames)
    for _ in range(100):
        stage.inflate(1024 * 1024)
    assert len(stage.frames) - frames == RESERVED_FRAMES - DEMANDS_PER_S
    assert "Demand" in kinds(stage.press("full"))


def test_a_flood_of_commands_leaves_the_pings_their_answers(stage) -> None:
    """A coordinator that answers each REPORT with hundreds of commands still hears PONG, once a second."""
    stage.open()
    stage.wait(3)
    pongs = 0
    for token in range(50):
        for _ in range(100):
            stage.inflate(1024 * 1024)
        stage.monotonic_s += 0.1
        pongs += kinds(stage.send(Ping(token=token))).count("Pong")
    assert 4 <= pongs <= 6


def test_flood_does_not_shut_the_door(stage) -> None:
    """After a flood of PINGs a HELLO is still answered at once."""
    stage.open()
    for token in range(100):
        stage.send(Ping(token=token))
    assert kinds(stage.hello()) == ["HelloAck", "Report"]


def test_no_session_without_its_answer(stage) -> None:
    """A HELLO_ACK that could not leave opens nothing: the agent asks for a session as soon as it may speak."""
    stage.open()
    for _ in range(100):
        stage.inflate(1024 * 1024)
    assert kinds(stage.hello()) == []
    assert not stage.agent.session.live
    assert kinds(stage.wait(1.5, ping=False)) == ["HelloReq"]
    assert kinds(stage.hello()) == ["HelloAck", "Report"]
    assert stage.agent.session.live


@pytest.mark.parametrize("silent_s", [1.0, 12.0])
def test_asks_on_after_a_sleep(stage, silent_s: float) -> None:
    """A HELLO_REQ after a sleep that got lost is repeated, though the old session's coordinator goes on pinging."""
    stage.open()
    stage.wait(silent_s, ping=False)
    stage.asleep_s = 100.0
    heard = stage.wait(60)
    assert [message.why for message in heard if isinstance(message, HelloReq)][:3] == [HelloReqWhy.RESUMED] * 3
    stage.hello()
    assert "HelloReq" not in kinds(stage.wait(60))


def test_unknown_session_is_no_sign_of_life(stage) -> None:
    """ERROR 3 of a coordinator that knows nothing of us does not keep the session alive; a new one is asked for."""
    stage.open()
    other, heard = Connection(stage.host.our_role), []
    for _ in range(20):
        heard += stage.wait(1.0, ping=False)
        heard += stage.receive(other.send(ErrorMessage(re=None, code=3, text="unknown session", fatal=False)))
    assert not stage.agent.session.live
    assert kinds(heard).count("Report") <= 12
    assert 10 <= kinds(heard).count("HelloReq") <= 21


def test_silent_coordinator_is_heard_again(stage) -> None:
    """A frame of the session ends the silence: reports go on and nobody is asked for another session."""
    stage.open()
    stage.wait(12, ping=False)
    assert not stage.agent.session.live
    stage.send(Ping(token=1))
    heard = stage.wait(60)
    assert "HelloReq" not in kinds(heard)
    assert "Report" in kinds(heard)


def test_halves_of_two_frames(stage) -> None:
    """The time for the end of a frame begins with that frame, not with the one before it in the same portion."""
    stage.open()
    first, second = stage.host.send(Ping(token=1)), stage.host.send(Ping(token=2))
    heard = stage.receive(first[:9])
    stage.monotonic_s += 1.2
    heard += stage.receive(first[9:] + second[:9])
    stage.monotonic_s += 1.2
    heard += stage.do(stage.agent.tick(stage.now))
    heard += stage.receive(second[9:])
    assert [message.token for message in heard if isinstance(message, Pong)] == [1, 2]


def test_half_a_frame_of_the_last_host(stage) -> None:
    """Half a frame of a host that left is not put in front of what the next one says."""
    stage.open()
    stage.receive(stage.host.send(Ping(token=1))[:9])
    stage.do(stage.agent.disconnected(stage.now))
    stage.connect()
    assert not stage.agent.session.connection.has_partial
    stage.wait(1.5)
    report = next(message for message in stage.hello() if isinstance(message, Report))
    assert report.drops.crc == 1


def test_a_good_frame_between_bad_ones(stage) -> None:
    """Sixteen bad frames end a session when they stand in a row, not when a good one is between them."""
    stage.open()
    for _ in range(3):
        for _ in range(15):
            stage.receive(_bad_policy(stage))
        stage.send(Ping(token=1))
    assert stage.agent.session.live


@pytest.mark.parametrize(
    ("dead_ms", "report_ms", "expected"),
    [(1, 1, (2_000, 250)), (10**9, 10**9, (60_000, 60_000)), (7_000, 2_000, (7_000, 2_000))],
)
def test_hellos_limits_are_bounded(stage, dead_ms: int, report_ms: int, expected: tuple[int, int]) -> None:
    """What HELLO asks for is done within bounds, and the answer says what is done."""
    stage.connect()
    ack = stage.hello(limits=Limits(dead_ms=dead_ms, report_ms=report_ms))[0]
    assert (ack.limits.dead_ms, ack.limits.report_ms) == expected
    assert stage.agent.session.dead_s == expected[0] / 1000


def test_sleep_ends_the_consent(stage) -> None:
    """What was agreed to before a sleep is over, whatever is left of its lease."""
    stage.open()
    stage.inflate(800 * 1024)
    stage.asleep_s = 5.0
    stage.do(stage.agent.tick(stage.now))
    assert not stage.agent.consent.live
