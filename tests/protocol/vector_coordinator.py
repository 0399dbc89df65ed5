"""sessions.json: scripts that play the agent to a coordinator."""

from __future__ import annotations

from typing import Any

from .vector_bytes import LEAST, MIB, SESSION, body, frame, pack, wire
from .vector_script import Script, pattern

INFLATE = {"inflate": {"gen": 1, "target": 400 * MIB, "floor": 256 * MIB, "rate": MIB}}
FOREIGN = SESSION ^ 0x55
BIND = {"S": "session", "N": "payload.nonce", "R": "seq"}


def script(name: str, comment: str, flags: str, result: str = "valid") -> Script:
    return Script(f"coordinator-{name}", "coordinator", comment, flags, result)


def opened(name: str, comment: str, flags: str, result: str = "valid", **changes: Any) -> Script:
    return script(name, comment, flags, result).opened(**changes)


def again(at: Script, within_ms: int = 2000, bind: str = "T") -> Script:
    """Another session is opened."""
    return at.hear("HELLO", within_ms, bind={bind: "session"})


def alive(at: Script, t: int = 5) -> Script:
    """The session stands: a PING comes back in it."""
    return at.send("PING", {"t": t}).hear("PONG", 200, session="$S", t=t, bt=None)


def coordinator_scripts() -> list[Script]:
    """All of them."""
    return [*opening(), *living(), *errors(), *asking()]


def opening() -> list[Script]:
    """HELLO, and what answers it."""
    patient = script("asks", "nobody answers", "Asking Opening").hear("HELLO", 200, maj=[1, 1], bind={"S": "session"})
    patient.wait(790, HELLO=(0, 0)).hear("HELLO", 420).wait(1190, HELLO=(0, 0)).hear("HELLO", 630).wait(60000,
        HELLO=(5, 10))
    storm = script("hello-req-storm", "twenty-five HELLO_REQs in two and a half seconds", "Opening", "invalid")
    storm.hear("HELLO", 200).wait(1000).tally()
    for turn in range(25):
        storm.send("HELLO_REQ", seq=turn + 1).wait(100)
    late = script("ack-of-old-session", "a HELLO_ACK that comes after the next HELLO", "Foreign", "invalid")
    late.hear("HELLO", 200, bind=BIND).hear("HELLO", 2000).ack()
    hasty = script("hello-under-way", "foreign frames while a HELLO waits: no sooner HELLO on their account", "Foreign",
                   "acceptable").hear("HELLO", 200).hear("HELLO", 1300)  # fmt: skip
    for turn in range(10):
        hasty.send("REPORT", session=FOREIGN, seq=turn + 1).wait(110, HELLO=(0, 0))
    return [
        patient,
        again(hasty, 800),
        storm.tally(HELLO=(1, 4)),
        late.wait(100, INFLATE=(0, 0), PING=(0, 0)),
        alive(opened("opens", "HELLO, HELLO_ACK", "Opening")),
        again(script("hello-req", "an agent asks before anything else", "Opening").hear("HELLO", 200).wait(1000)
              .send("HELLO_REQ"), 1000),
        again(opened("hello-req-in-session", "an agent was restarted", "Opening").wait(1500).send("HELLO_REQ"), 1100),
        again(script("ack-other-nonce", "another nonce", "Nonce", "invalid").opened(nonce=b"x" * 16)
              .send("PING").wait(300, PONG=(0, 0), ERROR=(0, 0))),
        again(script("ack-other-re", "another re", "Nonce", "invalid").opened(re=9).send("PING")
              .wait(300, PONG=(0, 0), ERROR=(0, 0))),
        alive(script("ack-after-wrong-one", "a wrong HELLO_ACK, then the right one", "Nonce", "invalid")
              .opened(nonce=b"x" * 16).ack()),
        alive(opened("ack-twice", "a second HELLO_ACK is out of place", "Unexpected", "invalid").ack()
              .wait(300, ERROR=(0, 0))),
        again(script("lost-ack", "the agent reports, the HELLO_ACK was lost", "Unexpected", "invalid")
              .hear("HELLO", 200, bind={"S": "session"}).send("REPORT", session="$S", seq=2).wait(500, ERROR=(0, 0))),
        script("major-2", "an agent chooses a major that was not offered", "Version", "invalid").opened(maj=2)
        .hear("ERROR", code=4).hear("BYE", why=5),
        script("bad-ack", "a HELLO_ACK without page", "Errors Opening", "invalid").hear("HELLO", bind=BIND)
        .send("HELLO_ACK", {"re": "$R", "nonce": "$N", "maj": 1}, session="$S").hear("ERROR", session="$S", code=2),
        alive(opened("minor-9", "a later minor version, unknown capabilities and keys", "Minor", min=9, zz=[1],
                     caps=["psi", "x-acme.zap"])),
        alive(opened("lim", "an agent that takes short frames", "Opening", lim={"frame": 1024})),
        again(opened("bye", "the agent leaves", "Leaving Opening").send("BYE").wait(500, PING=(0, 0), BYE=(0, 0)),
        20000),
        opened("ping-after-bye", "the session is over", "Leaving", "invalid").send("BYE").send("PING")
        .wait(500, PONG=(0, 0)),
        again(opened("foreign", "an agent speaks in a session of another host", "Foreign", "invalid").wait(1500)
              .send("REPORT", session=FOREIGN), 1100),
    ]  # fmt: skip


