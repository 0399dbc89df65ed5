"""One agent's channel: bytes and time in, facts out, with the protocol's own agent end as the other side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord import session as session_module
from ballonet_host_coord.model import LinkState
from ballonet_host_coord.session import KIB, NOBODY, AgentSession
from ballonet_protocol import (
    AGENT,
    AckStatus,
    BalloonAck,
    Bye,
    ByeWhy,
    Connection,
    Deflate,
    Demand,
    ErrorMessage,
    Hello,
    HelloReq,
    Inflate,
    MemoryReport,
    Ping,
    Pong,
    Report,
)
from ballonet_protocol.limits import (
    DEAD_S,
    FRAMES_BURST,
    FRAMES_PER_S,
    HEARTBEAT_S,
    HELLO_LONGEST_S,
    QUEUE_BYTES,
    RESYNC_EVERY_S,
)

from .builders import MIB, CountedRandomness
from .talk import MEMORY, RAM_KIB, Channel, refuse


@pytest.fixture
def live():
    channel = Channel()
    channel.answer_hello()
    assert channel.facts.link is LinkState.LIVE
    assert channel.said() == []
    return channel


# --- opening ---------------------------------------------------------------------------------------------


def test_hello_is_repeated_with_growing_patience():
    """Until an agent answers: after 1 s, then half as long again each time, up to 15 s, for ever."""
    channel = Channel()
    waits = []
    for _ in range(12):
        began_s = channel.session._hello_sent_s
        now_s = channel.session.deadline_s()
        channel.session.tick(now_s)
        assert [type(message) for message in channel.said()][-1] is Hello
        waits.append(now_s - began_s)
    assert waits[:3] == [1.0, 1.5, 2.25]
    assert waits[-1] == HELLO_LONGEST_S
    assert channel.facts.detail == NOBODY
    assert channel.facts.link is LinkState.OPENING


def test_hello_asks_for_the_period():
    """The agent is asked for the operator's period, and its reports are judged by that."""
    session = AgentSession(CountedRandomness(), report_ms=5000)
    session.attached(RAM_KIB, 0.0)
    agent = Connection(AGENT)
    agent.receive_data(session.take_output())
    hello = agent.next_message()
    assert isinstance(hello, Hello)
    assert hello.limits.report_ms == session.facts().report_ms == 5000


def test_early_tick_does_nothing():
    """Before the announced moment there is nothing to do."""
    channel = Channel()
    channel.said()
    channel.session.tick(0.99)
    assert channel.said() == []


def check_one_hello_a_second():
    channel = Channel()
    channel.said()
    agent = Connection(AGENT)
    hellos = 0
    for tick in range(25):
        channel.session.received(agent.send(HelloReq(why=0, implementation="agent")), tick * 0.125)
        hellos += sum(isinstance(message, Hello) for message in channel.said())
    assert hellos == 3


def test_request_that_comes_too_early_is_answered_when_the_second_is_over(live):
    """An agent that restarts within a second of the last HELLO asks once and is not forgotten."""
    live.say(HelloReq(why=0, implementation="agent"), 0.5)
    assert live.said() == []
    assert live.session.deadline_s() == RESYNC_EVERY_S
    live.session.tick(RESYNC_EVERY_S)
    assert [type(message) for message in live.said()] == [Hello]


def test_frames_of_a_foreign_session_are_owed_nothing(live):
    """What was said before our HELLO was read wants no other one (SPEC, 5.2)."""
    live.session.renewed(RAM_KIB, 0.5)
    live.say(Ping(token=1), 0.6)
    assert live.session.deadline_s() == live.session._hello_next_s


def test_request_that_crossed_our_hello_is_answered_by_it():
    """A HELLO_REQ on its way when the HELLO went out wants no second one, once the agent has taken the first."""
    channel = Channel()
    channel.session.received(Connection(AGENT).send(HelloReq(why=0, implementation="agent")), 0.1)
    channel.answer_hello(0.2)
    channel.session.tick(RESYNC_EVERY_S)
    assert channel.said() == []
    assert channel.facts.link is LinkState.LIVE


def test_requests_are_answered_once_a_second():
    """Twenty-five requests in three seconds get three HELLOs."""
    check_one_hello_a_second()


