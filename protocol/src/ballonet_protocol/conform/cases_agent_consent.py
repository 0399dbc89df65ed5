"""Cases of sections 9 and 6.11 to 6.16 about agents: consent, floors, leases, grants, policy."""

from __future__ import annotations

from ballonet_protocol import (
    AGENT,
    AckStatus,
    AckWhy,
    BalloonAck,
    BalloonStatus,
    Deflate,
    Demand,
    ErrorMessage,
    Inflate,
    MoveStatus,
    PolicyStatus,
    Report,
    SetPolicy,
)
from ballonet_protocol.limits import LEASE_LEAST_MS, LEASE_MOST_MS

from .as_coordinator import LITTLE, MIB, ROUNDING, AgentTalk
from .table import BALLOON, HURT, MUST, SETTLED, STATUS, YOUNG, case, check
from .talk import PATIENCE_S

READY = (BALLOON, SETTLED)
REPORTING = (*READY, STATUS)
OUT_OF_BOUNDS = "and ERROR 7 to a number outside the bounds of its field"
FLOOR = "The floor in force is the highest of the agent's own, the policy's and the INFLATE's."
DUPLICATE = "the same gen is a duplicate whose only effect is that the lease begins anew"
SHARED = "INFLATE and DEFLATE share one strictly increasing `gen`, from 1, per session; SET_POLICY has another."
EXPIRED = "When it ends before the move has arrived, the agent MUST report BALLOON_STATUS expired"
SETTLING = "An agent MUST refuse every INFLATE for 30 s after the guest's boot (why settling)."


@case("4.3/12", AGENT, MUST, OUT_OF_BOUNDS)
def policy_out_of_bounds(talk: AgentTalk) -> None:
    """A SET_POLICY with a `rep_ms` of 249 has ERROR 7 and no POLICY_ACK; its gen is still free."""
    talk.fresh()
    talk.refused(talk.frame(SetPolicy, {"gen": 7, "rep_ms": 249}), 7, talk.seq, "a rep_ms below 250")
    ack, frame = talk.set_policy(gen=7)
    check(ack.status == PolicyStatus.APPLIED, "gen 7 to be free still", frame, frame)


@case("4.3/13", AGENT, MUST, OUT_OF_BOUNDS)
def gen_zero(talk: AgentTalk) -> None:
    """An INFLATE with gen 0 has ERROR 7 and no BALLOON_ACK."""
    talk.fresh()
    wire = talk.frame(Inflate, {"gen": 0, "target": talk.present_bytes(), "ttl_ms": 30_000})
    talk.refused(wire, 7, talk.seq, "gen 0")


@case("6.15/1", AGENT, MUST, "How the agent reports and objects. Absent fields stay as they are.")
def policy_changes_the_period(talk: AgentTalk) -> None:
    """SET_POLICY with `rep_ms` 250 makes REPORTs come four times a second; one without it changes nothing."""
    talk.open(lim={"rep_ms": 60_000})
    talk.set_policy(gen=1, rep_ms=250)
    talk.set_policy(gen=2)
    talk.report()
    began_s = talk.now_s()
    talk.report()
    talk.report()
    check(talk.now_s() - began_s < 1.0, "two REPORTs in half a second", f"{talk.now_s() - began_s:.1f} s")


@case("6.16/1", AGENT, MUST, "seq of the SET_POLICY")
def policy_is_answered(talk: AgentTalk) -> None:
    """POLICY_ACK names seq and gen, says duplicate to the same gen, and stale to a lower one."""
    talk.fresh()
    ack, frame = talk.set_policy(gen=5, psi_some=500, psi_full=200)
    check((ack.gen, ack.status) == (5, PolicyStatus.APPLIED), "gen 5 applied", frame, frame)
    ack, frame = talk.set_policy(gen=5, rep_ms=60_000)
    check((ack.gen, ack.status) == (5, PolicyStatus.DUPLICATE), "gen 5 duplicate", frame, frame)
    talk.calm()
    talk.write(talk.frame(SetPolicy, {"gen": 4, "rep_ms": 60_000}))
    seq, stale = talk.seq, [frame for frame in talk.fence() if getattr(frame.message, "re", None) == talk.seq - 1]
    check(len(stale) == 1, f"an answer to the SET_POLICY with a lower gen, seq {seq}", len(stale))
    answer = stale[0].message
    stale_gen = isinstance(answer, ErrorMessage) and answer.code == 8
    check(stale_gen or getattr(answer, "status", 0) == PolicyStatus.STALE, "stale, or ERROR 8", stale[0], stale[0])


