"""The shell of `explain`: a turn from a file that it saved or a recording at a time, and its explanation as output.

A turn is {"snapshot", "decision"} in JSON types, as the control operation "snapshot" answers.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from typing import Any

from .explain import Explained, explain
from .explain_text import render_explained
from .ports import PortError
from .recorder import read_recording
from .recording import Entry
from .snapshot import snapshot_from_json

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration_s(text: str) -> float:
    """Seconds of "90", "90s", "10m", "1.5h". Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip())
    if found is None or found[2] not in UNITS_S:
        raise ValueError(f'{text!r} is no duration such as "90s", "10m" or "1.5h"')
    return float(found[1]) * UNITS_S[found[2]]


def parse_time_unix_s(text: str, began_unix_s: float) -> float:
    """Seconds since 1970 of "+90s" (from the beginning of the recording), "2026-11-24 14:03:20" (local time where no
    zone is said) or "14:03:20" (on the day of the beginning, or the next where that was earlier). Raises ValueError."""
    if text.startswith("+"):
        return began_unix_s + parse_duration_s(text[1:])
    began = datetime.datetime.fromtimestamp(began_unix_s, datetime.UTC).astimezone()
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d+)?)?", text):
            clock = datetime.time.fromisoformat(text)
            moment = datetime.datetime.combine(began.date(), clock).astimezone()
            if moment < began.replace(microsecond=0):
                moment = datetime.datetime.combine(began.date() + datetime.timedelta(days=1), clock).astimezone()
        else:
            moment = datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise ValueError(f'{text!r} is no time such as "+90s", "14:03:20" or "2026-11-24 14:03:20"') from error
    return moment.timestamp()


def as_text(turn: Any, guest: str | None, width: int) -> str:
    """For people. Raises LookupError for an unknown guest, ValueError for what is no snapshot of this version."""
    return render_explained(_explained(turn, guest), width)


def as_json(turn: Any, guest: str | None) -> str:
    """For programs. Raises as `as_text`."""
    return json.dumps(dataclasses.asdict(_explained(turn, guest)), indent=2)


def _explained(turn: Any, guest: str | None) -> Explained:
    return explain(snapshot_from_json(turn["snapshot"]), guest, turn.get("decision"))


def save(turn: Any, path: str) -> None:
    """Raises PortError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(turn, file, separators=(",", ":"))
            file.write("\n")
    except OSError as error:
        raise PortError(f"{path}: {error.strerror}") from error


def saved(path: str) -> Any:
    """What `save` wrote. Raises PortError."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise PortError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PortError(f"{path}: is no JSON, so it was not written by `ballonet explain --save`") from error
    if not isinstance(value, dict) or "snapshot" not in value:
        raise PortError(f"{path}: holds no snapshot; `ballonet explain --save` writes one")
    return value


def recorded(path: str, at: str | None) -> tuple[Any, str]:
    """The turn in force at `at`, the last one without it; and for people which one it is and what is damaged. Raises
    PortError, ValueError."""
    reading = read_recording(path)
    found: Entry | None = None
    until_unix_s = float("inf")
    for entry in reading:
        if entry.kind != "turn" or not isinstance(entry.value, dict) or "snapshot" not in entry.value:
            continue
        if found is None and at is not None:
            until_unix_s = parse_time_unix_s(at, entry.unix_s)
            if until_unix_s <= entry.unix_s - 1:
                raise ValueError(f"the recording begins at {moment(entry.unix_s)}, after {at}")
        if found is not None and entry.unix_s > until_unix_s:
            break
        found = entry
    damage = f"; {reading.lost}" if reading.lost else ""
    if found is None:
        raise PortError(f"{path}: holds no turn{damage}")
    return found.value, f"as of {moment(found.unix_s)}{damage}"


def moment(unix_s: float) -> str:
    """Local time for people, with its zone's offset."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).astimezone().isoformat(" ", "seconds")
