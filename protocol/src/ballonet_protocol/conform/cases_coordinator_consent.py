"""Cases of section 9 about coordinators: what they ask, and that they hold where the agent does not consent.

The wire shows what a coordinator asks. What it does shows the hypervisor: `--size COMMAND` says which size the
balloon's target gives the guest, and the cases that need it are skipped without.
"""

from __future__ import annotations

from typing import Callable

from ballonet_protocol import COORDINATOR, AckStatus, AckWhy, ByeWhy, Deflate, Inflate
from ballonet_protocol.limits import ACK_WITHIN_S, TRIES

from .as_agent import MIB, CoordinatorTalk
from .table import MUST, ROOM, SIZE, case, check
from .talk import MARGIN_S, PATIENCE_S

BELOW = "It MUST NOT take the guest below `eff`."
ENDS = "Consent ends with its ttl, a newer gen, a DEMAND, a new session, a BYE, or silence for `dead_ms`."
FRESH = "A coordinator MUST NOT take a step without one."
#: A balloon's target may be rounded to the device's unit.
ROUNDING = 2 * MIB


@case(
    "9.6/6",
    COORDINATOR,
    MUST,
    "A request without an answer is sent again with the same gen and a new seq.",
    slow_s=ACK_WITHIN_S * TRIES,
)
def asks_again(talk: CoordinatorTalk) -> None:
    """An INFLATE without an answer comes three times in all, a second apart, with one gen and three numbers."""
    talk.fresh()
    inflate, first = talk.wanted()
    frames = [first]
    end_s = talk.now_s() + ACK_WITHIN_S * (TRIES + 1)
    while talk.now_s() < end_s:
        talk.report()
        talk.wait_until(min(end_s, talk.now_s() + 0.5))
    frames += [frame for frame in talk.take() if frame.message == inflate]
    check(len(frames) == TRIES, f"the INFLATE of gen {inflate.gen} {TRIES} times in all", len(frames), frames[-1])
    check(len({frame.seq for frame in frames}) == TRIES, f"{TRIES} numbers", [frame.seq for frame in frames])
    apart_s = min(after.at_s - before.at_s for before, after in zip(frames, frames[1:]))
    check(apart_s > ACK_WITHIN_S / 2, f"the INFLATE again after {ACK_WITHIN_S:.0f} s", f"{apart_s:.2f} s", frames[1])


@case("9.6/7", COORDINATOR, MUST, "Commands are absolute and may be repeated: the same gen is a duplicate")
def same_gen_same_command(talk: CoordinatorTalk) -> None:
    """What comes again with the same gen is the same command, and what was answered does not come again."""
    talk.fresh()
    inflate, frame = talk.wanted()
    talk.consent(inflate, frame.seq, AckStatus.REFUSED, talk.ram_bytes, AckWhy.PRESSURE)
    end_s = talk.now_s() + ACK_WITHIN_S + 2 * MARGIN_S
    while talk.now_s() < end_s:
        talk.report()
        talk.wait_until(min(end_s, talk.now_s() + 0.5))
    for other in talk.take():
        again = isinstance(other.message, (Inflate, Deflate)) and other.message.gen == inflate.gen
        check(not again, f"gen {inflate.gen} not again after its answer", other, other)


@case("4.6/1", COORDINATOR, MUST, "all count on the hypervisor's scale")
def asks_for_a_size_of_the_guest(talk: CoordinatorTalk) -> None:
    """An INFLATE names a target within the guest's nominal memory."""
    talk.fresh()
    inflate, frame = talk.wanted()
    check(0 < inflate.target_bytes <= talk.ram_bytes, f"a target within {talk.ram_bytes}", frame, frame)


@case("9.3/8", COORDINATOR, MUST, BELOW, (SIZE,))
def not_before_the_answer(talk: CoordinatorTalk) -> None:
    """While the INFLATE has no answer, the guest keeps its size."""
    talk.fresh()
    before = talk.size_bytes()
    talk.wanted()
    talk.held(before - ROUNDING, PATIENCE_S, "without an answer")


@case("9.3/9", COORDINATOR, MUST, BELOW, (SIZE, ROOM))
def not_below_a_clamp(talk: CoordinatorTalk) -> None:
    """Clamped half way, the guest is not taken below `eff`."""
    talk.fresh()
    inflate, frame = talk.wanted()
    effective = (talk.size_bytes() + inflate.target_bytes) // 2 // MIB * MIB
    talk.consent(inflate, frame.seq, AckStatus.CLAMPED, effective, AckWhy.FLOOR)
    talk.held(effective - ROUNDING, 2 * PATIENCE_S, "clamped")