@case(
    "9.2/1",
    AGENT,
    MUST,
    "An agent that accepts or clamps an INFLATE MUST send a REPORT right after the BALLOON_ACK, whatever its cadence "
    "says.",
    READY,
)
def report_on_request(talk: AgentTalk) -> None:
    """With a period of a minute, a REPORT follows the BALLOON_ACK at once."""
    talk.open(lim={"rep_ms": 60_000})
    talk.report()
    talk.agreed(talk.inflate(talk.present_bytes()))
    for frame in talk.fence():
        if isinstance(frame.message, Report):
            check(frame.message.gen == 1 or frame.message.gen is None, "a REPORT with gen 1", frame, frame)
            return
    talk.find(Report, "a REPORT right after the BALLOON_ACK", within_s=0.3)


@case(
    "9.3/1",
    AGENT,
    MUST,
    "An agent MUST answer every INFLATE and DEFLATE of its session by one BALLOON_ACK that names the command's seq.",
)
def every_command_is_answered(talk: AgentTalk) -> None:
    """Three commands at once have three BALLOON_ACKs, in order."""
    talk.fresh()
    commands: list[Inflate | Deflate] = [talk.inflate(talk.present_bytes()), talk.deflate(talk.present_bytes())]
    commands.append(talk.inflate(talk.present_bytes()))
    talk.write(b"".join(talk.frame(type(command), command) for command in commands))
    seqs = [talk.seq - 2, talk.seq - 1, talk.seq]
    answered = [frame.message.re for frame in talk.fence() if isinstance(frame.message, BalloonAck)]
    check(answered == seqs, f"BALLOON_ACKs to {seqs}", f"to {answered}")


@case("9.3/2", AGENT, MUST, "| accepted | the target |", READY)
def accepts(talk: AgentTalk) -> None:
    """An INFLATE just below the present size is accepted: `eff` is its target to the byte."""
    talk.fresh()
    command = talk.inflate(talk.little() + 4096)
    ack = talk.agreed(command)
    check(ack.effective_bytes == command.target_bytes, f"eff {command.target_bytes}", ack)


@case("9.3/3", AGENT, MUST, "| stale | absent, and `gen` is the newest one known |")
def stale(talk: AgentTalk) -> None:
    """A lower gen is answered by stale, without `eff`, with the newest gen."""
    talk.fresh()
    talk.ask(talk.deflate(talk.present_bytes(), gen=9))
    ack, frame = talk.ask(talk.inflate(talk.present_bytes(), gen=8))
    check(ack.status == AckStatus.STALE, "stale", frame, frame)
    check(ack.effective_bytes is None and ack.gen == 9, "no eff, and gen 9", frame, frame)


@case(
    "9.3/4",
    AGENT,
    MUST,
    "When the target has been reached already, the command is accepted and BALLOON_STATUS reached follows.",
    REPORTING,
)
def reached_already(talk: AgentTalk) -> None:
    """An INFLATE to the present size is accepted and reached."""
    talk.fresh()
    talk.agreed(talk.inflate(talk.present_bytes()))
    frame = talk.find(BalloonStatus, "a BALLOON_STATUS reached")
    status = frame.message
    assert isinstance(status, BalloonStatus)
    check((status.gen, status.status) == (1, MoveStatus.REACHED), "gen 1 reached", frame, frame)
    near = abs(status.current_bytes - talk.present_bytes()) <= ROUNDING
    check(near, f"cur {talk.present_bytes()}, as REPORT has it", frame, frame)


@case("9.3/5", AGENT, MUST, "An INFLATE above the present size and a DEFLATE below it change nothing.", READY)
def the_wrong_way(talk: AgentTalk) -> None:
    """An INFLATE above the present size, and a DEFLATE below it, are accepted, and the size stays."""
    talk.fresh()
    before = talk.report().memory.balloon_bytes or 0
    talk.agreed(talk.inflate(talk.present_bytes() + LITTLE))
    talk.agreed(talk.deflate(talk.present_bytes() - LITTLE))
    talk.take()
    after = talk.report().memory.balloon_bytes or 0
    check(abs(after - before) <= ROUNDING, f"a balloon of {before}", after)


