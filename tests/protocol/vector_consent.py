"""sessions.json: scripts that play the coordinator to an agent, about consent, leases and policy."""

from __future__ import annotations

from typing import Any

from .vector_bytes import GIB, MIB
from .vector_script import HELLO, SECOND, Script, at_least, between, pattern

FLOOR = 256 * MIB
ACCEPTED, DUPLICATE, STALE, CLAMPED, REFUSED = range(5)


def script(name: str, comment: str, flags: str, result: str = "valid", **given: Any) -> Script:
    return Script(f"consent-{name}", "agent", comment, flags, result, **given)


def inflate(at: Script, gen: int, target: int, ttl_ms: int = 30000, **more: int) -> Script:
    return at.send("INFLATE", {"gen": gen, "target": target, "ttl_ms": ttl_ms, **more})


def deflate(at: Script, gen: int, target: int) -> Script:
    return at.send("DEFLATE", {"gen": gen, "target": target, "ttl_ms": 30000})


def inflated(at: Script, gen: int = 1, target: int = 512 * MIB, **more: int) -> Script:
    """An INFLATE that is accepted."""
    return inflate(at, gen, target, **more).hear("BALLOON_ACK", gen=gen, st=ACCEPTED, eff=target, why=0)


def consent_scripts() -> list[Script]:
    """All of them."""
    return [*answers(), *gens(), *ends(), *grants(), *policies()]


def answers() -> list[Script]:
    """Accept, clamp, refuse."""
    accepted = inflated(script("accepted", "a target above the floor", "Consent FreshReport").open())
    clamped = inflate(script("clamped", "a target below the floor", "Consent Floor FreshReport").open(), 1, 64 * MIB)
    raised = script("floor-raised", "the INFLATE raises the floor", "Floor").open()
    lowered = script("floor-not-lowered", "an INFLATE's floor below the agent's changes nothing", "Floor").open()
    at_floor = inflated(script("at-floor", "the floor itself", "Floor").open(), target=FLOOR)
    zero = inflate(script("target-0", "a target of 0 is clamped like any other", "Consent Floor").open(), 1, 0)
    above = script("above-size", "a target above the guest's size: accepted, and reached", "Consent").open()
    no_room = script("floor-is-size", "the floor in the INFLATE is above the guest's size", "Floor Consent").open()
    settling = inflate(script("settling", "5 s after the boot", "Settling", boottime_ms=5000).open(), 1, 512 * MIB)
    settling.hear("BALLOON_ACK", gen=1, st=REFUSED, eff=GIB, why=3).ping_for(28000)
    settled = script("grant-while-settling", "a DEFLATE is no INFLATE", "Settling Grant", boottime_ms=5000,
        size=512 * MIB)
    stalled = script("stalled", "the guest stalls when the INFLATE comes",
        "Stall Consent").open().wait(2000).do(stall="some")
    stalled.hear("DEMAND", 100, why=1, want=at_least(GIB))
    calm = script("calm-again", "three seconds after the stall", "Stall").open().wait(2000).do(stall="some")
    quiet = script("fresh-report", "a REPORT on request of a guest that reports each minute", "FreshReport")
    quiet.open(lim={"rep_ms": 60000}).wait(5000, REPORT=(0, 1))
    ttl = script("ttl-4999", "a lease that is too short", "Range", "invalid").open()
    return [
        accepted.hear("REPORT", 200, gen=1),
        clamped.hear("BALLOON_ACK", gen=1, st=CLAMPED, eff=FLOOR, why=1).hear("REPORT", 200, gen=1),
        inflate(raised, 1, 300 * MIB, floor=600 * MIB).hear("BALLOON_ACK", st=CLAMPED, eff=600 * MIB, why=1),
        inflate(lowered, 1, 64 * MIB, floor=1).hear("BALLOON_ACK", st=CLAMPED, eff=FLOOR, why=1),
        at_floor,
        zero.hear("BALLOON_ACK", st=CLAMPED, eff=FLOOR, why=1),
        inflated(above, target=2 * GIB).hear("BALLOON_STATUS", gen=1, st=1, cur=GIB),
        inflate(no_room, 1, 64 * MIB, floor=2 * GIB).hear("BALLOON_ACK", st=REFUSED, eff=GIB, why=1),
        inflated(settling, 2),
        deflate(settled.open(), 1, 768 * MIB).hear("BALLOON_ACK", st=ACCEPTED, eff=768 * MIB),
        inflate(stalled, 1, 512 * MIB).hear("BALLOON_ACK", st=REFUSED, eff=GIB, why=2),
        inflated(calm.ping_for(4000)),
        inflated(quiet).hear("REPORT", 200),
        inflate(ttl, 1, GIB, 4999).hear("ERROR", code=7, re=2).wait(500, BALLOON_ACK=(0, 0)),
        inflated(inflate(script("gen-0", "gens begin at 1", "Range", "invalid").open(), 0, GIB).hear("ERROR", code=7)),
        script("reached", "the balloon moves to where it was asked", "Consent").open()
        .send("INFLATE", {"gen": 1, "target": 512 * MIB, "ttl_ms": 30000}).hear("BALLOON_ACK", st=ACCEPTED)
        .do(size=512 * MIB).hear("BALLOON_STATUS", 2000, gen=1, st=1, cur=between(511 * MIB, 513 * MIB)),
    ]  # fmt: skip


