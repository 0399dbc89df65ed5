"""Calls to libvirt beside trio's loop: each on a connection that no other call uses, each with a limit.

**One call at a time on a connection.** In libvirt 9.0 (Debian 12) two threads that wait on one may wake up late, or
crash in its client code (m). So there are a few connections, opened when they are needed, and none of them has
keepalive, which speaks from another thread.

**A limit.** A call that takes longer is left behind with its thread and its connection, which is closed when it ends:
with its QEMU, or with libvirtd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import trio

from .left_behind import LEFT_BEHIND
from .ports import PortError, VmAbsent, VmGone

_T = TypeVar("_T")

CALL_TIMEOUT_S = 5.0
CALLERS_MOST = 4
HANDLES_MOST = 2000
LEFT_MOST = 16
"""Calls without an answer, each with a thread and a connection; while there are as many, no further one is made."""


class LibvirtRefused(PortError):
    """libvirt answered with an error. `code` is its VIR_ERR number."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Threads(Protocol):
    """How blocking calls are run; replaced in tests, where nothing blocks and time is virtual."""

    async def run(self, ended: Callable[[], None], function: Callable[[], _T]) -> _T:
        """May be cancelled at any time; the function is left to end by itself then. `ended` is called when it does, in
        whatever thread."""


class WorkerThreads:
    """trio's worker threads. Whoever calls bounds their number."""

    async def run(self, ended: Callable[[], None], function: Callable[[], _T]) -> _T:
        def job() -> _T:
            try:
                return function()
            finally:
                ended()

        return await trio.to_thread.run_sync(job, limiter=trio.CapacityLimiter(1), **LEFT_BEHIND)


class Caller:
    """A connection for calls, and handles of domains on it. Used by one thread at a time."""

    def __init__(self, lib: Any, uri: str, generation: int = 0) -> None:
        self.lib = lib
        self.uri = uri
        self.generation = generation
        self.connection: Any = None
        self.lock = threading.Lock()
        self.ended = True
        """Its last call has ended."""
        self.left = False
        """Its last call was left behind: the thread of that closes it, nobody else may touch it."""
        self._handles: dict[str, Any] = {}

    def open(self) -> None:
        if self.connection is None:
            self.connection = self.lib.open(self.uri)

    def domain(self, uuid: str) -> Any:
        """libvirt's virDomain. A handle is of a domain, not of one of its starts."""
        handle = self._handles.get(uuid)
        if handle is None:
            if len(self._handles) >= HANDLES_MOST:  # domains come and go for as long as a host runs
                self._handles.clear()
            handle = self._handles[uuid] = self.connection.lookupByUUIDString(uuid)
        return handle

    def know(self, domains: Iterable[Any]) -> None:
        """Handles that came with a list need not be asked for one by one."""
        self._handles = {domain.UUIDString(): domain for domain in domains}

    @property
    def usable(self) -> bool:
        return not self.left and self.connection is not None and bool(self.connection.isAlive())

    def close(self) -> None:
        self._handles.clear()
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(self.lib.libvirtError):
                connection.close()


class Callers:
    """Raises VmGone where libvirt does not answer, VmAbsent where it knows no such domain, LibvirtRefused otherwise."""

    def __init__(self, uri: str, threads: Threads) -> None:
        self.uri = uri
        self.calls = 0
        """Calls made so far."""
        self._threads = threads
        self._places = trio.Semaphore(CALLERS_MOST)
        self._idle: list[Caller] = []
        self._old: list[Caller] = []
        self._generation = 0
        self._left: set[Caller] = set()

    def renew(self) -> None:
        """libvirtd was restarted: what is connected to the one before is of no use."""
        self._generation += 1
        self._old += self._idle
        self._idle = []

    async def call(
        self, lib: Any, what: str, function: Callable[[Caller], _T], timeout_s: float = CALL_TIMEOUT_S
    ) -> _T:
        """Run `function` on a connection of the pool. `what` begins the text of any error. After VmGone it may have
        been done, or may yet be."""
        async with self._places:
            # Not before: waiting for our own calls is no silence of libvirt's. Each of them ends within its limit, and
            # past `LEFT_MOST` of those that did not, all end at once.
            with limit(what, timeout_s):
                caller = self._idle.pop() if self._idle else Caller(lib, self.uri, self._generation)
                try:
                    return await self.run(caller, what, function)
                finally:
                    if caller.generation == self._generation and caller.usable:
                        self._idle.append(caller)

    async def run(self, caller: Caller, what: str, function: Callable[[Caller], _T]) -> _T:
        """Run `function` on this connection, which nobody else uses. One that is left behind is unusable at once."""
        if len(self._left) >= LEFT_MOST:
            raise VmGone(f"{what}: {len(self._left)} calls have had no answer from libvirt")
        # One that is cancelled already would never become a thread, and nothing would tell its end.
        await trio.lowlevel.checkpoint_if_cancelled()
        old, self._old = self._old, []
        self.calls += 1
        caller.ended = False

        def work() -> _T:
            for unused in old:
                unused.close()
            caller.open()
            return function(caller)

        def ended() -> None:
            with caller.lock:
                caller.ended = True
                if not caller.left:
                    return
            self._left.discard(caller)
            caller.close()

        try:
            return await self._threads.run(ended, work)
        except caller.lib.libvirtError as error:
            raise _translated(what, error, caller) from error
        finally:
            with caller.lock:
                if not caller.ended:
                    caller.left = True
                    self._left.add(caller)

    async def beside(self, function: Callable[[], _T]) -> _T:
        """Run what blocks and is no call to libvirt."""
        return await self._threads.run(lambda: None, function)

    async def aclose(self) -> None:
        self.renew()
        old, self._old = self._old, []

        def close() -> None:
            for caller in old:
                caller.close()

        with trio.move_on_after(1):
            await self.beside(close)


@contextmanager
def limit(what: str, timeout_s: float) -> Iterator[None]:
    """VmGone instead of trio's TooSlowError."""
    try:
        with trio.fail_after(timeout_s):
            yield
    except trio.TooSlowError as error:
        raise VmGone(f"{what}: libvirt does not answer within {timeout_s:g} s") from error


def of_running(caller: Caller, domain: Any, function: Callable[[Any], _T]) -> _T:
    """In a worker thread: what `function` says of this domain. Raises VmGone where libvirt refuses because the domain
    has ended since it was looked at; it has several codes for that, so it is asked."""
    try:
        return function(domain)
    except caller.lib.libvirtError as error:
        if error.get_error_code() != caller.lib.VIR_ERR_NO_DOMAIN and not domain.isActive():
            raise VmGone(f"{domain.name()}: runs no longer") from error
        raise


def said(error: Any) -> str:
    """libvirt's words, on one line."""
    return " ".join(str(error).split()) or "libvirt does not say why"


def _translated(what: str, error: Any, caller: Caller) -> PortError:
    text, code = f"{what}: {said(error)}", error.get_error_code()
    if code == caller.lib.VIR_ERR_NO_DOMAIN:
        return VmAbsent(text)
    if not caller.usable:
        return VmGone(text)
    return LibvirtRefused(text, code)
