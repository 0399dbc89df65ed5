"""sessions.json's notation: one timed script, built step by step."""

from __future__ import annotations

from typing import Any

from .vector_bytes import GIB, LEAST, MIB, NONCE, SESSION, TYPES, frame, plain

FIRST, SECOND, THIRD = SESSION, SESSION + 1, SESSION + 2
HELLO = {
    **LEAST["HELLO"], "caps": ["psi", "refault", "events"], "ram": GIB,
    "lim": {"frame": 4096, "inflight": 8, "hb_ms": 2000, "dead_ms": 10000, "rep_ms": 1000},
}  # fmt: skip
RULES = {
    "Opening": "only the coordinator opens a session; a HELLO is followed in every state",
    "Asking": "HELLO_REQ, and HELLO again: after 1 s, then 1.5 times longer each, to 15 s, each +-20 %",
    "Nonce": "a HELLO_ACK whose nonce or re is not the HELLO's is dropped",
    "Repeated": "an agent that meets the same HELLO again answers again and goes on counting",
    "Foreign": "a frame of another session is dropped; HELLO_REQ (why 1) or HELLO answers, at most once a second",
    "Version": "no major in common: ERROR 4 and BYE 5; a first byte that is not 1: ERROR 4 without re",
    "Minor": "a minor version adds keys and messages and changes none; the lower of both is spoken",
    "Capabilities": "active are the capabilities that both named; EVENT is sent only with `events`",
    "Seq": "a frame whose seq is not greater than the last one is dropped; missing ones are counted",
    "Leaving": "a BYE ends the session; nothing of that session is sent after it",
    "Alive": "a PING is answered at once; the coordinator sends one when it sent nothing for 2 s",
    "Silence": "10 s of silence end trust: no REPORT, one HELLO_REQ per 15 s; the coordinator opens a new session",
    "Errors": "one ERROR per second; after 16 bad frames in a row BYE 5",
    "NoErrorToError": "an ERROR never answers an ERROR, not even a bad one",
    "Damage": "a damaged frame is counted, never answered; the next good one is taken",
    "Unexpected": "what the state does not expect is dropped and counted, without an ERROR",
    "Direction": "what only the other role may say is answered by ERROR 11, no reason to leave; an echo is dropped",
    "Reports": "a REPORT each rep_ms, none of it answered",
    "Consent": "accepted: the target; clamped: something higher; refused: the size that the guest has",
    "FreshReport": "an agent that accepts or clamps an INFLATE sends a REPORT right after the BALLOON_ACK",
    "Floor": "the floor in force is the highest of agent, policy and INFLATE; the host never lowers it",
    "Settling": "an agent refuses every INFLATE for 30 s after the guest's boot",
    "Stall": "an agent looks at the guest's stall at each INFLATE; a DEMAND follows its cause within 100 ms",
    "Gen": "same gen: duplicate, the lease begins anew; lower: stale, without eff; one sequence for both commands",
    "Lease": "the ttl runs in CLOCK_BOOTTIME; when it ends the agent reports expired",
    "ConsentEnds": "consent ends with its ttl, a newer gen, a DEMAND, a new session, a BYE, or silence",
    "Hurts": "a move that hurts: DEMAND with its gen and BALLOON_STATUS stalled at once; without gen a second later",
    "Grant": "DEFLATE grants and never shrinks; the agent may clamp it to the nominal memory and do nothing else",
    "Range": "a number outside its bounds is answered by ERROR 7, and the command has no effect",
    "Policy": "SET_POLICY has a gen of its own; absent fields stay as they are",
    "Tries": "a command without an answer is sent again each second, three times in all: same gen, new seq",
    "Unclear": "the specification does not choose between these outcomes",
}
GIVEN = {  # what an agent's guest is like when its script begins
    "ram": GIB, "size": GIB, "floor": 256 * MIB, "boottime_ms": 1000000, "psi": True,
}  # fmt: skip


OPTIONAL = {"HELLO_REQ", "DEMAND", "BALLOON_STATUS", "EVENT"}


def number(session: int) -> str:
    return f"{session:016x}"