def test_without_that_limit_each_request_would_be_answered(monkeypatch):
    """Were the limit switched off, the check above would fail."""
    monkeypatch.setattr(session_module, "RESYNC_EVERY_S", 0.0)
    with pytest.raises(AssertionError):
        check_one_hello_a_second()


@pytest.mark.fault(20)
def test_agent_that_speaks_in_an_old_session_gets_a_new_one(live):
    """A frame of a foreign session is dropped and answered with a HELLO."""
    stale = live.agent.send(Report(boottime_ms=5, memory=MemoryReport(**MEMORY)))
    live.session.renewed(RAM_KIB, 1.0)
    live.answer_hello(1.0)
    assert live.said() == []
    live.session.received(stale, 3.0)
    assert live.session.reports == []
    live.answer_hello(3.0)
    assert live.facts.link is LinkState.LIVE


# --- living ----------------------------------------------------------------------------------------------


def test_agent_introduces_itself(live):
    """HELLO_ACK makes the link live and tells who is there and what both can do."""
    facts = live.facts
    assert (facts.implementation, facts.capabilities, facts.session) == ("agent 1.0", ("psi",), 1)


def test_silent_coordinator_sends_a_heartbeat(live):
    """A PING when nothing was said for 2 s; the agent's PING is answered at once."""
    live.session.tick(HEARTBEAT_S)
    assert [type(message) for message in live.said()] == [Ping]
    live.say(Ping(token=7), 3.0)
    assert [(type(message), message.token) for message in live.said()] == [(Pong, 7)]


def test_agent_is_dead_after_10_s_of_silence(live):
    """One valid frame keeps it alive for 10 s; then it is unresponsive and a new session is opened."""
    live.report(100, 5.0)
    live.session.tick(5.0 + DEAD_S - 0.1)
    assert live.facts.link is LinkState.LIVE
    live.session.tick(5.0 + DEAD_S)
    assert (live.facts.link, live.facts.session) == (LinkState.UNRESPONSIVE, 0)
    assert live.facts.detail == "agent silent for 10 s"
    live.answer_hello(16.0)
    assert live.facts.link is LinkState.LIVE


def test_report_arrives_in_the_coordinators_words(live):
    """Bytes become KiB; what the agent did not say stays unknown."""
    live.report(100, 1.5)
    (report,) = live.session.reports
    assert (report.arrived_s, report.boottime_ms, report.available_kib) == (1.5, 100, 2**19)
    assert report.balloon_kib is None


def check_repetition_is_ignored():
    channel = Channel()
    channel.answer_hello()
    for boottime_ms in (100, 100, 99, 101):
        channel.report(boottime_ms, 1.0)
    assert [report.boottime_ms for report in channel.session.reports] == [100, 101]


def test_report_that_does_not_advance_the_clock_is_ignored():
    """A repeated or older report is fresh for nobody."""
    check_repetition_is_ignored()


def test_demand_becomes_a_wish(live):
    """Want, reason, severity and the blamed request come through."""
    live.say(Demand(boottime_ms=9, want_bytes=600 * MIB * KIB, why=1, severity=2, gen=4), 1.0)
    (wish,) = live.session.wishes
    assert (wish.want_kib, wish.why, wish.severity, wish.gen, wish.arrived_s) == (600 * MIB, 1, 2, 4, 1.0)


def test_goodbye_leaves_no_deadline_in_the_past(live):
    """After our BYE nothing can be said; the heartbeat that fails moves its deadline on all the same."""
    live.session.goodbye(1.0)
    live.session.tick(1.0 + HEARTBEAT_S)
    assert live.session.deadline_s() > 1.0 + HEARTBEAT_S


def test_clean_stop_says_goodbye(live):
    """A BYE while live, nothing otherwise."""
    live.session.goodbye(1.0)
    assert [type(message) for message in live.said()] == [Bye]
    live.session.detached("closed")
    live.session.goodbye(2.0)
    assert live.session.take_output() == b""


# --- asking ----------------------------------------------------------------------------------------------


def test_consent_is_what_the_agent_agreed_to(live):
    """The answer holds for the request's lease and goes no lower than was asked."""
    live.consent(live.ask(now_s=1.0), 1.2, effective_kib=500 * MIB)
    consent = live.facts.consent
    assert (consent.gen, consent.effective_kib, consent.refused, consent.expires_s) == (1, 500 * MIB, False, 31.0)
    live.consent(live.ask(gen=2, now_s=2.0), 2.2, effective_kib=1)
    assert live.facts.consent.effective_kib == 400 * MIB