@case("9.3/6", AGENT, MUST, "| refused | the size that the guest has |", (BALLOON, YOUNG))
def refuses_with_its_size(talk: AgentTalk) -> None:
    """What a young guest refuses names the present size."""
    talk.fresh()
    ack, frame = talk.ask(talk.inflate(talk.little()))
    check(ack.status == AckStatus.REFUSED, "refused", frame, frame)
    near = ack.effective_bytes is not None and abs(ack.effective_bytes - talk.present_bytes()) <= ROUNDING
    check(near, f"eff {talk.present_bytes()}", frame, frame)


@case("9.3/7", AGENT, MUST, "| clamped | higher than an INFLATE's target, lower than a DEFLATE's |", READY)
def clamps(talk: AgentTalk) -> None:
    """An INFLATE to 1 MiB is clamped above it, or refused; it is not accepted."""
    talk.fresh()
    ack, frame = talk.ask(talk.inflate(MIB))
    check(ack.status in (AckStatus.CLAMPED, AckStatus.REFUSED), "clamped or refused", frame, frame)
    check(ack.effective_bytes is not None and ack.effective_bytes > MIB, "eff above the target", frame, frame)


@case("9.4/1", AGENT, MUST, "Consent ends with its ttl, a newer gen, a DEMAND, a new session, a BYE, or silence", READY)
def newer_gen_ends_consent(talk: AgentTalk) -> None:
    """After a DEFLATE the INFLATE before it is stale."""
    talk.fresh()
    talk.agreed(talk.inflate(talk.little(), gen=1))
    talk.ask(talk.deflate(talk.present_bytes(), gen=2))
    ack, frame = talk.ask(talk.inflate(talk.little(), gen=1))
    check(ack.status == AckStatus.STALE, "the INFLATE to be stale", frame, frame)


@case(
    "9.5/1",
    AGENT,
    MUST,
    "When a move hurts, the agent MUST send a DEMAND that names its gen, and BALLOON_STATUS stalled, at once.",
    (*REPORTING, HURT),
)
def objects(talk: AgentTalk) -> None:
    """While an INFLATE is on its way, the guest is made to stall: DEMAND with its gen, and BALLOON_STATUS stalled."""
    talk.open(lim={"rep_ms": 250})
    talk.report()
    talk.agreed(talk.inflate(talk.little()))
    talk.listen(0.6)
    assert talk.hurt is not None
    talk.hurt()
    frame = talk.find(Demand, "a DEMAND after the guest stalled", within_s=PATIENCE_S + 1)
    check(isinstance(frame.message, Demand) and frame.message.gen == 1, "a DEMAND with gen 1", frame, frame)
    stalled = talk.find(
        BalloonStatus,
        "a BALLOON_STATUS stalled",
        where=lambda status: getattr(status, "status", 0) == MoveStatus.STALLED,
    )
    check(isinstance(stalled.message, BalloonStatus) and stalled.message.gen == 1, "that of gen 1", stalled, stalled)
    ack, again = talk.ask(talk.inflate(talk.little(), gen=1))
    whole = ack.effective_bytes is not None and ack.effective_bytes >= talk.present_bytes() - ROUNDING
    check(whole, "no consent any more: eff is the present size", again, again)
    talk.listen(PATIENCE_S)  # a guest that has stalled refuses for a while; the next case shall not meet that


@case("9.6/1", AGENT, MUST, DUPLICATE, READY)
def duplicate(talk: AgentTalk) -> None:
    """The same INFLATE with a new seq is a duplicate with the same `eff`, whatever target it names."""
    talk.fresh()
    command = talk.inflate(talk.little(), gen=3)
    talk.agreed(command)
    for again in (command, command.replace(target_bytes=MIB)):
        ack, frame = talk.ask(again)
        check(ack.status == AckStatus.DUPLICATE and ack.gen == 3, "duplicate of gen 3", frame, frame)
        check(ack.effective_bytes == command.target_bytes, f"eff {command.target_bytes}", frame, frame)