def gens() -> list[Script]:
    """Same, lower, skipped."""
    same = inflate(inflated(script("gen-same", "sent again: a duplicate with the same size", "Gen").open()), 1,
        512 * MIB)
    other = inflated(script("gen-same-other-target", "a duplicate is the old command", "Gen", "invalid").open())
    refused = script("gen-same-refused", "a refusal sent again: the size that the guest has", "Gen", boottime_ms=5000)
    inflate(refused.open(), 1, 512 * MIB).hear("BALLOON_ACK", st=REFUSED, eff=GIB)
    clamped = inflate(script("gen-same-clamped", "a clamped one sent again", "Gen").open(), 1, 0)
    lower = inflated(script("gen-lower", "an older gen is stale", "Gen", "invalid").open(), 5)
    skipped = inflated(inflated(script("gen-skipped", "gens may be skipped", "Gen").open(), 3), 900, 400 * MIB)
    shared = inflated(script("gen-shared", "INFLATE and DEFLATE share one sequence", "Gen").open(), 3)
    deflate(shared, 2, GIB).hear("BALLOON_ACK", gen=3, st=STALE, eff=None)
    again = inflated(script("gen-new-session", "a new session begins with gens of its own", "Gen ConsentEnds").open(),
        7)
    again.send("HELLO", {**HELLO, "nonce": bytes(16)}, session=SECOND)
    again.hear("HELLO_ACK", session=SECOND, gen=7).session = SECOND
    return [
        same.hear("BALLOON_ACK", gen=1, st=DUPLICATE, eff=512 * MIB),
        inflate(other, 1, 300 * MIB).hear("BALLOON_ACK", gen=1, st=DUPLICATE, eff=512 * MIB),
        inflate(refused, 1, 512 * MIB).hear("BALLOON_ACK", gen=1, st=DUPLICATE, eff=GIB),
        inflate(clamped.hear("BALLOON_ACK", st=CLAMPED), 1, 0).hear("BALLOON_ACK", gen=1, st=DUPLICATE, eff=FLOOR),
        inflate(lower, 4, 300 * MIB).hear("BALLOON_ACK", gen=5, st=STALE, eff=None),
        skipped,
        deflate(shared, 4, GIB).hear("BALLOON_ACK", gen=4, st=ACCEPTED, eff=GIB),
        inflated(again, 1),
    ]