@pytest.mark.fault(48)
@pytest.mark.parametrize("status", [AckStatus.REFUSED, AckStatus.STALE])
def test_refusal_is_no_consent(live, status):
    """Refused and stale answers are kept as refusals."""
    live.consent(live.ask(), status=status)
    assert live.facts.consent.refused


def test_answer_to_something_else_is_ignored(live):
    """Another gen, another request's number: neither is consent, and the right answer still counts."""
    inflate = live.ask(gen=5)
    live.consent(inflate, gen=4)
    assert live.facts.consent is None
    live.say(BalloonAck(re=inflate.seq + 9, gen=5, status=0, effective_bytes=0, why=0), 0.0)
    assert live.facts.consent is None
    live.consent(inflate)
    assert live.facts.consent.gen == 5


def ended_by(live, name):
    if name == "DEMAND":
        live.say(Demand(boottime_ms=9, want_bytes=2**29, why=1, severity=2), 1.0)
    elif name == "newer request":
        live.ask(gen=2, now_s=1.0)
    elif name == "grant":
        live.session.tell_deflate(2, 600 * MIB, 1.0)
    elif name == "renewed":
        live.session.renewed(RAM_KIB, 1.0)
    elif name == "BYE":
        live.say(Bye(why=ByeWhy.STOP), 1.0)
    elif name == "detached":
        live.session.detached("closed")
    elif name == "HELLO_REQ":
        live.say(HelloReq(why=0, implementation="agent"), 1.0)
    else:
        live.session.tick(DEAD_S)


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    "name", ["DEMAND", "newer request", "grant", "renewed", "BYE", "detached", "HELLO_REQ", "silence"]
)
def test_consent_ends(live, name):
    """Each of these takes the agent's word back at once."""
    live.consent(live.ask())
    assert live.facts.consent is not None
    ended_by(live, name)
    assert live.facts.consent is None


def test_answer_to_a_grant_is_no_consent(live):
    """A grant's answer is no consent: only an INFLATE is consented to."""
    live.session.tell_deflate(3, 600 * MIB, 1.0)
    (deflate,) = live.said()
    assert isinstance(deflate, Deflate)
    live.consent(deflate)
    assert live.facts.consent is None
    live.session.tick(2.9)
    assert live.facts.failed_gen == 0


@pytest.mark.fault(47)
def test_silence_is_asked_three_times_and_fails(live):
    """Three tries a second apart with the same gen and new numbers, then `failed_gen`; nothing after that."""
    tries = [live.ask(gen=7)]
    for now_s in (1.0, 2.0):
        live.session.tick(now_s)
        tries += [message for message in live.said() if isinstance(message, Inflate)]
    assert [inflate.gen for inflate in tries] == [7, 7, 7]
    assert len({inflate.seq for inflate in tries}) == 3
    assert live.facts.failed_gen == 0
    live.session.tick(3.0)
    assert live.facts.failed_gen == 7
    live.session.tick(4.0)
    assert not any(isinstance(message, Inflate) for message in live.said())


def test_answer_to_an_earlier_try_counts(live):
    """Whichever try is answered, it is the same request."""
    first = live.ask()
    live.session.tick(1.0)
    live.consent(first, 1.1)
    assert live.facts.consent.gen == 1


def test_request_without_a_live_agent_fails_at_once():
    """Nobody is asked who is not there."""
    channel = Channel()
    channel.session.ask_inflate(3, 400 * MIB, 0, 1024, 0.0)
    assert channel.facts.failed_gen == 3
    assert channel.session.deadline_s() == 1.0


# --- bounds ----------------------------------------------------------------------------------------------


def test_flood_is_held_back(live):
    """After a burst of frames the session asks not to be read, until the rate allows the next one."""
    assert live.session.read_delay_s(0.0) == 0.0
    for token in range(int(FRAMES_BURST)):
        live.say(Ping(token=token), 0.0)
    assert 0.0 < live.session.read_delay_s(0.0) <= 2.0 / FRAMES_PER_S
    assert live.session.read_delay_s(0.2) == 0.0


