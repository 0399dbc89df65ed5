"""The part of libvirt's Python module that the port uses, for what a real libvirtd does not show on command.

Constants are checked against the real module by `test_libvirt_link.py` where that is installed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")


class Hang(Exception):
    """The call would block for ever."""


class InlineThreads:
    """Runs calls in the caller's task; one that hangs sleeps until it is cancelled."""

    async def run(self, ended: Callable[[], None], function: Callable[[], _T]) -> _T:
        await trio.lowlevel.checkpoint()
        try:
            result = function()
        except Hang:
            await trio.sleep_forever()
            raise
        except BaseException:
            ended()
            raise
        ended()
        # A thread's result is not sooner there than what libvirt's own thread told before.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return result


class libvirtError(Exception):  # noqa: N801 - its name there
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    def get_error_code(self) -> int:
        return self.code


CONSTANTS = {
    "VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE": 1, "VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT": 536870912,
    "VIR_CONNECT_LIST_DOMAINS_ACTIVE": 1, "VIR_DOMAIN_AFFECT_LIVE": 1, "VIR_DOMAIN_AFFECT_CONFIG": 2,
    "VIR_DOMAIN_XML_INACTIVE": 2, "VIR_DOMAIN_STATS_STATE": 1, "VIR_DOMAIN_STATS_BALLOON": 4, "VIR_ERR_NO_DOMAIN": 42,
    "VIR_DOMAIN_RUNNING": 1, "VIR_DOMAIN_BLOCKED": 2, "VIR_DOMAIN_PAUSED": 3, "VIR_DOMAIN_SHUTDOWN": 4,
    "VIR_DOMAIN_SHUTOFF": 5, "VIR_DOMAIN_CRASHED": 6, "VIR_DOMAIN_PMSUSPENDED": 7,
    "VIR_DOMAIN_RUNNING_BOOTED": 1, "VIR_DOMAIN_RUNNING_MIGRATED": 2, "VIR_DOMAIN_RUNNING_RESTORED": 3,
    "VIR_DOMAIN_RUNNING_FROM_SNAPSHOT": 4, "VIR_DOMAIN_RUNNING_POSTCOPY": 10,
    "VIR_DOMAIN_PAUSED_USER": 1, "VIR_DOMAIN_PAUSED_MIGRATION": 2, "VIR_DOMAIN_PAUSED_SAVE": 3,
    "VIR_DOMAIN_PAUSED_DUMP": 4, "VIR_DOMAIN_PAUSED_FROM_SNAPSHOT": 7, "VIR_DOMAIN_PAUSED_SNAPSHOT": 9,
    "VIR_DOMAIN_PAUSED_STARTING_UP": 11,
    "VIR_DOMAIN_PAUSED_POSTCOPY": 12, "VIR_DOMAIN_PAUSED_POSTCOPY_FAILED": 13,
    "VIR_DOMAIN_JOB_NONE": 0, "VIR_DOMAIN_JOB_BOUNDED": 1, "VIR_DOMAIN_JOB_UNBOUNDED": 2,
    "VIR_DOMAIN_CONTROL_OK": 0, "VIR_DOMAIN_CONTROL_JOB": 1, "VIR_DOMAIN_CONTROL_OCCUPIED": 2,
    "VIR_DOMAIN_CONTROL_ERROR": 3,
    "VIR_DOMAIN_EVENT_STARTED": 2, "VIR_DOMAIN_EVENT_SUSPENDED": 3, "VIR_DOMAIN_EVENT_RESUMED": 4,
    "VIR_DOMAIN_EVENT_STOPPED": 5, "VIR_DOMAIN_EVENT_SHUTDOWN": 6, "VIR_DOMAIN_EVENT_PMSUSPENDED": 7,
    "VIR_DOMAIN_EVENT_CRASHED": 8,
    "VIR_STREAM_NONBLOCK": 1, "VIR_STREAM_EVENT_READABLE": 1, "VIR_STREAM_EVENT_ERROR": 4, "VIR_STREAM_EVENT_HANGUP": 8,
    "VIR_DOMAIN_EVENT_ID_LIFECYCLE": 0, "VIR_DOMAIN_EVENT_ID_REBOOT": 1, "VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE": 13,
    "VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED": 15, "VIR_DOMAIN_EVENT_ID_DEVICE_ADDED": 19,
    "VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION": 20, "VIR_DOMAIN_EVENT_ID_JOB_COMPLETED": 21,
    "VIR_DOMAIN_EVENT_ID_METADATA_CHANGE": 23, "VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE": 26,
}  # fmt: skip