def ends() -> list[Script]:
    """How consent ends."""
    expires = inflated(script("ttl", "a lease that runs out", "Lease").open(), ttl_ms=5000).ping_for(4000)
    renewed = inflated(script("ttl-renewed", "a duplicate begins the lease anew", "Lease Gen").open(), ttl_ms=5000)
    inflate(renewed.ping_for(4000), 1, 512 * MIB, 5000).hear("BALLOON_ACK", st=DUPLICATE)
    done = inflated(script("ttl-after-expiry", "after its end a duplicate is no consent", "Lease Gen").open(),
        ttl_ms=5000)
    done.ping_for(4000).hear("BALLOON_STATUS", 2500, gen=1, st=4)
    asleep = inflated(script("ttl-sleep", "the guest sleeps past the end of the lease", "Lease").open(), ttl_ms=5000)
    hurts = inflated(script("hurts", "the guest stalls during the move", "Hurts ConsentEnds").open()).wait(500)
    hurts.do(stall="full").hear("DEMAND", 100, gen=1, sev=3, why=1).hear("BALLOON_STATUS", 100, gen=1, st=2)
    repeat = inflated(script("hurts-again", "still short a second after the stop", "Hurts").open()).wait(500)
    repeat.do(stall="some").hear("DEMAND", 100, gen=1).wait(300).do(stall="some")
    newer = inflated(inflated(script("newer-gen", "a newer INFLATE takes the place of the older",
        "ConsentEnds").open()), 2)
    session = inflated(script("new-session", "a new session ends consent", "ConsentEnds").open())
    bye = inflated(script("bye", "a BYE ends consent; no status of that session follows", "ConsentEnds Leaving").open())
    gate = script("demand-rate", "a stall each 50 ms for two seconds", "Stall").open().wait(2000).tally()
    for _ in range(40):
        gate.do(stall="some").wait(50)
    demand = script("demand-alone", "a stall without a move: a DEMAND without gen", "Stall").open().wait(2000)
    return [
        expires.hear("BALLOON_STATUS", 2500, gen=1, st=4, cur=GIB),
        renewed.ping_for(4000).hear("BALLOON_STATUS", 2500, gen=1, st=4),
        inflate(done, 1, 512 * MIB).hear("BALLOON_ACK", st=DUPLICATE, eff=GIB),
        asleep.do(sleep_ms=6000).hear("BALLOON_STATUS", 2000, gen=1, st=4),
        inflate(hurts, 1, 512 * MIB).hear("BALLOON_ACK", st=DUPLICATE, eff=GIB),
        repeat.hear("DEMAND", 2000, skip=True, gen=None, want=at_least(GIB)),
        newer.ping_for(4000),
        inflate(session.hello(SECOND), 1, 300 * MIB).hear("BALLOON_ACK", session=SECOND, st=ACCEPTED, eff=300 * MIB),
        bye.send("BYE").wait(6000, BALLOON_STATUS=(0, 0), BALLOON_ACK=(0, 0), DEMAND=(0, 0)),
        gate.tally(DEMAND=(2, 9)),
        demand.do(stall="some").hear("DEMAND", 100, why=1, sev=2, gen=None, want=at_least(GIB)),
    ]


