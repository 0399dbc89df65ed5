"""Stands in for hypervisors in the coordinator's process: recorded answers, the ports above them are the real ones.

* QMP: guests' monitors are real sockets (host_agents.py); only which process listens there is recorded.
* libvirt: its Python module is replaced. Calls take as long as they took with a real libvirtd, and events come as a
  libvirtd sends them, from a thread of their own.
* The host's kernel: /proc is a folder (host_proc.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from host_proc import FIRST_PID
from host_table import Table

from ballonet_host_coord import libvirt_vm, qmp, qmp_hypervisor, service
from ballonet_host_coord.boots import Process
from ballonet_host_coord.host_memory import ProcHostMemory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.host_coord.fake_libvirt import FakeConnection, FakeDomain, FakeLibvirt

AGE_S = 3600.0
MIB = 1024
EVENTS_EVERY_S = 0.05
BALLOON_APART_S = 1.0
"""QEMU's limit for BALLOON_CHANGE."""
BALLOON_CHANGE = 13

# Seconds that calls took, median of real ones (libvirt 9.0, 3 domains under TCG, two cores, 2026-11-25),.
# `host.py --only real`: 8.44 ms for the bulk call of three, 2.41 and 2.76 ms for memoryStats and setMemoryFlags.
BULK_S, BULK_EACH_S = 0.001, 0.0025
CALL_S = 0.0026


def stand_in(table: Table, folder: Path, count: int, ram_kib: int) -> RecordedLibvirt:
    """From here on the ports of this process see recorded hypervisors. The libvirt that they will import."""
    began_wall_s = time.time() - AGE_S
    service.ProcHostMemory = partial(ProcHostMemory, proc_root=str(folder / "proc"))  # type: ignore[misc, assignment]

    def peer(sock: Any) -> tuple[int, int]:
        return FIRST_PID + int(Path(sock.getpeername()).stem), 0

    def process(pid: int) -> tuple[Process, float]:
        return Process(pid, began_wall_s), AGE_S

    def find(name: str, uuid: str, user: str, folders: Any) -> Process:
        return Process(FIRST_PID + int(name[1:]), began_wall_s)

    qmp.peer_credentials = peer
    qmp_hypervisor._process = process
    libvirt_vm.find_qemu = find  # type: ignore[assignment]
    recorded = RecordedLibvirt(table, folder, count, ram_kib)
    sys.modules["libvirt"] = recorded  # type: ignore[assignment]
    return recorded


class RecordedDomain(FakeDomain):
    def __init__(self, libvirt: RecordedLibvirt, number: int) -> None:
        super().__init__(libvirt, f"g{number:04}", number + 1)
        self.index = number
        self.recorded = libvirt
        self.uuid = f"00000000-0000-4000-8000-{number:012d}"
        self.xml = DOMAIN.format(
            name=self.text_name, uuid=self.uuid, ram_kib=libvirt.ram_kib, folder=libvirt.folder, number=number
        )
        self.told_kib = libvirt.table.actual_kib[number]
        self.told_s = 0.0

    def _statistics(self) -> dict[str, Any]:
        table = self.recorded.table
        return {
            "state.state": 1, "state.reason": 1, "balloon.current": self.told_kib,
            "balloon.maximum": self.recorded.ram_kib, "balloon.swap_in": 0, "balloon.swap_out": 0,
            "balloon.major_fault": 0, "balloon.minor_fault": 0, "balloon.unused": table.available_kib[self.index],
            "balloon.available": self.recorded.ram_kib - 40 * MIB, "balloon.usable": table.available_kib[self.index],
            "balloon.last-update": int(time.time()), "balloon.disk_caches": 100 * MIB, "balloon.hugetlb_pgalloc": 0,
            "balloon.hugetlb_pgfail": 0, "balloon.rss": table.actual_kib[self.index],
        }  # fmt: skip

    def memoryStats(self) -> dict[str, int]:
        self.libvirt.asked("memoryStats")
        time.sleep(CALL_S)
        self.told_kib = self.recorded.table.actual_kib[self.index]
        return {"actual": self.told_kib}

    def setMemoryFlags(self, kib: int, flags: int) -> int:
        self.libvirt.asked("setMemoryFlags")
        self.recorded.table.target_kib[self.index] = kib
        time.sleep(CALL_S)
        return 0


class RecordedConnection(FakeConnection):
    libvirt: RecordedLibvirt

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        self._check("lookupByUUIDString")
        return self.libvirt.all_domains[int(uuid[-12:])]

    def domainListGetStats(
        self, domains: Sequence[FakeDomain], what: int, flags: int
    ) -> list[tuple[FakeDomain, dict[str, Any]]]:
        self._check("domainListGetStats")
        time.sleep(BULK_S + BULK_EACH_S * len(domains))
        return [(domain, domain._statistics()) for domain in domains]


class RecordedLibvirt(FakeLibvirt):
    """libvirt's module in front of the table's machines."""

    virConnect = RecordedConnection  # noqa: N815 - their names there
    virDomain = RecordedDomain  # noqa: N815
    virStream = object  # noqa: N815

    def __init__(self, table: Table, folder: Path, count: int, ram_kib: int) -> None:
        super().__init__()
        self.table = table
        self.folder = folder
        self.ram_kib = ram_kib
        self.all_domains = [RecordedDomain(self, number) for number in range(count)]
        self.running = {domain.text_name: domain for domain in self.all_domains}

    def asked(self, what: str) -> None:
        """Counted by host_serve.py, as with the real module."""

    def open(self, uri: str) -> RecordedConnection:
        self.asked("open")
        connection = RecordedConnection(self)
        self.connections.append(connection)
        return connection

    def registerErrorHandler(self, handler: Any, context: Any) -> None:
        """Nothing is ever wrong here."""

    def virEventRegisterDefaultImpl(self) -> None:
        """Events come by themselves."""

    def virEventAddTimeout(self, milliseconds: int, callback: Any, opaque: Any) -> int:
        return 1

    def virEventRunDefaultImpl(self) -> int:
        """One round of the event thread: balloons that have moved are told, each at most once a second."""
        time.sleep(EVENTS_EVERY_S)
        now_s = time.monotonic()
        for domain in self.all_domains:
            actual_kib = self.table.actual_kib[domain.index]
            if actual_kib != domain.told_kib and now_s >= domain.told_s + BALLOON_APART_S:
                domain.told_kib, domain.told_s = actual_kib, now_s
                self.event(domain, BALLOON_CHANGE, actual_kib)
        return 0


DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='KiB'>{ram_kib}</memory><currentMemory unit='KiB'>{ram_kib}</currentMemory>
<vcpu placement='static'>1</vcpu>
<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>
<features><acpi/></features><cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
<clock offset='utc'/><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{folder}/disk'/><target dev='vda'/></disk>
<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>
<controller type='virtio-serial' index='0'><alias name='virtio-serial0'/></controller>
<channel type='unix'><source mode='bind' path='{folder}/{number}.agent'/>
<target type='virtio' name='org.ballonet.agent.0' state='connected'/><alias name='channel0'/></channel>
<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='1'/>
<alias name='balloon0'/></memballoon>
</devices></domain>"""
