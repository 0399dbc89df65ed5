"""A client for peers that answer JSON lines by id: a QEMU monitor (QMP) and the workload in the guest.

There is no reader task: whoever waits reads for all. So errors reach the caller as they are, not in a group.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

# The longest line taken: a command's output in the guest. Past it the peer is not what we think it is.
LONGEST_LINE = 1 << 20
# Events that nobody waited for yet; a monitor sends a few per second at most.
KEPT_EVENTS = 1000


class PeerGone(Exception):
    """The connection is closed, or what comes is no JSON line."""


class JsonLines:
    """Requests with an `id`, each answered by a line with the same `id`; lines without one are events."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # A guest's answer to an earlier client may still be in the port: never reuse its ids.
        self._ids = itertools.count(random.getrandbits(32) << 16)
        self._answers: dict[int, dict[str, Any] | None] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self._one_writer = trio.Lock()
        self._one_reader = trio.Lock()
        self._held = b""

    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send `request` and return the answer, whatever it says. Raises PeerGone; waits as long as it takes."""
        ident = next(self._ids)
        self._answers[ident] = None
        try:
            async with self._one_writer:
                await self._stream.send_all(json.dumps(request | {"id": ident}).encode() + b"\n")
            while True:
                async with self._one_reader:
                    answer = self._answers[ident]
                    if answer is not None:
                        return answer
                    await self._read_more()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone(f"closed while waiting for the answer to {request}") from None
        finally:
            del self._answers[ident]

    async def next_event(self) -> dict[str, Any]:
        """The oldest event not yet returned. Raises PeerGone; waits as long as it takes."""
        while True:
            async with self._one_reader:
                if self._events:
                    return self._events.popleft()
                try:
                    await self._read_more()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise PeerGone("closed while waiting for an event") from None

    async def _read_more(self) -> None:
        data = await self._stream.receive_some(65536)
        if not data or len(self._held) > LONGEST_LINE:
            raise trio.BrokenResourceError
        *whole, self._held = (self._held + data).split(b"\n")
        for line in whole:
            try:
                parsed = json.loads(line)
            except ValueError:
                continue  # the end of a line whose beginning an earlier client read
            if not isinstance(parsed, dict):
                continue
            ident = parsed.get("id")
            if ident in self._answers:
                self._answers[ident] = parsed
            elif ident is None:
                self._events.append(parsed)


@asynccontextmanager
async def json_lines(path: Path) -> AsyncIterator[JsonLines]:
    """Connect to the Unix socket at `path`. Raises OSError where nobody listens."""
    async with await trio.open_unix_socket(str(path)) as stream:
        yield JsonLines(stream)