def living() -> list[Script]:
    """PING, REPORT, silence."""
    quiet = opened("heartbeat", "a quiet coordinator sends a PING each 2 s", "Alive")
    for turn in range(4):
        quiet.hear("PING", 2300, session="$S").send("REPORT", {"bt": 10 + turn, "mem": LEAST["REPORT"]["mem"]})
    dead = opened("silence", "an agent that says nothing for 10 s", "Silence Opening").wait(9500, HELLO=(0, 0))
    reports = opened("reports", "reports are not answered", "Reports").tally()
    for turn in range(8):
        reports.send("REPORT", {"bt": 1000 * turn + 10, "mem": LEAST["REPORT"]["mem"]}).wait(1000)
    return [
        quiet,
        again(dead, 1000),
        reports.tally(ERROR=(0, 0), HELLO=(0, 0), BYE=(0, 0), PONG=(0, 0)),
        alive(opened("ping", "an agent's PING comes back at once, without bt", "Alive"), 2**53 - 1),
        alive(opened("demand", "a DEMAND needs no answer", "Hurts").send("DEMAND").wait(300, ERROR=(0, 0))),
        alive(opened("event", "nor does an EVENT, or one that nobody lists", "Minor").send("EVENT")
              .send("EVENT", {"ev": "x-moon", "bt": 6}).wait(300, ERROR=(0, 0))),
        alive(opened("unheard-numbers", "numbers that nobody lists", "Minor")
              .send("DEMAND", {**LEAST["DEMAND"], "why": 99, "sev": 99}).wait(300, ERROR=(0, 0))),
        alive(opened("pong-unasked", "a PONG that nobody asked for", "Unexpected", "acceptable").send("PONG")
              .wait(300, ERROR=(0, 0))),
        opened("seq-repeat", "the same PING twice is answered once", "Seq", "invalid").send("PING", {"t": 1})
        .hear("PONG", 200, t=1).send("PING", {"t": 1}, seq=2).wait(500, PONG=(0, 0)).send("PING", {"t": 2}, seq=3)
        .hear("PONG", 200, t=2),
        opened("seq-gap", "a gap is no reason to stop", "Seq").send("PING", {"t": 1}, seq=90).hear("PONG", 200, t=1),
    ]  # fmt: skip


def errors() -> list[Script]:
    """Wrong frames."""
    storm = opened("bad-storm", "ten wrong frames in a row: one ERROR a second", "Errors", "invalid")
    sixteen = opened("bad-sixteen", "sixteen wrong frames in a row", "Errors", "invalid")
    storm.tally()
    for _ in range(10):
        storm.send("REPORT", {"bt": 1})
    for _ in range(16):
        sixteen.send("REPORT", {"bt": 1})
    bad_crc = wire(body(4, pack({"t": 0}), 1, 2, crc_xor=1))
    return [
        alive(storm.wait(900).tally(ERROR=(1, 1), BYE=(0, 0))),
        sixteen.hear("BYE", why=5),
        alive(opened("bad-report", "a REPORT without mem", "Errors", "invalid").send("REPORT", {"bt": 1})
              .hear("ERROR", code=2, re=2)),
        alive(opened("out-of-range", "a share over 10000", "Range", "invalid")
              .send("REPORT", {**LEAST["REPORT"], "psi": {"some10": 10001}}).hear("ERROR", code=7, re=2)),
        alive(opened("critical", "a critical flag on a BYE", "Errors", "invalid").send("BYE", bits=0x8000)
              .hear("ERROR", code=6, re=2)),
        alive(opened("direction", "a coordinator hears an INFLATE", "Direction", "invalid").send("INFLATE", seq=1)
              .hear("ERROR", code=11)),
        alive(opened("error", "an ERROR is not answered", "NoErrorToError").send("ERROR").wait(300, ERROR=(0, 0))),
        alive(opened("bad-error", "nor is a bad one", "NoErrorToError", "invalid").send("ERROR", {"re": 1})
              .send("ERROR", bits=0x0102).wait(300, ERROR=(0, 0))),
        alive(opened("wire-version-2", "a frame of another wire version", "Version", "invalid")
              .raw(wire(body(4, b"\x80", 1, 2, version=2)), "first byte 2").hear("ERROR", code=4, re=None)),
        alive(opened("bad-crc", "damaged frames get no answer", "Damage", "invalid").raw(bad_crc * 20,
        "20 damaged PINGs")
              .wait(300, PONG=(0, 0), ERROR=(0, 0), BYE=(0, 0))),
        alive(opened("endless", "20000 bytes without a zero", "Damage", "invalid").raw(b"\x55" * 20000, "a run")
              .wait(1000, ERROR=(0, 0))),
        alive(opened("half-then-whole", "half a frame, then a good one", "Damage", "invalid")
              .raw(frame("PING", seq=2)[:14], "half a PING")),
        alive(opened("old-input", "the rest of another host's talk before the HELLO_ACK", "Foreign Damage", "invalid")
              .raw(frame("REPORT", seq=8, session=FOREIGN)[9:], "the tail of a REPORT").wait(100)),
    ]  # fmt: skip


