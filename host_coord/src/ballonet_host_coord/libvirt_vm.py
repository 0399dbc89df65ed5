"""One libvirt domain as `ports.VmPort`: facts from the shared poll, its own commands, events, channel and process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from .boots import BootTracker, Process
from .channel_socket import lock_directory, open_channel
from .hotplug import Sizes
from .libvirt_callers import Caller, LibvirtRefused, of_running
from .libvirt_link import LinkEvent, LinkEventKind, is_local
from .libvirt_memory import DomainMemory
from .libvirt_stream import open_stream
from .libvirt_xml import AGENT_PORT, DomainXml
from .model import Migration, RunState, VmEvent, VmEventKind, VmFacts
from .ports import ByteStream, PortError, VmAbsent, VmGone
from .qemu_process import age_s, belongs_to, find_qemu, run_folders

if TYPE_CHECKING:
    from .libvirt_hypervisor import LibvirtHypervisor

STATISTICS_PERIOD_S = 1
MOVES_S = 60.0
"""A balloon that has not arrived by then is asked for no more often than one at rest."""
HUNG_MS = 3000
"""A request that has occupied a domain's QEMU this long means that it hangs; they take milliseconds."""
FIND_TIMEOUT_S = 2.0
"""Looking for a process reads those of everybody, and one that hangs may keep who reads of it waiting."""
FIND_AGAIN_S = 10.0
STARTS_S = 10.0
STARTS_LOOK_S = 0.1
"""libvirt has started a domain in a second, and looks the same until then whether it boots or arrives."""

EVENTS = {
    LinkEventKind.REBOOT: VmEventKind.RESET,
    LinkEventKind.SUSPENDED: VmEventKind.PAUSED,
    LinkEventKind.RESUMED: VmEventKind.RESUMED,
    LinkEventKind.SHUTDOWN: VmEventKind.SHUTDOWN,
    LinkEventKind.BALLOON: VmEventKind.BALLOON,
    LinkEventKind.HOTPLUG: VmEventKind.BALLOON,
    LinkEventKind.DEVICES: VmEventKind.BALLOON,
    LinkEventKind.OVERFLOW: VmEventKind.BALLOON,
    LinkEventKind.MIGRATION: VmEventKind.MIGRATION,
    LinkEventKind.STOPPED: VmEventKind.GONE,
    LinkEventKind.LOST: VmEventKind.GONE,
}
"""What is not here is no news for a VM: METADATA is discovery's, STARTED another boot's."""

# QEMU's name for `boots` <- libvirt's; sizes are KiB at libvirt and bytes at QEMU, faults are counted.
_STATISTICS = {
    "balloon.available": ("stat-total-memory", 1024),
    "balloon.unused": ("stat-free-memory", 1024),
    "balloon.usable": ("stat-available-memory", 1024),
    "balloon.disk_caches": ("stat-disk-caches", 1024),
    "balloon.swap_in": ("stat-swap-in", 1024),
    "balloon.swap_out": ("stat-swap-out", 1024),
    "balloon.major_fault": ("stat-major-faults", 1),
}


@dataclass(frozen=True, slots=True)
class Start:
    """A domain from one start to its end."""

    name: str
    uuid: str
    number: int
    """libvirt's id of this start."""


@dataclass(slots=True)
class Connection:
    """A domain of one start, as one connection to libvirt knows it."""

    generation: int
    start: Start
    events: dict[VmEventKind, None] = field(default_factory=dict)
    """What waits to be fetched, each kind once, oldest first."""
    heard: trio.Event = field(default_factory=trio.Event)
    ready: bool = False
    """It is in the shared polls."""
    gone: bool = False
    gone_told: bool = False
    not_before_s: float = 0.0
    """Something happened then: facts from before are not worth telling."""
    exact_kib: int | None = None
    """Its size as QEMU said it; good for as long as libvirt's own number is the same and nothing is on its way."""
    target_kib: int | None = None
    """Where its balloon is on its way to, as far as we sent it."""
    target_s: float = 0.0
    job: bool = True
    """A migration, save or dump may be under way."""
    arriving: bool = False
    """It came from another host or from a file, and runs on with the past that it had there."""
    migration: Migration = Migration.NONE


