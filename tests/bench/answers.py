"""How fast the host answers: DEMANDs from a scripted agent, through the real service, to a real QMP socket."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import trio
from house import NAME as GUEST
from house import READY_WITHIN_S, is_ready

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import SetTarget, Settings
from ballonet_host_coord.qmp import QmpClient
from ballonet_host_coord.service import serve
from ballonet_host_coord.session import AgentSession
from ballonet_protocol import (
    AGENT,
    AckStatus,
    AckWhy,
    BalloonAck,
    Connection,
    Deflate,
    Demand,
    DemandWhy,
    Hello,
    HelloAck,
    Inflate,
    Limits,
    MemoryReport,
    MoveStatus,
    Ping,
    Pong,
    Report,
    Severity,
)

KIB = 1024
MIB = 1024
APART_S = 0.1
"""Ten DEMANDs a second: half of what the session takes from one guest before it holds back its bytes."""
ANSWER_WITHIN_S = 1.0
STEP_KIB = 6 * MIB
USED_KIB = 200 * MIB
"""Of the scripted guest: far less than it has, so that nothing but its DEMANDs moves it."""
REPORT_EVERY_S = 0.25


class HostStamps:
    """Times from bytes that hold a DEMAND to the `balloon` command that it caused, in the service's own process."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.received = 0
        """DEMANDs, those that caused no command included."""
        self.settled = 0
        """Of them, those whose command is out or whose turn ordered none."""
        self._since_s: float | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The two places are wrapped while this lasts."""
        received, send = AgentSession.received, QmpClient._send

        def stamped_received(session: AgentSession, data: bytes, now_s: float) -> None:
            began_s = time.perf_counter()
            before = len(session.wishes)
            received(session, data, now_s)
            self.received += len(session.wishes) - before
            if session.wishes and self._since_s is None:
                self._since_s = began_s

        async def stamped_send(client: QmpClient, line: bytes) -> None:
            await send(client, line)
            if self._since_s is not None and b'"execute": "balloon"' in line:
                self.samples.append(time.perf_counter() - self._since_s)
                self._since_s = None
                self.settled = self.received

        AgentSession.received = stamped_received  # type: ignore[method-assign, assignment]
        QmpClient._send = stamped_send  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            AgentSession.received, QmpClient._send = received, send  # type: ignore[method-assign]

    def turned(self, _snapshot: Any, _decision: Any, commands: list[Any]) -> None:
        """A DEMAND that caused no command has no latency: the guest has been given that much already."""
        if not any(isinstance(command, SetTarget) and command.guest == GUEST for command in commands):
            self._since_s = None
            self.settled = self.received


class ScriptedAgent:
    """An agent at a Unix socket in QEMU's place: it reports a calm guest, agrees to all, and asks when it is told."""

    def __init__(self, ram_kib: int, actual_kib: Callable[[], Awaitable[int]]) -> None:
        self._ram_kib = ram_kib
        self._actual_kib = actual_kib
        self._connection = Connection(AGENT)
        self._stream: trio.SocketStream | None = None
        self._send_lock = trio.Lock()
        self._clock_ms = itertools.count(100_000, 250)

    async def serve(self, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as listening:
            await listening.bind(path)
            listening.listen(1)
            task_status.started()
            accepted, _ = await listening.accept()
        async with trio.SocketStream(accepted) as stream:
            self._stream = stream
            async for data in stream:
                self._connection.receive_data(data)
                while (message := self._connection.next_message()) is not None:
                    await self._answer(message)

    async def report(self) -> None:
        """One report of what the balloon really is, with little in use."""
        actual_kib = await self._actual_kib()
        memory = MemoryReport(
            total_bytes=self._ram_kib * KIB,
            free_bytes=max(0, actual_kib - USED_KIB) * KIB,
            available_bytes=max(0, actual_kib - USED_KIB) * KIB,
            committed_bytes=USED_KIB * KIB,
            balloon_bytes=(self._ram_kib - actual_kib) * KIB,
        )
        await self._say(Report(boottime_ms=next(self._clock_ms), memory=memory))

    async def demand(self, want_kib: int) -> None:
        await self._say(
            Demand(
                boottime_ms=next(self._clock_ms), want_bytes=want_kib * KIB, why=DemandWhy.PSI, severity=Severity.SHORT
            )
        )

    async def _answer(self, message: Any) -> None:
        if isinstance(message, Hello):
            acknowledgement = HelloAck(
                re=message.seq, nonce=message.nonce, major=1, minor=0, capabilities=(), implementation="scripted",
                implementation_version="1", boot_id=bytes(16), boottime_ms=next(self._clock_ms), page_bytes=4096,
                total_bytes=self._ram_kib * KIB, floor_bytes=0, limits=Limits(), gen=0, status=MoveStatus.REACHED,
            )  # fmt: skip
            await self._say(acknowledgement)
            await self.report()
        elif isinstance(message, Inflate | Deflate):
            effective = {
                "re": message.seq, "gen": message.gen, "status": AckStatus.ACCEPTED,
                "effective_bytes": message.target_bytes, "why": AckWhy.NONE,
            }  # fmt: skip
            await self._say(BalloonAck(**effective))
        elif isinstance(message, Ping):
            await self._say(Pong(re=message.seq, token=message.token))

    async def _say(self, message: Any) -> None:
        assert self._stream is not None
        # Reports, DEMANDs and answers come from tasks of their own.
        async with self._send_lock:
            await self._stream.send_all(self._connection.send(message))


async def ask(
    settings: Settings, channel_path: str, actual_kib: Callable[[], Awaitable[int]], stamps: HostStamps
) -> int:
    """The real service before the guest of `settings`, its channel the scripted agent's. Returns how often it asked.

    The guest begins small; each DEMAND wants `STEP_KIB` more than the one before, until all of its RAM is wanted. It
    has no buffer: with one the first DEMANDs would be inside it, and the last ones would move nothing.
    """
    (guest,) = settings.guests
    scripted = replace(settings, guests=(replace(guest, channel_path=channel_path, buffer_percent=0),))
    agent = ScriptedAgent(guest.maximum_kib, actual_kib)
    asked = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.serve, channel_path)
        coordinator = await nursery.start(_serve, scripted)
        with trio.fail_after(READY_WITHIN_S):
            while not is_ready(coordinator):
                await trio.sleep(0.02)
        coordinator.on_turn = stamps.turned
        nursery.start_soon(_report_for_ever, agent)
        with stamps.taken():
            for want_kib in range(await actual_kib() + STEP_KIB, guest.maximum_kib, STEP_KIB):
                asked += 1
                began_s = trio.current_time()
                await agent.demand(want_kib)
                await _settled(stamps, asked, ANSWER_WITHIN_S)
                await trio.sleep_until(began_s + APART_S)
            await _settled(stamps, asked, READY_WITHIN_S)  # none comes after the last to settle it
        nursery.cancel_scope.cancel()
    return asked


async def _settled(stamps: HostStamps, asked: int, within_s: float) -> None:
    with trio.move_on_after(within_s):
        while stamps.settled < asked:
            await trio.sleep(0.002)


async def _report_for_ever(agent: ScriptedAgent) -> None:
    while True:
        await trio.sleep(REPORT_EVERY_S)
        await agent.report()


async def _serve(settings: Settings, task_status: trio.TaskStatus[Coordinator]) -> None:
    await serve(settings, on_ready=task_status.started)
