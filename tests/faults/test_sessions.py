"""Sessions between the two real ends: HELLO at any time, answers that are lost, commands that come again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.guest_agent.conftest import MIB, Stage

from ballonet_host_coord.model import LinkState
from ballonet_protocol import AckStatus, BalloonAck, Bye, ByeWhy, Hello, HelloAck, Inflate, MoveStatus
from ballonet_protocol._framing import encode_frame
from ballonet_protocol.limits import DEAD_S

from .bench import ANSWERS, RAM_KIB, Bench

# --- HELLO


def never_asked(_stage: Stage) -> None:
    """Not even the port's host was announced."""


def asked(stage: Stage) -> None:
    stage.connect()


def open_and_idle(stage: Stage) -> None:
    stage.open()
    stage.wait(3)


def consenting(stage: Stage) -> None:
    stage.open()
    stage.inflate(600 * MIB, gen=40)
    stage.guest.inflate(50 * MIB)
    assert stage.agent.consent.live


def objecting(stage: Stage) -> None:
    consenting(stage)
    stage.press("full")


def orphaned(stage: Stage) -> None:
    stage.open()
    stage.wait(DEAD_S + 1, ping=False)
    assert not stage.agent.session.live


def woken(stage: Stage) -> None:
    stage.open()
    stage.asleep_s += 3600.0
    stage.wait(0.5, ping=False)
    assert stage.agent.session.asleep


def left(stage: Stage) -> None:
    stage.open()
    stage.send(Bye(why=ByeWhy.RESTART))


def declining(stage: Stage) -> None:
    stage.open()
    payload = b"\x84\xa3maj\x92\x02\x03\xa3min\x00\xa5nonce\xc4\x10" + bytes(16) + b"\xa4caps\x90"
    stage.receive(encode_frame(Hello.TYPE_CODE, 1, 1, 999, payload))
    assert not stage.agent.session.live


def inside_a_frame(stage: Stage) -> None:
    stage.open()
    stage.receive(stage.host.send(Inflate(gen=7, target_bytes=1 << 29, ttl_ms=30_000))[:20])


def without_a_host(stage: Stage) -> None:
    stage.open()
    stage.do(stage.agent.disconnected(stage.now))


STATES = [
    never_asked, asked, open_and_idle, consenting, objecting, orphaned, woken, left, declining, inside_a_frame,
    without_a_host,
]  # fmt: skip


@pytest.mark.fault(17)
@pytest.mark.parametrize("bring_there", STATES, ids=lambda state: state.__name__)
def test_hello_in_every_state_of_the_agent(bring_there: Callable[[Stage], None]) -> None:
    """Whatever an agent is doing, a HELLO is answered with its nonce at once, ends every consent, and begins anew."""
    stage = Stage()
    bring_there(stage)
    if not stage.agent.session._port_open:
        stage.connect()
    heard = stage.hello()
    (ack,) = (message for message in heard if isinstance(message, HelloAck))
    assert ack.nonce == bytes([stage._sessions] * 16)
    assert not stage.agent.consent.live
    stage.wait(3)
    (answer,) = (message for message in stage.inflate(900 * MIB, gen=1) if isinstance(message, BalloonAck))
    assert answer.gen == 1
    assert answer.status in (AckStatus.ACCEPTED, AckStatus.REFUSED)


@pytest.mark.fault(18)
def test_lost_hello_ack(bench: Bench) -> None:
    """An agent whose HELLO_ACK was lost speaks to deaf ears until the HELLO comes again; then the session stands."""
    host = bench.serve()
    host.lost = (HelloAck,)
    host.session.renewed(RAM_KIB, bench.now_s)
    heard = len(host.reports)
    bench.run(5.0)
    assert host.session.facts().link is LinkState.OPENING
    assert len(host.reports) == heard
    host.lost = ()
    assert bench.until_live(host, 5.0) <= 5.0


