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
from .attendant import Attendant, describe
from .booking import budget_kib, headroom_kib
from .guests import GuestRecord
from .host_state import HostWatch, watch_host
from .ledger import Ledger
from .model import (
    Command,
    Decision,
    HostFacts,
    HostSnapshot,
    Residency,
    Settings,
    Snapshot,
)
from .overdraft import OverdraftWatch
from .ports import Clock, HostMemory, Hypervisor, PortError, Recorder, StateStore
from .session import AgentSession, Randomness
from .slider import tuning
from .snapshot import decision_to_json, snapshot_to_json
from .summary import summarise

log = logging.getLogger("ballonet")

DECIDE_EVERY_S = 1.0
DECIDE_APART_S = 0.05
"""Wake-ups closer than this share a turn, except for a DEMAND."""


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
        self._overdraft = OverdraftWatch()
        self._host_watch = HostWatch()
        self._attendants = {
            guest.name: Attendant(
                GuestRecord(guest, AgentSession(randomness, settings.host.report_ms), self.ledger, observe),
                hypervisor.vm(guest.name),
                self,
            )
            for guest in settings.guests
        }
        for name, attendant in self._attendants.items():
            attendant.record.released = bool(state.get(f"released:{name}"))
            attendant.record.tuned = tuning(settings.host.slider)
            attendant.record.demand_model = settings.host.demand_model

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
            ),
            guests=tuple(attendant.record.snapshot(now_s) for attendant in self._attendants.values()),
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
            for attendant in self._attendants.values():
                nursery.start_soon(attendant.stop, self.settings.host.stop_policy, self.observe)

    # --- the operator ------------------------------------------------------------------------------------

    async def handle(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket. Raises LookupError or ValueError with a text for the operator."""
        handlers: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._handle_status,
            "snapshot": self._handle_snapshot,
            "release": self._handle_release,
            "resume": self._handle_resume,
        }
        handler = handlers.get(operation)
        if handler is None:
            raise ValueError(f"unknown operation {operation!r}; known: {', '.join(handlers)}")
        return await handler(arguments)

    async def _handle_status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        snapshot, decision = self._last_turn()
        details = {name: attendant.record.detail for name, attendant in self._attendants.items()}
        return summarise(snapshot, decision, details, self.alarm)

    async def _handle_snapshot(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The last turn as it is recorded. Who asks explains it in a process of their own: what would change a target
        is some fifty decisions for each guest, and no decision here waits for them."""
        snapshot, decision = self._last_turn()

        def values() -> dict[str, Any]:
            return {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(decision)}

        # Immutable values, so a thread may read them: 75 ms for a thousand guests.
        return await trio.to_thread.run_sync(values)

    def _last_turn(self) -> tuple[Snapshot, Decision]:
        if self.snapshot is None or self.decision is None:
            self.turn(self.clock.now())
        assert self.snapshot is not None
        assert self.decision is not None
        return self.snapshot, self.decision

    async def _handle_release(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.observe:
            raise ValueError("observing: nothing is moved, so nothing can be released")
        force = bool(arguments.get("force"))
        names = list(self._attendants) if arguments.get("all") else [self._known(arguments)]
        now_s = self.clock.now()
        for name in names:
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
        return {"guests": answers, **self._save(names, released=True)}

    async def _handle_resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = self._known(arguments)
        self._attendants[name].record.released = False
        self.wake()
        return {"name": name, **self._save([name], released=False)}

    def _save(self, names: list[str], released: bool) -> dict[str, Any]:
        """What the operator wants has been done; where it will not outlive a restart that is said."""
        try:
            for name in names:
                if released:
                    self._state.put(f"released:{name}", True)
                else:
                    self._state.delete(f"released:{name}")
        except PortError as error:
            log.error("%s", error)
            return {"not_saved": str(error)}
        return {}

    def _known(self, arguments: dict[str, Any]) -> str:
        name = arguments.get("guest")
        if not isinstance(name, str) or name not in self._attendants:
            raise LookupError(f"no guest {name!r}; known: {', '.join(self._attendants) or 'none'}")
        return name
