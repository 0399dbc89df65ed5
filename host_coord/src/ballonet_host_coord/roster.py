"""Who is a guest now: those that the settings name, and those that the hypervisor brings and takes away.

The roster holds one attendant for each and a scope to end it by. A machine that discovery no longer lists is let go
only when its attendant has seen that it is gone: until then it may hold memory, and stays in the books (I1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import trio

from .attendant import Attendant
from .guest_rules import amended, sane_policy, settings_for
from .model import Domain, GuestRules, GuestSettings, RunState

log = logging.getLogger("ballonet")

MakeAttendant = Callable[[GuestSettings], Attendant]


class Roster:
    """`named` and `found` bring it up to date; each new attendant runs in the nursery that `attend_in` was given."""

    def __init__(
        self,
        make: MakeAttendant,
        rules: GuestRules,
        changed: Callable[[str], Mapping[str, Any]],
        gone: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`changed` is what an operator has set for a guest beyond files and metadata: attribute -> value. `gone` is
        told of each domain that nobody attends to any more."""
        self._make = make
        self._rules = rules
        self._changed = changed
        self._gone = gone
        self._attendants: dict[str, Attendant] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._named: dict[str, GuestSettings] = {}
        self._domains: dict[str, Domain] = {}
        self._policies: dict[str, dict[str, str]] = {}
        """What each domain's metadata said last that could be taken."""
        self._leaving: set[str] = set()
        self._nursery: trio.Nursery | None = None

    def __iter__(self) -> Iterator[Attendant]:
        return iter(self._attendants.values())

    def __len__(self) -> int:
        return len(self._attendants)

    def __contains__(self, name: object) -> bool:
        return name in self._attendants

    def __getitem__(self, name: str) -> Attendant:
        """Raises KeyError."""
        return self._attendants[name]

    def get(self, name: str) -> Attendant | None:
        return self._attendants.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._attendants)

    # --- who comes and goes ------------------------------------------------------------------------------

    def named(self, guests: Iterable[GuestSettings]) -> None:
        """The guests that the settings name by their sockets, at start or after a change of the files."""
        before, wanted = self._named, {guest.name: guest for guest in guests}
        for name, guest in before.items():
            if name not in wanted or _sockets(wanted[name]) != _sockets(guest):
                self._end(name)
        self._named = wanted
        for name in wanted:
            if self._domains.pop(name, None) is not None:  # reached another way from now on
                self._policies.pop(name, None)
                self._leaving.discard(name)
                self._end(name)
            self.refresh(name)

    def found(self, domains: Iterable[Domain]) -> None:
        """Every domain that runs now, as discovery says."""
        now = {domain.name: domain for domain in domains}
        for name in self._domains:
            if name not in now and name not in self._leaving:
                self._leaving.add(name)
        for name, domain in now.items():
            if name in self._attendants and name not in self._domains:
                if self._attendants[name].record.notes != (NAMED_TWICE,):
                    log.warning("%s: %s", name, NAMED_TWICE)
                    self._attendants[name].record.notes = (NAMED_TWICE,)
                continue
            self._leaving.discard(name)
            known = self._domains.get(name)
            before = self._policies.get(name, {}) if known is not None and known.uuid == domain.uuid else {}
            self._domains[name] = domain
            # One that cannot be read just now has said nothing new.
            self._policies[name] = before if domain.fault else sane_policy(domain, before)
            self.refresh(name)
        self.let_go()

    def ruled(self, rules: GuestRules) -> None:
        """The files say something else."""
        self._rules = rules
        for name in list(self._domains):
            self.refresh(name)

    def refresh(self, name: str) -> None:
        """What an operator has set for this guest is another now."""
        self._take(*self._settled(name, self._changed(name)))

    def would_say(self, name: str, changed: Mapping[str, Any]) -> list[str]:
        """What would not fit if this were set for the guest, beside what does not now: one sentence for each value.
        Raises KeyError."""
        now = self._attendants[name].record.notes
        return [note for note in self._settled(name, changed)[1] if note not in now]

    def _settled(self, name: str, changed: Mapping[str, Any]) -> tuple[GuestSettings, list[str]]:
        if domain := self._domains.get(name):
            return settings_for(self._rules, domain, changed, self._policies.get(name))
        return amended(self._named[name], changed)

    def let_go(self) -> None:
        """End the attendants of machines that have left and hold nothing any more."""
        for name in list(self._leaving):
            if self._attendants[name].record.vm.run_state is RunState.ABSENT:
                self._leaving.discard(name)
                self._domains.pop(name)
                self._policies.pop(name, None)
                self._end(name)
                self._gone(name)

    # --- their tasks -------------------------------------------------------------------------------------

    def attend_in(self, nursery: trio.Nursery) -> None:
        """From now on attendants run, those that are there and those to come."""
        self._nursery = nursery
        for name in self._attendants:
            self._start(name)

    def _take(self, settings: GuestSettings, notes: list[str]) -> None:
        attendant = self._attendants.get(settings.name)
        if attendant is None:
            self._attendants[settings.name] = attendant = self._make(settings)
            self._start(settings.name)
        for note in notes:
            if note not in attendant.record.notes:
                log.warning("%s: %s", settings.name, note)
        attendant.record.settings = settings
        attendant.record.notes = tuple(notes)

    def _start(self, name: str) -> None:
        if self._nursery is None:
            return
        scope = self._scopes[name] = trio.CancelScope()
        attendant = self._attendants[name]

        async def run() -> None:
            with scope:
                await attendant.run()

        self._nursery.start_soon(run)

    def _end(self, name: str) -> None:
        attendant = self._attendants.pop(name)
        attendant.record.dismissed()
        if scope := self._scopes.pop(name, None):
            scope.cancel()
        log.info("%s: is no guest of ours any more", name)


def _sockets(guest: GuestSettings) -> tuple[str, str]:
    return guest.qmp_path, guest.channel_path


NAMED_TWICE = "a libvirt domain has this name too; the guest with the QMP socket is meant"
