"""sessions.json: scripts that play the coordinator to an agent, about sessions, versions and errors."""

from __future__ import annotations

from .vector_bytes import LEAST, NONCE, body, frame, pack, wire
from .vector_script import FIRST, HELLO, SECOND, THIRD, Script, at_least

OTHER_NONCE = NONCE[::-1]
LEAST_PING = pack({"t": 0})


def script(name: str, comment: str, flags: str, result: str = "valid", **given: int) -> Script:
    return Script(f"agent-{name}", "agent", comment, flags, result, **given)


def agent_scripts() -> list[Script]:
    """All of them."""
    return [*opening(), *versions(), *foreign(), *alive(), *errors(), *damage()]


def opening() -> list[Script]:
    """HELLO in every state."""
    closed = script("hello-when-closed", "HELLO after a BYE", "Opening Leaving").open().send("BYE").wait(500,
        REPORT=(0, 0))
    return [
        script("asks", "nobody answers: the agent asks at once and then at a growing pace", "Asking")
        .hear("HELLO_REQ", 200, session=0, why=0).wait(790, HELLO_REQ=(0, 0)).hear("HELLO_REQ", 420, session=0)
        .wait(1190, HELLO_REQ=(0, 0)).hear("HELLO_REQ", 630, session=0).wait(60000, HELLO_REQ=(5, 10), REPORT=(0, 0)),
        script("hello-when-idle", "HELLO to an agent that has asked", "Opening Reports").open(),
        script("hello-unasked", "HELLO to an agent that has not been heard", "Opening").hello().hear("REPORT", 2000),
        script("hello-when-active", "a second session in mid-session", "Opening").open()
        .hello(SECOND, nonce=OTHER_NONCE).hear("REPORT", 2000, session=SECOND),
        script("hello-twice-at-once", "two HELLOs in one write: the second session counts", "Opening")
        .raw(
            frame("HELLO", HELLO, session=FIRST) + frame("HELLO", {**HELLO, "nonce": OTHER_NONCE}, session=SECOND),
            "HELLO of two sessions",
        ).hear("HELLO_ACK", session=SECOND, nonce=OTHER_NONCE).hear("REPORT", 2000, session=SECOND),
        script("five-sessions", "a session a second", "Opening").hello(FIRST).wait(1000).hello(SECOND).wait(1000)
        .hello(THIRD).wait(1000).hello(FIRST).wait(1000).hello(SECOND).hear("REPORT", 2000, session=SECOND),
        closed.hello(SECOND).hear("REPORT", 2000, session=SECOND),
        script("hello-again", "the same HELLO again: answered again, and the numbers go on", "Repeated").open()
        .send("HELLO", {**HELLO, "nonce": NONCE}).hear("HELLO_ACK", re=1, nonce=NONCE).send("PING").hear("PONG", 200),
        script("lost-ack", "the HELLO_ACK was lost, so the coordinator opens another session", "Opening").hello()
        .wait(1000).hello(SECOND, nonce=OTHER_NONCE).send("PING").hear("PONG", 200, session=SECOND),
        script("hello-in-session-0", "session 0 is no session", "Opening", "invalid").send("HELLO", HELLO,
        session=0).wait(800, HELLO_ACK=(0, 0), REPORT=(0, 0)),
        script("hello-seq-9", "a HELLO whose number is not 1 is one all the same", "Opening", "acceptable")
        .send("HELLO", HELLO, seq=9).hear("HELLO_ACK", re=9, nonce=NONCE),
        script("hello-ack-complete", "what a HELLO_ACK has", "Opening").send("HELLO", HELLO)
        .hear("HELLO_ACK", re=1, nonce=NONCE, maj=1, page=at_least(1), total=at_least(1), floor=at_least(1), gen=0,
              bt=at_least(1000000)),
        script("bye", "a BYE from the coordinator: no more reports, and the agent asks again", "Leaving Asking").open()
        .send("BYE").wait(900, REPORT=(0, 0), DEMAND=(0, 0)).hear("HELLO_REQ", 20000, session=0),
        script("ping-after-bye", "the session is over: no answer in it", "Leaving", "invalid").open().send("BYE")
        .send("PING").wait(900, PONG=(0, 0), REPORT=(0, 0)),
        script("restarted-coordinator", "it asks nothing and opens again after a silence", "Opening").open()
        .wait(9000).hello(SECOND).hear("REPORT", 2000, session=SECOND),
    ]  # fmt: skip


