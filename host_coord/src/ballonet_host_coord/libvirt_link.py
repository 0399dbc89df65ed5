"""Joins libvirt to trio: the module itself, its events as plain values, and a connection that is found again.

The only module that imports libvirt, and only when it is used. Events come in libvirt's own thread, one for the
process, and are kept as the latest of each kind and domain until trio takes them: that thread never waits, and nothing
grows with a flood. The connection for them carries nothing else but keepalive. Its end (libvirtd restarted) is told
once; `connect` makes a new one and registers everything anew. Calls have connections of their own (`libvirt_callers`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from .libvirt_callers import CALL_TIMEOUT_S, Caller, Callers, Threads, WorkerThreads, said
from .ports import PortError, VmGone

_T = TypeVar("_T")

PACKAGE = "python3-libvirt, or the extra [libvirt] of ballonet-host-coord"
OPEN_TIMEOUT_S = 5.0
OPEN_APART_S = 0.9
"""Many VMs wait for one connection: what an attempt found holds for all of them this long."""
KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3
LOOP_WAKES_MS = 500
PENDING_MOST = 20_000
"""Different events that wait; more means that nobody takes them."""


class LinkEventKind(StrEnum):
    STARTED = "started"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    BALLOON = "balloon"
    HOTPLUG = "hotplug"
    """A virtio-mem device has another size."""
    METADATA = "metadata"
    DEVICES = "devices"
    MIGRATION = "migration"
    """A migration, save or dump begins, goes on or ends."""
    LOST = "lost"
    """The connection has ended. Of no domain."""
    OVERFLOW = "overflow"
    """Events were dropped: whatever was known may be old. Of no domain."""


@dataclass(frozen=True, slots=True)
class LinkEvent:
    kind: LinkEventKind
    uuid: str = ""
    wall_s: float = 0.0
    """When libvirt's thread heard of it, by the wall clock."""
    detail: str = ""


def import_libvirt() -> Any:
    """The libvirt module. Raises PortError that says which package has it."""
    try:
        import libvirt
    except ImportError as error:
        raise PortError(f"libvirt's Python module cannot be imported ({error}); install {PACKAGE}") from error
    return libvirt