class Script:
    """A timed script. `role` is the peer that is under test; the script plays the other one."""

    def __init__(self, name: str, role: str, comment: str, flags: str, result: str = "valid", **given: Any) -> None:
        self.name, self.role, self.comment, self.flags, self.result = name, role, comment, flags.split(), result
        self.given = {**GIVEN, **given} if role == "agent" else given
        self.steps: list[dict[str, Any]] = []
        self._seq: dict[Any, int] = {}
        self.session: Any = FIRST

    def vector(self) -> dict[str, Any]:
        return {
            "id": self.name, "comment": self.comment, "flags": self.flags, "result": self.result,
            "reason": "; ".join(RULES[flag] for flag in self.flags), "role": self.role, "given": self.given,
            "needs": self._needs(), "steps": self.steps,
        }  # fmt: skip

    def _needs(self) -> list[str]:
        """What the script waits for and a small agent may leave out."""
        wanted = {
            kind for step in self.steps for kind, (least, _) in step.get("#", step.get("count", {})).items() if least
        }
        wanted |= {step["<"]["type"] for step in self.steps if isinstance(step.get("<"), dict)}
        return sorted(wanted & OPTIONAL) if self.role == "agent" else []

    def send(
        self, kind: str, payload: dict[str, Any] | None = None, *, session: Any = None, seq: int | None = None,
        bits: int | None = None, **changes: Any,
    ) -> Script:  # fmt: skip
        """The peer hears a frame; `changes` replace fields of the message's mandatory ones."""
        fields = {**(LEAST[kind] if payload is None else payload), **changes}
        where = (0 if kind == "HELLO_REQ" else self.session) if session is None else session
        if seq is None:
            seq = 1 if kind == "HELLO" else self._seq.get(where, 0) + 1
        self._seq[where] = max(seq, self._seq.get(where, 0))
        flags = TYPES[kind][1] if bits is None else bits
        if kind == "ERROR" and "re" not in fields and bits is None:
            flags = 0
        variable = isinstance(where, str) or any(str(value).startswith("$") for value in fields.values())
        step: dict[str, Any] = {
            ">": {"type": kind, "flags": flags, "seq": seq, "session": where if variable else number(where)}
        }
        if isinstance(where, int):
            step[">"]["session"] = number(where)
        step[">"]["payload"] = plain(fields)
        if not variable:
            step["wire"] = frame(kind, fields, flags=flags, seq=seq, session=where).hex()
        self.steps.append(step)
        return self

    def echo(self, kind: str) -> Script:
        """The peer hears a frame of its own again, whose seq and payload are $Q and $P."""
        frame_heard = {"type": kind, "flags": TYPES[kind][1], "seq": "$Q", "session": number(FIRST), "payload": "$P"}
        self.steps.append({">": frame_heard})
        return self

    def raw(self, data: bytes, note: str) -> Script:
        """The peer hears these bytes, whatever they are."""
        self.steps.append({">": note, "wire": data.hex()})
        return self

    def skip_seq(self, many: int = 1) -> Script:
        """Numbers that the script has used otherwise, in raw frames, or not at all."""
        self._seq[self.session] = self._seq.get(self.session, 0) + many
        return self

    @property
    def next_seq(self) -> int:
        return self._seq.get(self.session, 0) + 1

    def hear(
        self, kind: str, within_ms: int = 1000, *, session: Any = None, bind: dict[str, str] | None = None,
        skip: bool = False, **fields: Any,
    ) -> Script:  # fmt: skip
        """The peer must send this within that time; frames of other types, or with `skip` any, are passed over."""
        self.steps.append(self._heard([pattern(kind, session, fields)], within_ms, bind))
        if skip:
            self.steps[-1]["skip"] = True
        return self

    def hear_one_of(self, within_ms: int, *patterns: dict[str, Any]) -> Script:
        """The peer must send one of these."""
        self.steps.append(self._heard(list(patterns), within_ms, None))
        return self

    @staticmethod
    def _heard(patterns: list[dict[str, Any]], within_ms: int, bind: dict[str, str] | None) -> dict[str, Any]:
        step: dict[str, Any] = {"<": patterns[0] if len(patterns) == 1 else patterns, "within_ms": within_ms}
        return {**step, "bind": bind} if bind else step

    def wait(self, ms: int, **count: tuple[int, int]) -> Script:
        """Time passes; meanwhile the peer sends so many frames of each type, at least and at most."""
        step: dict[str, Any] = {".": ms}
        if count:
            step["count"] = {kind: list(bounds) for kind, bounds in count.items()}
        self.steps.append(step)
        return self

    def tally(self, **count: tuple[int, int]) -> Script:
        """So many frames of each type since the last tally, or since the beginning; none named: only begin anew."""
        self.steps.append({"#": {kind: list(bounds) for kind, bounds in count.items()}})
        return self

    def ping_for(self, ms: int) -> Script:
        """Time passes while the script keeps the peer's trust."""
        for start in range(0, ms, 2000):
            self.wait(min(2000, ms - start))
            self.send("PING", {"t": start})
        return self

    def do(self, **what: Any) -> Script:
        """Something happens in the peer's surroundings."""
        self.steps.append({"!": what})
        return self

    # ---- what many scripts begin with

    def hello(self, session: int = FIRST, **changes: Any) -> Script:
        """An agent is opened: HELLO, HELLO_ACK with its nonce."""
        self.session = session
        nonce = changes.pop("nonce", NONCE)
        self.send("HELLO", {**HELLO, "nonce": nonce, **changes})
        return self.hear("HELLO_ACK", session=session, re=1, nonce=nonce, maj=1)

    def open(self, **changes: Any) -> Script:
        """An agent is opened, and reports."""
        return self.hello(**changes).hear("REPORT", 2000)

    def opened(self, **changes: Any) -> Script:
        """A coordinator opens, and is answered: $S is its session, $N the nonce, $R the HELLO's seq."""
        self.session = "$S"
        self.hear("HELLO", 2000, bind={"S": "session", "N": "payload.nonce", "R": "seq"})
        return self.ack(**changes)

    def ack(self, **changes: Any) -> Script:
        return self.send("HELLO_ACK", {**LEAST["HELLO_ACK"], "re": "$R", "nonce": "$N", **changes}, session="$S")


def pattern(kind: str, session: Any = None, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a frame has to be like: fields that are not named may be anything; null says absent."""
    made: dict[str, Any] = {"type": kind}
    if session is not None:
        made["session"] = number(session) if isinstance(session, int) else session
    if fields:
        made["payload"] = {key: plain(value) for key, value in fields.items()}
    return made


def at_least(least: int) -> dict[str, int]:
    return {"min": least}


def between(least: int, most: int) -> dict[str, int]:
    return {"min": least, "max": most}