def versions() -> list[Script]:
    """Majors, minors, unknown keys, types and capabilities."""
    later = {**HELLO, "min": 9, "caps": ["psi", "x-acme.zap", "teleport"], "zz": {"a": [1]}}
    return [
        script("majors-2-3", "no major in common", "Version", "invalid").send("HELLO", {**HELLO, "maj": [2,
        3]}).hear("ERROR", code=4).hear("BYE", why=5).wait(900, REPORT=(0, 0)),
        script("majors-then-hello", "after that a HELLO with a major in common opens", "Version").send("HELLO",
        {**HELLO, "maj": [2, 3]}).hear("BYE", why=5).hello(SECOND),
        script("majors-in-session", "no major in common ends the session that stood", "Version", "invalid").open()
        .send("HELLO", {**HELLO, "maj": [2, 9]}, session=SECOND).hear("ERROR", code=4).hear("BYE", why=5)
        .wait(900, REPORT=(0, 0)),
        script("majors-1-9", "the highest in common is 1", "Version").open(maj=[1, 9]),
        script("minor-9", "a later minor version with unknown keys and capabilities", "Minor").send("HELLO",
        later).hear("HELLO_ACK", maj=1, nonce=NONCE).hear("REPORT", 2000).send("PING", {"t": 1, "zz": 2})
        .hear("PONG", 200, t=1),
        script("minor-9-type", "a message of a later minor version is ignored", "Minor").open(min=9)
        .raw(wire(body(0x31, LEAST_PING, 0, 2)), "type 0x31").skip_seq().wait(500, ERROR=(0, 0)).send("PING")
        .hear("PONG", 200),
        script("unknown-request", "an unknown request", "Errors", "invalid").open()
        .raw(wire(body(0x31, LEAST_PING, 1, 2)), "type 0x31 with REQ").skip_seq().hear("ERROR", code=5, re=2)
        .send("PING").hear("PONG", 200),
        script("critical", "a critical flag on a BYE: it is not acted on", "Errors", "invalid").open()
        .send("BYE", bits=0x0100).hear("ERROR", code=6, re=2).send("PING").hear("PONG", 200),
        script("wire-version-2", "a frame of another wire version", "Version", "invalid").open()
        .raw(wire(body(4, LEAST_PING, 1, 2, version=2)), "first byte 2").hear("ERROR", code=4, re=None)
        .send("PING").hear("PONG", 200),
        script("no-limits", "a HELLO without its optional keys", "Opening").send("HELLO",
        LEAST["HELLO"])
        .hear("HELLO_ACK", nonce=NONCE).hear("REPORT", 2000),
        script("no-caps", "a HELLO without a capability", "Opening").open(caps=[]),
    ]  # fmt: skip


def foreign() -> list[Script]:
    """Frames of other sessions, numbers out of order."""
    old = script("old-session", "frames of the old session after a HELLO", "Foreign", "invalid").open().hello(SECOND)
    old.wait(1500).send("PING", {"t": 7}, session=FIRST).hear("HELLO_REQ", 2000, session=0, why=1).wait(500, PONG=(0,
        0))
    storm = script("foreign-storm", "thirty frames of a foreign session in three seconds", "Foreign", "invalid")
    storm.open().wait(1000).tally()
    for _ in range(30):
        storm.send("PING", session=THIRD).wait(100, PONG=(0, 0))
    storm.tally(HELLO_REQ=(1, 4)).send("PING").hear("PONG", 200)
    return [
        old,
        storm,
        script("unknown-session", "an agent that was restarted hears the old session", "Foreign", "invalid")
        .wait(1500).send("INFLATE", {"gen": 1, "target": 2**30, "ttl_ms": 30000}, seq=40)
        .hear("HELLO_REQ", 2000, session=0).wait(500, BALLOON_ACK=(0, 0)),
        script("two-hosts", "half a frame of a dead host, then a new host's HELLO", "Opening Damage").open()
        .raw(frame("PING", seq=2)[:14], "half a PING").hello(SECOND).send("PING").hear("PONG", 200, session=SECOND),
        script("seq-repeat", "the same PING twice is answered once", "Seq", "invalid").open().send("PING", {"t": 1})
        .hear("PONG", 200, t=1).send("PING", {"t": 1}, seq=2).wait(500, PONG=(0, 0)).send("PING", {"t": 2}, seq=3)
        .hear("PONG", 200, t=2, re=3),
        script("seq-gap", "a gap is no reason to stop", "Seq").open().send("PING", {"t": 1}, seq=9).hear("PONG", 200,
        re=9)
        .hear("REPORT", 2000),
        script("seq-back", "a number that went back is dropped", "Seq", "invalid").open().send("PING", {"t": 1}, seq=9)
        .hear("PONG", 200, re=9).send("PING", {"t": 2}, seq=5).wait(500, PONG=(0, 0)).send("PING", {"t": 3}, seq=10)
        .hear("PONG", 200, t=3),
    ]  # fmt: skip


