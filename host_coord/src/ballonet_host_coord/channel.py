"""Where a guest's channel meets trio: one stream, one session, one reader and one writer.

The only place in which bytes of the wire and trio meet. All knowledge of the conversation is in `session`; this file
opens the stream again when it ends, reads when the session allows it, writes what the session wants said, and wakes
it at its deadlines.

A stream on which nobody answers is closed and opened again. A guest that was paused while its host left swallows what
the next host writes, and answers only once that one has left, too (measured); QEMU queues a second client without a
word. The first try lasts as long as trust does, each later one twice as long, so that a guest without an agent is let
alone. A stream on which somebody has spoken gets twice that time: a new session over it comes first, since closing it
throws away what the guest has written and nobody has read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import trio

from ballonet_protocol.limits import DEAD_S, WRITE_STUCK_S

from .ports import ByteStream, Clock, PortError, ReportSink, VmPort
from .session import AgentSession

READ_BYTES = 4096
"""One host buffer of a virtio-serial port, one largest frame."""

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 5.0
PATIENCE_MOST_S = 300.0
"""Five minutes between two openings of a channel on which nobody has ever answered."""

CLOSED = (trio.BrokenResourceError, trio.ClosedResourceError, PortError)
"""What a stream raises when its other end is gone: QEMU dies in the midst of a session, too."""


class AgentReports:
    """The report source "agent": runs the conversation with one guest's agent over its channel."""

    def __init__(self, vm: VmPort, session: AgentSession, clock: Clock, ram_kib: Callable[[], int]) -> None:
        self._vm = vm
        self._session = session
        self._clock = clock
        self._ram_kib = ram_kib
        self._wake = trio.Event()
        self._asleep_until_s = float("-inf")
        """When the writer wakes by itself; negative infinity while it is at work."""

    def wake(self) -> None:
        """The session has something to say: write it now rather than at its next deadline."""
        self._wake.set()

    async def run(self, sink: ReportSink) -> None:
        """Deliver reports and wishes until cancelled. A channel that cannot be had is tried again, without noise."""
        wait_s = RETRY_FIRST_S
        patience_s = DEAD_S
        while True:
            try:
                stream = await self._vm.open_channel()
            except PortError as exc:
                self._session.detached(str(exc))
                self._wake = trio.Event()
                with trio.move_on_after(wait_s):
                    await self._wake.wait()  # a machine that has just migrated here waits for nobody's pause
                wait_s = min(RETRY_MOST_S, wait_s * 2)
                continue
            wait_s = RETRY_FIRST_S
            opened_s = self._clock.now()
            self._session.attached(self._ram_kib(), opened_s)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, nursery.cancel_scope, opened_s, patience_s)
                    await self._read(stream, sink)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await self._say_goodbye(stream)
                    await stream.aclose()
                heard = self._session.heard_s >= opened_s
                patience_s = DEAD_S if heard else min(PATIENCE_MOST_S, patience_s * 2)
                self._session.detached("channel closed")
            await self._clock.sleep(RETRY_FIRST_S)

    async def _say_goodbye(self, stream: ByteStream) -> None:
        self._session.goodbye(self._clock.now())
        if data := self._session.take_output():
            with contextlib.suppress(*CLOSED, trio.BusyResourceError):
                await stream.send_all(data)

    async def _read(self, stream: ByteStream, sink: ReportSink) -> None:
        while True:
            delay_s = self._session.read_delay_s(self._clock.now())
            if delay_s:
                await self._clock.sleep(delay_s)
                continue
            try:
                untrusted_data = await stream.receive_some(READ_BYTES)
            except CLOSED:
                return
            if not untrusted_data:
                return
            self._session.received(bytes(untrusted_data), self._clock.now())
            deliver(self._session, sink)
            # Most of what an agent says wants no answer, and no earlier deadline.
            if self._session.has_output or self._session.deadline_s() < self._asleep_until_s:
                self.wake()

    async def _write(
        self, stream: ByteStream, scope: trio.CancelScope, opened_s: float, patience_s: float
    ) -> None:
        while True:
            self._wake = trio.Event()
            heard_s = self._session.heard_s
            mute_s = heard_s + 2 * DEAD_S if heard_s >= opened_s else opened_s + patience_s
            if self._clock.now() >= mute_s:
                scope.cancel()
                return
            self._session.tick(self._clock.now())
            data = self._session.take_output()
            if data:
                try:
                    with trio.fail_after(WRITE_STUCK_S):
                        await stream.send_all(data)
                except (*CLOSED, trio.TooSlowError):
                    scope.cancel()
                    return
                continue
            self._asleep_until_s = min(mute_s, self._session.deadline_s())
            with trio.move_on_at(self._asleep_until_s):
                await self._wake.wait()
            self._asleep_until_s = float("-inf")


def deliver(session: AgentSession, sink: ReportSink) -> None:
    """Hand on what has arrived, reports before wishes: a wish is judged by the newest report."""
    reports, session.reports = session.reports, []
    wishes, session.wishes = session.wishes, []
    for report in reports:
        sink.reported(report)
    for wish in wishes:
        sink.wished(wish)
