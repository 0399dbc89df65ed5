"""What the engine and the policies share: one simulated machine's state, and what a policy is. Pure.

The engine owns the machines and the time. A policy reads them at its turns and answers with new targets; the
engine moves `assigned` towards the targets at the speeds of the scoring rule (`engine.py`). A policy never writes to a
machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

BUFFER_PERCENT = 20


@dataclass(slots=True, eq=False)
class Vm:
    """One machine as it is now. Sizes in KiB; `assigned_kib` moves continuously, so it is a float."""

    name: str
    minimum_kib: int
    """The floor of its size: what its owner has set, or else hv_balloon's table (`demand_trace.floor_kib`)."""
    maximum_kib: int
    """What is provisioned."""
    weight: int = 5000
    buffer_percent: int = BUFFER_PERCENT
    """The spare memory over demand that its owner has set; a policy with a rule of its own does not ask."""
    demand_kib: int = 0
    """max(used, floor), never above provisioned: what is scored."""
    used_kib: int = 0
    """What programs use, as recorded; at least 0."""
    cached_kib: int | None = None
    """Page cache that it would like to have, None where the data does not say."""
    assigned_kib: float = 0.0
    target_kib: int = 0
    shows_kib: int = 0
    """What it says that it uses: `demand_kib`, except for a guest that lies or is silent."""
    silent: bool = False
    """It reports nothing now."""
    follows: bool = True
    """Its balloon follows its target now; a stuck one stays where it is."""
    least_kib: int = 0
    """Its balloon takes nothing below this, and nobody has been told (a hidden floor)."""

    @property
    def short_kib(self) -> float:
        return max(0.0, self.demand_kib - self.assigned_kib)


class Policy(Protocol):
    """One way to share the host's memory. An instance serves one run.

    The engine calls `begin` once, when the first machine appears, with the machines that exist then at their first
    sizes; then `turn` at each time that `next_turn_s` named, with one machine at least. It asks `next_turn_s` again
    after `begin`, after each step of any machine's demand, after a change of what one shows, and after machines came
    or went (`changed` True), and after each turn (`changed` False; the answer must then be later than `now_s`). A turn
    that is due while no machine exists is left out, and comes with the next machine.
    """

    name: str
    buffer_ratio: float
    """Spare memory over demand that a machine starts with."""

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None: ...

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        """New targets, KiB, by name; machines that are not named keep theirs. `vms`: those that exist, by first
        appearance, the same objects each time. A target is clipped to 0 and the machine's maximum."""

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        """When it wants its next turn, at least `now_s`; infinity: when something has changed."""