def alive() -> list[Script]:
    """PING, silence, sleep."""
    reconnects = script("twenty-reconnects", "twenty reconnects in a second", "Asking").open().wait(2000).tally()
    for _ in range(20):
        reconnects.do(disconnect=True).do(connect=True).wait(50)
    return [
        script("ping", "a PING comes back at once", "Alive").open().send("PING", {"t": 42})
        .hear("PONG", 100, t=42, re=2, bt=at_least(1000000)),
        script("ping-big", "the greatest t", "Alive").open().send("PING", {"t": 2**53 - 1}).hear("PONG", 100,
        t=2**53 - 1),
        script("pong-unasked", "a PONG that nobody asked for", "Unexpected", "acceptable").open().send("PONG")
        .wait(500, ERROR=(0, 0)).send("PING").hear("PONG", 100),
        script("reports", "a quiet guest is reported each second", "Reports").open().wait(8000, REPORT=(7, 9)),
        script("reports-5-s", "the coordinator asks for a report each 5 s", "Reports")
        .open(lim={"rep_ms": 5000}).wait(9000, REPORT=(1, 2)),
        script("silence", "a coordinator that says nothing for 10 s", "Silence").open().wait(10500)
        .wait(45000, REPORT=(0, 0), HELLO_REQ=(2, 5)),
        script("silence-ends", "any frame of the session brings the reports back", "Silence").open().wait(20000)
        .send("PING").hear("PONG", 200).hear("REPORT", 2000),
        script("hello-after-silence", "a new session after a silence", "Silence Opening").open().wait(60000)
        .hello(SECOND).hear("REPORT", 2000, session=SECOND),
        script("reconnect", "the line closes and opens: the agent asks", "Asking").open().do(disconnect=True).wait(2000)
        .do(connect=True).hear("HELLO_REQ", 1500, session=0).wait(500, REPORT=(0, 0)).hello(SECOND)
        .hear("REPORT", 2000, session=SECOND),
        reconnects.tally(HELLO_REQ=(1, 3)),
        script("no-events", "without the capability an agent sends no EVENT, asleep or not",
        "Capabilities").open(caps=[])
        .wait(2000).do(sleep_ms=600000).wait(2000).tally(EVENT=(0, 0)),
        script("sleep", "the guest slept for ten minutes", "Asking").open().wait(2000).do(sleep_ms=600000)
        .hear("HELLO_REQ", 2000, session=0, why=2),
    ]  # fmt: skip