def xml(name: str, uuid: str, extra: str = "", balloon: str = "virtio") -> str:
    return f"""<domain><name>{name}</name><uuid>{uuid}</uuid><memory>1048576</memory>
      <currentMemory>1048576</currentMemory>{extra}
      <devices><memballoon model='{balloon}' autodeflate='on'/></devices></domain>"""


class FakeDomain:
    """A running domain as libvirt has it, and a handle to it at once."""

    def __init__(self, libvirt: FakeLibvirt, name: str, number: int) -> None:
        self.libvirt = libvirt
        self.text_name = name
        self.number = number
        self.uuid = f"00000000-0000-4000-8000-{zlib.crc32(name.encode()):012d}"
        self.xml = self.definition = xml(name, self.uuid)
        self.status = (1, 1)
        self.stats: dict[str, Any] = {
            "balloon.current": 1048576, "balloon.maximum": 1048576, "balloon.rss": 300000, "balloon.last-update": 0,
        }  # fmt: skip
        self.actual_kib = 1048576
        self.job = 0
        self.most_kib = 1048576
        self.device_kib: dict[str, int] = {}
        self.control = (0, 0, 0)
        self.hangs = False
        self.occupied = False
        self.refusal = ""
        """What libvirt says to whatever needs it running; nothing while it serves."""

    def name(self) -> str:
        return self.text_name

    def UUIDString(self) -> str:
        return self.uuid

    def ID(self) -> int:
        return self.number

    def XMLDesc(self, flags: int = 0) -> str:
        self.libvirt.asked("XMLDesc")
        return self.definition if flags & self.libvirt.VIR_DOMAIN_XML_INACTIVE else self.xml

    def isActive(self) -> bool:
        return self.number >= 0

    def _check(self, what: str) -> None:
        self.libvirt.asked(what)
        if self.refusal:
            raise libvirtError(f"Requested operation is not valid: {self.refusal}", 55)

    def isPersistent(self) -> int:
        return bool(self.definition)

    def state(self) -> list[int]:
        self.libvirt.asked("state")
        return list(self.status)

    def jobInfo(self) -> list[int]:
        self._check("jobInfo")
        return [self.job] + [0] * 11

    def controlInfo(self, flags: int = 0) -> list[int]:
        self.libvirt.asked("controlInfo")
        return list(self.control)

    def memoryStats(self) -> dict[str, int]:
        self._check("memoryStats")
        return {"actual": self.actual_kib}

    def setMemoryStatsPeriod(self, period: int, flags: int) -> int:
        self._check("setMemoryStatsPeriod")
        return 0

    def setMemoryFlags(self, kib: int, flags: int) -> int:
        self._check("setMemoryFlags")
        if self.hangs:
            raise Hang
        if kib > self.most_kib:
            raise libvirtError("invalid argument: cannot set memory higher than max memory", 8)
        self.libvirt.targets.append((self.text_name, kib))
        return 0


    def updateDeviceFlags(self, text: str, flags: int) -> int:
        self.libvirt.asked("updateDeviceFlags")
        requested = re.search("<requested[^>]*>([0-9]+)</requested>", text)
        assert requested is not None
        self.device(requested_kib=int(requested[1]))
        self.libvirt.targets.append((f"{self.text_name}'s virtio-mem", int(requested[1])))
        return 0

    def device(self, **changes: int) -> None:
        """It has a virtio-mem device of 2 GiB, as libvirt describes it."""
        self.device_kib = {"requested_kib": 0, "current_kib": 0, **self.device_kib, **changes}
        device = f"""<memory model='virtio-mem'><target><size unit='KiB'>2097152</size><node>0</node>
          <block unit='KiB'>2048</block><requested unit='KiB'>{self.device_kib["requested_kib"]}</requested>
          <current unit='KiB'>{self.device_kib["current_kib"]}</current></target></memory><memballoon"""
        self.most_kib = 3145728
        plain = xml(self.text_name, self.uuid).replace("<memory>1048576", "<memory>3145728")
        self.xml = plain.replace("<memballoon", device)