@case("9.6/2", AGENT, MUST, "a lower one is stale and MUST have no effect", READY)
def stale_has_no_effect(talk: AgentTalk) -> None:
    """After a stale INFLATE the consent to the newest stands as before."""
    talk.fresh()
    command = talk.inflate(talk.little(), gen=30)
    talk.agreed(command)
    talk.ask(talk.inflate(MIB, gen=29))
    ack, frame = talk.ask(command)
    same = ack.status == AckStatus.DUPLICATE and ack.effective_bytes == command.target_bytes
    check(same, f"gen 30 to be a duplicate with eff {command.target_bytes}", frame, frame)


@case("9.6/3", AGENT, MUST, "Numbers may be skipped.")
def skipped_gens(talk: AgentTalk) -> None:
    """gen 1 and then gen 4096 are both new."""
    talk.fresh()
    for gen in (1, 4096):
        ack, frame = talk.ask(talk.deflate(talk.present_bytes(), gen=gen))
        check((ack.status, ack.gen) == (AckStatus.ACCEPTED, gen), f"gen {gen} accepted", frame, frame)


@case("9.6/4", AGENT, MUST, SHARED)
def shared_gens(talk: AgentTalk) -> None:
    """A DEFLATE with the gen of an INFLATE is its duplicate; SET_POLICY counts apart."""
    talk.fresh()
    talk.ask(talk.inflate(talk.present_bytes(), gen=50))
    ack, frame = talk.ask(talk.deflate(talk.present_bytes(), gen=50))
    check(ack.status == AckStatus.DUPLICATE, "duplicate", frame, frame)
    ack, frame = talk.ask(talk.deflate(talk.present_bytes(), gen=49))
    check(ack.status == AckStatus.STALE, "stale", frame, frame)
    policy, frame = talk.set_policy(gen=1)
    check(policy.status == PolicyStatus.APPLIED, "SET_POLICY with gen 1 applied", frame, frame)


@case("9.7/1", AGENT, MUST, "an agent MUST NOT let the host lower it, and MUST NOT consent to a size below it", READY)
def own_floor(talk: AgentTalk) -> None:
    """With a floor of 0 in policy and INFLATE, an INFLATE to 0 is held at the floor of HELLO_ACK."""
    talk.fresh()
    talk.set_policy(gen=1, floor=0, safe=0)
    ack, frame = talk.ask(talk.inflate(0, floor=0))
    check(ack.effective_bytes is not None, "an answer with eff", frame, frame)
    check((ack.effective_bytes or 0) >= talk.floor_bytes, f"eff not below the floor {talk.floor_bytes}", frame, frame)


def _held(talk: AgentTalk, floor: int, ack: BalloonAck, what: str) -> None:
    check(ack.status in (AckStatus.CLAMPED, AckStatus.REFUSED), f"clamped or refused by {what}", ack)
    check((ack.effective_bytes or 0) >= floor - ROUNDING, f"eff not below {what}, {floor}", ack)


@case("9.7/2", AGENT, MUST, FLOOR, READY)
def floor_of_the_policy(talk: AgentTalk) -> None:
    """A floor that SET_POLICY has raised holds, and a later one without a floor leaves it."""
    talk.fresh()
    floor = talk.little()
    talk.set_policy(gen=1, floor=floor)
    talk.set_policy(gen=2, psi_some=500)
    ack, _ = talk.ask(talk.inflate(MIB))
    _held(talk, floor, ack, "the policy's floor")


@case("9.7/3", AGENT, MUST, FLOOR, READY)
def floor_of_the_inflate(talk: AgentTalk) -> None:
    """A floor in the INFLATE holds for it."""
    talk.fresh()
    floor = talk.little()
    ack, _ = talk.ask(talk.inflate(MIB, floor=floor))
    _held(talk, floor, ack, "the INFLATE's floor")


@case("9.8/1", AGENT, MUST, SETTLING, (BALLOON, YOUNG))
def settling(talk: AgentTalk) -> None:
    """A guest that has just booted refuses, why settling, each time anew."""
    talk.fresh()
    for gen in (1, 2):
        ack, frame = talk.ask(talk.inflate(talk.little(), gen=gen))
        check((ack.status, ack.why) == (AckStatus.REFUSED, AckWhy.SETTLING), "refused, settling", frame, frame)


