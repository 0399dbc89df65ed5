"""Cases of sections 5, 6, 11 and 12 about agents: HELLO in every state, asking, silence, versions, reports."""

from __future__ import annotations

from ballonet_protocol import AGENT, Bye, ErrorMessage, HelloAck, HelloReq, Inflate, Ping, Pong, Report
from ballonet_protocol.limits import HELLO_FIRST_S, HELLO_JITTER_RATIO, REPORT_LEAST_MS, RESYNC_EVERY_S, UNANSWERED_MOST

from .as_coordinator import ROUNDING, AgentTalk
from .table import BALLOON, MUST, PSI, SETTLED, SHOULD, Failed, Skipped, case, check
from .talk import MARGIN_S, PATIENCE_S

ANSWERS = (
    "A, in whatever state it is, MUST drop what it queued and every consent it gave, MUST take S for its session, and "
    "MUST answer HELLO_ACK with the HELLO's nonce and its seq as `re`."
)
RESYNC = (
    "The agent answers with HELLO_REQ (why 1), the coordinator with a HELLO, each at most once a second; neither does "
    "after a BYE, nor the coordinator while its HELLO waits for an answer (5.2)."
)
ASKS = "An agent SHOULD send HELLO_REQ when the line opens and whenever it is out of step, at that pace."


@case("3.2/3", AGENT, MUST, "nor the peer's `lim.frame`")
def short_frames(talk: AgentTalk) -> None:
    """A HELLO with `lim.frame` of 1024 is followed by no longer frame."""
    talk.open(lim={"frame": 1024})
    talk.ask(talk.inflate(talk.present_bytes()))
    talk.report()
    for frame in talk.came:
        if frame.session == talk.session:
            check(len(frame.wire) <= 1024, "a frame of at most 1024 bytes", f"{len(frame.wire)} bytes", frame)


@case("5.1/1", AGENT, MUST, ANSWERS)
def answers_hello(talk: AgentTalk) -> None:
    """A HELLO is answered by HELLO_ACK with its nonce and seq, and the session is open."""
    frame = talk.open()
    ack = frame.message
    assert isinstance(ack, HelloAck)
    check(ack.re == 1, "re 1, the HELLO's seq", frame, frame)
    talk.fence("a PONG in the new session")


@case("5.1/2", AGENT, MUST, "Its numbers begin at 1.")
def begins_at_one(talk: AgentTalk) -> None:
    """The HELLO_ACK has number 1, in a second session too."""
    for _ in range(2):
        frame = talk.open()
        check(frame.seq == 1, "HELLO_ACK with seq 1", frame, frame)


@case("5.1/3", AGENT, MUST, ANSWERS)
def hello_in_session(talk: AgentTalk) -> None:
    """A HELLO in the midst of a session ends it: the old one's frames are foreign, the new one's are answered."""
    talk.open()
    old, old_seq = talk.session, talk.seq
    talk.open()
    token = talk.token()
    talk.unanswered(talk.frame(Ping, {"t": token}, session=old, seq=old_seq + 1), tokens=[token])


@case("5.1/4", AGENT, MUST, ANSWERS)
def hello_after_bye(talk: AgentTalk) -> None:
    """A HELLO after a BYE opens a session."""
    talk.open()
    talk.leave()
    talk.open()
    talk.fence("a PONG in the session after the BYE")


@case("5.1/5", AGENT, MUST, ANSWERS, (BALLOON, SETTLED))
def consent_ends_with_the_session(talk: AgentTalk) -> None:
    """After a HELLO the gen begins anew, and what the INFLATE before it agreed on is gone from the REPORTs."""
    talk.open()
    talk.agreed(talk.inflate(talk.little(), gen=40))
    talk.open()
    report = talk.report()
    check(not report.gen, "a REPORT without a gen of the session before", report)
    talk.agreed(talk.deflate(talk.present_bytes(), gen=1), "gen 1 to be a new one in a new session")


