"""What the policy is to reach, and what it reached, from the figures of the runs that `policy.py` makes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

OURS, BOUND = "ballonet", "oracle"
EPISODES = "episodes_per_vm_day"
# One run's figures by policy, of one set at one budget.
Figures = Mapping[str, float | None]
ByPolicy = Mapping[str, Figures]
LIMITS = (0.001, 0.0001, 0.00001)
GUEST_COUNTS = (100, 1000, 10_000)


@dataclass(frozen=True, slots=True)
class Goal:
    """One number. `met` None: it could not be measured, and `note` says why."""

    name: str
    wanted: str
    reached: float | None
    met: bool | None
    note: str = ""


def _value(figures: Figures, key: str) -> float:
    return figures[key] or 0.0


def _share(part: float, whole: float) -> float:
    """part / whole; nothing of nothing is nothing."""
    return part / whole if whole else (0.0 if not part else float("inf"))


def missing(name: str, wanted: str, why: str) -> Goal:
    return Goal(name, wanted, None, None, why)


def of_set(name: str, figures: ByPolicy, *, builds: bool) -> list[Goal]:
    """The goals on one of the three sets. `builds`: the clang sets, with a cache and the slow peers' downfall."""
    ours = _value(figures[OURS], "unmet_ratio")
    better = min(("follower", "give-all"), key=lambda who: _value(figures[who], "unmet_ratio"))
    of_better = _share(ours, _value(figures[better], "unmet_ratio"))
    of_lazy = _share(ours, _value(figures["lazy"], "unmet_ratio"))
    goals = [
        Goal(f"{name}: unmet of {better}'s", "<= 0.667 x", of_better, of_better <= 2 / 3, f"ours {ours:.3g}"),
        Goal(f"{name}: unmet of lazy's", "<= 1 x", of_lazy, of_lazy <= 1.0),
    ]
    if builds:
        slow = [who for who in figures if who.startswith(("mom", "proxmox"))]
        least = min((_value(figures[who], "unmet_ratio") for who in slow), default=None)
        if least is None:
            goals.append(missing(f"{name}: mom and proxmox lack more", ">= 100 x", "none of them is registered"))
        else:
            times = _share(least, ours)
            said = f"least {least:.3g}"
            goals.append(Goal(f"{name}: mom and proxmox lack more", ">= 100 x", times, times >= 100, said))
        cache, of = figures[OURS]["cache_deficit_ratio"], figures["follower"]["cache_deficit_ratio"]
        if cache is None or of is None:
            goals.append(missing(f"{name}: cache deficit of the follower's", "<= 1 x", "no cache in the data"))
        else:
            goals.append(Goal(f"{name}: cache deficit of the follower's", "<= 1 x", _share(cache, of), cache <= of))
    return goals


def of_frontier(by_budget: Mapping[float, ByPolicy]) -> list[Goal]:
    """At each budget nobody but the oracle lacks less or more seldom, and whoever lacks anything lacks more.

    Unmet demand has a line for each budget, episodes one for each peer.
    """
    goals = []
    peers = [who for who in next(iter(by_budget.values())) if who not in (OURS, BOUND)]
    for times, figures in by_budget.items():
        ahead = [who for who in peers if not _beats(figures, who, "unmet_ratio")]
        said = f"ours {_value(figures[OURS], 'unmet_ratio'):.3g}" + "".join(
            f"; {who} {_value(figures[who], 'unmet_ratio'):.3g}" for who in ahead
        )
        goals.append(Goal(f"{times:.2f}x: peers not beaten in unmet", "0", len(ahead), not ahead, said))
    for who in peers:
        lost = [
            f"{times:.2f}x {_value(figures[OURS], EPISODES):.3g} to {_value(figures[who], EPISODES):.3g}"
            for times, figures in by_budget.items() if not _beats(figures, who, EPISODES)
        ]  # fmt: skip
        name = f"episodes, {who}: budgets at which it is not beaten"
        goals.append(Goal(name, "0", len(lost), not lost, "; ".join(lost)))
    return goals


