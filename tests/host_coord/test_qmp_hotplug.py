"""Balloon and virtio-mem through a monitor: one size, told in the right order, settled where a guest refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ballonet_host_coord.hotplug import PATIENCE_S
from ballonet_host_coord.model import Hotplug, VmEventKind
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.qmp_hypervisor import QmpVm

from .fake_qemu import MIB, FakeQemu
from .test_qmp_hypervisor import run


def test_balloon_and_virtio_mem_are_one_size(tmp_path: Path) -> None:
    """RAM and size count both devices; a target is divided among them, and deflating comes before plugging."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.plug_device(2048)
        qemu.actual_bytes = 400 * MIB
        await vm.connect()
        before = len(qemu.heard)
        facts = await vm.facts()
        assert len(qemu.heard) - before == 5
        assert (facts.ram_kib, facts.boot_kib, facts.actual_kib) == (3072 * 1024, 1024 * 1024, 400 * 1024)
        assert facts.hotplug == Hotplug(2048 * 1024, 2 * 1024, 0, 0)
        await vm.set_target(1501 * 1024)
        assert qemu.told == [("balloon", 1024), ("qom-set", 476)]
        assert qemu.hotplug is not None
        qemu.hotplug["size"] = 476 * MIB
        facts = await vm.facts()
        assert (facts.actual_kib, facts.claim_kib, facts.balloon_kib) == (1500 * 1024, 1500 * 1024, 0)
        qemu.told.clear()
        await vm.set_target(901 * 1024)
        assert qemu.told == [("qom-set", 0), ("balloon", 901)]
        assert (await vm.facts()).claim_kib == 1500 * 1024
        await qemu.event("MEMORY_DEVICE_SIZE_CHANGE", id="vmem0", size=0)
        assert (await vm.next_event()).kind is VmEventKind.BALLOON

    run(tmp_path, test)


def test_what_a_guest_does_not_unplug_is_taken_by_the_balloon(tmp_path: Path) -> None:
    """A guest that keeps plugged blocks is asked for them once; then its balloon shrinks it, and the request is dropped
    before."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.plug_device(2048)
        assert qemu.hotplug is not None
        qemu.hotplug |= {"size": 512 * MIB, "requested-size": 512 * MIB}
        await vm.connect()
        await vm.facts()
        await vm.set_target(1024 * 1024)
        assert qemu.told == [("qom-set", 0), ("balloon", 1024)]
        qemu.hotplug["size"] = 256 * MIB
        await vm.facts()
        await trio.sleep(PATIENCE_S)
        facts = await vm.facts()
        assert qemu.told[2:] == [("qom-set", 256), ("balloon", 768)]
        assert facts.hotplug == Hotplug(2048 * 1024, 2 * 1024, 256 * 1024, 256 * 1024)
        for _ in range(5):
            await trio.sleep(PATIENCE_S)
            assert (await vm.facts()).actual_kib == 1024 * 1024
        assert len(qemu.told) == 4

    run(tmp_path, test)


def test_several_virtio_mem_devices_are_counted_and_left_alone(tmp_path: Path) -> None:
    """Which of two devices is to move is nobody's business here: the guest is booked with both, and told why."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.plug_device(1024)
        qemu.plug_device(1024)
        assert qemu.hotplug is not None
        qemu.hotplug["size"] = 64 * MIB
        await vm.connect()
        facts = await vm.facts()
        assert facts.actual_kib == (1024 + 64) * 1024
        assert facts.hands_off == "it has several virtio-mem devices; one is served"
        with pytest.raises(PortError, match="several virtio-mem devices"):
            await vm.set_target(512 * 1024)
        assert qemu.told == []

    run(tmp_path, test)


def test_a_device_without_sizes_is_an_error(tmp_path: Path) -> None:
    """What does not tell its sizes cannot be booked."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.plug_device(1024)
        qemu.hotplug = {"size": -1}
        await vm.connect()
        with pytest.raises(PortError, match="query-memory-devices"):
            await vm.facts()

    run(tmp_path, test)
