"""Everything that waits for one guest: its hypervisor connection, its events, its channel, its commands.

Each runs in a task of this guest alone and may hang; what comes in goes into the guest's record, what is decided
comes out of a queue.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from .channel import AgentReports
from .guests import GuestRecord
from .limiting import GuestLimit
from .model import (
    AskInflate,
    Command,
    RunState,
    SetTarget,
    StartVm,
    StopPolicy,
    TellDeflate,
    UsageReport,
    VmEventKind,
    Wish,
)
from .ports import PortError, VmAbsent, VmGone, VmPort

if TYPE_CHECKING:
    from .coordinator import Coordinator

log = logging.getLogger("ballonet")

POLL_EVERY_S = 1.0
POLL_MOVING_S = 0.25
"""While a balloon moves its size is read four times a second: as often as its guest reports then."""
FAULTS_MOST = 20
"""So many different ones of one guest are logged."""
LEAVE_WITHIN_S = 1.0
POLLS_OF_MOVING_PER_S = 200.0
"""Of all that move together: beyond it each is read less often, but no less than one at rest. Five hundred that move
at once, as when a service begins, would be 2000 readings a second; libvirt answers half of that, with nothing else."""
CONNECT_RETRY_S = 1.0
FAULT_RETRY_S = 5.0
"""After an error of ours its guest is tried again, and no other one notices."""
QUEUE_MOST = 64
AGAIN_S = 5.0
"""A target that did not reach the hypervisor is tried again after this."""
NEW_SESSION_AFTER = (
    VmEventKind.CHANNEL_OPEN,
    VmEventKind.CHANNEL_CLOSED,
    VmEventKind.RESUMED,
    VmEventKind.MIGRATION,
)
"""What was said before holds no longer: another agent, another boot, or one that slept."""


class Attendant:
    """Everything that waits for one guest: its connection, events, channel and commands."""

    def __init__(
        self, record: GuestRecord, vm: VmPort, coordinator: Coordinator, limit: GuestLimit | None = None
    ) -> None:
        """`limit` holds the guest to its size; None where nobody may."""
        self.record = record
        self._vm = vm
        self._coordinator = coordinator
        self._orders: list[Command] = []
        self._ordered = trio.Event()
        self._poll_now = trio.Event()
        self._reports: AgentReports | None = None
        self._again_s = float("-inf")
        self._left_alone = ""
        self._limit = limit
        self._faults: set[str] = set()
        """Errors of ours that were logged."""

    def leave_alone(self, why: str) -> None:
        """Whatever its hypervisor says, its memory is not to be moved for this reason; empty for none."""
        if why != self._left_alone:
            self._left_alone = why
            if why:
                self.record.vm = replace(self.record.vm, hands_off=why)
            self._poll_now.set()

    async def _follow_limit(self) -> None:
        record = self.record
        now_s = self._coordinator.now()
        if self._limit is not None:
            if self._coordinator.observe:
                await self._limit.remove()  # nobody would raise it
            else:
                await self._limit.follow(lambda: record.snapshot(now_s), now_s)
            record.limit_kib, record.limit_fault = self._limit.limit_kib, self._limit.fault

    def order(self, command: Command) -> None:
        """Queue a command. A newer target replaces one that was not carried out yet."""
        if isinstance(command, SetTarget):
            self._orders = [order for order in self._orders if not isinstance(order, SetTarget)]
            self.record.target_ordered(command.target_kib)
        if len(self._orders) < QUEUE_MOST:
            self._orders.append(command)
        self._ordered.set()

    def observing(self, observe: bool) -> None:
        """From now on nothing is moved; or from now on it is served, like one that has just been found."""
        record = self.record
        if observe:
            self._orders.clear()
            self.open_session(self._coordinator.settings.host.report_ms)  # what its agent was asked is off
        elif (startup := record.served()) is not None:
            log.info("%s: %s", record.name, describe(startup))
            self.order(startup)
        record.observe = observe
        self._poll_now.set()

    def open_session(self, report_ms: int) -> None:
        """Another one with its agent, which tells it how often to report."""
        self.record.session.begin_anew(report_ms, self._coordinator.now())
        if self._reports is not None:
            self._reports.wake()

    async def run(self) -> None:
        """Until cancelled. No error of ours ends it: the other guests are served on."""
        try:
            while True:
                wait_s = CONNECT_RETRY_S
                try:
                    await self._serve()
                except Exception as exc:  # noqa: BLE001
                    await self._failed(exc)
                    wait_s = FAULT_RETRY_S
                self.record.session.detached("its hypervisor is away")
                self._coordinator.wake()
                await trio.sleep(wait_s)
        finally:
            # Not before: a connection that is only slow is kept, with the events that wait in it.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_WITHIN_S):
                try:
                    if self._limit is not None:
                        await self._limit.remove()
                    await self._vm.aclose()
                except Exception as exc:  # noqa: BLE001
                    self._log(exc)

    async def _serve(self) -> None:
        """As long as its hypervisor is there."""
        try:
            await self._vm.connect()
            self._orders.clear()
            await self._read_vm()
            self._coordinator.wake()
            await self._attend()
        except PortError as exc:
            self._lost(exc)
            await self._follow_limit()

    async def _failed(self, error: Exception) -> None:
        """Nobody foresaw it. Nothing is known of its guest any more, as where its monitor does not answer, and the
        connection is begun anew: it may have stopped in the midst of a word."""
        words = self.record.detail = self._log(error)
        if self.record.vm.run_state is not RunState.ABSENT:
            self.record.vm = replace(self.record.vm, run_state=RunState.UNREACHABLE)
        try:
            with trio.move_on_after(LEAVE_WITHIN_S):
                await self._vm.aclose()
        except Exception as exc:  # noqa: BLE001
            self._log(exc)
        try:
            self._lost(VmGone(words))
        except Exception as exc:  # noqa: BLE001
            self._log(exc)

    def _log(self, error: Exception) -> str:
        """With its traceback, once; returns it in words for the guest's line."""
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        words = f"an error in ballonet, the journal has more ({type(error).__name__}: {error})"
        if words not in self._faults and len(self._faults) < FAULTS_MOST:
            self._faults.add(words)
            log.error("%s: %s", self.record.name, words, exc_info=error)
        return words

    async def stop(self, policy: StopPolicy, observe: bool) -> None:
        vm = self.record.vm
        left_alone = bool(vm.hands_off or self.record.paused or self.record.yielded)
        if policy is StopPolicy.DEFLATE and not observe and vm.run_state is RunState.RUNNING and not left_alone:
            try:
                await self._vm.connect()
                await self._vm.set_target(vm.here_kib)
            except PortError as exc:
                log.warning("%s: could not be deflated on stop: %s", self.record.name, exc)
            except Exception as exc:  # noqa: BLE001
                self._log(exc)
            finally:
                await self._vm.aclose()

    async def _attend(self) -> None:
        """Run this guest's tasks until its hypervisor goes away."""
        self._reports = AgentReports(
            self._vm, self.record.session, self._coordinator.clock, lambda: self.record.vm.boot_kib
        )
        gone: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def until_gone(task: Callable[[], Awaitable[None]]) -> None:
                try:
                    await task()
                except Exception as exc:  # noqa: BLE001
                    gone.append(exc)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(until_gone, self._poll)
            nursery.start_soon(until_gone, self._watch_events)
            nursery.start_soon(until_gone, self._carry_out)
            nursery.start_soon(until_gone, partial(self._reports.run, self))
        if gone:
            raise gone[0]

    async def _read_vm(self) -> None:
        # The slow look comes first, so that `actual` and residency are of one moment.
        known = self.record.vm
        if not known.ram_kib or known.qemu_pid != self._vm.listener_pid:
            known = await self._vm.facts()
        await self._coordinator.look(known.qemu_pid, known.ram_kib, known.ram_kib - known.boot_kib)
        vm = await self._vm.facts()
        if self._left_alone:
            vm = replace(vm, hands_off="; ".join(filter(None, (self._left_alone, vm.hands_off))))
        now_s = self._coordinator.now()
        startup = self.record.vm_read(vm, self._coordinator.residency(vm.qemu_pid, vm.ram_kib), now_s)
        if startup is None:
            startup = self._once_more(now_s)
        if startup is not None:
            log.info("%s: %s", self.record.name, describe(startup))
            self.order(startup)
        await self._follow_limit()

    def _once_more(self, now_s: float) -> SetTarget | None:
        """A target that was lost on its way while a larger one may be in force, whose memory nobody else gets."""
        target_kib = self._coordinator.ledger.target_kib(self.record.name)
        waits = any(isinstance(order, SetTarget) for order in self._orders)
        if target_kib is None or waits or not self.record.is_promised_more or now_s < self._again_s:
            return None
        vm = self.record.vm
        if vm.run_state is not RunState.RUNNING or vm.hands_off or self.record.paused or self.record.yielded:
            return None
        self._again_s = now_s + AGAIN_S
        return SetTarget(self.record.name, target_kib, "set once more: the hypervisor may have a larger one")

    async def _poll(self) -> None:
        while True:
            closely = self._coordinator.ledger.is_moving(self.record.name) or self.record.waits_for_size
            with trio.move_on_after(poll_moving_s(self._coordinator.moving) if closely else POLL_EVERY_S):
                await self._poll_now.wait()
            closely = closely or self.record.waits_for_size
            self._poll_now = trio.Event()  # what comes while it is read wants another reading
            await self._read_vm()
            if closely:
                self._coordinator.wake()

    async def _watch_events(self) -> None:
        while True:
            event = await self._vm.next_event()
            if event.kind is VmEventKind.GONE:
                raise VmGone("its hypervisor ended the connection")
            if event.kind in NEW_SESSION_AFTER:
                self.record.session.renewed(self.record.vm.boot_kib, self._coordinator.now())
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
        hidden_kib = self.record.hidden_kib
        try:
            if isinstance(command, SetTarget):
                if self._limit is not None:
                    await self._limit.before(self.record.snapshot(now_s), command.target_kib)
                await self._vm.set_target(command.target_kib)
                self.record.target_taken(command.target_kib)
                self._poll_now.set()
            elif isinstance(command, StartVm):
                await self._vm.start()
                self._poll_now.set()
            elif isinstance(command, AskInflate):
                target_kib, floor_kib = command.target_kib - hidden_kib, command.floor_kib - hidden_kib
                session.ask_inflate(command.gen, target_kib, max(0, floor_kib), command.rate_kib_per_s, now_s)
            elif isinstance(command, TellDeflate):
                session.tell_deflate(command.gen, command.target_kib - hidden_kib, now_s)
        except VmGone:
            raise
        except PortError as exc:
            log.warning("%s: %s failed: %s", command.guest, describe(command), exc)
            self.record.detail = str(exc)
            if isinstance(command, SetTarget):
                self._coordinator.ledger.target_failed(command.guest)
                self._orders = [order for order in self._orders if not isinstance(order, StartVm)]
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
        if wish.tells_of_a_move:
            self._poll_now.set()
        self._coordinator.wake(urgent=True)


def poll_moving_s(moving: int) -> float:
    """How long to wait between two readings of a guest that moves, one of so many."""
    return min(POLL_EVERY_S, max(POLL_MOVING_S, moving / POLLS_OF_MOVING_PER_S))


def describe(command: Command) -> str:
    """One command as a line for the journal."""
    if isinstance(command, SetTarget):
        return f"balloon target {command.target_kib // 1024} MiB ({command.why})"
    if isinstance(command, AskInflate):
        return f"asks to shrink to {command.target_kib // 1024} MiB, gen {command.gen} ({command.why})"
    if isinstance(command, TellDeflate):
        return f"grants {command.target_kib // 1024} MiB, gen {command.gen} ({command.why})"
    return f"starts ({command.why})"
