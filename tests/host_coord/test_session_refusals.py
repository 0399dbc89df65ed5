"""session.py: agents that speak wrongly, or slowly, and what they are told."""

from __future__ import annotations

import pytest

from ballonet_host_coord.model import LinkState
from ballonet_protocol import Bye, ByeWhy, Connection, ErrorCode, ErrorMessage, HelloAck, MemoryReport, Report
from ballonet_protocol._codec import encode_message
from ballonet_protocol._framing import encode_frame
from ballonet_protocol.limits import HELLO_LONGEST_S
from ballonet_protocol.testing import make_hello_ack

from .talk import MEMORY, RAM_KIB, Channel, refuse


@pytest.fixture
def live():
    channel = Channel()
    channel.answer_hello()
    assert channel.said() == []
    return channel


@pytest.mark.fault(22)
def test_major_that_was_not_offered_is_refused():
    """A HELLO_ACK that chose another major is told so, with a BYE, and asked again at the longest pause."""
    channel = Channel()
    (hello,) = channel.said()
    frame = hello_ack_with_major(hello, 2)
    channel.session.received(frame, 1.0)
    error, bye = channel.said()
    assert (error.code, error.fatal, bye.why) == (ErrorCode.UNSUPPORTED_VERSION, True, ByeWhy.PROTOCOL)
    assert channel.facts.link is LinkState.OPENING
    assert "no common version" in channel.facts.detail
    assert channel.session.deadline_s() >= 1.0 + 0.8 * HELLO_LONGEST_S


def hello_ack_with_major(hello, major):
    """A HELLO_ACK that the library would not send."""
    return encode_frame(HelloAck.TYPE_CODE, 2, 1, 1, encode_message(make_hello_ack(hello, major=major)))


def test_sixteen_bad_frames_in_a_row_end_the_session(live, monkeypatch):
    """One ERROR a second, and after sixteen bad frames a BYE; a good frame between begins the count anew."""
    frames = [live.agent.send(Report(boottime_ms=ms, memory=MemoryReport(**MEMORY))) for ms in range(40)]
    heard = []
    for number, frame in enumerate(frames[:32]):
        with monkeypatch.context() as patch:
            if number != 15:
                patch.setattr(Connection, "_decode", refuse)
            live.session.received(frame, 1.0 + 1.1 * number)
        heard += live.said()
    kinds = [type(message) for message in heard]
    assert kinds == [ErrorMessage] * 31 + [Bye]
    assert heard[-1].why == ByeWhy.PROTOCOL
    assert live.facts.link is LinkState.OPENING


def test_slow_line_gets_its_session():
    """A round trip longer than a second does not keep a reporting agent from ever having a session."""
    channel = Channel()
    channel.answer_hello()
    live = channel.session
    live.renewed(RAM_KIB, 10.0)
    hello = live.take_output()
    late = [channel.agent.send(Report(boottime_ms=ms, memory=MemoryReport(**MEMORY))) for ms in (1, 2, 3)]
    for number, frame in enumerate(late):
        live.received(frame, 11.2 + number)
    assert live.take_output() == b""
    channel.agent.receive_data(hello)
    (message,) = iter(channel.agent.next_message, None)
    channel.say(make_hello_ack(message), 14.5)
    assert channel.facts.link is LinkState.LIVE
