"""The service's frame: one task per guest that gathers facts, one loop that decides, one place that acts.

Everything that can hang belongs to one guest and runs in that guest's own tasks: its hypervisor connection, its events,
its channel, the execution of its commands. The deciding loop never waits for any of them; it reads records, decides
in pure code and drops commands into per-guest queues. So a guest that dies, hangs or floods delays nobody else.

The loop turns once a second, and at once when a guest is short (DEMAND), when it answers a request, or while a move is
under way. Between facts and commands lies one call: `Snapshot -> one_iteration -> Ledger.step`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import trio

from . import refilled
from .arbiter import one_iteration
from .attendant import Attendant, describe
from .booking import headroom_kib
from .budget import BudgetWatch, budget_parts, watch_budget
from .choices import Choices
from .control import Handler
from .guests import GuestRecord
from .host_state import HostWatch, watch_host
from .learned import KEEP_EVERY_S
from .ledger import Ledger
from .limiting import GuestLimit, lift
from .model import (
    Command,
    Decision,
    Domain,
    GuestSettings,
    GuestSnapshot,
    HostFacts,
    HostSnapshot,
    Residency,
    RunState,
    Settings,
    Snapshot,
)
from .operations import Operations
from .overdraft import OverdraftWatch
from .ports import Clock, Discovery, HostMemory, Hypervisor, MemoryLimits, PortError, Recorder, StateStore
from .reservations import Reservations, unlisted_kib
from .roster import Roster
from .session import AgentSession, Randomness
from .slider import tuning
from .snapshot import decision_to_json, snapshot_to_json

log = logging.getLogger("ballonet")

_T = TypeVar("_T")

DECIDE_EVERY_S = 1.0
DISCOVER_AGAIN_S = 2.0
READ_AGAIN_S = 10.0
"""A state store that does not answer is asked again then; it may take two seconds each time."""
STOP_WITHIN_S = 5.0
"""What a clean stop may take that deflates; who has not answered by then keeps its size."""
SURVEY_EVERY_S = 5.0
"""How often it is looked who else holds the host's memory; a budget that was set is only checked by it."""
SURVEY_RARELY_S = 30.0
SURVEY_APART_S = 1.0
DECIDE_APART_S = 0.05
"""Wake-ups closer than this share a turn, except for a DEMAND."""
DECIDE_SHARE = 0.2
"""Of the loop's time, at the most, goes into turns that nobody asked for with a DEMAND: with very many guests some
move at any time, and each would have a turn for each of its reports."""


