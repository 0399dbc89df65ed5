"""The hypervisor port over QMP: one monitor socket per VM, as the settings name them.

What cannot change while a connection lasts (balloon device, RAM, deflate-on-oom, which ports are not the agent's, what
QEMU was started with) is read when it is made; `facts` then takes four commands. They go out in one write: apart they
were a quarter of all that a coordinator of 200 guests did (DESIGN.md, "What it costs").

Needs of each VM: a QMP socket of our own (a monitor has one client), and a virtio balloon::

    -qmp unix:/run/vm/NAME.qmp,server=on,wait=off -device virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on

With a virtio-mem device the guest grows beyond its boot memory. QEMU counts what is plugged apart from the balloon's
`actual` (m); here both are one size (hotplug.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psutil
import trio

from .boots import BootTracker, Process
from .channel_socket import ChannelStream, lock_directory, open_channel
from .hotplug import Mover, Sizes, Split, hotplug_of
from .left_behind import in_time
from .model import GuestSettings, Hotplug, Migration, RunState, Settings, VmEvent, VmEventKind, VmFacts
from .ports import Clock, PortError, VmAbsent, VmGone
from .qemu_arguments import NOTHING, Arguments
from .qemu_process import arguments_of
from .qmp import QmpAbsent, QmpClient, QmpClosed, QmpError, QmpTimeout

_T = TypeVar("_T")

AGENT_PORT = "org.ballonet.agent.0"
STATISTICS_INTERVAL_S = 1
"""As often as decisions are made. One virtio request each; QEMU counts whole seconds, so there is no finer one."""

BALLOON_LINE = "-device virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on"
DEVICE_ROOTS = ("/machine/peripheral", "/machine/peripheral-anon")
"""Where -device puts what it makes: with an id= and without."""

SEVERAL = "it has several virtio-mem devices; one is served"

# QEMU's run states. What is not named here stands still, and is left alone like a paused machine.
RUN_STATES = {
    "prelaunch": RunState.PRELAUNCH,
    "running": RunState.RUNNING,
    "inmigrate": RunState.MIGRATING,
    "restore-vm": RunState.MIGRATING,
    "finish-migrate": RunState.MIGRATING,
    "postmigrate": RunState.MIGRATING,
    "shutdown": RunState.SHUTDOWN,
}
MOST_BYTES = 1 << 63
"""More than any machine has: whoever says more, or less than nothing, is not QEMU."""
MIGRATIONS = {
    "inmigrate": Migration.INCOMING,
    "restore-vm": Migration.INCOMING,
    "finish-migrate": Migration.OUTGOING,
    "postmigrate": Migration.LEFT,
}
ARGUMENTS_WAIT_S = 2.0
"""Who reads a process's command line waits while that process changes its memory, and for ever where it hangs there."""
MIGRATION_OVER = ("none", "completed", "failed", "cancelled")

EVENTS = {
    "RESET": VmEventKind.RESET,
    "STOP": VmEventKind.PAUSED,
    "RESUME": VmEventKind.RESUMED,
    "SHUTDOWN": VmEventKind.SHUTDOWN,
    "BALLOON_CHANGE": VmEventKind.BALLOON,
    "MEMORY_DEVICE_SIZE_CHANGE": VmEventKind.BALLOON,
    "MIGRATION": VmEventKind.MIGRATION,
}