class LibvirtVm:
    """One domain. `VmGone` means that libvirt, or this domain's QEMU, does not answer; the QEMU may well live."""

    def __init__(self, name: str, hypervisor: LibvirtHypervisor) -> None:
        self.name = name
        self._hypervisor = hypervisor
        self._link = hypervisor.link
        self._clock = hypervisor.clock
        self._boots = BootTracker()
        self._connection: Connection | None = None
        self._qemu: Process | None = None
        self._found_of: Start | None = None
        """Of which start `_qemu` is."""
        self._finding = False
        self._find_again_s = 0.0
        self._came_in = 0
        """The boot that began by arriving."""
        self._memory = DomainMemory(name, hypervisor)

    @property
    def listener_pid(self) -> int | None:
        return self._qemu.pid if self._qemu is not None else None

    @property
    def polled_uuid(self) -> str:
        """Whom the shared poll is to ask about; empty where nobody."""
        connection = self._connection
        return connection.start.uuid if connection is not None and connection.ready and not connection.gone else ""

    async def connect(self) -> None:
        if self._usable():
            return
        self._connection = None
        link = self._link
        await link.connect()
        generation = link.generation
        try:
            start = await link.call(self.name, lambda caller: _look_up(caller, self.name))
            if start.number < 0:
                raise VmAbsent(f"{self.name}: does not run")
            # From here on events count: what follows may be read too early, and is read again then.
            self._connection = connection = Connection(generation, start, not_before_s=self._clock.now())
            # Before what may fail: the process is booked with what it resides in, whatever else is told of it.
            if self._qemu is None or self._found_of != start or not belongs_to(self._qemu):
                self._qemu = await self._find(start)
            # A QEMU that hangs would keep each further request, and a few of those cost everybody the connection.
            await self._check_control(connection)
            domain = await self._hypervisor.described(start)
            await self._identify(connection, domain)
            if domain.statistics_period_s != STATISTICS_PERIOD_S and not domain.hands_off:
                await self._ask_for_statistics(connection)
            # A poll from before was not about this VM.
            connection.not_before_s, connection.ready = self._clock.now(), True
        except BaseException as error:
            self._connection = None
            if isinstance(error, VmAbsent):
                self._qemu = None
            raise

    async def facts(self) -> VmFacts:
        connection = self._connected()
        poll = await self._hypervisor.poll(connection.not_before_s)
        statistics = poll.statistics.get(connection.start.uuid)
        if statistics is None or connection is not self._connection:
            connection.gone = True
            raise VmGone(f"{self.name}: runs no longer")
        domain = await self._hypervisor.described(connection.start)
        if self._qemu is None and self._clock.now() >= self._find_again_s:
            self._qemu = process = await self._find(connection.start, domain.qemu_user)
            if process is not None:
                self._boots.found(process)
        # Without the part that QEMU itself answers, somebody else's request occupies this domain, or its QEMU hangs.
        busy = "balloon.rss" not in statistics
        if busy:
            await self._check_control(connection)
        else:
            self._read_statistics(statistics, poll.read_s)
        left_kib = await self._left(connection, statistics, domain, busy)
        hotplug = domain.hotplug
        run_state = await self._run_state(connection, statistics, busy)
        if hotplug is not None and run_state is RunState.RUNNING and not (busy or domain.hands_off):
            sizes = Sizes(domain.boot_kib, left_kib, hotplug)
            hotplug = await self._memory.follow(connection, sizes, self._boots.boot)
        return VmFacts(
            run_state=run_state,
            ram_kib=domain.memory_kib,
            actual_kib=left_kib + (hotplug.plugged_kib if hotplug is not None else 0),
            boot=self._boots.boot,
            boot_began_s=self._boots.boot_began_s,
            deflate_on_oom=domain.deflate_on_oom,
            statistics=self._boots.statistics,
            statistics_count=self._boots.statistics_count,
            qemu_pid=self.listener_pid,
            migration=connection.migration,
            hands_off="; ".join(domain.hands_off),
            read_s=poll.asked_s,
            hotplug=hotplug,
            hugepages_kib=domain.hugepages_kib,
        )

    async def set_target(self, target_kib: int) -> None:
        """libvirt refuses what is above the domain's maximum. After VmGone the target may be set, or be set yet."""
        connection = self._connected()
        if target_kib <= 0:
            raise PortError(f"{self.name}: a target of {target_kib} KiB would leave the guest nothing")
        domain = await self._hypervisor.described(connection.start)
        if domain.hands_off:
            raise PortError(f"{self.name}: left alone: {'; '.join(domain.hands_off)}")
        if connection.migration is Migration.OUTGOING:
            # It would wait for half a minute for its turn, and be refused then.
            raise PortError(f"{self.name}: libvirt sets no target while it migrates or saves a domain")
        if domain.hotplug is None:
            await self._memory.set_balloon(connection, target_kib)
            return
        exact = await self._call(connection, "memory", lambda domain: domain.memoryStats())
        sizes = Sizes(domain.boot_kib, int(exact.get("actual", domain.boot_kib)), domain.hotplug)
        await self._memory.aim(connection, target_kib, sizes, self._boots.boot)

    async def start(self) -> None:
        """libvirt starts its domains. Refuses one that stands still: somebody paused it."""
        facts = await self.facts()
        if facts.run_state is not RunState.RUNNING:
            raise PortError(f"{self.name}: is {facts.run_state} and does not wait for its start")

    async def next_event(self) -> VmEvent:
        connection = self._connection
        if connection is None:
            raise VmGone(f"{self.name}: not connected")
        while True:
            if connection.events:
                kind = next(iter(connection.events))
                del connection.events[kind]
                return VmEvent(kind, self._clock.now())
            if connection.gone_told:
                raise VmGone(f"{self.name}: its connection has ended")
            if connection.gone:
                connection.gone_told = True
                return VmEvent(VmEventKind.GONE, self._clock.now())
            connection.heard = trio.Event()
            await connection.heard.wait()

    async def open_channel(self) -> ByteStream:
        """Through the socket in the live XML where this process may use it, else through libvirt."""
        connection = self._connected()
        domain = await self._hypervisor.described(connection.start)
        if domain.channel is None:
            raise PortError(f"{self.name}: has no channel {AGENT_PORT}; `ballonet adopt` plugs one in")
        if other := self._hypervisor.sharer(connection.start.uuid):
            raise PortError(f"{domain.channel.path}: is the channel of {other}, too; give each domain its own")
        if is_local(self._link.uri) and domain.channel.path and os.access(domain.channel.path, os.R_OK | os.W_OK):
            return await open_channel(domain.channel.path, lock_directory(self._hypervisor.lock_directories))
        return await open_stream(self._link, f"{self.name}: channel", connection.start.uuid, AGENT_PORT)

    async def aclose(self) -> None:
        """The connection is everybody's: it stays."""
        if self._connection is not None:
            self._connection.gone = True
            self._connection.heard.set()
        self._connection = None

    def happened(self, event: LinkEvent) -> None:
        """Called with every event of the link, in trio; takes those that are of this VM."""
        connection = self._connection
        if connection is None or event.uuid not in ("", connection.start.uuid):
            return
        connection.not_before_s = self._clock.now()
        if event.kind is LinkEventKind.REBOOT:
            self._boots.reset(self._clock.now(), int(event.wall_s))
        if event.kind in (LinkEventKind.MIGRATION, LinkEventKind.OVERFLOW, LinkEventKind.SUSPENDED):
            connection.job = True
        kind = EVENTS.get(event.kind)
        if kind is None:
            return
        if kind is VmEventKind.GONE:
            connection.gone = True
        else:
            connection.events.pop(kind, None)
            connection.events[kind] = None
        connection.heard.set()

    # --- inside ------------------------------------------------------------------------------------------

    def _usable(self) -> bool:
        connection = self._connection
        return (
            connection is not None and not connection.gone
            and connection.generation == self._link.generation and self._link.connected
        )  # fmt: skip

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or not self._usable():
            raise VmGone(f"{self.name}: not connected")
        return connection

    async def _find(self, start: Start, user: str = "") -> Process | None:
        """The domain's QEMU. None where it cannot be told, or not in time."""
        self._found_of = start
        self._find_again_s = self._clock.now() + FIND_AGAIN_S
        if self._finding or not is_local(self._link.uri):
            return None
        await trio.lowlevel.checkpoint_if_cancelled()  # what never becomes a thread would never end
        self._finding = True

        def find() -> Process | None:
            try:
                return find_qemu(self.name, start.uuid, user, run_folders())
            finally:
                self._finding = False

        with trio.move_on_after(FIND_TIMEOUT_S):
            return await self._link.callers.beside(find)
        return None

    async def _identify(self, connection: Connection, domain: DomainXml) -> None:
        """Whether this is another boot than the one that we knew, by the process."""
        process = self._qemu
        if domain.qemu_user and (process is None or not belongs_to(process, domain.qemu_user)):
            self._qemu = process = await self._find(connection.start, domain.qemu_user)
        state, reason = await self._started(connection)
        now_s = self._clock.now()
        began_s = now_s - (age_s(process) if process else 0.0)
        if self._boots.connected(process, began_s, now_s):
            connection.arriving = _arrived(self._link.lib, state, reason)

    async def _started(self, connection: Connection) -> tuple[int, int]:
        """State and reason, once libvirt has started it: before, nothing tells a boot from an arrival (0.6 s, m)."""
        lib = self._link.lib
        until_s = self._clock.now() + STARTS_S
        while True:
            state, reason = (await self._call(connection, "state", lambda domain: domain.state()))[:2]
            starts = state == lib.VIR_DOMAIN_PAUSED and reason == lib.VIR_DOMAIN_PAUSED_STARTING_UP
            if not starts or self._clock.now() >= until_s:
                return state, reason
            await self._clock.sleep(STARTS_LOOK_S)

    async def _call(self, connection: Connection, what: str, function: Callable[[Any], Any]) -> Any:
        """Ask libvirt about this domain; `function` gets its handle, in a worker thread."""
        uuid = connection.start.uuid
        return await self._link.call(
            f"{self.name}: {what}", lambda caller: of_running(caller, caller.domain(uuid), function)
        )

    async def _ask_for_statistics(self, connection: Connection) -> None:
        live = self._link.lib.VIR_DOMAIN_AFFECT_LIVE
        try:
            await self._call(
                connection, "statistics", lambda domain: domain.setMemoryStatsPeriod(STATISTICS_PERIOD_S, live)
            )
        except LibvirtRefused:
            return  # a guest without statistics is served all the same, by its agent

    def _read_statistics(self, statistics: Mapping[str, Any], read_s: float) -> None:
        stamp = statistics.get("balloon.last-update")
        if type(stamp) is int:
            values = {
                theirs: value * unit
                for ours, (theirs, unit) in _STATISTICS.items()
                if type(value := statistics.get(ours)) is int
            }
            self._boots.statistics_read(stamp, values, read_s)

    async def _left(
        self, connection: Connection, statistics: Mapping[str, Any], domain: DomainXml, busy: bool
    ) -> int:
        """What the balloon leaves of the boot memory. One call of its own only while it moves, or has moved without
        our doing."""
        told_kib = statistics.get("balloon.current")
        plugged_kib = domain.hotplug.plugged_kib if domain.hotplug is not None else 0
        if type(told_kib) is not int:
            return domain.current_memory_kib - plugged_kib  # it has no balloon
        told_kib = max(0, told_kib - plugged_kib)  # libvirt adds what is plugged
        moves = connection.target_kib is not None
        if busy or (not moves and told_kib == connection.exact_kib):
            return told_kib if connection.exact_kib is None else connection.exact_kib
        exact = await self._call(connection, "memory", lambda domain: domain.memoryStats())
        actual_kib = exact.get("actual")
        if type(actual_kib) is not int:
            actual_kib = told_kib
        connection.exact_kib = actual_kib
        if actual_kib == connection.target_kib or self._clock.now() > connection.target_s + MOVES_S:
            connection.target_kib = None
        return actual_kib

    async def _check_control(self, connection: Connection) -> None:
        """Raises VmGone where its QEMU hangs. `controlInfo` asks libvirtd alone and waits for nobody."""
        lib = self._link.lib
        state, _, milliseconds = await self._call(connection, "monitor", lambda domain: domain.controlInfo(0))
        if state == lib.VIR_DOMAIN_CONTROL_ERROR:
            raise VmGone(f"{self.name}: libvirt cannot talk to its QEMU any more")
        if state == lib.VIR_DOMAIN_CONTROL_OCCUPIED and milliseconds >= HUNG_MS:
            raise VmGone(f"{self.name}: its QEMU has not answered libvirt for {milliseconds // 1000} s")
        if state == lib.VIR_DOMAIN_CONTROL_JOB:
            connection.job = True

    async def _run_state(self, connection: Connection, statistics: Mapping[str, Any], busy: bool) -> RunState:
        lib = self._link.lib
        on_its_way = Migration.INCOMING if connection.arriving else Migration.OUTGOING
        state, reason = statistics.get("state.state"), statistics.get("state.reason")
        if connection.job:
            if busy:  # what occupies the domain would keep the question waiting, too, and may be the job itself
                connection.migration = on_its_way
                return RunState.MIGRATING
            kind = (await self._call(connection, "job", lambda domain: domain.jobInfo()))[0]
            connection.job = kind in (lib.VIR_DOMAIN_JOB_BOUNDED, lib.VIR_DOMAIN_JOB_UNBOUNDED)
            if connection.job:
                connection.migration = on_its_way
                return RunState.MIGRATING
        if state == lib.VIR_DOMAIN_PAUSED and reason in (
            lib.VIR_DOMAIN_PAUSED_MIGRATION, lib.VIR_DOMAIN_PAUSED_SAVE, lib.VIR_DOMAIN_PAUSED_DUMP,
            lib.VIR_DOMAIN_PAUSED_SNAPSHOT, lib.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT,
            lib.VIR_DOMAIN_PAUSED_POSTCOPY, lib.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
        ):  # fmt: skip
            connection.migration = on_its_way
            return RunState.MIGRATING
        if connection.arriving:
            # Told once: whoever hears MIGRATING adopts what comes after as it is, without a startup target.
            connection.arriving = False
            self._boots.migrated_in(self._clock.now())
            self._came_in = self._boots.boot
            connection.migration = Migration.ARRIVED
            return RunState.MIGRATING
        connection.migration = Migration.ARRIVED if self._came_in == self._boots.boot else Migration.NONE
        if state in (lib.VIR_DOMAIN_RUNNING, lib.VIR_DOMAIN_BLOCKED):
            if reason == lib.VIR_DOMAIN_RUNNING_POSTCOPY:
                connection.migration = Migration.INCOMING  # it runs here, and its memory is still on its way
                return RunState.MIGRATING
            return RunState.RUNNING
        if state in (lib.VIR_DOMAIN_SHUTDOWN, lib.VIR_DOMAIN_SHUTOFF):
            return RunState.SHUTDOWN
        return RunState.PAUSED


def _look_up(caller: Caller, name: str) -> Start:
    """In a worker thread."""
    domain = caller.connection.lookupByName(name)
    return Start(name, domain.UUIDString(), domain.ID())


def _arrived(lib: Any, state: int, reason: int) -> bool:
    """Whether the domain goes on with a past that another process, or a file, had."""
    if state == lib.VIR_DOMAIN_PAUSED:
        return reason in (lib.VIR_DOMAIN_PAUSED_MIGRATION, lib.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT)
    return reason in (
        lib.VIR_DOMAIN_RUNNING_MIGRATED, lib.VIR_DOMAIN_RUNNING_RESTORED, lib.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT,
    )  # fmt: skip
