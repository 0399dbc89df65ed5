"""An explanation as text for people: a paragraph for the host, one for each guest, in lines that fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .decision import Rule
from .explain import LIMITS, MEANING, Explained, Explanation, Holder, HostExplanation
from .model import HostState
from .plain_text import printable, shown_name, wrapped

MOST_HOLDERS = 6
ASKED_LATELY_S = 60.0
"""What a guest asked for before is no reason any more: most of it has faded."""
UNKNOWN = "-"
INDENT = 10
"""Width of the word that a line begins with."""


def render_explained(explained: Explained, width: int = 80) -> str:
    """All of it, sizes in MiB."""
    lines = list(_wrapped(_host(explained.host), width, ""))
    if explained.host.budget_why:
        lines += _wrapped(printable(explained.host.budget_why), width, "")
    if explained.differs:
        lines += _wrapped(explained.differs, width, "")
    for guest in explained.guests:
        lines.append("")
        lines += _wrapped(f"{shown_name(guest.name)}: {_title(guest)}", width, "  ")
        for word, text in _paragraphs(guest, explained.host):
            lines += _wrapped(f"  {word:{INDENT}}{text}", width, " " * (INDENT + 2))
    return "\n".join(lines)


def _host(host: HostExplanation) -> str:
    slider = f"slider {host.slider}"
    if host.effective_slider != host.slider:
        slider += f", at {host.effective_slider} while the host is short"
    short = f"; host memory is {host.state.upper()}: {host.state_why}" if host.state is not HostState.EASY else ""
    not_there = f"not there {_mib(host.not_there_kib)} + " if host.not_there_kib else ""
    starts = f"; {_mib(host.starts_kib)} wait for a start" if host.starts_kib else ""
    overdrawn = f"; OVERDRAWN by {_mib(host.overdrawn_kib)}: {host.overdrawn_cause}" if host.overdrawn_kib else ""
    observing = "; observing: nothing is moved" if host.observe else ""
    return (
        f"budget {_mib(host.budget_kib)} = overheads {_mib(host.overheads_kib)} + fixed {_mib(host.fixed_kib)} + "
        f"headroom {_mib(host.headroom_kib)} + {not_there}{_mib(host.shared_kib)} to share (MiB); "
        f"demands {_mib(host.demands_kib)}, wants {_mib(host.wants_kib)}, booked {_mib(host.booked_kib)}"
        f"{starts}; {slider}{printable(short)}{printable(overdrawn)}{observing}"
    )


def _title(guest: Explanation) -> str:
    has, gets = guest.given_kib, guest.target_kib
    if guest.rule is Rule.FIXED:
        return f"stays at {_mib(gets)} MiB"
    if has == gets:
        return f"has {_mib(has)} MiB and keeps it"
    return f"has {_mib(has)} MiB, {'grows' if gets > has else 'shrinks'} to {_mib(gets)} MiB"


def _paragraphs(guest: Explanation, host: HostExplanation) -> Iterator[tuple[str, str]]:
    known = guest.inputs
    yield "why", printable(guest.why)
    limit = f"; {LIMITS[guest.limit]}" if guest.limit else ""
    yield "rule", f"{guest.rule.value}: {MEANING[guest.rule]}{limit}{f' ({guest.held})' if guest.held else ''}"
    buffer = f"{known.buffer_percent} %"
    if guest.buffer_percent != known.buffer_percent:
        buffer += f" ({guest.buffer_percent} % with the slider at {host.effective_slider})"
    yield "bounds", (
        f"floor {_mib(guest.floor_kib)}, demand {_mib(guest.demand_kib)}, want {_mib(guest.want_kib)}; minimum "
        f"{_mib(known.minimum_kib)}, maximum {_mib(known.maximum_kib)}, weight {known.weight}, buffer {buffer}"
    )
    if known.report is None:
        yield "report", "none"
    else:
        yield "report", (
            f"{known.report}, {known.report_age_s:.1f} s old: use {_mib(known.use_kib)}, committed "
            f"{_mib(known.committed_kib)}, cache worth keeping {_mib(known.cache_kib)}, demand "
            f"{_mib(known.demand_kib)}, held {_mib(known.held_kib)}, psi_some {_percent(known.psi_some_ratio)}, "
            f"psi_full {_percent(known.psi_full_ratio)}"
        )
    if known.wish_kib is not None and known.wish_age_s is not None and known.wish_age_s < ASKED_LATELY_S:
        yield "asked", f"for {_mib(known.wish_kib)}, {known.wish_age_s:.1f} s ago"
    yield "books", (
        f"actual {_mib(known.actual_kib)}, resident {_mib(known.resident_kib)}, target in force "
        f"{_mib(known.target_in_force_kib)}, booked {_mib(known.assigned_kib)} + {_mib(known.overhead_kib)} overhead"
        f"{' (the claim of its boot)' if known.claimed else ''}{f'; {known.above}' if known.above else ''}"
    )
    if guest.holders:
        yield "held by", _held_by(guest.holders, host)
    if guest.changes is None:
        yield "changes", "name this guest to see what would change it"
    elif not guest.changes:
        yield "changes", "nothing that could be thought of changes it"
    else:
        yield "changes", f"{_mib(guest.target_kib)} would be"
        for change in guest.changes:
            yield "", f"{_mib(change.target_kib):>6}  with {printable(change.what)}"


def _held_by(holders: tuple[Holder, ...], host: HostExplanation) -> str:
    said = []
    for holder in holders[:MOST_HOLDERS]:
        above = f", {_mib(holder.above_demand_kib)} above its demand" if holder.above_demand_kib else ""
        said.append(f"{printable(holder.name)} {_mib(holder.booked_kib)}{above} ({holder.why})")
    if rest := holders[MOST_HOLDERS:]:
        said.append(f"{len(rest)} others {_mib(sum(holder.booked_kib for holder in rest))}")
    said.append(f"headroom {_mib(host.headroom_free_kib)} of {_mib(host.headroom_kib)}")
    return "; ".join(said)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return wrapped(text, max(width, 40), indent, break_on_hyphens=False)


def _mib(kib: int | None) -> str:
    return UNKNOWN if kib is None else f"{kib / 1024:.0f}"


def _percent(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{100 * ratio:.0f} %"
