"""The simulated host: memory, settings, state and recording kept in plain Python values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import trio

from ballonet_host_coord.budget import HOST_ACCOUNT
from ballonet_host_coord.enforcement import Cell
from ballonet_host_coord.model import Account, HostFacts, Residency, Settings, Survey, UnmanagedGuest
from ballonet_host_coord.ports import PortError

from .machine import SimulatedMachine

QEMU_KIB = 64 * 1024
"""What the simulated QEMU needs for itself."""


class SimulatedHostMemory:
    """A host whose memory is what its machines do not hold."""

    def __init__(self, total_kib: int, machines: list[SimulatedMachine]) -> None:
        self._total_kib = total_kib
        self._machines = machines
        self.others_kib = 0
        """What processes hold that are no machines of ours."""

    def facts(self) -> HostFacts:
        held_kib = sum(machine.resident_kib + QEMU_KIB for machine in self._machines)
        return HostFacts(total_kib=self._total_kib, available_kib=max(0, self._total_kib - held_kib - self.others_kib))

    async def look(self, qemu_pid: int, ram_kib: int, hotplug_kib: int = 0) -> None:
        """A simulated process hides nothing."""

    async def survey(self, managed: Iterable[int]) -> Survey:
        account = Account(HOST_ACCOUNT, self._total_kib, others_kib=self.others_kib)
        known = frozenset(managed)
        unmanaged = [
            UnmanagedGuest(machine.qemu_pid, machine.name, machine.resident_kib + QEMU_KIB, machine.ram_kib)
            for machine in self._machines
            if machine.qemu_pid not in known and not machine.ended
        ]
        return Survey(trio.current_time(), (account,), tuple(unmanaged), known)

    def residency(self, qemu_pid: int, ram_kib: int) -> Residency | None:
        for machine in self._machines:
            if machine.qemu_pid == qemu_pid:
                return Residency(machine.resident_kib, QEMU_KIB)
        return None

    def is_alive(self, qemu_pid: int) -> bool:
        return any(machine.qemu_pid == qemu_pid and not machine.ended for machine in self._machines)


class SimulatedLimits:
    """Each machine in a cgroup of its own, whose limit is only remembered."""

    def __init__(self, machines: list[SimulatedMachine]) -> None:
        self._machines = machines
        self.limits: dict[str, int] = {}
        """Machine -> KiB, while there is a limit."""

    async def look(self, qemu_pid: int) -> Cell:
        for machine in self._machines:
            if machine.qemu_pid == qemu_pid:
                return Cell(machine.name, 2, self.limits.get(machine.name), machine.resident_kib + QEMU_KIB)
        raise PortError("its limit cannot be set: no such process")

    async def set(self, qemu_pid: int, folder: str, limit_kib: int | None) -> None:
        self.limits.pop(folder, None)
        if limit_kib is not None:
            self.limits[folder] = limit_kib


class FixedSettings:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def load(self) -> Settings:
        return self._settings


class MemoryRecorder:
    def __init__(self) -> None:
        self.values: list[tuple[str, float, dict[str, Any]]] = []

    def record(self, kind: str, now_s: float, value: dict[str, Any]) -> None:
        self.values.append((kind, now_s, value))

    def close(self) -> None: ...


class MemoryState:
    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value

    def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def change(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def close(self) -> None: ...


class CountedRandomness:
    """Session numbers that a test can foresee."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def session_id(self) -> int:
        return next(self._numbers)

    def nonce(self) -> bytes:
        return next(self._numbers).to_bytes(16, "big")

    def jitter(self) -> float:
        return 1.0
