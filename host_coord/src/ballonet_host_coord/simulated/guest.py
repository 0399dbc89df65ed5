"""The guest agent's own core inside a simulated machine: same decisions, same frames, a made-up /proc.

`SimulatedAgent.serve` accepts one coordinator at a time from `accept`, as QEMU's chardev does. Bytes, samples and
PSI events go through the same calls as in the real loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from ballonet_guest_agent.actions import Identity, Instant, TakeSample, Write
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.sample import Sample
from ballonet_host_coord.ports import ByteStream

from .machine import STEP_S, SimulatedMachine

Accept = Callable[[], Awaitable[ByteStream]]


class SimulatedAgent:
    """The agent of one machine; a reset of the machine begins a new one."""

    def __init__(self, machine: SimulatedMachine, settings: AgentSettings | None = None) -> None:
        self.machine = machine
        self.silent = False
        """A switch for tests: hears everything, says nothing."""
        self._settings = settings or AgentSettings()
        self._agent = self._new_agent()
        self._boot = machine.boot
        self._stream: ByteStream | None = None
        self._out = bytearray()
        self._wake = trio.Event()
        machine.on_press = self._press

    def arrive_from(self, source: SimulatedAgent) -> None:
        """Its guest has migrated: the agent of `source` goes on here and hears that its port has lost its host."""
        self._agent, self._boot = source._agent, self.machine.boot
        source._agent = source._new_agent()
        self._do(self._agent.disconnected(self._now()))
        if self._stream is not None:
            self._do(self._agent.connected(self._now()))

    async def serve(self, accept: Accept) -> None:
        """Live until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            nursery.start_soon(self._write)
            while True:
                stream = await accept()
                self._stream = stream
                self._out.clear()
                if self.machine.is_up:
                    self._do(self._agent.connected(self._now()))
                try:
                    await self._read(stream)
                finally:
                    self._stream = None
                self._do(self._agent.disconnected(self._now()))

    async def _read(self, stream: ByteStream) -> None:
        while True:
            try:
                data = await stream.receive_some(4096)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self.machine.advance(trio.current_time())
            if self.machine.is_up:
                self._do(self._agent.received(bytes(data), self._now()))

    async def _live(self) -> None:
        """Bring the machine and the agent's deadlines forward together."""
        was_up = False
        while True:
            self.machine.advance(trio.current_time())
            if self.machine.boot != self._boot:
                self._boot = self.machine.boot
                self._agent = self._new_agent()
                was_up = False
            if self.machine.is_up and not was_up and self._stream is not None:
                self._do(self._agent.connected(self._now()))
            was_up = self.machine.is_up
            if was_up:
                deadline_s = self._agent.deadline_s(self._now())
                if deadline_s is not None and deadline_s <= 0:
                    self._do(self._agent.tick(self._now()))
            await trio.sleep(STEP_S)

    async def _write(self) -> None:
        while True:
            while self._out and self._stream is not None:
                data, self._out = bytes(self._out), bytearray()
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._stream = None
            self._wake = trio.Event()
            if not self._out or self._stream is None:
                await self._wake.wait()

    def _press(self) -> None:
        if self.machine.is_up:
            self._do(self._agent.pressed("some", self._now()))

    def _do(self, actions: Sequence[object]) -> None:
        for action in actions:
            if isinstance(action, Write) and not self.silent:
                self._out += action.data
            elif isinstance(action, TakeSample):
                self._do(self._agent.sampled(self._sample(), self._now()))
        self._wake.set()

    def _sample(self) -> Sample:
        meminfo, vmstat, psi = self.machine.proc_texts()
        return Sample.from_texts(meminfo, vmstat, psi, self.machine.character.deflate_on_oom)

    def _now(self) -> Instant:
        return Instant(trio.current_time(), self.machine.uptime_s)

    def _new_agent(self) -> Agent:
        boot_id = self.machine.name.encode()[:12].ljust(12, b".") + self.machine.boot.to_bytes(4, "big")
        return Agent(self._settings, Identity(boot_id=boot_id, version="simulated", has_psi_trigger=True))