class QmpHypervisor:
    """All VMs of the settings. Nothing is connected before its `VmPort.connect`."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        # Beside the control socket, where every coordinator of this host looks; else where its user may write.
        directories = [os.path.dirname(settings.host.control_path)]
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            directories.append(os.path.join(runtime, "ballonet"))
        self._clock = clock
        self._directories = directories
        self._vms: dict[str, QmpVm] = {}
        self.named(settings)

    def named(self, settings: Settings) -> None:
        """A VM whose sockets are the same stays the same."""
        vms = {}
        for guest in settings.guests:
            vm = self._vms.get(guest.name)
            known = vm is not None and vm.sockets == (guest.qmp_path, guest.channel_path)
            vms[guest.name] = vm if vm is not None and known else QmpVm(guest, self._clock, self._directories)
        self._vms = vms

    def list(self) -> tuple[str, ...]:
        return tuple(self._vms)

    def vm(self, name: str) -> QmpVm:
        """The same object each time. Raises KeyError for a name that the settings do not have."""
        return self._vms[name]


@dataclass(slots=True)
class _Connection:
    """A connection and what cannot change while it lasts."""

    client: QmpClient
    balloon: str = ""
    boot_kib: int = 0
    hotplug: list[str] = field(default_factory=list)
    """Its virtio-mem devices."""
    deflate_on_oom: bool | None = None
    other_ports: set[str] = field(default_factory=set)
    qemu_pid: int | None = None
    arguments: Arguments = NOTHING
    gone_told: bool = False

    @property
    def hands_off(self) -> str:
        return "; ".join((*self.arguments.pins, *([SEVERAL] if len(self.hotplug) > 1 else [])))


class QmpVm:
    """One VM. After `VmGone` nothing but `connect` may be called; it keeps a connection that is only slow."""

    def __init__(self, settings: GuestSettings, clock: Clock, lock_directories: list[str]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock_directories = lock_directories
        self._boots = BootTracker()
        self._connection: _Connection | None = None
        self._migration = Migration.NONE
        self._unknown_past = True
        self._came_in = 0
        """The boot that began with the end of an incoming migration."""
        self._facts_lock = trio.Lock()
        self._mover = Mover()
        self._listener_pid: int | None = None

    @property
    def sockets(self) -> tuple[str, str]:
        """Monitor and channel."""
        return self._settings.qmp_path, self._settings.channel_path

    @property
    def listener_pid(self) -> int | None:
        return self._listener_pid

    async def connect(self) -> None:
        """Raises VmAbsent, VmGone; PortError where the VM is there and cannot be served, with what to change."""
        if self._connection is not None and not self._connection.client.closed:
            try:
                await self._command("query-status")
                return
            except VmGone:
                pass
        await self.aclose()
        now_s = self._clock.now()
        try:
            client = await QmpClient.connect(self._settings.qmp_path, on_event=self._on_event)
        except QmpAbsent as error:
            self._listener_pid = None
            raise VmAbsent(str(error)) from error
        except QmpClosed as error:
            self._listener_pid = error.peer_pid if _process(error.peer_pid)[0] else None
            raise VmGone(str(error)) from error
        self._connection = connection = _Connection(client)
        try:
            pid, _ = client.peer
            process, age_s = _process(pid)
            # A process that the kernel does not show us cannot be told from another, nor from one that has ended.
            connection.qemu_pid = self._listener_pid = process.pid if process else None
            if self._boots.connected(process, now_s - age_s, now_s):
                self._migration, self._unknown_past = Migration.NONE, True
            await self._look_around(connection)
            if process is not None:
                connection.arguments = await in_time(ARGUMENTS_WAIT_S, arguments_of, process.pid) or NOTHING
        except BaseException:
            await self.aclose()
            raise

    async def facts(self) -> VmFacts:
        async with self._facts_lock:
            connection = self._connected()
            asked_s = self._clock.now()
            said, size, migrating, shown = await self._commands(
                ("query-status", None),
                ("query-balloon", None),
                ("query-migrate", None),
                ("qom-get", {"path": connection.balloon, "property": "guest-stats"}),
            )
            status = self._value("query-status", said, "status", str)
            actual_bytes = self._value("query-balloon", size, "actual", int)
            hotplug = await self._hotplug(connection)
            now_s = self._clock.now()
            self._read_statistics(shown, now_s)
            run_state = RUN_STATES.get(status, RunState.PAUSED)
            migration = MIGRATIONS.get(status, Migration.NONE)
            if run_state in (RunState.RUNNING, RunState.PAUSED):
                migration = self._travelling(self._granted(migrating))
                if migration is Migration.OUTGOING:
                    run_state = RunState.MIGRATING
            if self._migration is Migration.INCOMING and migration is not Migration.INCOMING:
                self._came(now_s)
            self._migration, self._unknown_past = migration, False
            if migration is Migration.NONE and self._came_in == self._boots.boot:
                migration = Migration.ARRIVED
            left_kib = actual_bytes // 1024
            if hotplug is not None and run_state is RunState.RUNNING:
                hotplug = await self._follow(Sizes(connection.boot_kib, left_kib, hotplug), now_s)
            ram_kib = connection.boot_kib + (hotplug.most_kib if hotplug is not None else 0)
            return VmFacts(
                run_state=run_state,
                ram_kib=ram_kib,
                actual_kib=left_kib + (hotplug.plugged_kib if hotplug is not None else 0),
                boot=self._boots.boot,
                boot_began_s=self._boots.boot_began_s,
                deflate_on_oom=connection.deflate_on_oom,
                statistics=self._boots.statistics,
                statistics_count=self._boots.statistics_count,
                qemu_pid=connection.qemu_pid,
                read_s=asked_s,
                migration=migration,
                hands_off=connection.hands_off,
                hotplug=hotplug,
                hugepages_kib=min(ram_kib, connection.arguments.hugepages_kib),
            )

    async def set_target(self, target_kib: int) -> None:
        """QEMU cuts what is above RAM down to it, in silence. After VmGone the target may or may not be set."""
        if target_kib <= 0:
            raise PortError(f"{self._settings.name}: a target of {target_kib} KiB would leave the guest nothing")
        if hands_off := self._connected().hands_off:
            raise PortError(f"{self._settings.name}: left alone: {hands_off}")
        if not self._connected().hotplug:
            await self._command("balloon", {"value": target_kib * 1024})
            return
        async with self._facts_lock:
            connection = self._connected()
            hotplug = await self._hotplug(connection)
            assert hotplug is not None
            left_kib = await self._ask("query-balloon", "actual", int) // 1024
            sizes = Sizes(connection.boot_kib, left_kib, hotplug)
            await self._tell(sizes, self._mover.of_boot(self._boots.boot).aim(target_kib, sizes, self._clock.now()))

    async def start(self) -> None:
        """Does nothing to a VM that runs; refuses one that somebody paused."""
        status = await self._ask("query-status", "status", str)
        if status == "running":
            return
        if status != "prelaunch":
            raise PortError(f"{self._settings.name}: is {status} and does not wait for its start")
        await self._command("cont")

    async def next_event(self) -> VmEvent:
        connection = self._connected()
        while True:
            try:
                event = await connection.client.next_event()
            except QmpClosed as error:
                if connection.gone_told:
                    raise VmGone(f"{self._settings.name}: {error}") from error
                connection.gone_told = True
                return VmEvent(VmEventKind.GONE, self._clock.now())
            kind = _event_kind(event, connection.other_ports)
            if kind is not None:
                return VmEvent(kind, self._clock.now())

    async def open_channel(self) -> ChannelStream:
        if not self._settings.channel_path:
            raise PortError(f"{self._settings.name}: the settings name no channel")
        if self._migration is Migration.INCOMING:
            # What is written now, a guest reads that has another coordinator yet; and a port that was opened and
            # closed before the guest runs is open for it ever after.
            raise PortError(f"{self._settings.name}: is being migrated here")
        return await open_channel(self._settings.channel_path, lock_directory(self._lock_directories))

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.client.aclose()

    # --- inside -----------------------------------------------------------------------------------------

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise VmGone(f"{self._settings.name}: not connected")
        return self._connection

    async def _commands(self, *wanted: tuple[str, dict[str, Any] | None]) -> list[Any]:
        """For each its answer, or the QmpError with which it was refused."""
        try:
            return await self._connected().client.commands(*wanted)
        except (QmpClosed, QmpTimeout) as error:
            raise VmGone(f"{self._settings.name}: {error}") from error

    async def _command(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        (answer,) = await self._commands((name, arguments))
        return self._granted(answer)

    def _granted(self, answer: Any) -> Any:
        if isinstance(answer, QmpError):
            raise PortError(f"{self._settings.name}: {answer}") from answer
        return answer

    async def _ask(self, command: str, name: str, kind: type[_T]) -> _T:
        """One value of a command's answer. Raises PortError where what answers does not answer like QEMU."""
        return self._value(command, await self._command(command), name, kind)

    def _value(self, command: str, answer: Any, name: str, kind: type[_T]) -> _T:
        reply = self._granted(answer)
        value = reply.get(name) if isinstance(reply, dict) else None
        if not isinstance(value, kind) or (isinstance(value, int) and not 0 <= value <= MOST_BYTES):
            raise PortError(f"{self._settings.name}: {command} has no proper {name!r}; is this QEMU's monitor?")
        return value

    async def _property(self, path: str, name: str) -> Any:
        """A property of a device, None where this QEMU has no such."""
        return await self._answer_or_none("qom-get", {"path": path, "property": name})

    async def _answer_or_none(self, command: str, arguments: dict[str, Any]) -> Any:
        """None where this QEMU refuses the command."""
        try:
            return await self._command(command, arguments)
        except VmGone:
            raise
        except PortError:
            return None

    async def _hotplug(self, connection: _Connection) -> Hotplug | None:
        """Its virtio-mem devices as they are now, as if they were one; None where it has none."""
        if not connection.hotplug:
            return None
        found = hotplug_of(await self._command("query-memory-devices"))
        if found is None:
            raise PortError(f"{self._settings.name}: query-memory-devices does not show its virtio-mem device properly")
        return found

    async def _follow(self, sizes: Sizes, now_s: float) -> Hotplug:
        """Have the balloon take what the guest's kernel refuses to unplug."""
        told = self._mover.of_boot(self._boots.boot).follow(sizes, now_s)
        if told is not None:
            await self._tell(sizes, told)
            return replace(sizes.hotplug, requested_kib=told.requested_kib)
        return sizes.hotplug

    async def _tell(self, sizes: Sizes, told: Split) -> None:
        """The request first where the guest shrinks: what it is to keep it must not give."""
        balloon = {"value": told.balloon_kib * 1024}
        shrinks = told.balloon_kib <= sizes.left_kib
        if not shrinks:
            await self._command("balloon", balloon)
        if told.requested_kib != sizes.hotplug.requested_kib:
            path, value = self._connected().hotplug[0], told.requested_kib * 1024
            await self._command("qom-set", {"path": path, "property": "requested-size", "value": value})
        if shrinks:
            await self._command("balloon", balloon)

    async def _look_around(self, connection: _Connection) -> None:
        for root in DEVICE_ROOTS:
            for name, kind in _children(await self._command("qom-list", {"path": root})):
                path = f"{root}/{name}"
                if kind.startswith("child<virtio-balloon") and not connection.balloon:
                    connection.balloon = path
                elif kind.startswith("child<virtio-mem"):
                    connection.hotplug.append(path)
                elif kind == "child<virtserialport>" and await self._property(path, "name") != AGENT_PORT:
                    connection.other_ports.add(name)
        if not connection.balloon:
            raise PortError(f"{self._settings.name}: the VM has no balloon; give QEMU {BALLOON_LINE}")
        deflates = await self._property(connection.balloon, "deflate-on-oom")
        connection.deflate_on_oom = deflates if isinstance(deflates, bool) else None
        connection.boot_kib = await self._ask("query-memory-size-summary", "base-memory", int) // 1024
        interval = {
            "path": connection.balloon,
            "property": "guest-stats-polling-interval",
            "value": STATISTICS_INTERVAL_S,
        }
        await self._command("qom-set", interval)
        # Else QEMU says nothing when a migration begins, and we would look a second later. Refused while one is on.
        events = {"capabilities": [{"capability": "events", "state": True}]}
        await self._answer_or_none("migrate-set-capabilities", events)

    def _read_statistics(self, shown: Any, now_s: float) -> None:
        if isinstance(shown, dict) and type(shown.get("last-update")) is int:
            values = shown.get("stats")
            self._boots.statistics_read(shown["last-update"], values if isinstance(values, dict) else {}, now_s)

    def _travelling(self, reply: Any) -> Migration:
        """Whether an outgoing migration is under way; QEMU calls such a machine running until its last moment. One that
        is over when we first look may have been an incoming one, of a guest that has run for long."""
        status = reply.get("status", "none") if isinstance(reply, dict) else "none"
        if status not in MIGRATION_OVER:
            return Migration.OUTGOING
        if self._unknown_past and status == "completed":
            self._came_in = self._boots.boot
        return Migration.NONE

    def _came(self, now_s: float) -> None:
        self._boots.migrated_in(now_s)
        self._came_in = self._boots.boot
        self._migration = Migration.NONE

    def _on_event(self, event: dict[str, Any]) -> None:
        """Called in the order of QEMU's words, before any later reply is returned."""
        if event["event"] == "RESET":
            stamp = event.get("timestamp")
            seconds = stamp.get("seconds") if isinstance(stamp, dict) else None
            self._boots.reset(self._clock.now(), seconds if isinstance(seconds, int) else 0)
        elif event["event"] == "RESUME" and self._migration is Migration.INCOMING:
            self._came(self._clock.now())


def _event_kind(event: dict[str, Any], other_ports: set[str]) -> VmEventKind | None:
    if event["event"] == "VSERPORT_CHANGE":
        data = event.get("data")
        if not isinstance(data, dict) or data.get("id") in other_ports:
            return None
        return VmEventKind.CHANNEL_OPEN if data.get("open") else VmEventKind.CHANNEL_CLOSED
    return EVENTS.get(event["event"])


def _children(listed: object) -> list[tuple[str, str]]:
    """Names and types of a qom-list."""
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [(str(entry.get("name")), str(entry.get("type"))) for entry in entries]


def _process(pid: int) -> tuple[Process | None, float]:
    """The process and its age in seconds; None and 0 where the kernel does not show it to us."""
    try:
        began_wall_s = psutil.Process(pid).create_time()
    except (psutil.Error, ValueError):
        return None, 0.0
    return Process(pid, began_wall_s), max(0.0, time.time() - began_wall_s)
