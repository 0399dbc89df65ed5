"""The table of cases: which sentence of SPEC.md each one checks, of which role, and what it needs.

A case is a function of one conversation. It returns when the peer has done what the sentence says, raises `Failed` when
the peer has not, and `Skipped` when the peer's situation does not allow to tell. A rule is a function of one frame: it
watches everything that the peer says during all cases, and gives what is wrong with that frame, or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ballonet_protocol import AGENT, COORDINATOR, Role

if TYPE_CHECKING:
    from .watching import Seen
    from .wire import Frame

MUST, SHOULD = "MUST", "SHOULD"
BOTH = (AGENT, COORDINATOR)

# What a case may need of the peer's situation, and what is said where it is not there.
SETTLED = "a guest that has been up for 30 s"
YOUNG = "a guest that booted less than 30 s ago"
BALLOON = "a guest whose kernel counts its balloon"
LINE = "a line that can be closed and opened again (unix:)"
HURT = "--hurt COMMAND, which makes the guest stall"
SIZE = "--size COMMAND, which says what size the hypervisor's balloon target gives the guest"
ROOM = "a guest that still has more than half of its memory"
STATUS = "an agent that sends BALLOON_STATUS, which a small one may do without (1.3)"
EVENTS = "an agent with the capability events"
PSI = "an agent with the capability psi"


class Failed(Exception):
    """The peer broke the sentence."""

    def __init__(self, expected: str, got: str, frame: Frame | None = None) -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got
        self.frame = frame


class Skipped(Exception):
    """The peer's situation does not allow to tell."""


class Case(NamedTuple):
    """One line of the table. `run` is for a case, `rule` for what watches all of them."""

    id: str
    roles: tuple[Role, ...]
    level: str
    sentence: str
    title: str
    needs: tuple[str, ...]
    slow_s: float
    run: Callable[[Any], None] | None
    rule: Callable[[Frame, Seen], str | None] | None

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts as the numbers that an id is made of."""
        return tuple(int(number) for number in self.id.replace("/", ".").split("."))


CASES: list[Case] = []


def case(
    number: str,
    roles: Role | tuple[Role, ...],
    level: str,
    sentence: str,
    needs: tuple[str, ...] = (),
    slow_s: float = 0.0,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Puts a function of one conversation into the table. `slow_s`: it takes that long at least."""

    def add(run: Callable[[Any], None]) -> Callable[[Any], None]:
        whose = roles if isinstance(roles, tuple) else (roles,)
        CASES.append(Case(number, whose, level, sentence, (run.__doc__ or "").strip(), needs, slow_s, run, None))
        return run

    return add


def watch(
    number: str, roles: Role | tuple[Role, ...], level: str, sentence: str
) -> Callable[[Callable[[Frame, Seen], str | None]], Callable[[Frame, Seen], str | None]]:
    """Puts a rule into the table: a function of each frame that comes and of what was seen before it."""

    def add(rule: Callable[[Frame, Seen], str | None]) -> Callable[[Frame, Seen], str | None]:
        whose = roles if isinstance(roles, tuple) else (roles,)
        CASES.append(Case(number, whose, level, sentence, (rule.__doc__ or "").strip(), (), 0.0, None, rule))
        return rule

    return add


def check(holds: object, expected: str, got: object, frame: Frame | None = None) -> None:
    """Raises Failed unless it holds."""
    if not holds:
        raise Failed(expected, str(got), frame)


def select(role: Role, strict: bool = False, only: tuple[str, ...] = ()) -> list[Case]:
    """The cases for a peer of that role, in the order of SPEC.md. `only`: ids, or the beginnings of ids by section."""
    chosen = [
        one
        for one in CASES
        if role in one.roles
        and (strict or one.level == MUST)
        and (not only or any(one.id == word or one.id.startswith((f"{word}/", f"{word}.")) for word in only))
    ]
    return sorted(chosen, key=lambda one: one.order)