class Coordinator:
    """Arbitrates between the guests of one host until cancelled or stopped."""

    def __init__(
        self,
        settings: Settings,
        hypervisor: Hypervisor,
        host_memory: HostMemory,
        clock: Clock,
        recorder: Recorder | None,
        state: StateStore,
        randomness: Randomness,
        observe: bool = False,
        discovery: Discovery | None = None,
        limits: MemoryLimits | None = None,
    ) -> None:
        """`observe`: move nothing, whatever the settings say."""
        self.settings = settings
        self._only_observe = observe
        self.ledger = Ledger()
        self.snapshot: Snapshot | None = None
        self.decision: Decision | None = None
        self._listed = discovery is None
        """Discovery has answered once: from then on the domains are guests."""
        self.discovery_fault = "" if self._listed else "it has not answered yet"
        """Why libvirt's domains cannot be listed now; empty where they can, or nobody asks."""
        self.settings_fault = ""
        """Why the files were not taken when they were last to be read again; those before are in force."""
        self.moving = 0
        """How many guests were on their way at the last turn."""
        self.on_turn: Callable[[Snapshot, Decision, list[Command]], None] | None = None
        """Called after each turn with what was known, decided and ordered; for the demo's table and for tests."""
        self._host_memory = host_memory
        self.clock = clock
        self._recorder = recorder
        self._wake = trio.Event()
        self._urgent = False
        self._overdraft = OverdraftWatch()
        self._host_watch = HostWatch()
        self._refilled: set[str] = set()
        """Guests that were said to reside above their balloon's size."""
        self._budget_watch = BudgetWatch()
        self._surveyed = False
        """Somebody has looked, or nobody can."""
        self._survey_now = trio.Event()
        self._hypervisor = hypervisor
        self._limits = limits
        self._discovery = discovery
        self._randomness = randomness
        self._choices = Choices(state)
        self.reservations = Reservations(self._choices.kept_reservations(clock.now(), time.time()))
        self._learned = self._choices.kept_learned(clock.now(), time.time())
        forget = discovery.forget if discovery is not None else lambda name: None
        self._domains: tuple[Domain, ...] = ()
        self._state_fault = ""
        self._state_again_s = float("-inf")
        self.guests = Roster(self._attendant, settings.rules, self._values_for, self._recall, forget)
        self._operations = Operations(self, self._choices)
        self.guests.named(settings.guests)

    def _attendant(self, guest: GuestSettings) -> Attendant:
        host = self.settings.host
        record = GuestRecord(guest, AgentSession(self._randomness, host.report_ms), self.ledger, self.observe)
        record.tuned = tuning(host.slider)
        record.demand_model = host.demand_model
        record.learned = self._learned.pop(guest.name, None)
        where = self._hypervisor if guest.qmp_path or self._discovery is None else self._discovery
        limit = GuestLimit(guest.name, self._limits, self._choices) if self._limits is not None else None
        return Attendant(record, where.vm(guest.name), self, limit)

    def _values_for(self, name: str) -> Mapping[str, Any]:
        """What the operator has set for a guest. Raises PortError."""
        return self._read(lambda: self._choices.values_for(name))

    def _recall(self, record: GuestRecord) -> None:
        """What else the operator chose for a guest that is new to us. Raises PortError."""
        name, choices = record.name, self._choices
        released, paused, yielded = self._read(
            lambda: (choices.is_released(name), choices.is_paused(name), choices.yielded(name))
        )
        record.released = record.released or released
        record.paused = record.paused or paused
        record.yielded = record.yielded or yielded

    def _read(self, ask: Callable[[], _T]) -> _T:
        """Raises PortError; at once where the store has just failed, since hundreds of guests may be asked about."""
        if self.clock.now() < self._state_again_s:
            raise PortError(self._state_fault)
        try:
            return ask()
        except PortError as error:
            self._state_fault, self._state_again_s = str(error), self.clock.now() + READ_AGAIN_S
            raise

    @property
    def observe(self) -> bool:
        """Whether everything is decided and nothing moved: by the settings, or since it was started so."""
        return self._only_observe or self.settings.host.observe

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then apply the stop policy."""
        if self._limits is not None:
            await lift(self._limits, self._choices)
        try:
            async with trio.open_nursery() as nursery:
                self.guests.attend_in(nursery)
                if self._discovery is not None:
                    nursery.start_soon(self._discover, self._discovery)
                nursery.start_soon(self._read_again)
                nursery.start_soon(self._survey)
                nursery.start_soon(self._learn)
                task_status.started()
                await self._decide_for_ever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_WITHIN_S):
                await self._stop()

    def reload(self, settings: Settings) -> None:
        """Take other settings while serving. The operator's choices for single guests stand above them as before."""
        before, observed = self.settings.host, self.observe
        self.settings = settings
        if self.observe is not observed:
            log.info("observing from now on: nothing is moved" if self.observe else "serving from now on")
            self.ledger.let_go()
        self._hypervisor.named(settings)
        self.guests.ruled(settings.rules)
        self.guests.named(settings.guests)
        if self._domains:
            self._found(self._domains)
        for attendant in self.guests:
            attendant.record.tuned = tuning(settings.host.slider)
            attendant.record.demand_model = settings.host.demand_model
            if self.observe is not observed:
                attendant.observing(self.observe)
            if settings.host.report_ms != before.report_ms:
                attendant.open_session(settings.host.report_ms)
        self.settings_fault = ""
        self.turn(self.now())

    async def _discover(self, discovery: Discovery) -> None:
        """Follow the domains that come and go. While the hypervisor's service is away, those known last are attended
        to as before: they live on without it."""
        while True:
            try:
                domains = await discovery.domains()
                self.discovery_fault = ""
            except PortError as error:
                if str(error) != self.discovery_fault:
                    self.discovery_fault = str(error)
                    log.warning("%s", error)
                await self.clock.sleep(DISCOVER_AGAIN_S)
                continue
            self._found(domains)
            self._listed = True
            self.wake()
            with trio.move_on_after(DISCOVER_AGAIN_S if self.guests.unsettled else math.inf):
                await discovery.changed()

    def _found(self, domains: tuple[Domain, ...]) -> None:
        self._domains = domains
        patterns = self.settings.libvirt_domains
        self.guests.found(domains, lambda name: any(fnmatchcase(name, pattern) for pattern in patterns))

    async def _read_again(self) -> None:
        while True:
            await self.clock.sleep(DISCOVER_AGAIN_S)
            self.guests.read_again()

    async def _learn(self) -> None:
        while True:
            await self.clock.sleep(KEEP_EVERY_S)
            self._keep_learned()

    def _keep_learned(self) -> None:
        records = [attendant.record for attendant in self.guests]
        waiting = {} if self._listed else self._learned  # for domains that nobody has listed yet
        learned = waiting | {record.name: what for record in records if (what := record.has_learned()) is not None}
        self._choices.keep_learned(learned, self.clock.now(), time.time())

    async def _survey(self) -> None:
        """Look time and again who else holds the host's memory; at once when other processes are our guests."""
        fault = ""
        while True:
            self._survey_now = trio.Event()
            if any(attendant.record.is_unseen for attendant in self.guests):
                await self.clock.sleep(SURVEY_APART_S)  # whose process is not known yet is nobody else's
                continue
            try:
                survey = await self._host_memory.survey(self._managed())
                self._budget_watch, fault = watch_budget(self._budget_watch, survey, self._unplaced_kib()), ""
            except PortError as error:
                if str(error) != fault:
                    fault = str(error)
                    log.warning("%s", error)
            if not self._surveyed:
                self._surveyed = True
                self.wake()
            await self.clock.sleep(SURVEY_APART_S)
            often = self.settings.host.budget_kib is None or not self._listed
            every_s = SURVEY_EVERY_S if often else SURVEY_RARELY_S
            with trio.move_on_after(every_s - SURVEY_APART_S):
                await self._survey_now.wait()

    def _managed(self) -> frozenset[int]:
        """The processes of our guests."""
        pids = (attendant.record.vm.qemu_pid for attendant in self.guests)
        return frozenset(pid for pid in pids if pid is not None)

    def _unplaced_kib(self) -> int:
        """Booked for guests whose process is not known."""
        guests = self.snapshot.guests if self.snapshot is not None else ()
        return sum(guest.booking.booked_kib for guest in guests if guest.vm.qemu_pid is None)

    def wake(self, urgent: bool = False) -> None:
        """Facts have changed that a decision should not wait for."""
        self._urgent = self._urgent or urgent
        self._wake.set()

    @property
    def alarm(self) -> str:
        """What an operator must be told; empty for nothing."""
        return self._overdraft.alarm

    def now(self) -> float:
        return self.clock.now()

    async def look(self, qemu_pid: int | None, ram_kib: int, hotplug_kib: int = 0) -> None:
        """Before `residency`: what takes long is read beside the loop."""
        if qemu_pid is not None:
            await self._host_memory.look(qemu_pid, ram_kib, hotplug_kib)

    def residency(self, qemu_pid: int | None, ram_kib: int) -> Residency | None:
        return self._host_memory.residency(qemu_pid, ram_kib) if qemu_pid is not None else None

    def is_alive(self, qemu_pid: int | None, nobody_listens: bool) -> bool:
        """Whether a machine whose monitor is silent may still hold memory. An unknown process counts as alive until
        nobody listens."""
        return not nobody_listens if qemu_pid is None else self._host_memory.is_alive(qemu_pid)

    # --- the loop ----------------------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        next_s = self.clock.now()
        turn_s = 0.0
        while True:
            with trio.move_on_at(next_s):
                await self._wake.wait()
                if not self._urgent:
                    with trio.move_on_after(max(DECIDE_APART_S, turn_s / DECIDE_SHARE)):
                        await self._wait_urgent()
            self._wake = trio.Event()
            self._urgent = False
            now_s = self.clock.now()
            self.turn(now_s)
            turn_s = self.clock.now() - now_s
            next_s = max(next_s + DECIDE_EVERY_S, now_s) if now_s >= next_s else next_s
            await trio.lowlevel.checkpoint()

    async def _wait_urgent(self) -> None:
        while not self._urgent:
            self._wake = trio.Event()
            await self._wake.wait()

    def turn(self, now_s: float) -> list[Command]:
        """One decision from what is known now; its commands go to the guests' queues."""
        self.guests.let_go()
        snapshot = self._take_snapshot(now_s)
        for changed in self.reservations.step(snapshot):
            self._operations.reservation_changed(changed)
        snapshot = self.reservations.entered(snapshot)
        decision = one_iteration(snapshot)
        commands = [] if self.observe else self.ledger.step(snapshot, decision)
        self.snapshot, self.decision = snapshot, decision
        for command in commands:
            log.info("%s: %s", command.guest, describe(command))
            self.guests[command.guest].order(command)
        self.moving = sum(self.ledger.is_moving(attendant.record.name) for attendant in self.guests)
        for attendant in self.guests:
            if self.observe:
                continue
            attendant.record.note_taken_back(now_s)
            if lowered_kib := self.ledger.lowered_kib(attendant.record.name):
                log.warning("%s: made smaller by %d MiB, not by us", attendant.record.name, lowered_kib // 1024)
            if (set_kib := self.ledger.set_by_another_kib(attendant.record.name)) is not None:
                self._operations.give_way(attendant.record.name, set_kib)
        self._watch_overdraft(decision, now_s)
        self._watch_refilled(snapshot)
        if self._recorder is not None:
            value = {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}
            self._recorder.record("turn", now_s, value)
        if self.on_turn is not None:
            self.on_turn(snapshot, decision, commands)
        return commands

    def _take_snapshot(self, now_s: float) -> Snapshot:
        facts = self._host_memory.facts()
        self._watch_host(facts, now_s)
        guests = tuple(attendant.record.snapshot(now_s) for attendant in self.guests)
        parts = budget_parts(self.settings.host, facts, self._budget_watch)
        budget = parts.budget_kib
        if parts.set_kib is None and not self._surveyed:  # no room before it is known who else is here, and no excess
            budget = min(budget, sum(guest.booking.booked_kib for guest in guests))
        survey = self._budget_watch.survey
        unlisted = 0 if self._listed else unlisted_kib(survey, parts.set_kib is None)
        if survey is not None and survey.managed != self._managed():
            self._survey_now.set()
        return Snapshot(
            now_s=now_s,
            host=HostSnapshot(
                budget,
                headroom_kib(self.settings.host, budget),
                facts,
                self.settings.host.slider,
                self._host_watch.state,
                self._host_watch.lacking_kib,
                self._host_watch.why,
                unlisted_kib=unlisted,
                budget_parts=parts,
                refills=survey.refills if survey is not None else None,
            ),
            guests=tuple(_taken_seriously(guest) for guest in guests),
            observe=self.observe,
        )

    def _watch_host(self, facts: HostFacts, now_s: float) -> None:
        before = self._host_watch.state
        self._host_watch = watch_host(self._host_watch, facts, now_s)
        if self._host_watch.state is not before:
            log.warning("host memory is %s: %s", self._host_watch.state, self._host_watch.why or "it has recovered")

    def _watch_overdraft(self, decision: Decision, now_s: float) -> None:
        calm = not self._overdraft.alarm
        if said := self._overdraft.turn(decision.overdrawn_kib, decision.overdrawn_cause, now_s):
            log.log(logging.ERROR if calm and self._overdraft.alarm else logging.WARNING, "%s", said)

    def _watch_refilled(self, snapshot: Snapshot) -> None:
        """Say once of each guest that it resides above its balloon's size."""
        flagged = {guest.name: guest for guest in snapshot.guests if refilled.is_flagged(guest, snapshot.now_s)}
        for name in flagged.keys() - self._refilled:
            log.warning("%s: %s", name, refilled.in_words(flagged[name], snapshot.host.refills, snapshot.now_s))
        self._refilled = set(flagged)

    async def _stop(self) -> None:
        async with trio.open_nursery() as nursery:
            for attendant in self.guests:
                nursery.start_soon(attendant.stop, self.settings.host.stop_policy, self.observe)
        self._keep_learned()

    # --- the operator ------------------------------------------------------------------------------------

    @property
    def handle(self) -> Handler:
        """Answers the requests of the control socket."""
        return self._operations.handle

    def last_turn(self) -> tuple[Snapshot, Decision]:
        """What was known and decided last; now, where nothing was yet."""
        if self.snapshot is None or self.decision is None:
            self.turn(self.clock.now())
        assert self.snapshot is not None
        assert self.decision is not None
        return self.snapshot, self.decision


def _taken_seriously(guest: GuestSnapshot) -> GuestSnapshot:
    """A machine of which neither size nor residency can be told is booked with nothing and may be large: nobody is
    granted anything, as before it has been looked at."""
    vm = guest.vm
    unknown = vm.run_state is RunState.UNREACHABLE and not vm.ram_kib and not guest.settings.maximum_kib
    return replace(guest, unseen=True) if unknown and guest.residency is None else guest