@pytest.mark.fault(18)
def test_hello_ack_of_the_hello_before(bench: Bench) -> None:
    """The answer to a HELLO that was overtaken opens nothing; the answer to the newest one does."""
    host = bench.serve()
    late = bench.rig.agent.session.connection
    before = late.session
    host.session.renewed(RAM_KIB, bench.now_s)
    first = host.session.take_output()
    bench.time.advance(1.5)
    host.session.tick(bench.now_s)
    newest = host.session.take_output()
    host.write(first)
    bench.rig.loop.turn(0)
    assert late.session != before
    host.talk()
    assert not host.live
    host.write(newest)
    bench.talk()
    assert host.live


# --- commands


@pytest.mark.fault(23)
def test_retry_after_a_lost_answer(bench: Bench) -> None:
    """An INFLATE whose answer was lost comes again under its gen: it is consented to once, for the same size."""
    host = bench.serve()
    host.lost = ANSWERS
    host.session.ask_inflate(5, 700 * MIB, 256 * MIB, 1024, bench.now_s)
    bench.run(0.5)
    assert host.session.facts().consent is None
    agreed = bench.rig.agent.consent.state, bench.rig.agent.consent.gen
    host.lost = ()
    bench.run(1.0)
    consent = host.session.facts().consent
    assert consent is not None
    assert (consent.gen, consent.effective_kib, consent.refused) == (5, 700 * MIB, False)
    assert (bench.rig.agent.consent.state, bench.rig.agent.consent.gen) == agreed
    assert host.inflates_sent == 2


@pytest.mark.fault(23)
def test_gens_lower_same_and_skipped() -> None:
    """Of commands with the same gen the first counts, of lower ones none, and a hole in the sequence is nothing."""
    stage = Stage()
    stage.open()

    def ask(target_kib: int, gen: int) -> BalloonAck:
        (answer,) = (m for m in stage.inflate(target_kib, gen=gen) if isinstance(m, BalloonAck))
        return answer

    first, same, lower, skipped = ask(900 * MIB, 3), ask(500 * MIB, 3), ask(400 * MIB, 2), ask(800 * MIB, 9)
    assert [answer.status for answer in (first, same, lower, skipped)] == [
        AckStatus.ACCEPTED, AckStatus.DUPLICATE, AckStatus.STALE, AckStatus.ACCEPTED,
    ]  # fmt: skip
    assert first.effective_bytes == same.effective_bytes == 900 * MIB * 1024
    assert (lower.effective_bytes, lower.gen) == (None, 3)
    assert skipped.effective_bytes == 800 * MIB * 1024


@pytest.mark.fault(24)
def test_lease_across_a_suspension_of_the_port(bench: Bench) -> None:
    """A guest that slept through its lease holds no consent when it wakes, and refuses until a session is opened."""
    host = bench.serve()
    host.session.ask_inflate(5, 700 * MIB, 256 * MIB, 1024, bench.now_s)
    bench.talk()
    assert bench.rig.agent.consent.live
    bench.vport.suspend()
    bench.time.sleep(31.0)
    bench.vport.wake()
    bench.rig.loop.turn(0)
    assert not bench.rig.agent.consent.live
    assert bench.rig.agent.consent.status == MoveStatus.EXPIRED
    assert bench.until_live(host, 3.0) <= 3.0
    assert host.session.facts().consent is None


@pytest.mark.fault(20)
def test_command_of_the_session_before(bench: Bench) -> None:
    """An INFLATE that was under way when a new session began is not carried out."""
    host = bench.serve()
    host.session.ask_inflate(5, 700 * MIB, 256 * MIB, 1024, bench.now_s)
    late = host.session.take_output()
    bench.time.advance(2.0)
    host.session.renewed(RAM_KIB, bench.now_s)
    bench.talk()
    host.write(late)
    bench.talk()
    assert not bench.rig.agent.consent.live
    assert bench.rig.agent.session.connection.stale_frames == 1
    assert host.session.facts().consent is None