@case("9.3/10", COORDINATOR, MUST, BELOW, (SIZE,))
def not_after_a_refusal(talk: CoordinatorTalk) -> None:
    """Refused, the guest keeps its size."""
    talk.fresh()
    before = talk.size_bytes()
    inflate, frame = talk.wanted()
    talk.consent(inflate, frame.seq, AckStatus.REFUSED, before, AckWhy.PRESSURE)
    talk.held(before - ROUNDING, PATIENCE_S / 2, "refused")


@case("9.3/11", COORDINATOR, MUST, "A coordinator needs no other field to be safe.", (SIZE,))
def eff_counts_alone(talk: CoordinatorTalk) -> None:
    """An answer that says accepted, with the present size as `eff`, moves nothing."""
    talk.fresh()
    before = talk.size_bytes()
    inflate, frame = talk.wanted()
    talk.consent(inflate, frame.seq, AckStatus.ACCEPTED, before)
    talk.held(before - ROUNDING, PATIENCE_S / 2, "accepted with the present size as eff")


def _steps(talk: CoordinatorTalk, report: Callable[[], object]) -> int:
    """How often the guest is made smaller in four seconds, in which `report` is called four times a second."""
    steps, size, end_s = 0, talk.size_bytes(), talk.now_s() + 2 * PATIENCE_S
    while talk.now_s() < end_s:
        report()
        next_s = talk.now_s() + MARGIN_S
        while talk.now_s() < next_s:
            talk.wait_until(talk.now_s() + MARGIN_S / 5)
            steps += talk.size_bytes() < size - ROUNDING
            size = talk.size_bytes()
    return steps


# The last REPORT may have come after the step that was seen, and has earned one more.


@case("9.1/1", COORDINATOR, MUST, FRESH, (SIZE, ROOM))
def no_step_without_reports(talk: CoordinatorTalk) -> None:
    """When the REPORTs end after the consent, at most the step that was earned follows."""
    talk.fresh()
    talk.moving()
    steps = _steps(talk, talk.ping)
    check(steps <= 1, "at most one more step without a REPORT", steps)


@case("9.1/2", COORDINATOR, MUST, FRESH, (SIZE, ROOM))
def no_step_by_old_reports(talk: CoordinatorTalk) -> None:
    """REPORTs whose `bt` does not grow earn no step."""
    talk.fresh()
    talk.moving()
    steps = _steps(talk, talk.repeat_report)
    check(steps <= 1, "at most one more step without a REPORT whose bt has grown", steps)


@case("9.4/2", COORDINATOR, MUST, ENDS, (SIZE, ROOM))
def bye_ends_consent(talk: CoordinatorTalk) -> None:
    """After a BYE in the midst of a move the guest is taken no further."""
    talk.fresh()
    talk.moving()
    talk.leave(ByeWhy.STOP)
    talk.wait_until(talk.now_s() + MARGIN_S)
    reached = talk.size_bytes()
    talk.held(reached - ROUNDING, PATIENCE_S, "after a BYE", report=False)


@case("9.4/3", COORDINATOR, MUST, ENDS, (SIZE, ROOM))
def demand_ends_consent(talk: CoordinatorTalk) -> None:
    """After a DEMAND for all its memory the guest is taken no further."""
    talk.fresh()
    talk.moving()
    talk.demand(talk.ram_bytes)
    talk.wait_until(talk.now_s() + MARGIN_S)
    talk.held(talk.size_bytes() - ROUNDING, PATIENCE_S, "after a DEMAND")


@case("9.5/2", COORDINATOR, MUST, "The coordinator MUST stop the move and gives back its last step.", (SIZE, ROOM))
def gives_the_last_step_back(talk: CoordinatorTalk) -> None:
    """A DEMAND that names the move's gen stops it, and the guest has more than at its lowest a second later."""
    talk.fresh()
    inflate, _ = talk.moving()
    lowest = talk.size_bytes()
    talk.demand(talk.size_bytes(), gen=inflate.gen)
    end_s = talk.now_s() + PATIENCE_S
    while talk.size_bytes() <= lowest and talk.now_s() < end_s:
        lowest = min(lowest, talk.size_bytes())
        talk.wait_until(talk.now_s() + MARGIN_S / 4)
    check(talk.size_bytes() > lowest, f"a size above the lowest, {lowest}", talk.size_bytes())
    talk.held(lowest, PATIENCE_S / 2, "after a DEMAND that names the move")
