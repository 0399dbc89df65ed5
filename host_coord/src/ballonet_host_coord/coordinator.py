"""The service's frame: one task per guest that gathers facts, one loop that decides, one place that acts.

Everything that can hang belongs to one guest and runs in that guest's own tasks: its hypervisor connection, its events,
its channel, the execution of its commands. The deciding loop never waits for any of them; it reads records, decides
in pure code and drops commands into per-guest queues. So a guest that dies, hangs or floods delays nobody else.

The loop turns once a second, and at once when a guest is short (DEMAND), when it answers a request, or while a move is
under way. Between facts and commands lies one call: `Snapshot -> one_iteration -> Ledger.step`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

import trio

from .arbiter import one_iteration
from .attendant import Attendant, describe
from .booking import budget_kib, headroom_kib
from .choices import Choices
from .control import Handler
from .guests import GuestRecord
from .host_state import HostWatch, watch_host
from .ledger import Ledger
from .model import (
    Command,
    Decision,
    GuestSettings,
    HostFacts,
    HostSnapshot,
    Residency,
    Settings,
    Snapshot,
)
from .operations import Operations
from .overdraft import OverdraftWatch
from .ports import Clock, Discovery, HostMemory, Hypervisor, PortError, Recorder, StateStore
from .reservations import Reservations
from .roster import Roster
from .session import AgentSession, Randomness
from .slider import tuning
from .snapshot import decision_to_json, snapshot_to_json

log = logging.getLogger("ballonet")

DECIDE_EVERY_S = 1.0
DISCOVER_AGAIN_S = 2.0
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
    ) -> None:
        self.settings = settings
        self.observe = observe
        self.ledger = Ledger()
        self.snapshot: Snapshot | None = None
        self.decision: Decision | None = None
        self.discovery_fault = ""
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
        self._hypervisor = hypervisor
        self._discovery = discovery
        self._randomness = randomness
        self._choices = Choices(state)
        self.reservations = Reservations(self._choices.kept_reservations(clock.now(), time.time()))
        forget = discovery.forget if discovery is not None else lambda name: None
        self.guests = Roster(self._attendant, settings.rules, self._choices.values_for, forget)
        self._operations = Operations(self, self._choices)
        self.guests.named(settings.guests)

    def _attendant(self, guest: GuestSettings) -> Attendant:
        host = self.settings.host
        record = GuestRecord(guest, AgentSession(self._randomness, host.report_ms), self.ledger, self.observe)
        record.released = self._choices.is_released(guest.name)
        record.paused = self._choices.is_paused(guest.name)
        record.yielded = self._choices.yielded(guest.name)
        record.tuned = tuning(host.slider)
        record.demand_model = host.demand_model
        where = self._hypervisor if guest.qmp_path or self._discovery is None else self._discovery
        return Attendant(record, where.vm(guest.name), self)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then apply the stop policy."""
        try:
            async with trio.open_nursery() as nursery:
                self.guests.attend_in(nursery)
                if self._discovery is not None:
                    nursery.start_soon(self._discover, self._discovery)
                task_status.started()
                await self._decide_for_ever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await self._stop()

    def reload(self, settings: Settings) -> None:
        """Take other settings while serving. The operator's choices for single guests stand above them as before."""
        self.settings = settings
        self._hypervisor.named(settings)
        self.guests.ruled(settings.rules)
        self.guests.named(settings.guests)
        for attendant in self.guests:
            attendant.record.tuned = tuning(settings.host.slider)
            attendant.record.demand_model = settings.host.demand_model
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
            patterns = self.settings.libvirt_domains
            self.guests.found(d for d in domains if any(fnmatchcase(d.name, pattern) for pattern in patterns))
            self.wake()
            await discovery.changed()

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

    async def look(self, qemu_pid: int | None, ram_kib: int) -> None:
        """Before `residency`: what takes long is read beside the loop."""
        if qemu_pid is not None:
            await self._host_memory.look(qemu_pid, ram_kib)

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
        snapshot = replace(snapshot, host=replace(snapshot.host, reserved_kib=self.reservations.reserved_kib))
        decision = one_iteration(snapshot)
        commands = [] if self.observe else self.ledger.step(snapshot, decision)
        self.snapshot, self.decision = snapshot, decision
        for command in commands:
            log.info("%s: %s", command.guest, describe(command))
            self.guests[command.guest].order(command)
        self.moving = sum(self.ledger.is_moving(attendant.record.name) for attendant in self.guests)
        for attendant in self.guests:
            attendant.record.note_taken_back(now_s)
            if lowered_kib := self.ledger.lowered_kib(attendant.record.name):
                log.warning("%s: made smaller by %d MiB, not by us", attendant.record.name, lowered_kib // 1024)
            if not self.observe and (set_kib := self.ledger.set_by_another_kib(attendant.record.name)) is not None:
                self._operations.give_way(attendant.record.name, set_kib)
        self._watch_overdraft(decision, now_s)
        if self._recorder is not None:
            value = {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}
            self._recorder.record("turn", now_s, value)
        if self.on_turn is not None:
            self.on_turn(snapshot, decision, commands)
        return commands

    def _take_snapshot(self, now_s: float) -> Snapshot:
        facts = self._host_memory.facts()
        self._watch_host(facts, now_s)
        budget = budget_kib(self.settings.host, facts)
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
                self.reservations.reserved_kib,
            ),
            guests=tuple(attendant.record.snapshot(now_s) for attendant in self.guests),
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

    async def _stop(self) -> None:
        async with trio.open_nursery() as nursery:
            for attendant in self.guests:
                nursery.start_soon(attendant.stop, self.settings.host.stop_policy, self.observe)

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