@case("9.9/1", AGENT, MUST, "A ttl out of bounds is answered by ERROR 7.")
def ttl_bounds(talk: AgentTalk) -> None:
    """A ttl a millisecond too short or too long has ERROR 7; the bounds themselves are taken; the gen was free."""
    talk.fresh()
    for kind, ttl_ms in ((Inflate, LEASE_LEAST_MS - 1), (Deflate, LEASE_MOST_MS + 1)):
        wire = talk.frame(kind, {"gen": 5, "target": talk.present_bytes(), "ttl_ms": ttl_ms})
        talk.refused(wire, 7, talk.seq, f"a ttl of {ttl_ms} ms")
    for gen, ttl_ms in ((5, LEASE_LEAST_MS), (6, LEASE_MOST_MS)):
        ack, frame = talk.ask(talk.deflate(talk.present_bytes(), gen=gen, ttl_ms=ttl_ms))
        check(ack.status == AckStatus.ACCEPTED, f"a ttl of {ttl_ms} ms accepted", frame, frame)


def _expires(talk: AgentTalk, began_s: float) -> None:
    """BALLOON_STATUS expired comes a ttl after `began_s`, and not sooner. Until then we are heard."""
    ends_s = began_s + LEASE_LEAST_MS / 1000
    while talk.now_s() < ends_s - 0.5:
        talk.wait_until(min(ends_s - 0.5, talk.now_s() + 1.0))
        for frame in talk.fence():
            expired = isinstance(frame.message, BalloonStatus) and frame.message.status == MoveStatus.EXPIRED
            check(
                not expired or frame.at_s > ends_s - 0.5,
                f"no BALLOON_STATUS expired before {LEASE_LEAST_MS} ms",
                frame,
                frame,
            )
            if expired:
                talk.inbox.append(frame)
    frame = talk.find(
        BalloonStatus,
        f"a BALLOON_STATUS expired after {LEASE_LEAST_MS} ms",
        where=lambda status: getattr(status, "status", 0) == MoveStatus.EXPIRED,
    )
    check(isinstance(frame.message, BalloonStatus) and frame.message.gen == 1, "that of gen 1", frame, frame)


@case("9.9/2", AGENT, MUST, EXPIRED, REPORTING, slow_s=5.0)
def lease_ends(talk: AgentTalk) -> None:
    """An INFLATE with the shortest ttl, whose balloon nobody moves, is reported expired when it ends."""
    talk.open(lim={"rep_ms": 60_000})
    talk.agreed(talk.inflate(talk.little(), ttl_ms=LEASE_LEAST_MS))
    _expires(talk, talk.now_s())


@case("9.6/5", AGENT, MUST, DUPLICATE, REPORTING, slow_s=8.0)
def duplicates_renew_the_lease(talk: AgentTalk) -> None:
    """Sent again after three seconds, an INFLATE of five seconds ends after eight."""
    talk.open(lim={"rep_ms": 60_000})
    command = talk.inflate(talk.little(), ttl_ms=LEASE_LEAST_MS)
    talk.agreed(command)
    talk.wait_until(talk.now_s() + 3.0)
    talk.ask(command)
    _expires(talk, talk.now_s())


@case("9.10/1", AGENT, MUST, "An agent MUST clamp a DEFLATE above the nominal memory to it (why above_ram)")
def grant_above_ram(talk: AgentTalk) -> None:
    """A DEFLATE above the nominal memory is clamped to it."""
    talk.fresh()
    assert talk.ram_bytes is not None
    ack, frame = talk.ask(talk.deflate(talk.ram_bytes + 64 * MIB))
    check((ack.status, ack.why) == (AckStatus.CLAMPED, AckWhy.ABOVE_RAM), "clamped, above_ram", frame, frame)
    check(ack.effective_bytes == talk.ram_bytes, f"eff {talk.ram_bytes}", frame, frame)


@case("9.10/2", AGENT, MUST, "and MUST NOT refuse one.", (YOUNG,))
def grants_are_not_refused(talk: AgentTalk) -> None:
    """A guest that still settles takes a DEFLATE."""
    talk.fresh()
    ack, frame = talk.ask(talk.deflate(talk.present_bytes()))
    check(ack.status == AckStatus.ACCEPTED, "accepted", frame, frame)