@case(
    "5.1/6",
    AGENT,
    MUST,
    "An agent that meets the same HELLO again MUST answer again and go on counting, since counted from 1 its frames "
    "would look repeated.",
)
def same_hello_again(talk: AgentTalk) -> None:
    """The same HELLO a second time has a second HELLO_ACK, whose number goes on."""
    values = talk.values()
    talk.write(hello := talk.hello(values))
    first = talk.welcomed(values)
    talk.fence()
    talk.write(hello)
    again = talk.welcomed(values)
    check(again.seq > first.seq, f"a HELLO_ACK with a seq above {first.seq}", again, again)
    talk.fence("a PONG after the second HELLO_ACK")


@case("5.1/7", AGENT, MUST, ANSWERS)
def many_hellos(talk: AgentTalk) -> None:
    """Of three HELLOs at once each has its HELLO_ACK, in its own session, and the last one's is open."""
    values = [talk.values() for _ in range(3)]
    hellos = [(talk.hello(one), talk.session) for one in values]
    talk.write(b"".join(wire for wire, _ in hellos))
    last = talk.find(
        HelloAck,
        "a HELLO_ACK to the last of three HELLOs",
        where=lambda ack: isinstance(ack, HelloAck) and ack.nonce == values[-1]["nonce"],
    )
    check(last.session == hellos[-1][1], "that HELLO_ACK in its own session", last, last)
    talk.seen.opened(talk.session, frozenset())
    talk.fence("a PONG in the last session")


@case("5.2/1", AGENT, SHOULD, ASKS, slow_s=2.5)
def asks_for_a_session(talk: AgentTalk) -> None:
    """Where it has no session, an agent sends HELLO_REQ, again after a pause, and less often then."""
    talk.fresh()
    if talk.line.can_reconnect:
        talk.leave()
        talk.reopen_line()
    else:
        talk.leave()
    end_s = talk.now_s() + 2 * HELLO_FIRST_S + PATIENCE_S
    first = talk.find(HelloReq, "a HELLO_REQ", within_s=end_s - talk.now_s())
    second = talk.find(HelloReq, "a second HELLO_REQ", within_s=end_s - talk.now_s())
    apart_s = second.at_s - first.at_s
    least_s = HELLO_FIRST_S * (1 - HELLO_JITTER_RATIO) - 0.1
    check(apart_s >= least_s, f"HELLO_REQs at least {least_s:.1f} s apart", f"{apart_s:.2f} s", second)


@case("5.4/2", AGENT, MUST, "A HELLO that 3.5 or 4.3 refuses opens nothing, so the ERROR to it names no frame")
def refused_hello(talk: AgentTalk) -> None:
    """A HELLO whose nonce is too short has an ERROR 2 without `re`, and the session that was open goes on."""
    talk.open()
    session, seq = talk.session, talk.seq
    wire = talk.hello(talk.values(nonce=b"short"))
    talk.session, talk.seq, talk.is_open = session, seq, True
    talk.refused(wire, 2, None, "a HELLO with a short nonce")


@case("5.5/2", AGENT, SHOULD, RESYNC, slow_s=RESYNC_EVERY_S)
def foreign_frames_make_it_ask(talk: AgentTalk) -> None:
    """Five frames of a foreign session have one HELLO_REQ (why 1)."""
    talk.fresh()
    talk.listen(RESYNC_EVERY_S + 0.1)
    for number in range(5):
        talk.write(talk.frame(Ping, {"t": 1}, session=talk.session ^ 0xFF, seq=number + 1))
    talk.find(HelloReq, "a HELLO_REQ (why 1)", where=lambda asked: isinstance(asked, HelloReq) and asked.why == 1)
    for frame in talk.listen(MARGIN_S):
        check(not isinstance(frame.message, HelloReq), "one HELLO_REQ within a second", frame, frame)


@case("5.5/3", AGENT, MUST, RESYNC, slow_s=RESYNC_EVERY_S)
def quiet_after_bye(talk: AgentTalk) -> None:
    """A late frame of a session that has ended by BYE causes no HELLO_REQ (why 1)."""
    talk.fresh()
    talk.listen(RESYNC_EVERY_S + 0.1)
    talk.leave()
    talk.write(talk.frame(Ping, {"t": 1}))
    for frame in talk.listen(3 * MARGIN_S):
        asked = frame.message
        check(not (isinstance(asked, HelloReq) and asked.why == 1), "no HELLO_REQ (why 1)", frame, frame)
    talk.fresh()


