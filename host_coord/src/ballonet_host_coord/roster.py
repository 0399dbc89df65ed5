"""Who is a guest now: those that the settings name, and those that the hypervisor brings and takes away.

The roster holds one attendant for each and a scope to end it by. A machine that discovery no longer lists is let go
only when its attendant has seen that it is gone: until then it may hold memory, and stays in the books (I1). So does
one that the settings leave to others from now on, and one that cannot be read: they are left alone meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import trio

from .attendant import Attendant
from .guest_rules import amended, sane_policy, settings_for
from .guests import GuestRecord
from .model import Domain, GuestRules, GuestSettings, RunState
from .ports import PortError

log = logging.getLogger("ballonet")

MakeAttendant = Callable[[GuestSettings], Attendant]


class Roster:
    """`named` and `found` bring it up to date; each new attendant runs in the nursery that `attend_in` was given."""

    def __init__(
        self,
        make: MakeAttendant,
        rules: GuestRules,
        changed: Callable[[str], Mapping[str, Any]],
        recall: Callable[[GuestRecord], None] = lambda record: None,
        gone: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`changed` is what an operator has set for a guest beyond files and metadata: attribute -> value. `recall`
        gives a new record what else the operator has chosen. Both may raise PortError, and are asked again then. `gone`
        is told of each domain that nobody attends to any more."""
        self._make = make
        self._rules = rules
        self._changed = changed
        self._recall = recall
        self._gone = gone
        self._attendants: dict[str, Attendant] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._named: dict[str, GuestSettings] = {}
        self._domains: dict[str, Domain] = {}
        self._policies: dict[str, dict[str, str]] = {}
        """What each domain's metadata said last that could be taken."""
        self._faults: dict[str, str] = {}
        """Why a domain could not be read when it was last to be; what was read before is in `_domains`."""
        self._foreign: set[str] = set()
        """Domains that the settings name no longer."""
        self._last: dict[str, Mapping[str, Any]] = {}
        """What `changed` said last of each guest that has been recalled."""
        self._unread: dict[str, str] = {}
        """Why it cannot be told what an operator has chosen for a guest."""
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

    def found(self, domains: Iterable[Domain], ours: Callable[[str], bool] = lambda name: True) -> None:
        """Every domain that runs now, as discovery says. Who is not `ours` by the settings is left alone where we have
        moved its memory before, and none of our business otherwise."""
        now = {domain.name: domain for domain in domains}
        for name in self._domains:
            if name not in now and name not in self._leaving:
                self._leaving.add(name)
        for name, domain in now.items():
            known = self._domains.get(name)
            if not ours(name) and known is None:
                continue
            if name in self._attendants and name not in self._domains:
                if self._attendants[name].record.notes != (NAMED_TWICE,):
                    log.warning("%s: %s", name, NAMED_TWICE)
                    self._attendants[name].record.notes = (NAMED_TWICE,)
                continue
            self._leaving.discard(name)
            if ours(name):
                self._foreign.discard(name)
            else:
                self._foreign.add(name)
            self._faults[name] = domain.fault
            same = known is not None and known.uuid == domain.uuid
            before = self._policies.get(name, {}) if same else {}
            # One that cannot be read just now has said nothing new.
            self._policies[name] = before if domain.fault else sane_policy(domain, before)
            if not (domain.fault and same):
                self._domains[name] = domain
            self.refresh(name)
        self.let_go()

    @property
    def unsettled(self) -> bool:
        """Whether a domain could not be read: discovery is to look again soon."""
        return any(self._faults.values())

    def ruled(self, rules: GuestRules) -> None:
        """The files say something else."""
        self._rules = rules
        for name in list(self._domains):
            self.refresh(name)

    def refresh(self, name: str) -> None:
        """What an operator has set for this guest is another now."""
        changed, fault = self._last.get(name, {}), ""
        try:
            changed = self._changed(name)
        except PortError as error:
            fault = f"{UNREAD}: {error}"
        settings, notes = self._settled(name, changed)
        attendant = self._attendant(settings)
        try:
            if not fault and name not in self._last:
                self._recall(attendant.record)
        except PortError as error:
            fault = f"{UNREAD}: {error}"
        if fault:
            self._unread[name] = fault
        else:
            self._unread.pop(name, None)
            self._last[name] = changed
        self._take(attendant, settings, [*notes, fault] if fault else notes)
        attendant.leave_alone(self._why_alone(name))

    def read_again(self) -> None:
        """Ask again for what could not be read of an operator's choices."""
        for name in list(self._unread):
            self.refresh(name)

    def _why_alone(self, name: str) -> str:
        if name in self._foreign:
            return NOT_OURS
        if name in self._unread and name not in self._last:
            return self._unread[name]
        return domain.fault if (domain := self._domains.get(name)) else ""

    def would_say(self, name: str, changed: Mapping[str, Any]) -> list[str]:
        """What would not fit if this were set for the guest, beside what does not now: one sentence for each value.
        Raises KeyError."""
        now = self._attendants[name].record.notes
        return [note for note in self._settled(name, changed)[1] if note not in now]

    def _settled(self, name: str, changed: Mapping[str, Any]) -> tuple[GuestSettings, list[str]]:
        if domain := self._domains.get(name):
            settings, notes = settings_for(self._rules, domain, changed, self._policies.get(name))
            if (fault := self._faults.get(name)) and not domain.fault:
                notes = [*notes, f"{fault}; its settings are those from before"]
            return settings, notes
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

    def _attendant(self, settings: GuestSettings) -> Attendant:
        attendant = self._attendants.get(settings.name)
        if attendant is None:
            self._attendants[settings.name] = attendant = self._make(settings)
            self._start(settings.name)
        return attendant

    def _take(self, attendant: Attendant, settings: GuestSettings, notes: list[str]) -> None:
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
        self._foreign.discard(name)
        for known in (self._faults, self._last, self._unread):
            known.pop(name, None)
        if scope := self._scopes.pop(name, None):
            scope.cancel()
        log.info("%s: is no guest of ours any more", name)


def _sockets(guest: GuestSettings) -> tuple[str, str]:
    return guest.qmp_path, guest.channel_path


UNREAD = "what was chosen for it at run time cannot be read"
NOT_OURS = "not ours by the settings any more"
NAMED_TWICE = "a libvirt domain has this name too; the guest with the QMP socket is meant"