def errors() -> list[Script]:
    """Wrong frames, and how loudly they are answered."""
    storm = script("bad-storm", "ten wrong frames in a row: one ERROR a second", "Errors", "invalid").open().tally()
    for _ in range(10):
        storm.send("SET_POLICY", {"gen": 0})
    storm.wait(900).tally(ERROR=(1, 1), BYE=(0, 0), POLICY_ACK=(0, 0)).send("PING").hear("PONG", 200)
    sixteen = script("bad-sixteen", "sixteen wrong frames in a row", "Errors", "invalid").open()
    for _ in range(16):
        sixteen.send("SET_POLICY", {"gen": 0})
    sixteen.hear("BYE", why=5).wait(900, REPORT=(0, 0))
    mixed = script("bad-not-in-a-row", "thirty wrong frames, a good one after every third", "Errors", "invalid").open()
    for turn in range(10):
        for _ in range(3):
            mixed.send("SET_POLICY", {"gen": 0})
        mixed.send("PING", {"t": turn}).hear("PONG", 200, t=turn)
    mixed.wait(100, BYE=(0, 0))
    echo = script("echo", "an agent hears forty frames of its own", "Direction", "invalid").open()
    for turn in range(40):
        echo.send("REPORT", seq=turn + 1)
    echo.wait(900, BYE=(0, 0), ERROR=(0, 1)).send("PING", seq=2).hear("PONG", 200)
    echoes = script("echo-pong", "an agent hears its own PONG; the next PING has the same number", "Direction",
        "acceptable")
    echoes.open().send("PING").hear("PONG", 200, bind={"Q": "seq", "P": "payload"}).echo("PONG")
    echoes.wait(500, ERROR=(0, 0)).send("PING", {"t": 8}).hear("PONG", 200, t=8)
    return [
        storm,
        sixteen,
        mixed,
        echo,
        echoes,
        script("bad-message", "a PING without t", "Errors", "invalid").open().send("PING", {}).hear("ERROR", code=2,
        re=2)
        .send("PING").hear("PONG", 200),
        script("direction", "an agent's message comes to an agent", "Direction", "invalid").open().send("REPORT")
        .hear("ERROR", code=11),
        script("error", "an ERROR is not answered", "NoErrorToError").open().send("ERROR", {"re": 1, "code": 2,
        "fatal": False})
        .wait(900, ERROR=(0, 0), BYE=(0, 0)).send("PING").hear("PONG", 200),
        script("bad-error", "nor is a bad one", "NoErrorToError", "invalid").open().send("ERROR", {"re": 1})
        .send("ERROR", bits=0x0102).wait(900, ERROR=(0, 0)).send("PING").hear("PONG", 200),
        script("bad-hello", "a HELLO with a short nonce opens nothing", "Errors Opening", "invalid").open()
        .send("HELLO", {**HELLO, "nonce": bytes(15)}, session=SECOND).hear("ERROR", session=0, code=2, re=None)
        .wait(900, HELLO_ACK=(0, 0)).send("PING").hear("PONG", 200, session=FIRST),
        script("bad-hello-when-idle", "the same where there is no session: ERROR 2 in session 0", "Errors", "invalid")
        .send("HELLO", {**HELLO, "nonce": bytes(15)}).hear("ERROR", session=0, code=2, re=None),
        script("wire-version-2-when-idle", "a wire version that the agent does not know, before any session", "Version",
               "invalid").raw(wire(body(2, LEAST_PING, 1, 1, version=2)), "first byte 2")
        .hear("ERROR", session=0, code=4, re=None),
    ]  # fmt: skip


def damage() -> list[Script]:
    """Bytes that are no frames."""
    bad_crc = wire(body(4, LEAST_PING, 1, 2, crc_xor=1))
    return [
        script("bad-crc", "damaged frames get no answer", "Damage", "invalid").open().raw(bad_crc * 40,
        "40 damaged PINGs")
        .wait(900, PONG=(0, 0), ERROR=(0, 0), BYE=(0, 0)).send("PING").hear("PONG", 200),
        script("endless", "20000 bytes without a zero", "Damage", "invalid").open().raw(b"\x55" * 20000, "a run")
        .wait(500, ERROR=(0, 0)).send("PING").hear("PONG", 200),
        script("zeros", "ten thousand zeros", "Damage").open().raw(bytes(10000), "zeros").send("PING").hear("PONG",
        200),
        script("half-then-whole", "half a frame, then a good one", "Damage", "invalid").open()
        .raw(frame("PING", seq=2)[:14], "half a PING").send("PING").hear("PONG", 200),
        script("half-3-s", "half a frame whose rest comes 3 s later", "Damage", "acceptable").open()
        .raw(frame("PING", seq=2)[:14], "half a PING").wait(3000).raw(frame("PING", seq=2)[14:], "its rest")
        .send("PING", {"t": 5}, seq=3).hear("PONG", 200, t=5),
        script("byte-by-byte", "a HELLO byte by byte",
        "Damage").do(portions=1).hello().hear("REPORT", 2000),
    ]  # fmt: skip