@case(
    "5.8/2",
    AGENT,
    SHOULD,
    "An agent that has heard nothing for that long, or has sent 32 frames since it heard something, SHOULD stop REPORT",
    slow_s=4.5,
)
def silence_stops_reports(talk: AgentTalk) -> None:
    """With `dead_ms` of 2 s, REPORTs stop after 2 s of our silence, and come again after a PING."""
    talk.open(lim={"dead_ms": 2000, "rep_ms": 250})
    talk.listen(2.0 + 2 * MARGIN_S)
    for frame in talk.listen(1.5):
        check(not isinstance(frame.message, Report), "no REPORT after 2 s of silence", frame, frame)
    talk.fence()
    talk.report()


@case(
    "5.8/3",
    AGENT,
    SHOULD,
    "An agent that has heard nothing for that long, or has sent 32 frames since it heard something, SHOULD stop REPORT",
    slow_s=UNANSWERED_MOST * REPORT_LEAST_MS / 1000 + 2,
)
def unheard_frames_stop_reports(talk: AgentTalk) -> None:
    """With `dead_ms` of a minute and four REPORTs per second, they stop after 32 frames."""
    talk.open(lim={"dead_ms": 60_000, "rep_ms": 250})
    frames = talk.listen(UNANSWERED_MOST * REPORT_LEAST_MS / 1000 + 1.0)
    frames = [frame for frame in frames if frame.session == talk.session]
    if len(frames) < UNANSWERED_MOST / 2:
        raise Skipped(f"the agent has sent only {len(frames)} frames")
    check(len(frames) <= UNANSWERED_MOST, f"at most {UNANSWERED_MOST} frames", len(frames), frames[-1])
    for frame in talk.listen(1.0):
        check(not isinstance(frame.message, Report), f"no REPORT after {UNANSWERED_MOST} frames", frame, frame)
    talk.fence()


@case("6.3/1", AGENT, MUST, "last INFLATE or DEFLATE of the session before; 0 when there was none")
def tells_of_the_session_before(talk: AgentTalk) -> None:
    """HELLO_ACK names the last gen of the session before, and 0 where there was none."""
    talk.open()
    talk.ask(talk.deflate(talk.present_bytes(), gen=23))
    for wanted in (23, 0):
        frame = talk.open()
        ack = frame.message
        assert isinstance(ack, HelloAck)
        check(ack.gen == wanted, f"HELLO_ACK with gen {wanted}", frame, frame)


@case("7.2/1", AGENT, MUST, "MemTotal with the balloon empty: the balloon is added back")
def sizes_agree(talk: AgentTalk) -> None:
    """REPORT's `total` is HELLO_ACK's, and holds what is free and available."""
    frame = talk.open()
    ack = frame.message
    assert isinstance(ack, HelloAck)
    memory = talk.report().memory
    check(abs(memory.total_bytes - ack.total_bytes) <= ROUNDING, f"total {ack.total_bytes}", memory)
    check(memory.available_bytes <= memory.total_bytes, "avail within total", memory)
    check(memory.free_bytes <= memory.total_bytes, "free within total", memory)


@case("11/3", AGENT, MUST, "A REPORT is due each `rep_ms`", slow_s=2.0)
def reports_keep_their_period(talk: AgentTalk) -> None:
    """With `rep_ms` of 500, REPORTs come twice a second, their `bt` growing."""
    talk.open(lim={"rep_ms": 500})
    talk.report()
    began_s, before = talk.now_s(), -1
    for number in range(3):
        report = talk.report()
        check(report.boottime_ms > before, f"bt above {before}", report)
        before = report.boottime_ms
        late_s = talk.now_s() - began_s - 0.5 * (number + 1)
        check(late_s < 0.5, f"REPORT {number + 1} after {0.5 * (number + 1)} s", f"{late_s:.1f} s later")