def asking() -> list[Script]:
    """INFLATE and DEFLATE."""
    ack = {"re": "$Q", "gen": 1, "st": 0, "eff": 400 * MIB, "why": 0}
    bind = {"Q": "seq"}
    silent = opened("tries", "an INFLATE that is never answered", "Tries").do(**INFLATE)
    for _ in range(3):
        silent.hear("INFLATE", 1200, session="$S", gen=1, target=400 * MIB)
    silent.tally().wait(3000).tally(INFLATE=(0, 0))
    grant = opened("grant-tries", "a DEFLATE that is never answered", "Tries Grant").do(deflate={"gen": 1,
        "target": 768 * MIB})
    for _ in range(3):
        grant.hear("DEFLATE", 1200, gen=1, target=768 * MIB)
    first = opened("answer-to-first-try", "the first try is answered after the second was sent", "Tries").do(**INFLATE)
    first.hear("INFLATE", bind=bind).hear("INFLATE", 1200, gen=1).send("BALLOON_ACK", ack)
    wrong = opened("answer-to-another", "an answer with another re is none", "Tries", "invalid").do(**INFLATE)
    wrong.hear("INFLATE").send("BALLOON_ACK", {**ack, "re": 4000})
    other_gen = opened("answer-of-another-gen", "an answer of another gen is none", "Tries Gen",
        "invalid").do(**INFLATE)
    other_gen.hear("INFLATE", bind=bind).send("BALLOON_ACK", {**ack, "gen": 9})
    made = [silent, grant, first.wait(3000, INFLATE=(0, 0)), wrong.hear("INFLATE", 1200), other_gen.hear("INFLATE",
        1200)]
    for name, fields in (
        ("accepted", {}), ("clamped", {"st": 3, "eff": 500 * MIB, "why": 1}), ("refused", {"st": 4, "eff": 1024 * MIB,
        "why": 3}),
        ("stale", {"st": 2, "eff": None}), ("unheard-status", {"st": 77, "why": 77}),
    ):  # fmt: skip
        at = opened(f"answer-{name}", f"an INFLATE that is answered: {name}", "Tries Consent").do(**INFLATE)
        answer = {key: value for key, value in {**ack, **fields}.items() if value is not None}
        at.hear("INFLATE", 200, gen=1, bind=bind).send("BALLOON_ACK", answer).wait(3000, INFLATE=(0, 0), ERROR=(0, 0))
        made.append(at)
    new = opened("tries-end-with-session", "the agent asks for a session: the old command is not repeated",
        "Tries Opening")
    new.wait(1500).do(**INFLATE).hear("INFLATE").send("HELLO_REQ", seq=5).hear("HELLO", 2000).wait(3000, INFLATE=(0, 0))
    error = opened("answer-is-error", "the agent answers a command by an ERROR", "Tries", "acceptable").do(**INFLATE)
    error.hear("INFLATE", bind=bind).send("ERROR", {"re": "$Q", "code": 9, "fatal": False}).wait(300, ERROR=(0, 0))
    early = script("no-command-before-ack", "no command before the HELLO_ACK", "Opening").hear("HELLO", 200,
        bind={"S": "session"})
    early.do(**INFLATE).wait(500, INFLATE=(0, 0))
    stop = opened("stop", "a clean stop", "Leaving").do(stop=True).hear_one_of(500, pattern("BYE", "$S", {"why": 0}))
    return [*made, new, error, early, stop]