def grants() -> list[Script]:
    """DEFLATE."""
    small = {"size": 512 * MIB}
    above = deflate(script("grant-above-ram", "more than there is", "Grant", **small).open(), 1, 4 * GIB)
    never = deflate(script("grant-below-size", "a grant below the size shrinks nothing", "Grant", **small).open(), 1,
        FLOOR)
    moved = deflate(script("grant-reached", "the balloon follows the grant", "Grant", **small).open(), 1, 768 * MIB)
    stalled = script("grant-while-stalled", "a grant is never refused", "Grant Stall", **small).open().wait(2000)
    deflate(stalled.do(stall="full"), 1, 768 * MIB)
    below = deflate(script("grant-below-floor", "nor clamped to the floor", "Grant", **small).open(), 1, 1)
    after = inflated(script("grant-ends-consent", "a grant after an INFLATE", "ConsentEnds Grant").open())
    moved.hear("BALLOON_ACK", st=ACCEPTED, eff=768 * MIB).do(size=768 * MIB)
    return [
        above.hear("BALLOON_ACK", gen=1, st=CLAMPED, eff=GIB, why=6),
        never.hear("BALLOON_ACK", gen=1, st=ACCEPTED, eff=FLOOR, why=0),
        moved.hear("BALLOON_STATUS", 2000, gen=1, st=1),
        stalled.hear("BALLOON_ACK", gen=1, st=ACCEPTED, eff=768 * MIB),
        below.hear("BALLOON_ACK", gen=1, st=ACCEPTED, eff=1),
        deflate(after, 2, GIB).hear("BALLOON_ACK", gen=2, st=ACCEPTED, eff=GIB),
    ]


def policies() -> list[Script]:
    """SET_POLICY."""

    def policy(at: Script, gen: int, **fields: int) -> Script:
        return at.send("SET_POLICY", {"gen": gen, **fields})

    def applied(at: Script, gen: int, **fields: int) -> Script:
        return policy(at, gen, **fields).hear("POLICY_ACK", gen=gen, st=0)

    slow = applied(script("policy-rep-ms", "reports each 4 s", "Policy Reports").open(), 1, rep_ms=4000)
    keeps = applied(script("policy-absent", "a policy without rep_ms leaves it", "Policy").open(), 1, rep_ms=4000)
    floor = applied(script("policy-floor", "a policy raises the floor", "Policy Floor").open(), 1, floor=700 * MIB)
    low = applied(script("policy-floor-low", "a policy never lowers the floor", "Policy Floor").open(), 1, floor=1)
    high = policy(script("policy-floor-above-ram", "a floor above the memory is clamped", "Policy").open(), 1,
        floor=7 * GIB)
    same = applied(script("policy-same", "sent again", "Policy").open(), 1, rep_ms=4000)
    stale = applied(script("policy-stale", "an older gen: POLICY_ACK stale, or ERROR 8", "Policy Unclear",
        "invalid").open(), 5)
    own = applied(script("policy-own-gen", "its gens are not the moves'", "Policy Gen").open(), 9)
    again = applied(script("policy-new-session", "a new session begins at 1 again", "Policy").open(), 9).hello(SECOND)
    forgotten = applied(script("policy-forgotten", "and with the agent's own floor", "Policy Floor").open(), 1,
        floor=700 * MIB)
    bad = policy(script("policy-range", "rep_ms 249: refused, and nothing of it applied", "Policy Range",
        "invalid").open(), 1,
                 rep_ms=249, floor=700 * MIB)  # fmt: skip
    return [
        slow.hear("REPORT", 5000).wait(7000, REPORT=(1, 2)),
        applied(keeps, 2, psi_some=700).hear("REPORT", 5000).wait(7000, REPORT=(1, 2)),
        inflate(floor, 1, 300 * MIB).hear("BALLOON_ACK", st=CLAMPED, eff=700 * MIB, why=1),
        inflate(low, 1, 0).hear("BALLOON_ACK", st=CLAMPED, eff=FLOOR, why=1),
        high.hear("POLICY_ACK", gen=1, st=3),
        policy(same, 1, rep_ms=250).hear("POLICY_ACK", gen=1, st=1),
        policy(stale, 3, rep_ms=250).hear_one_of(1000, pattern("POLICY_ACK", None, {"st": 2}), pattern("ERROR", None,
        {"code": 8})),
        inflated(own, 1),
        applied(again, 1),
        inflate(forgotten.hello(SECOND), 1, 300 * MIB).hear("BALLOON_ACK", st=ACCEPTED, eff=300 * MIB),
        inflate(bad.hear("ERROR", code=7), 1, 300 * MIB).hear("BALLOON_ACK", st=ACCEPTED, eff=300 * MIB),
    ]