@case("11/4", AGENT, MUST, "sooner, but not within the shortest period of the last", slow_s=1.5)
def reports_are_not_too_many(talk: AgentTalk) -> None:
    """With a `rep_ms` of 1 the shortest period holds: at most four REPORTs a second."""
    talk.open(lim={"rep_ms": 1})
    talk.report()
    talk.take()
    count = sum(isinstance(frame.message, Report) for frame in talk.listen(1.5))
    check(count <= 7, "at most 7 REPORTs in 1.5 s", count)
    check(count >= 1, "a REPORT in 1.5 s", count)


@case("12.1/1", AGENT, MUST, "the agent MUST pick the highest that it speaks too")
def picks_a_major(talk: AgentTalk) -> None:
    """Of majors 0 to 9 an agent that speaks this text picks 1."""
    frame = talk.open(maj=[0, 9])
    ack = frame.message
    assert isinstance(ack, HelloAck)
    check(ack.major == 1, "maj 1", frame, frame)


@case("12.1/2", AGENT, MUST, "With none it MUST answer ERROR 4 (fatal) and BYE 5.", slow_s=1.0)
def no_common_major(talk: AgentTalk) -> None:
    """A HELLO that offers majors 2 to 3 has ERROR 4 (fatal) and BYE 5, and no session follows."""
    talk.open()
    talk.calm()
    talk.take()
    talk.write(talk.hello(talk.values(maj=[2, 3])))
    error = talk.find(ErrorMessage, "an ERROR 4 to majors 2 to 3")
    assert isinstance(error.message, ErrorMessage)
    check(error.message.code == 4 and error.message.fatal, "ERROR 4, fatal", error, error)
    bye = talk.find(Bye, "a BYE behind the ERROR 4")
    check(isinstance(bye.message, Bye) and bye.message.why == 5, "BYE 5", bye, bye)
    token = talk.ping()
    for frame in talk.listen(MARGIN_S):
        pong = isinstance(frame.message, Pong) and frame.message.token == token
        opened = frame.session == talk.session and isinstance(frame.message, (HelloAck, Report))
        check(not pong and not opened, "no session", frame, frame)
    talk.open()


@case("12.2/1", AGENT, MUST, "A receiver MUST take a HELLO or HELLO_ACK of a higher minor.")
def higher_minor(talk: AgentTalk) -> None:
    """A HELLO of minor 9 with unknown keys, flags, limits and capabilities opens a session that works."""
    changes: dict[str, object] = {"min": 9, "caps": ["psi", "x-example.numa", "later"], "zone": {"a": [1, True]}}
    talk.open(flags=0x0081, lim={"later": 5, "rep_ms": 500}, **changes)
    talk.unanswered(talk.frame(0x26, {"later": 1}, flags=0), what="no answer to a later minor's type")
    inflate = {"gen": 1, "target": talk.present_bytes(), "ttl_ms": 30_000, "later": "key"}
    talk.write(talk.frame(Inflate, inflate, flags=0x0011))
    seq = talk.seq
    frames = talk.fence()
    acks = [frame for frame in frames if getattr(frame.message, "re", None) == seq]
    check(len(acks) == 1 and acks[0].name == "BALLOON_ACK", "a BALLOON_ACK to an INFLATE with more keys", acks)
    talk.report()


@case("12.4/2", AGENT, MUST, "An unknown name MUST be ignored.")
def unknown_capabilities(talk: AgentTalk) -> None:
    """Of names that it does not know an agent activates none, and it needs none."""
    for offered in ([], [f"x-example.{number}" for number in range(60)]):
        frame = talk.open(caps=offered)
        check(not talk.capabilities, "no capability in common", frame, frame)
        talk.fence("a PONG in a session without capabilities")


@case("12.4/3", AGENT, MUST, "| `psi` | REPORT has `psi` |", (PSI,))
def psi_when_active(talk: AgentTalk) -> None:
    """Where `psi` is active, REPORT has it."""
    talk.open()
    report = talk.report()
    if "psi" in talk.capabilities and report.psi is None:
        raise Failed("a REPORT with psi", repr(report))
