"""The service's frame: one task per guest that gathers facts, one loop that decides, one place that acts.

Everything that can hang belongs to one guest and runs in that guest's own tasks: its hypervisor connection, its events,
its channel, the execution of its commands. The deciding loop never waits for any of them; it reads records, decides
in pure code and drops commands into per-guest queues. So a guest that dies, hangs or floods delays nobody else.

The loop turns once a second, and at once when a guest is short (DEMAND), when it answers a request, or while a move is
under way. Between facts and commands lies one call: `Snapshot -> one_iteration -> Ledger.step`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from .arbiter import one_iteration
from .channel import AgentReports
from .guests import GuestRecord
from .ledger import Ledger
from .model import (
    AskInflate,
    Command,
    Decision,
    HostFacts,
    HostSnapshot,
    Residency,
    RunState,
    SetTarget,
    Settings,
    Snapshot,
    StartVm,
    StopPolicy,
    TellDeflate,
    UsageReport,
    VmEventKind,
    Wish,
)
from .ports import Clock, HostMemory, Hypervisor, PortError, Recorder, StateStore, VmAbsent, VmGone, VmPort
from .session import AgentSession, Randomness
from .snapshot import decision_to_json, snapshot_to_json
from .summary import summarise

log = logging.getLogger("ballonet")

DECIDE_EVERY_S = 1.0
POLL_EVERY_S = 1.0
POLL_MOVING_S = 0.25
"""While a balloon moves its size is read four times a second: as often as its guest reports then."""
DECIDE_APART_S = 0.05
"""Wake-ups closer than this share a turn, except for a DEMAND."""
CONNECT_RETRY_S = 1.0
OVERDRAWN_ALARM_S = 60.0
"""An excess that lasts a minute is not a boot any more: somebody must look."""
QUEUE_MOST = 64
NEW_SESSION_AFTER = (
    VmEventKind.CHANNEL_OPEN,
    VmEventKind.CHANNEL_CLOSED,
    VmEventKind.RESUMED,
    VmEventKind.MIGRATION,
)
"""What was said before holds no longer: another agent, another boot, or one that slept."""


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
    ) -> None:
        self.settings = settings
        self.observe = observe
        self.ledger = Ledger()
        self.snapshot: Snapshot | None = None
        self.decision: Decision | None = None
        self.on_turn: Callable[[Snapshot, Decision, list[Command]], None] | None = None
        """Called after each turn with what was known, decided and ordered; for the demo's table and for tests."""
        self._host_memory = host_memory
        self.clock = clock
        self._recorder = recorder
        self._state = state
        self._wake = trio.Event()
        self._urgent = False
        self._overdrawn_since_s: float | None = None
        self._attendants = {
            guest.name: _Attendant(
                GuestRecord(guest, AgentSession(randomness), self.ledger, observe), hypervisor.vm(guest.name), self
            )
            for guest in settings.guests
        }
        for name in self._attendants:
            self._attendants[name].record.released = bool(state.get(f"released:{name}"))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then apply the stop policy."""
        try:
            async with trio.open_nursery() as nursery:
                for attendant in self._attendants.values():
                    nursery.start_soon(attendant.run)
                task_status.started()
                await self._decide_for_ever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await self._stop()

    def wake(self, urgent: bool = False) -> None:
        """Facts have changed that a decision should not wait for."""
        self._urgent = self._urgent or urgent
        self._wake.set()

    def now(self) -> float:
        return self.clock.now()

    def residency(self, qemu_pid: int | None, ram_kib: int) -> Residency | None:
        return self._host_memory.residency(qemu_pid, ram_kib) if qemu_pid is not None else None

    def is_alive(self, qemu_pid: int | None, nobody_listens: bool) -> bool:
        """Whether a machine whose monitor is silent may still hold memory. An unknown process counts as alive until
        nobody listens."""
        return not nobody_listens if qemu_pid is None else self._host_memory.is_alive(qemu_pid)

    # --- the loop ----------------------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        next_s = self.clock.now()
        while True:
            with trio.move_on_at(next_s):
                await self._wake.wait()
                if not self._urgent:
                    with trio.move_on_after(DECIDE_APART_S):
                        await self._wait_urgent()
            self._wake = trio.Event()
            self._urgent = False
            now_s = self.clock.now()
            self.turn(now_s)
            next_s = max(next_s + DECIDE_EVERY_S, now_s) if now_s >= next_s else next_s
            await trio.lowlevel.checkpoint()

    async def _wait_urgent(self) -> None:
        while not self._urgent:
            self._wake = trio.Event()
            await self._wake.wait()

    def turn(self, now_s: float) -> list[Command]:
        """One decision from what is known now; its commands go to the guests' queues."""
        snapshot = self._take_snapshot(now_s)
        decision = one_iteration(snapshot)
        commands = [] if self.observe else self.ledger.step(snapshot, decision)
        self.snapshot, self.decision = snapshot, decision
        for command in commands:
            log.info("%s: %s", command.guest, describe(command))
            self._attendants[command.guest].order(command)
        for name, attendant in self._attendants.items():
            attendant.record.note_taken_back(now_s)
            if lowered_kib := self.ledger.lowered_kib(name):
                log.warning("%s: another mover made it smaller by %d MiB", name, lowered_kib // 1024)
        self._watch_overdraft(decision, now_s)
        if self._recorder is not None:
            value = {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}
            self._recorder.record("turn", now_s, value)
        if self.on_turn is not None:
            self.on_turn(snapshot, decision, commands)
        return commands

    def _take_snapshot(self, now_s: float) -> Snapshot:
        facts = self._host_memory.facts()
        return Snapshot(
            now_s=now_s,
            host=HostSnapshot(budget_kib(self.settings, facts), self.settings.host.headroom_kib, facts),
            guests=tuple(attendant.record.snapshot(now_s) for attendant in self._attendants.values()),
            observe=self.observe,
        )

    def _watch_overdraft(self, decision: Decision, now_s: float) -> None:
        if not decision.overdrawn_kib:
            if self._overdrawn_since_s is not None:
                log.warning("overdraft over after %.0f s", now_s - self._overdrawn_since_s)
            self._overdrawn_since_s = None
        elif self._overdrawn_since_s is None:
            self._overdrawn_since_s = now_s
            log.warning("OVERDRAWN by %d MiB: %s", decision.overdrawn_kib // 1024, decision.overdrawn_cause)

    async def _stop(self) -> None:
        for attendant in self._attendants.values():
            await attendant.stop(self.settings.host.stop_policy, self.observe)

    # --- the operator ------------------------------------------------------------------------------------

    async def handle(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket. Raises LookupError or ValueError with a text for the operator."""
        handlers: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._handle_status,
            "release": self._handle_release,
            "resume": self._handle_resume,
        }
        handler = handlers.get(operation)
        if handler is None:
            raise ValueError(f"unknown operation {operation!r}; known: {', '.join(handlers)}")
        return await handler(arguments)

    async def _handle_status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.snapshot is None or self.decision is None:
            self.turn(self.clock.now())
        assert self.snapshot is not None
        assert self.decision is not None
        details = {name: attendant.record.detail for name, attendant in self._attendants.items()}
        overdrawn_s = None if self._overdrawn_since_s is None else self.snapshot.now_s - self._overdrawn_since_s
        alarm = ""
        if overdrawn_s is not None and overdrawn_s >= OVERDRAWN_ALARM_S:
            alarm = f"overdrawn for {overdrawn_s:.0f} s"
        return summarise(self.snapshot, self.decision, details, alarm)

    async def _handle_release(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.observe:
            raise ValueError("observing: nothing is moved, so nothing can be released")
        force = bool(arguments.get("force"))
        names = list(self._attendants) if arguments.get("all") else [self._known(arguments)]
        now_s = self.clock.now()
        for name in names:
            self._state.put(f"released:{name}", True)
            self._attendants[name].record.released = True
            if force and (command := self.ledger.force(name, self._attendants[name].record.vm)):
                self._attendants[name].order(command)
        self.turn(now_s)
        answers = []
        for name in names:
            vm = self._attendants[name].record.vm
            granted_kib = min(self.ledger.target_kib(name) or vm.actual_kib, vm.ram_kib)
            missing_kib = vm.ram_kib - granted_kib
            answers.append(
                {"name": name, "ram_kib": vm.ram_kib, "granted_kib": granted_kib, "missing_kib": missing_kib}
            )
        return {"guests": answers}

    async def _handle_resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = self._known(arguments)
        self._state.delete(f"released:{name}")
        self._attendants[name].record.released = False
        self.wake()
        return {"name": name}

    def _known(self, arguments: dict[str, Any]) -> str:
        name = arguments.get("guest")
        if not isinstance(name, str) or name not in self._attendants:
            raise LookupError(f"no guest {name!r}; known: {', '.join(self._attendants) or 'none'}")
        return name


class _Attendant:
    """Everything that waits for one guest: its connection, events, channel and commands."""

    def __init__(self, record: GuestRecord, vm: VmPort, coordinator: Coordinator) -> None:
        self.record = record
        self._vm = vm
        self._coordinator = coordinator
        self._orders: list[Command] = []
        self._ordered = trio.Event()
        self._poll_now = trio.Event()
        self._reports: AgentReports | None = None

    def order(self, command: Command) -> None:
        """Queue a command. A newer target replaces one that was not carried out yet."""
        if isinstance(command, SetTarget):
            self._orders = [order for order in self._orders if not isinstance(order, SetTarget)]
        if len(self._orders) < QUEUE_MOST:
            self._orders.append(command)
        self._ordered.set()

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._vm.connect()
                    self._orders.clear()
                    await self._read_vm()
                    self._coordinator.wake()
                    await self._attend()
                except PortError as exc:
                    self._lost(exc)
                self.record.session.detached("its hypervisor is away")
                self._coordinator.wake()
                await trio.sleep(CONNECT_RETRY_S)
        finally:
            # Not before: a connection that is only slow is kept, with the events that wait in it.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._vm.aclose()

    async def stop(self, policy: StopPolicy, observe: bool) -> None:
        if policy is StopPolicy.DEFLATE and not observe and self.record.vm.run_state is RunState.RUNNING:
            try:
                await self._vm.connect()
                await self._vm.set_target(self.record.vm.ram_kib)
            except PortError as exc:
                log.warning("%s: could not be deflated on stop: %s", self.record.name, exc)
            finally:
                await self._vm.aclose()

    async def _attend(self) -> None:
        """Run this guest's tasks until its hypervisor goes away."""
        self._reports = AgentReports(
            self._vm, self.record.session, self._coordinator.clock, lambda: self.record.vm.ram_kib
        )
        gone: list[PortError] = []
        async with trio.open_nursery() as nursery:

            async def until_gone(task: Callable[[], Awaitable[None]]) -> None:
                try:
                    await task()
                except PortError as exc:
                    gone.append(exc)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(until_gone, self._poll)
            nursery.start_soon(until_gone, self._watch_events)
            nursery.start_soon(until_gone, self._carry_out)
            nursery.start_soon(self._reports.run, self)
        if gone:
            raise gone[0]

    async def _read_vm(self) -> None:
        vm = await self._vm.facts()
        now_s = self._coordinator.now()
        startup = self.record.vm_read(vm, self._coordinator.residency(vm.qemu_pid, vm.ram_kib), now_s)
        if startup is not None:
            log.info("%s: %s", self.record.name, describe(startup))
            self.order(startup)

    async def _poll(self) -> None:
        while True:
            moving = self._coordinator.ledger.is_moving(self.record.name)
            self._poll_now = trio.Event()
            with trio.move_on_after(POLL_MOVING_S if moving else POLL_EVERY_S):
                await self._poll_now.wait()
            await self._read_vm()
            if moving:
                self._coordinator.wake()

    async def _watch_events(self) -> None:
        while True:
            event = await self._vm.next_event()
            if event.kind is VmEventKind.GONE:
                raise VmGone("its hypervisor ended the connection")
            if event.kind in NEW_SESSION_AFTER:
                self.record.session.renewed(self.record.vm.ram_kib, self._coordinator.now())
                if self._reports is not None:
                    self._reports.wake()
            self._poll_now.set()

    async def _carry_out(self) -> None:
        while True:
            while self._orders:
                await self._execute(self._orders.pop(0))
            self._ordered = trio.Event()
            if not self._orders:
                await self._ordered.wait()

    async def _execute(self, command: Command) -> None:
        now_s = self._coordinator.now()
        session = self.record.session
        try:
            if isinstance(command, SetTarget):
                await self._vm.set_target(command.target_kib)
                self._poll_now.set()
            elif isinstance(command, StartVm):
                await self._vm.start()
                self._poll_now.set()
            elif isinstance(command, AskInflate):
                session.ask_inflate(
                    command.gen, command.target_kib, command.floor_kib, command.rate_kib_per_s, now_s
                )
            elif isinstance(command, TellDeflate):
                session.tell_deflate(command.gen, command.target_kib, now_s)
        except VmGone:
            raise
        except PortError as exc:
            log.warning("%s: %s failed: %s", command.guest, describe(command), exc)
            self.record.detail = str(exc)
        if self._reports is not None:
            self._reports.wake()

    def _lost(self, error: PortError) -> None:
        vm = self.record.vm
        qemu_pid = self._vm.listener_pid or vm.qemu_pid
        ram_kib = vm.ram_kib or self.record.settings.maximum_kib
        alive = self._coordinator.is_alive(qemu_pid, isinstance(error, VmAbsent))
        self.record.vm_lost(alive, str(error), self._coordinator.residency(qemu_pid, ram_kib), qemu_pid)
        if self.record.vm.run_state is not vm.run_state and vm.run_state is not RunState.UNREACHABLE:
            log.warning("%s: %s", self.record.name, error)

    # --- as a report sink --------------------------------------------------------------------------------

    def reported(self, report: UsageReport) -> None:
        self.record.reported(report)
        if self._coordinator.ledger.is_moving(self.record.name):
            self._coordinator.wake()

    def wished(self, wish: Wish) -> None:
        self.record.wished(wish)
        self._coordinator.wake(urgent=True)


def budget_kib(settings: Settings, facts: HostFacts) -> int:
    """What all guests together may be promised: as set, or the host's memory (our cgroup's limit) less the reserve."""
    if settings.host.budget_kib is not None:
        return settings.host.budget_kib
    total_kib = min(facts.total_kib, facts.cgroup_limit_kib or facts.total_kib)
    return max(0, total_kib - settings.host.reserve_kib)


def describe(command: Command) -> str:
    """One command as a line for the journal."""
    if isinstance(command, SetTarget):
        return f"balloon target {command.target_kib // 1024} MiB ({command.why})"
    if isinstance(command, AskInflate):
        return f"asks to shrink to {command.target_kib // 1024} MiB, gen {command.gen} ({command.why})"
    if isinstance(command, TellDeflate):
        return f"grants {command.target_kib // 1024} MiB, gen {command.gen} ({command.why})"
    return f"starts ({command.why})"
