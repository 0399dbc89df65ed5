"""The nine ports between the coordinator and the world: what the decision needs, not how it is had.

Each but discovery has a real and a simulated implementation. No type of trio, QMP, libvirt or psutil crosses them:
values of `model` and the errors below do. Whatever blocks is `async`; whatever is called from the decision is not.

====================  =====================================  =====================================
port                  real                                   simulated
====================  =====================================  =====================================
Hypervisor            qmp_hypervisor.QmpHypervisor            simulated.hypervisor
Discovery             libvirt_hypervisor.LibvirtHypervisor    -
ReportSource          channel.AgentReports                    simulated.guest, the agent's core
HostMemory            host_memory.ProcHostMemory              simulated.stores
MemoryLimits          memory_limits.CgroupLimits              simulated.stores
Clock                 clock.TrioClock                         the same, on trio's MockClock
Recorder              recorder.FileRecorder                   simulated.stores.MemoryRecorder
SettingsSource        config.TomlSettings                     simulated.stores.FixedSettings
StateStore            state_store.SqliteState                 simulated.stores.MemoryState
====================  =====================================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .enforcement import Cell
from .model import (
    Domain,
    HostFacts,
    Residency,
    Settings,
    Survey,
    UsageReport,
    VmEvent,
    VmFacts,
    Wish,
)


class PortError(Exception):
    """The world did not do what was asked. The root cause is chained; the text is fit for an operator."""


class VmGone(PortError):
    """The VM's hypervisor does not answer in time, or its connection ended. Its process may live and hold memory."""


class VmAbsent(VmGone):
    """Nobody listens where the VM's hypervisor would: there is no process."""


class ByteStream(Protocol):
    """A connected byte stream, e.g. the host's end of a virtio-serial channel."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """At least one byte, or b'' at the end of the stream."""

    async def send_all(self, data: bytes) -> None:
        """Raises PortError or trio's BrokenResourceError, ClosedResourceError where the other end is gone."""

    async def aclose(self) -> None: ...


class VmPort(Protocol):
    """One VM. After `VmGone` nothing but `connect` may be called."""

    @property
    def listener_pid(self) -> int | None:
        """The process that listened when it was last to be reached, served us or not. None where it cannot be told."""

    async def connect(self) -> None:
        """Reach the hypervisor process. Raises within a few seconds: VmAbsent where there is none, VmGone where one
        may be, PortError where it cannot be served."""

    async def facts(self) -> VmFacts:
        """Read the VM's state once. Raises VmGone."""

    async def set_target(self, target_kib: int) -> None:
        """Set the balloon's target; returns before it is reached. Raises VmGone, PortError."""

    async def start(self) -> None:
        """Run a VM that waits before its first instruction. Raises VmGone, PortError."""

    async def next_event(self) -> VmEvent:
        """Wait for something to happen to the VM. The last event of a connection is GONE."""

    async def open_channel(self) -> ByteStream:
        """Connect to the agent's channel. Raises PortError where it is not there or not ours."""

    async def aclose(self) -> None: ...


class Hypervisor(Protocol):
    """All VMs that the settings name."""

    def list(self) -> tuple[str, ...]: ...

    def vm(self, name: str) -> VmPort: ...

    def named(self, settings: Settings) -> None:
        """The settings have changed: from now on these are the VMs that they name."""


class Discovery(Protocol):
    """Tells which VMs run, for a coordinator that is not told by its settings.

    Level, not edges: nothing is lost while nobody waits, or while the hypervisor's own service is away. Loop::

        while True:
            for each domain of await discovery.domains(): attend to it, in the settings that its policy makes;
            let go of each that is there no longer
            await discovery.changed()

    After PortError wait a little and ask again, and keep what was attended to: VMs live on without that service.
    """

    async def domains(self) -> tuple[Domain, ...]:
        """Every running VM, sorted by name. One that cannot be read is among them, with its fault."""

    async def changed(self) -> None:
        """Wait until `domains` may say something else than when it was called last: a VM appeared or went, its policy
        or devices changed, or the service went away."""

    def vm(self, name: str) -> VmPort:
        """The same object each time while it runs; forgotten by `forget`."""

    def forget(self, name: str) -> None:
        """Nobody attends to this VM any more."""


class ReportSink(Protocol):
    """Where a report source puts what it hears."""

    def reported(self, report: UsageReport) -> None: ...

    def wished(self, wish: Wish) -> None: ...


class ReportSource(Protocol):
    """Tells how a guest's memory is used: the agent, or the balloon's statistics; more later."""

    async def run(self, sink: ReportSink) -> None:
        """Deliver reports until cancelled."""


class HostMemory(Protocol):
    """The host's own memory and what its kernel says of a QEMU process."""

    def facts(self) -> HostFacts: ...

    async def look(self, qemu_pid: int, ram_kib: int, hotplug_kib: int = 0) -> None:
        """Read what takes long. `residency` goes by the last look. `hotplug_kib`: how much of the RAM is a virtio-mem
        device's."""

    async def survey(self, managed: Iterable[int]) -> Survey:
        """Who holds the host's memory beside these processes, which are guests of ours. Raises PortError."""

    def residency(self, qemu_pid: int, ram_kib: int) -> Residency | None:
        """None where the process is gone or may not be read."""

    def is_alive(self, qemu_pid: int) -> bool:
        """Whether the process is there at all."""


class MemoryLimits(Protocol):
    """What the host's kernel lets one QEMU hold."""

    async def look(self, qemu_pid: int) -> Cell:
        """The group that holds this process and no other. Raises PortError where there is none."""

    async def set(self, qemu_pid: int, folder: str, limit_kib: int | None) -> None:
        """Limit the group while it holds this process alone; None takes the limit away. Raises PortError."""


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds."""

    async def sleep(self, seconds: float) -> None: ...


class Recorder(Protocol):
    def record(self, kind: str, now_s: float, value: dict[str, Any]) -> None:
        """Keep one value (already plain JSON types). Never raises for a full disk; says so once."""

    def close(self) -> None: ...


class SettingsSource(Protocol):
    def load(self) -> Settings:
        """Raises config.ConfigError with every fault found: file, key, value and what is allowed."""


class StateStore(Protocol):
    """What must outlive the process. A value that `put` has returned from is never lost."""

    def get(self, key: str) -> Any: ...

    def put(self, key: str, value: Any) -> None: ...

    def delete(self, key: str) -> None: ...

    def change(self, values: Mapping[str, Any]) -> None:
        """All of them or, where it raises, none; None deletes."""

    def close(self) -> None: ...


WakeUp = Callable[[], None]