def _beats(figures: ByPolicy, who: str, key: str) -> bool:
    """Ours is strictly less, or both are nothing."""
    ours, theirs = _value(figures[OURS], key), _value(figures[who], key)
    return ours < theirs or not (ours or theirs)


def of_thrift(name: str, figures: ByPolicy) -> list[Goal]:
    """On one set, for each limit that we meet: memory moved and commands, of the thriftiest other that meets it."""
    goals = []
    for limit in LIMITS:
        if _value(figures[OURS], "unmet_ratio") > limit:
            continue
        for key, what in (("moved_gib_per_vm_day", "moved"), ("commands_per_vm_day", "commands")):
            said = f"{name}: {what} at <= {limit:.3%} unmet, of the thriftiest's"
            others = {
                who: _value(those, key) for who, those in figures.items()
                if who not in (OURS, BOUND) and _value(those, "unmet_ratio") <= limit
            }  # fmt: skip
            if not others:
                goals.append(missing(said, "<= 1.5 x", "nobody else meets it"))
                continue
            thrifty = min(others, key=lambda who: others[who])
            ours = _value(figures[OURS], key)
            ratio = _share(ours, others[thrifty])
            goals.append(Goal(said, "<= 1.5 x", ratio, ratio <= 1.5, f"{ours:.4g}; {thrifty} {others[thrifty]:.4g}"))
    if not goals:
        goals.append(missing(f"{name}: moved and commands", "<= 1.5 x", "ours meets none of the limits"))
    return goals


# By mix: how many times the fixed sizes; None: beside it, for information.
DENSITIES: Mapping[str, float | None] = {"desktops-staggered": 1.45, "desktops-storm": None, "servers": 1.5}


def of_density(mix: str, vm_count: int, fixed_count: int, ratio: float, others: Mapping[str, float]) -> Goal:
    wanted = DENSITIES[mix]
    beside = "".join(f", {who} {value:.2f}" for who, value in others.items())
    return Goal(
        f"{mix}: machines per fixed size", f">= {wanted} x" if wanted else "(for information)", ratio,
        ratio >= wanted if wanted else None, f"at least {vm_count} instead of {fixed_count}{beside}",
    )  # fmt: skip


def of_decisions(ms: Mapping[str, Mapping[int, float]]) -> list[Goal]:
    """One decision's time for 1000 guests, and that it grows no faster than n log n from the fewest to the most."""
    ours, peer = ms[OURS], ms["qmemman"]
    few, most = GUEST_COUNTS[0], GUEST_COUNTS[-1]
    grown, bound = ours[most] / ours[few], most * log(most) / (few * log(few))
    beside = f"qmemman's balance, re-implemented: {peer[1000]:.2f} ms"
    said = f"n log n and a third; qmemman's {peer[most] / peer[few]:.0f} x"
    return [
        Goal("one decision, 1000 guests, ms", "<= 5", ours[1000], ours[1000] <= 5, beside),
        # A third above it, for the noise of a shared machine and caches that 10000 guests outgrow.
        Goal(f"{few} -> {most} guests", f"<= {bound * 4 / 3:.0f} x", grown, grown <= bound * 4 / 3, said),
    ]


def table(goals: Sequence[Goal]) -> str:
    rows = [("goal", "wanted", "reached", "met", "")]
    for goal in goals:
        reached = "-" if goal.reached is None else f"{goal.reached:.4g}"
        rows.append((goal.name, goal.wanted, reached, {True: "yes", False: "NO", None: "-"}[goal.met], goal.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
    missed = sum(goal.met is False for goal in goals)
    open_ = sum(goal.met is None for goal in goals)
    return "\n".join([*lines, "", f"{len(goals)} numbers: {missed} missed, {open_} without a verdict"])


def as_json(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    return [asdict(goal) for goal in goals]
