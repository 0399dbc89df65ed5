"""What an operator has chosen for single guests at run time, and what of it outlives the service.

`release` and `pause` are kept until `resume`, and so is that another mover is given way to; settings only where
`--persist` was said. What was confirmed as kept is on the disk (state_store.py): a coordinator that is killed comes
back with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from .learned import Learned, from_rows, to_row
from .ports import PortError, StateStore
from .reservations import LONGEST_HOLD_S, Reservation
from .settings_values import DEFAULT_KEYS, Wrong, from_text

log = logging.getLogger("ballonet")


class Choices:
    """By the guest's name; a guest need not be there. Raises PortError where the store cannot be read or written."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._texts: dict[str, dict[str, str]] = {}
        """Of this run: key of the settings -> its text."""
        self._learned_fault = ""
        self._known: dict[str, dict[str, str]] = {}
        """The kept ones, as the store has them: a disk that fails later takes none away from a guest that runs."""

    def is_released(self, name: str) -> bool:
        return bool(self._state.get(f"released:{name}"))

    def is_paused(self, name: str) -> bool:
        return bool(self._state.get(f"paused:{name}"))

    def yielded(self, name: str) -> str:
        """What another mover did that is given way to; empty where nobody is."""
        kept = self._state.get(f"yielded:{name}")
        return kept if isinstance(kept, str) else ""

    def give_way(self, name: str, why: str) -> None:
        """Until `resume`."""
        self._state.put(f"yielded:{name}", why)

    def limited(self) -> dict[str, str]:
        """Guest -> the cgroup whose limit we have set, in this run or an earlier one."""
        kept = self._state.get("limited")
        return {str(name): str(folder) for name, folder in kept.items()} if isinstance(kept, dict) else {}

    def keep_limited(self, name: str, folder: str) -> None:
        """Before its limit is set; an empty folder when it was taken away again."""
        kept = {**self.limited(), name: folder}
        self._state.put("limited", {guest: where for guest, where in kept.items() if where})

    def texts_for(self, name: str) -> dict[str, str]:
        """Key of the settings -> text, kept ones and those of this run."""
        return {**self._kept(name), **self._texts.get(name, {})}

    def values_for(self, name: str) -> Mapping[str, Any]:
        """Attribute of GuestSettings -> value. What an older version kept and this one does not allow is left out.
        Raises PortError where the store does not answer and has not before."""
        values = {}
        for key, text in self.texts_for(name).items():
            try:
                values[DEFAULT_KEYS[key][0]] = from_text(DEFAULT_KEYS, key, text)
            except (KeyError, Wrong) as wrong:
                log.warning("%s: what was set at run time, %s = %r, is not allowed: %s", name, key, text, wrong)
        return values

    def set(self, name: str, texts: Mapping[str, str], persist: bool, reset: bool = False) -> None:
        """Take more of them; with `persist` for as long as the store lasts, with `reset` in place of all before. One
        write at most: where it fails, everything is as it was."""
        kept = {} if reset else dict(self._kept(name))
        if persist:
            kept.update(texts)
        if persist and kept:
            self._state.put(f"settings:{name}", kept)
        elif persist or reset:
            self._state.delete(f"settings:{name}")
        self._known[name] = kept
        run = {} if reset else self._texts.get(name, {})
        if persist:
            self._texts[name] = {key: text for key, text in run.items() if key not in texts}
        else:
            self._texts[name] = {**run, **texts}

    def mark(self, names: Iterable[str], marks: Mapping[str, bool]) -> None:
        """"released", "paused" or, to end it, "yielded" -> whether from now on, for all these guests or for none."""
        self._state.change({f"{what}:{name}": True if on else None for name in names for what, on in marks.items()})

    def keep_learned(self, learned: Mapping[str, Learned], now_s: float, now_unix_s: float) -> None:
        """Where it cannot be kept that is said, once, and nobody is kept from anything."""
        fault = ""
        try:
            if learned or self._state.get("learned"):
                self._state.put("learned", [to_row(name, what, now_s, now_unix_s) for name, what in learned.items()])
        except PortError as error:
            fault = str(error)
            if fault != self._learned_fault:
                log.warning("what is learned of guests will not outlive a restart: %s", fault)
        self._learned_fault = fault

    def kept_learned(self, now_s: float, now_unix_s: float) -> dict[str, Learned]:
        """What cannot be read is learned anew."""
        try:
            return from_rows(self._state.get("learned"), now_s, now_unix_s)
        except PortError as error:
            log.warning("what was learned of guests is learned anew: %s", error)
            return {}

    def keep_reservations(self, held: Iterable[Reservation], now_s: float, now_unix_s: float) -> None:
        """Write down what is held; the coordinator's clock begins anew with it, so ends are kept by the calendar's."""
        kept = []
        for item in held:
            if item.held_since_s is not None:
                ends_unix_s = now_unix_s + item.held_since_s + item.hold_s - now_s
                kept.append([item.name, item.size_kib, item.weight, ends_unix_s])
        self._state.put("reservations", kept)

    def kept_reservations(self, now_s: float, now_unix_s: float) -> list[Reservation]:
        """What was held when the coordinator ended, for as long as is left of it: at most as long as one may be held,
        however the calendar was set meanwhile. What cannot be read is said, and not held."""
        found = []
        try:
            kept = self._state.get("reservations")
        except PortError as error:
            log.error("reservations of before are not held: %s", error)
            return []
        for row in kept if isinstance(kept, list) else [kept] if kept is not None else []:
            if not _is_reservation(row):
                log.error("a reservation of before is not held, the state store has %r for it", row)
                continue
            name, size_kib, weight, ends_unix_s = row
            left_s = min(ends_unix_s - now_unix_s, LONGEST_HOLD_S)
            if left_s > 0:
                found.append(Reservation(name, size_kib, weight, now_s, 0.0, left_s, held_since_s=now_s))
        return found

    def _kept(self, name: str) -> dict[str, str]:
        if name not in self._known:
            kept = self._state.get(f"settings:{name}")
            texts = {str(key): str(text) for key, text in kept.items()} if isinstance(kept, dict) else {}
            self._known[name] = texts
        return self._known[name]


def _is_reservation(row: object) -> bool:
    """Whether it has name, KiB, weight and end, as `keep_reservations` writes them."""
    if not isinstance(row, list) or [type(value) for value in row[:3]] != [str, int, int] or len(row) != 4:
        return False
    name, size_kib, weight, ends_unix_s = row
    return bool(name) and size_kib > 0 and weight > 0 and type(ends_unix_s) in (int, float)