def test_bad_frames_cost_as_much_as_good_ones(live):
    """A frame that is wrong is paid for, and complained about once a second."""
    frames = b"".join(live.agent.send(Demand(boottime_ms=1, want_bytes=1, why=1, severity=1)) for _ in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_decode", refuse)
        live.session.received(frames, 1.0)
    assert [type(message) for message in live.said()] == [ErrorMessage]
    assert live.session._tokens == FRAMES_BURST - 4


def check_output_bound():
    channel = Channel()
    channel.answer_hello()
    channel.said()
    for token in range(3000):
        channel.say(Ping(token=token), 0.0)
    assert 0 < len(channel.session.take_output()) <= QUEUE_BYTES


def test_guest_that_never_reads_costs_a_bounded_amount():
    """Answers that nobody takes are dropped beyond 32 KiB."""
    check_output_bound()


def test_without_the_bound_output_would_pile_up(monkeypatch):
    """Were the bound switched off, the check above would fail."""
    monkeypatch.setattr(session_module, "QUEUE_BYTES", 10**9)
    with pytest.raises(AssertionError):
        check_output_bound()


def test_half_a_frame_is_given_up_after_2_s(live):
    """What began and did not end is discarded, and the next frame is understood."""
    frame = live.agent.send(Ping(token=1))
    live.session.received(frame[:10], 1.0)
    assert live.session.deadline_s() == 2.0
    live.session.tick(3.0)
    assert not live.session._connection.has_partial
    live.report(100, 3.1)
    assert len(live.session.reports) == 1


@given(st.lists(st.binary(max_size=80) | st.integers(0, 8), max_size=12))
def test_arbitrary_bytes_never_raise(pieces):
    """Noise, true frames, and frames with a flipped byte are all taken in without an exception."""
    channel = Channel()
    channel.answer_hello()
    for piece in pieces:
        if isinstance(piece, bytes):
            channel.session.received(piece, 1.0)
        elif channel.agent.state.name == "ACTIVE":
            frame = bytearray(channel.agent.send(Ping(token=piece)))
            if piece:
                frame[piece] ^= 1
            channel.session.received(bytes(frame), 1.0)
    assert channel.facts.link in (LinkState.LIVE, LinkState.OPENING)


@given(st.lists(st.sampled_from(["tick", "hello", "ask", "tell", "bye", "partial", "renewed", "ping"]), max_size=15))
def test_tick_at_the_announced_moment_makes_progress(acts):
    """Called at its deadline, `tick` moves the deadline on, so a loop that obeys it never spins."""
    channel = Channel()
    now_s = 0.1
    for gen, act in enumerate(acts, start=1):
        live = channel.facts.link is LinkState.LIVE
        if act == "hello":
            channel.said()
            channel.agent = Connection(AGENT)
            channel.session.renewed(RAM_KIB, now_s)
            channel.answer_hello(now_s)
        elif act == "ask":
            channel.session.ask_inflate(gen, 400 * MIB, 0, 1024, now_s)
        elif act == "tell":
            channel.session.tell_deflate(gen, 400 * MIB, now_s)
        elif act == "bye" and live:
            channel.session.goodbye(now_s)
        elif act == "partial":
            channel.session.received(b"\0\5abc", now_s)
        elif act == "renewed":
            channel.session.renewed(RAM_KIB, now_s)
        elif act == "ping" and live:
            channel.session.received(channel.agent.send(Ping(token=1)), now_s)
        else:
            deadline_s = channel.session.deadline_s()
            now_s = max(now_s, deadline_s)
            channel.session.tick(now_s)
            if channel.session.deadline_s() <= now_s:  # a second duty of the same moment
                channel.session.tick(now_s)
            assert channel.session.deadline_s() > now_s


@pytest.mark.parametrize("noise", [b"\x05bad!\0", b"\xff", b"\0\x01"])
def test_noise_is_held_back_like_frames(live, noise):
    """A guest that floods with damaged frames, or with no frame at all, is not read without end either."""
    for _ in range(200):
        live.session.received(noise * (4096 // len(noise)), 0.0)
    assert live.session.read_delay_s(0.0) > 1.0


def test_frames_of_another_session_are_paid_for(live):
    """Stale frames cost their parsing, too."""
    live.session.renewed(RAM_KIB, 2.0)
    for token in range(int(FRAMES_BURST)):
        live.say(Ping(token=token), 2.0)
    assert live.session.read_delay_s(0.0) > 0.0
