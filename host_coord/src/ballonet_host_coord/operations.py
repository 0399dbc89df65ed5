"""What an operator can ask of the running coordinator: one method for each operation of the control socket.

Each raises LookupError or ValueError with a text for the operator, and changes nothing then. What has been done and
cannot be kept (a full disk) is said in the answer as `not_saved`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from .choices import Choices
from .control import NoRoom
from .plain_text import shell_word
from .ports import PortError
from .reservations import (
    DEFAULT_HOLD_S,
    LONGEST_HOLD_S,
    LONGEST_TIMEOUT_S,
    PENDING_MOST,
    Reservation,
    free_kib,
    is_there,
    refusal,
)
from .settings_values import DEFAULT_KEYS, Wrong, as_toml, from_text
from .snapshot import decision_to_json, snapshot_to_json
from .summary import summarise

if TYPE_CHECKING:
    from .coordinator import Coordinator

log = logging.getLogger("ballonet")

SETTABLE = tuple(DEFAULT_KEYS)


class Operations:
    """The operator's side of one coordinator."""

    def __init__(self, coordinator: Coordinator, choices: Choices) -> None:
        self._coordinator = coordinator
        self._choices = choices
        self._not_kept = ""
        """Why what is held would not outlive the coordinator."""

    async def handle(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket."""
        handlers: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "snapshot": self._snapshot,
            "release": self._release,
            "pause": self._pause,
            "resume": self._resume,
            "set": self._set,
            "reserve": self._reserve,
            "reservation": self._reservation,
            "unreserve": self._unreserve,
        }
        handler = handlers.get(operation)
        if handler is None:
            raise ValueError(f"unknown operation {operation!r}; known: {', '.join(handlers)}")
        try:
            return await handler(arguments)
        except PortError as error:
            log.error("%s", error)
            raise ValueError(str(error)) from error

    async def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        coordinator = self._coordinator
        snapshot, decision = coordinator.last_turn()
        details = {attendant.record.name: attendant.record.said for attendant in coordinator.guests}
        answer = summarise(snapshot, decision, details, coordinator.alarm)
        answer["host"]["settings_fault"] = coordinator.settings_fault
        answer["host"]["discovery_fault"] = coordinator.discovery_fault
        return answer

    async def _snapshot(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The last turn as it is recorded. Who asks explains it in a process of their own: what would change a target
        is some fifty decisions for each guest, and no decision here waits for them."""
        snapshot, decision = self._coordinator.last_turn()

        def values() -> dict[str, Any]:
            return {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}

        # Immutable values, so a thread may read them: 75 ms for a thousand guests.
        return await trio.to_thread.run_sync(values)

    async def _release(self, arguments: dict[str, Any]) -> dict[str, Any]:
        coordinator = self._coordinator
        if coordinator.observe:
            raise ValueError("observing: nothing is moved, so nothing can be released")
        force = bool(arguments.get("force"))
        names = self._names(arguments)
        for name in names:
            record = coordinator.guests[name].record
            record.released, record.paused, record.yielded = True, False, ""
            if force and (command := coordinator.ledger.force(name, record.vm)):
                coordinator.guests[name].order(command)
        coordinator.turn(coordinator.now())
        answers = []
        for name in names:
            vm = coordinator.guests[name].record.vm
            granted_kib = min(coordinator.ledger.target_kib(name) or vm.actual_kib, vm.ram_kib)
            missing_kib = vm.ram_kib - granted_kib
            answers.append(
                {"name": name, "ram_kib": vm.ram_kib, "granted_kib": granted_kib, "missing_kib": missing_kib}
            )
        return {"guests": answers, **self._marked(names, released=True, paused=False)}

    async def _pause(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Leave guests at the size that they have; they stay booked with it."""
        names = self._names(arguments)
        for name in names:
            record = self._coordinator.guests[name].record
            record.paused, record.released, record.yielded = True, False, ""
        self._coordinator.wake()
        return {"names": names, **self._marked(names, released=False, paused=True)}

    async def _resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        names = self._names(arguments)
        for name in names:
            record = self._coordinator.guests[name].record
            record.paused = record.released = False
            record.yielded = ""
        self._coordinator.wake()
        return {"names": names, **self._marked(names, released=False, paused=False)}

    async def _set(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Change a guest's settings: `values` is key -> text, `reset` forgets all that were set before."""
        name = self._known(arguments)
        texts, persist = arguments.get("values", {}), bool(arguments.get("persist"))
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("values: an object of texts is expected")
        for key, text in texts.items():
            try:
                from_text(DEFAULT_KEYS, key, text)
            except Wrong as wrong:
                raise ValueError(f"{key} = {as_toml(text)}: {wrong}") from wrong
        guests, reset = self._coordinator.guests, bool(arguments.get("reset"))
        given = {DEFAULT_KEYS[key][0]: from_text(DEFAULT_KEYS, key, text) for key, text in texts.items()}
        before = {} if reset else self._choices.values_for(name)
        if texts and (notes := guests.would_say(name, {**before, **given})):
            raise ValueError("; ".join(notes))
        if texts or reset:
            try:
                self._choices.set(name, texts, persist, reset)
            except PortError as error:
                log.error("%s", error)
                raise ValueError(f"nothing was changed: {error}") from error
        guests.refresh(name)
        self._coordinator.wake()
        settings = guests[name].record.settings
        shown = {key: getattr(settings, attribute) for key, (attribute, _) in DEFAULT_KEYS.items()}
        return {"name": name, "settings": shown, "set": self._choices.texts_for(name)}

    # --- room for a machine that is about to start --------------------------------------------------------

    async def _reserve(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Begin to make room: `guest` (no guest yet), `size` and `weight` as in the settings, `timeout_s`, `hold_s`;
        `settled`, where it boots with less than its size, is what it will have then."""
        coordinator = self._coordinator
        if coordinator.observe:
            raise ValueError("observing: nothing is moved, so no room can be made")
        name = arguments.get("guest")
        if not isinstance(name, str) or not name:  # any that libvirt gives a domain
            raise ValueError(f"guest = {as_toml(name)}: allowed is the machine's name")
        try:
            size_kib = from_text(DEFAULT_KEYS, "maximum", str(arguments.get("size")))
            settled_kib = from_text(DEFAULT_KEYS, "maximum", str(arguments.get("settled", arguments.get("size"))))
            weight = from_text(DEFAULT_KEYS, "weight", str(arguments.get("weight", 5000)))
        except Wrong as wrong:
            raise ValueError(f"size, settled or weight: {wrong}") from wrong
        timeout_s = _seconds(arguments, "timeout_s", 30.0, LONGEST_TIMEOUT_S)
        hold_s = _seconds(arguments, "hold_s", DEFAULT_HOLD_S, LONGEST_HOLD_S)
        reservations = coordinator.reservations
        if len(list(reservations)) >= PENDING_MOST:
            raise ValueError(f"{PENDING_MOST} reservations wait already")
        now_s = coordinator.now()
        settled_kib = min(size_kib, settled_kib)
        wanted = Reservation(name, size_kib, weight, now_s, timeout_s, hold_s, settled_kib=settled_kib)
        if name in coordinator.guests and is_there(coordinator.guests[name].record.snapshot(now_s)):
            raise ValueError(f"{name} is there already, and booked")
        coordinator.turn(now_s)
        snapshot, _ = coordinator.last_turn()
        # What stands for it already is kept until the new one stands in its place.
        in_the_end = replace(snapshot.host, reserved_kib=reservations.settled_kib(name))
        if refused := refusal(replace(snapshot, host=in_the_end), wanted):
            raise NoRoom(refused)
        if reservations.ask(wanted):
            self._keep_reservations()
        coordinator.turn(now_s)
        return self._state_of(name)

    async def _reservation(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._state_of(str(arguments.get("guest")))

    async def _unreserve(self, arguments: dict[str, Any]) -> dict[str, Any]:
        dropped = self._coordinator.reservations.drop(str(arguments.get("guest")))
        if dropped is not None and dropped.is_held:
            self._keep_reservations()
        self._coordinator.wake()
        return {"dropped_kib": dropped.size_kib if dropped else 0}

    def _state_of(self, name: str) -> dict[str, Any]:
        snapshot, _ = self._coordinator.last_turn()
        reservation = self._coordinator.reservations.get(name)
        if reservation is None:
            return {"name": name, "state": "none", "free_kib": max(0, free_kib(snapshot))}
        return {
            "name": name,
            "state": "held" if reservation.is_held else "pending",
            "size_kib": reservation.size_kib,
            "hold_s": reservation.hold_s,
            "free_kib": max(0, free_kib(snapshot)),
            **({"not_saved": self._not_kept} if self._not_kept else {}),
        }

    def _keep_reservations(self) -> None:
        coordinator = self._coordinator
        try:
            self._choices.keep_reservations(coordinator.reservations, coordinator.now(), time.time())
            self._not_kept = ""
        except PortError as error:
            log.error("%s", error)
            self._not_kept = str(error)

    def reservation_changed(self, changed: Reservation) -> None:
        """One is held now, or has ended: written down before anybody is told."""
        self._keep_reservations()
        size = f"{changed.size_kib // 1024} MiB"
        if self._coordinator.reservations.get(changed.name) is changed:
            log.info("%s: %s are held for it", changed.name, size)
        elif changed.is_held:
            log.info("%s: %s are held no more", changed.name, size)
        else:
            log.warning("%s: %s could not be freed in %.0f s", changed.name, size, changed.timeout_s)

    # --- another mover ------------------------------------------------------------------------------------

    def give_way(self, name: str, size_kib: int) -> None:
        """Another mover has set this size: said once, and the guest is left alone from now on."""
        at = time.strftime("%Y-%m-%d %H:%M")
        why = f"another mover set it to {size_kib // 1024} MiB at {at}: given way to until `{resume_command(name)}`"
        self._coordinator.guests[name].record.yielded = why
        log.warning("%s: %s", name, why)
        try:
            self._choices.give_way(name, why)
        except PortError as error:
            log.error("%s: this will not outlive a restart: %s", name, error)

    # --- inside ------------------------------------------------------------------------------------------

    def _marked(self, names: list[str], **marks: bool) -> dict[str, Any]:
        """What the operator wants has been done; where it will not outlive a restart that is said."""
        try:
            self._choices.mark(names, {**marks, "yielded": False})
        except PortError as error:
            log.error("%s", error)
            return {"not_saved": str(error)}
        return {}

    def _names(self, arguments: dict[str, Any]) -> list[str]:
        return list(self._coordinator.guests.names) if arguments.get("all") else [self._known(arguments)]

    def _known(self, arguments: dict[str, Any]) -> str:
        name, guests = arguments.get("guest"), self._coordinator.guests
        if not isinstance(name, str) or name not in guests:
            raise LookupError(f"no guest {name!r}; known: {', '.join(guests.names) or 'none'}")
        return name


def resume_command(name: str) -> str:
    """As it is typed into a shell."""
    return f"ballonet resume {shell_word(name)}"


def _seconds(arguments: dict[str, Any], name: str, default: float, most: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ValueError(f"{name} = {value!r}: allowed is a number of seconds up to {most:.0f}")
    return float(value)