def is_local(uri: str) -> bool:
    """Whether the URI names libvirt on this machine, so that its files and processes are ours to see."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return not parts.netloc and parts.scheme.partition("+")[2] in ("", "unix")


_loop_lock = threading.Lock()
_loops: list[Any] = []


def start_event_loop(lib: Any) -> None:
    """Run libvirt's event loop in a daemon thread; once for the process, and before the first connection is opened."""
    with _loop_lock:
        if any(lib is known for known in _loops):
            return
        _loops.append(lib)
        # Otherwise the C library prints each error as well.
        lib.registerErrorHandler(lambda _context, _error: None, None)
        lib.virEventRegisterDefaultImpl()
        # Without any timer the loop would not see what another thread adds before its first descriptor speaks.
        lib.virEventAddTimeout(LOOP_WAKES_MS, lambda _timer, _opaque: None, None)

        def run() -> None:
            while True:
                try:
                    lib.virEventRunDefaultImpl()
                except lib.libvirtError:
                    time.sleep(LOOP_WAKES_MS / 1000)

        threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class LibvirtLink:
    """Raises VmGone where libvirt does not answer, VmAbsent where it knows no such domain, LibvirtRefused otherwise."""

    def __init__(
        self, uri: str, *, lib: Any = None, threads: Threads | None = None,
        event_loop: Callable[[Any], None] = start_event_loop,
    ) -> None:  # fmt: skip
        self.uri = uri
        self.generation = 0
        """Counts the connections: what belongs to an older one is of no use."""
        self.on_event: Callable[[LinkEvent], None] = lambda event: None
        """Called in trio, in the order in which each event was last heard."""
        self._lib = lib
        self._start_event_loop = event_loop
        self._threads = threads or WorkerThreads()
        self.callers = Callers(uri, self._threads)
        self._connection: _EventConnection | None = None
        self._ended: _EventConnection | None = None
        self._connect_lock = trio.Lock()
        self._attempt: _Attempt | None = None
        self._failed_s = float("-inf")
        self._failed = ""
        self._pending = _Pending(self._deliver)

    @property
    def lib(self) -> Any:
        """The libvirt module, for its constants."""
        if self._lib is None:
            self._lib = import_libvirt()
        return self._lib

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def connect(self) -> None:
        """Connect where we are not. Raises VmGone: whether a domain runs cannot be told without libvirt."""
        async with self._connect_lock:
            if self._connection is not None:
                return
            if trio.current_time() < self._failed_s + OPEN_APART_S:
                raise VmGone(self._failed)
            try:
                await self._connect()
            except PortError as error:
                self._failed_s, self._failed = trio.current_time(), str(error)
                raise

    async def call(self, what: str, function: Callable[[Caller], _T], timeout_s: float = CALL_TIMEOUT_S) -> _T:
        """Run `function` with a connection, in a thread. `what` begins the text of any error. After VmGone it may have
        been done, or may yet be."""
        if self._connection is None:
            raise VmGone(f"{what}: not connected to libvirt")
        try:
            return await self.callers.call(self.lib, what, function, timeout_s)
        except VmGone:
            self._look_whether_it_lives()
            raise

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        await self.callers.aclose()
        if connection is not None:
            with trio.move_on_after(1):
                await self.callers.beside(lambda: connection.close(self.lib))

    # --- inside ------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        if self._attempt is not None and not self._attempt.ended:
            raise VmGone(f"{self.uri}: libvirt still does not answer")
        self._pending.token = trio.lowlevel.current_trio_token()
        lib, generation = self.lib, self.generation + 1  # before the attempt: nothing is tried where it is missing
        await trio.lowlevel.checkpoint_if_cancelled()  # an attempt that never becomes a thread would never end
        self._attempt = attempt = _Attempt()
        try:
            with trio.fail_after(OPEN_TIMEOUT_S):
                connection = await self._threads.run(attempt.end, lambda: self._open(lib, generation, attempt))
        except trio.TooSlowError as error:
            raise VmGone(f"{self.uri}: libvirt does not answer within {OPEN_TIMEOUT_S:.0f} s") from error
        except lib.libvirtError as error:
            raise VmGone(f"{self.uri}: {said(error)}") from error
        finally:
            attempt.wanted = False
        self.generation = generation
        self._connection = connection

    def _open(self, lib: Any, generation: int, attempt: _Attempt) -> _EventConnection:
        """In a worker thread. The result of an attempt that nobody waits for any more is closed."""
        self._start_event_loop(lib)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.close(lib)
        connection = _EventConnection(lib.open(self.uri))
        try:
            connection.libvirt.registerCloseCallback(self._closed, generation)
            self._register_events(connection, lib)
            # Last: from here on it speaks by itself, and nothing else may (`libvirt_callers`).
            with suppress(lib.libvirtError):  # a driver without a wire has none
                connection.libvirt.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        except BaseException:
            connection.close(lib)
            raise
        if not attempt.wanted:
            connection.close(lib)
        return connection

    def _register_events(self, connection: _EventConnection, lib: Any) -> None:
        kinds = {
            lib.VIR_DOMAIN_EVENT_STARTED: LinkEventKind.STARTED,
            lib.VIR_DOMAIN_EVENT_STOPPED: LinkEventKind.STOPPED,
            lib.VIR_DOMAIN_EVENT_SUSPENDED: LinkEventKind.SUSPENDED,
            lib.VIR_DOMAIN_EVENT_PMSUSPENDED: LinkEventKind.SUSPENDED,
            lib.VIR_DOMAIN_EVENT_RESUMED: LinkEventKind.RESUMED,
            lib.VIR_DOMAIN_EVENT_SHUTDOWN: LinkEventKind.SHUTDOWN,
            lib.VIR_DOMAIN_EVENT_CRASHED: LinkEventKind.SUSPENDED,
        }

        def lifecycle(_connection: Any, domain: Any, event: int, *_rest: Any) -> None:
            if event in kinds:
                self._heard(kinds[event], domain)

        def of(kind: LinkEventKind) -> Callable[..., None]:
            return lambda _connection, domain, *_rest: self._heard(kind, domain)

        for number, callback in (
            (lib.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (lib.VIR_DOMAIN_EVENT_ID_REBOOT, of(LinkEventKind.REBOOT)),
            (lib.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, of(LinkEventKind.BALLOON)),
            (lib.VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, of(LinkEventKind.HOTPLUG)),
            (lib.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, of(LinkEventKind.METADATA)),
            (lib.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, of(LinkEventKind.DEVICES)),
            (lib.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, of(LinkEventKind.DEVICES)),
            (lib.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, of(LinkEventKind.MIGRATION)),
            (lib.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, of(LinkEventKind.MIGRATION)),
        ):
            connection.callbacks.append(connection.libvirt.domainEventRegisterAny(None, number, callback, None))

    def _heard(self, kind: LinkEventKind, domain: Any) -> None:
        """In libvirt's thread: nothing but plain values leaves it."""
        self._pending.put(LinkEvent(kind, domain.UUIDString(), time.time()))

    def _closed(self, _connection: Any, reason: int, generation: int) -> None:
        """In libvirt's thread."""
        words = {0: "an error", 1: "libvirtd went away", 2: "keepalive found nobody", 3: "we closed it"}
        self._pending.put(LinkEvent(LinkEventKind.LOST, str(generation), time.time(), words.get(reason, str(reason))))

    def _deliver(self, event: LinkEvent) -> None:
        """In trio."""
        if event.kind is not LinkEventKind.LOST:
            self.on_event(event)
        elif event.uuid == str(self.generation) and self._connection is not None:
            self._drop(event.detail)

    def _look_whether_it_lives(self) -> None:
        """libvirt's thread may not have told yet that it does not."""
        if self._connection is not None and not self._connection.libvirt.isAlive():
            self._drop("libvirtd went away")

    def _drop(self, why: str) -> None:
        self._ended, self._connection = self._connection, None
        self.callers.renew()
        self.on_event(LinkEvent(LinkEventKind.LOST, detail=f"{self.uri}: the connection to libvirt has ended: {why}"))


@dataclass(slots=True, eq=False)
class _EventConnection:
    """A connection that events come on. Each callback holds it, in libvirt's thread, until it is taken back."""

    libvirt: Any
    callbacks: list[int] = field(default_factory=list)

    def close(self, lib: Any) -> None:
        """In a worker thread."""
        for callback in self.callbacks:
            with suppress(lib.libvirtError):
                self.libvirt.domainEventDeregisterAny(callback)
        with suppress(lib.libvirtError):
            self.libvirt.unregisterCloseCallback()
        with suppress(lib.libvirtError):
            self.libvirt.close()


@dataclass(slots=True, eq=False)
class _Attempt:
    """One opening of the connection, as its thread and its waiter see it."""

    wanted: bool = True
    ended: bool = False

    def end(self) -> None:
        self.ended = True


class _Pending:
    """The latest event of each kind and domain, from libvirt's thread to trio's."""

    def __init__(self, deliver: Callable[[LinkEvent], None]) -> None:
        self.token: trio.lowlevel.TrioToken | None = None
        self._deliver = deliver
        self._lock = threading.Lock()
        self._events: dict[tuple[LinkEventKind, str], LinkEvent] = {}

    def put(self, event: LinkEvent) -> None:
        with self._lock:
            if len(self._events) >= PENDING_MOST:
                self._events.clear()
                event = LinkEvent(LinkEventKind.OVERFLOW, wall_s=event.wall_s)
            # Taken out first, so that the order is that of the latest.
            self._events.pop((event.kind, event.uuid), None)
            self._events[event.kind, event.uuid] = event
        if self.token is not None:
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._take, idempotent=True)

    def _take(self) -> None:
        with self._lock:
            events, self._events = self._events, {}
        for event in events.values():
            self._deliver(event)