class FakeConnection:
    def __init__(self, libvirt: FakeLibvirt) -> None:
        self.libvirt = libvirt
        self.alive = True
        self.callbacks: dict[int, Callable[..., None]] = {}
        self.close_callback: tuple[Callable[..., None], Any] | None = None

    def setKeepAlive(self, interval: int, count: int) -> int:
        return 0

    def registerCloseCallback(self, callback: Callable[..., None], opaque: Any) -> None:
        self.close_callback = (callback, opaque)

    def unregisterCloseCallback(self) -> None:
        self.close_callback = None

    def domainEventRegisterAny(self, domain: None, number: int, callback: Callable[..., None], opaque: Any) -> int:
        self.callbacks[number] = callback
        return number

    def domainEventDeregisterAny(self, number: int) -> None:
        del self.callbacks[number]

    def isAlive(self) -> int:
        return int(self.alive)

    def close(self) -> int:
        """libvirt's connection lives on for as long as anything is registered on it."""
        self.alive = self.alive and bool(self.callbacks or self.close_callback)
        return 0

    def _check(self, what: str) -> None:
        self.libvirt.asked(what)
        if self.libvirt.hangs:
            raise Hang
        if not self.alive:
            raise libvirtError("internal error: client socket is closed", 1)

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        self._check("listAllDomains")
        if self.libvirt.starting:
            raise Hang
        return list(self.libvirt.running.values())

    def lookupByName(self, name: str) -> FakeDomain:
        self._check("lookupByName")
        if name in self.libvirt.starting:
            raise Hang
        if name not in self.libvirt.running:
            raise libvirtError(f"Domain not found: no domain with matching name '{name}'", 42)
        return self.libvirt.running[name]

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        self.libvirt.looked_up += 1
        if not self.alive:
            raise libvirtError("internal error: client socket is closed", 1)
        for domain in self.libvirt.running.values():
            if domain.uuid == uuid:
                if domain.text_name in self.libvirt.slow_lookups:
                    raise Hang
                return domain
        raise libvirtError(f"Domain not found: no domain with matching uuid '{uuid}'", 42)

    def domainListGetStats(
        self, domains: list[FakeDomain], what: int, flags: int
    ) -> list[tuple[FakeDomain, dict[str, Any]]]:
        """As with NOWAIT: what another request occupies is told without QEMU's own part. No domains means all."""
        self._check("domainListGetStats")
        if self.libvirt.starting.intersection(domain.text_name for domain in domains) or not domains:
            raise Hang
        answer = []
        for domain in domains:
            if self.libvirt.running.get(domain.text_name) is not domain:
                continue
            if domain.hangs and not domain.occupied:
                domain.occupied = True
                raise Hang
            stats = {"state.state": domain.status[0], "state.reason": domain.status[1], **domain.stats}
            if domain.occupied:
                del stats["balloon.rss"], stats["balloon.last-update"]
            answer.append((domain, stats))
        return answer


class FakeLibvirt:
    """libvirt's module and libvirtd in one."""

    libvirtError = libvirtError  # noqa: N815

    def __init__(self) -> None:
        for name, value in CONSTANTS.items():
            setattr(self, name, value)
        self.running: dict[str, FakeDomain] = {}
        self.connections: list[FakeConnection] = []
        self.heard: list[str] = []
        self.targets: list[tuple[str, int]] = []
        self.looked_up = 0
        """How often a domain was found by its uuid."""
        self.starting: set[str] = set()
        """For these libvirtd runs a hook: what asks for them, or for all, waits (measured in libvirt 9.0)."""
        self.slow_lookups: set[str] = set()
        self.hangs = False
        self.away = False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def domain(self, name: str) -> FakeDomain:
        self.running[name] = FakeDomain(self, name, len(self.running) + 1)
        return self.running[name]

    def asked(self, what: str) -> None:
        self.heard.append(what)

    # As the module:

    def open(self, uri: str) -> FakeConnection:
        self.asked("open")
        if self.hangs:
            raise Hang
        if self.away:
            raise libvirtError(f"Failed to connect socket to '{uri}': No such file or directory", 38)
        self.connections.append(FakeConnection(self))
        return self.connections[-1]

    # What happens:

    def event(self, domain: FakeDomain, number: int, *detail: Any) -> None:
        for connection in self.connections:
            if connection.alive and connection.callbacks:
                connection.callbacks[number](connection, domain, *detail, None)

    def lifecycle(self, domain: FakeDomain, event: int) -> None:
        self.event(domain, 0, event, 0)

    def restart(self) -> None:
        """The daemon is restarted; domains live on."""
        for connection in self.connections:
            connection.alive = False
            if connection.close_callback is not None:
                callback, opaque = connection.close_callback
                callback(connection, 1, opaque)
