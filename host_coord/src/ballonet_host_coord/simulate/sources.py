"""Where demand comes from, and the machines that it makes: a trace file, a mix or a recording: a shell module."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from random import Random

from ballonet_host_coord.recorder import read_recording
from ballonet_host_coord.recording import Entry, Reading
from ballonet_host_coord.snapshot import snapshot_from_json

from . import demand_trace
from .characters import CHARACTERS
from .course import Course
from .demand_trace import DemandTrace, Step, trace_of
from .guest import Guest
from .mixes import MIXES
from .recording import RecordedHost, overhead_kib, recorded_host, simulated_guests
from .trace_files import read_traces

HOUR_S = 3600.0
DAY_H = 24.0


@dataclass(frozen=True, slots=True)
class Source:
    """A trace file, a generated mix or a recording, and which part of it.

    `shift_s`: the machine with number n starts n times that earlier. `together`: all start at 0. `characters`: pairs of
    a character and a glob of machines that get it; the last one that matches counts.
    """

    trace: Path | None = None
    select: str = "*"
    mix: str = ""
    vm_count: int | None = None
    seed: int = 0
    from_h: float = 0.0
    to_h: float = inf
    shift_s: float = 0.0
    together: bool = False
    recording: Path | None = None
    characters: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        path = self.trace or self.recording
        what = self.mix or "/".join(path.parts[-2:] if path else ())
        words = [what if self.select == "*" else f"{what}, {self.select}"]
        if self.vm_count:
            words.append(f"{self.vm_count} VMs")
        if self.from_h or self.to_h < inf:
            words.append(f"hours {self.from_h:g} to {'the end' if self.to_h == inf else format(self.to_h, 'g')}")
        if self.shift_s:
            words.append(f"each {self.shift_s:g} s earlier")
        if self.together:
            words.append("started together")
        words += [name if glob == "*" else f"{name} {glob}" for name, glob in self.characters]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class House:
    """The machines of a source, what a clairvoyant would need for them, and what is known of their host."""

    guests: tuple[Guest, ...]
    oracle_kib: int
    overhead_kib: int = 0
    """Part of the host's budget that is for none of them: QEMU's own."""
    budget_kib: int = 0
    """The host's budget as recorded; 0: not known."""
    headroom_kib: int | None = None

    @property
    def span_s(self) -> float:
        """From the first machine's start to the last one's end."""
        traces = [guest.trace for guest in self.guests]
        return max(trace.end_s for trace in traces) - min(trace.start_s for trace in traces)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording as it was read. `lost`: for people, what is damaged; empty for nothing."""

    host: RecordedHost
    lost: str


_known: dict[Path, Recorded] = {}


def recorded(path: Path) -> Recorded:
    """The recording, read once. Raises PortError where it cannot be read, ValueError where it holds no guests."""
    if path not in _known:
        reading = read_recording(str(path))
        turns = ((entry.unix_s, snapshot_from_json(entry.value.get("snapshot"))) for entry in _turns(reading))
        try:
            host = recorded_host(turns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}{'; ' if reading.lost else ''}{reading.lost}") from error
        if not host.guests:
            raise ValueError(f"{path}: no guest of the recording has ever reported")
        _known[path] = Recorded(host, reading.lost)
    return _known[path]


def known() -> dict[Path, Recorded]:
    """What has been read, for another process to `know`."""
    return dict(_known)


def know(those: dict[Path, Recorded]) -> None:
    """What another process has read: a recording of a day takes minutes."""
    _known.update(those)


def needed_kib(guests: Sequence[Guest]) -> int:
    """What a clairvoyant needs for them."""
    minimums_kib = {guest.trace.name: guest.minimum_kib for guest in guests if guest.minimum_kib is not None}
    return demand_trace.oracle_kib((guest.trace for guest in guests), minimums_kib)


def courses_of(source: Source) -> list[Course]:
    """The generated demand that a source names, not windowed."""
    last_h = source.to_h if source.to_h < inf else DAY_H
    return MIXES[source.mix](source.vm_count or 1, source.seed, last_h * HOUR_S)


def guests_of(courses: Sequence[Course]) -> list[Guest]:
    """Generated demand as the engine reads it."""
    return [Guest(_trace_of(course)) for course in courses]


def window(guests: Sequence[Guest], from_h: float, to_h: float) -> list[Guest]:
    """What happens between the two times, the first one as the new 0."""
    traces = demand_trace.window([guest.trace for guest in guests], from_h * HOUR_S, to_h * HOUR_S)
    by_name = {guest.trace.name: guest for guest in guests}
    return [replace(by_name[trace.name], trace=trace) for trace in traces]


@functools.lru_cache(maxsize=2)
def load(source: Source) -> House:
    """The machines that a source names; of the last two sources they are kept.

    Raises ValueError for a file that is no trace or has nothing left, OSError, PortError for no recording.
    """
    guests = _all_of(source)[: source.vm_count]
    if source.shift_s:
        guests = [_moved(guest, -number * source.shift_s) for number, guest in enumerate(guests)]
    if source.together:
        guests = [_moved(guest, -guest.trace.start_s) for guest in guests]
    if source.from_h or source.to_h < inf:
        guests = window(guests, source.from_h, source.to_h)
    if not guests:
        raise ValueError(f"{source}: no machine exists then")
    guests = _with_character(guests, source)
    needed = needed_kib(guests)
    if source.recording is None:
        return House(tuple(guests), needed)
    host = recorded(source.recording).host
    return House(tuple(guests), needed, overhead_kib(host), host.budget_kib, host.headroom_kib)


def _all_of(source: Source) -> list[Guest]:
    if source.recording is not None:
        host = recorded(source.recording).host
        chosen = tuple(guest for guest in host.guests if fnmatchcase(guest.name, source.select))
        if not chosen:
            names = ", ".join(guest.name for guest in host.guests)
            raise ValueError(f"{source.recording}: no guest matches {source.select!r}; there are {names}")
        return simulated_guests(replace(host, guests=chosen))
    if source.trace is not None:
        return [Guest(trace) for trace in read_traces(source.trace, source.select)]
    return guests_of(courses_of(source))


def _with_character(guests: Sequence[Guest], source: Source) -> list[Guest]:
    """The same machines and seed, the same chance; what their owner has set stays."""
    given: dict[str, str] = {}
    for character, glob in source.characters:
        those = [guest.trace.name for guest in guests if fnmatchcase(guest.trace.name, glob)]
        if not those:
            some = ", ".join([guest.trace.name for guest in guests[:5]] + ["..."] * (len(guests) > 5))
            raise ValueError(f"{character}={glob}: no machine's name matches; there are {some}")
        given |= dict.fromkeys(those, character)
    changed = []
    for guest in guests:
        name = guest.trace.name
        if name in given:
            made = CHARACTERS[given[name]](guest.trace, Random(f"{source.seed} {name}"))
            guest = replace(guest, trace=made.trace, moods=made.moods, least_kib=made.least_kib)
        changed.append(guest)
    return changed


def _turns(reading: Reading) -> Iterator[Entry]:
    return (entry for entry in reading if entry.kind == "turn" and isinstance(entry.value, dict))


def _moved(guest: Guest, by_s: float) -> Guest:
    return replace(guest, trace=demand_trace.shifted(guest.trace, by_s))


def _trace_of(course: Course) -> DemandTrace:
    steps = (Step(t_s, used_kib, cached_kib, course.provisioned_kib) for t_s, used_kib, cached_kib in course.samples)
    return trace_of(course.name, steps, course.end_s)
