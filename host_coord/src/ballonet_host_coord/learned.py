"""What a guest's reports have taught that a restart would lose: what it held, and how much of its cache it keeps using.

Both fade over minutes and are learned in minutes, so they are kept for so long: of the same boot, and by their age.
Everything else that a coordinator knows of a guest is read anew within seconds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

KEEP_EVERY_S = 60.0
"""One write for all guests, which waits for the disk. Who is killed loses the last minute."""
LONGEST_AWAY_S = 600.0
"""A coordinator that was away for longer begins anew."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Of one guest's boot, at the coordinator's time `at_s`."""

    boot_id: bytes
    at_s: float
    held_kib: float
    cache_kept_ratio: float


def to_row(name: str, learned: Learned, now_s: float, now_unix_s: float) -> list[object]:
    """Plain JSON; the coordinator's clock begins anew with it, so the moment is kept by the calendar's."""
    at_unix_s = now_unix_s - (now_s - learned.at_s)
    return [name, learned.boot_id.hex(), at_unix_s, learned.held_kib, learned.cache_kept_ratio]


def from_rows(kept: object, now_s: float, now_unix_s: float) -> dict[str, Learned]:
    """Guest -> what is kept of it and is young enough. What is no such row is left out: it is learned again."""
    found = {}
    for row in kept if isinstance(kept, list) else ():
        if not isinstance(row, list) or len(row) != 5 or not (isinstance(row[0], str) and isinstance(row[1], str)):
            continue
        name, boot_id, *numbers = row
        if not _are_numbers(numbers):
            continue
        at_unix_s, held_kib, cache_kept_ratio = numbers
        away_s = now_unix_s - at_unix_s
        try:
            boot = bytes.fromhex(boot_id)
        except ValueError:
            continue
        if boot and 0 <= away_s <= LONGEST_AWAY_S and held_kib >= 0 and 0 <= cache_kept_ratio <= 1:
            found[name] = Learned(boot, now_s - away_s, float(held_kib), float(cache_kept_ratio))
    return found


def _are_numbers(values: Iterable[object]) -> bool:
    return all(type(value) in (int, float) and isfinite(value) for value in values)  # type: ignore[arg-type]
