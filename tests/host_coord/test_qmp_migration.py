"""Migrations as the port over QMP tells them: where a machine stands, and when its boot and its channel begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord.model import (
    Migration,
    RunState,
    VmEventKind,
)  # fmt: skip
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.qmp_hypervisor import QmpVm

from .fake_qemu import FakeQemu
from .test_qmp_hypervisor import run


@pytest.mark.parametrize(
    ("status", "migration", "state", "told"),
    [
        ("running", {}, RunState.RUNNING, Migration.NONE),
        ("running", {"status": "completed"}, RunState.RUNNING, Migration.ARRIVED),
        ("running", {"status": "cancelled"}, RunState.RUNNING, Migration.NONE),
        ("running", {"status": "failed"}, RunState.RUNNING, Migration.NONE),
        ("running", {"status": "setup"}, RunState.MIGRATING, Migration.OUTGOING),
        ("running", {"status": "active"}, RunState.MIGRATING, Migration.OUTGOING),
        ("paused", {"status": "device"}, RunState.MIGRATING, Migration.OUTGOING),
        ("inmigrate", {}, RunState.MIGRATING, Migration.INCOMING),
        ("restore-vm", {}, RunState.MIGRATING, Migration.INCOMING),
        ("finish-migrate", {}, RunState.MIGRATING, Migration.OUTGOING),
        ("postmigrate", {"status": "completed"}, RunState.MIGRATING, Migration.LEFT),
        ("prelaunch", {}, RunState.PRELAUNCH, Migration.NONE),
        ("paused", {}, RunState.PAUSED, Migration.NONE),
        ("paused", {"status": "completed"}, RunState.PAUSED, Migration.ARRIVED),
        ("io-error", {}, RunState.PAUSED, Migration.NONE),
        ("guest-panicked", {}, RunState.PAUSED, Migration.NONE),
        ("a state of the future", {}, RunState.PAUSED, Migration.NONE),
        ("shutdown", {}, RunState.SHUTDOWN, Migration.NONE),
    ],
)
def test_run_state(
    tmp_path: Path, status: str, migration: dict[str, Any], state: RunState, told: Migration
) -> None:
    """Only a machine that runs and does not move counts as running; what is not known stands still. One that we find
    with a migration behind it came from elsewhere."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.status, qemu.migration = status, migration
        await vm.connect()
        facts = await vm.facts()
        assert (facts.run_state, facts.migration) == (state, told)

    run(tmp_path, test)


def test_a_migration_is_told_when_it_begins(tmp_path: Path) -> None:
    """QEMU is asked to tell, once for each connection; one that cannot is served all the same."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        assert qemu.capabilities == {"events"}
        await vm.facts()
        assert qemu.said("migrate-set-capabilities") == 1

    run(tmp_path, test)


def test_one_that_left_and_goes_on_after_all_is_where_it_was(tmp_path: Path) -> None:
    """A migration that this coordinator saw leave is no arrival, and no boot, when its machine is continued."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        boot = (await vm.facts()).boot
        qemu.status, qemu.migration = "postmigrate", {"status": "completed"}
        assert (await vm.facts()).migration is Migration.LEFT
        qemu.status = "running"
        facts = await vm.facts()
        assert (facts.run_state, facts.migration, facts.boot) == (RunState.RUNNING, Migration.NONE, boot)

    run(tmp_path, test)


def test_a_reset_ends_what_an_arrival_means(tmp_path: Path) -> None:
    """The next boot began here."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.status = "inmigrate"
        await vm.connect()
        await vm.facts()
        qemu.status, qemu.migration = "running", {"status": "completed"}
        assert (await vm.facts()).migration is Migration.ARRIVED
        assert (await vm.facts()).migration is Migration.ARRIVED
        await qemu.event("RESET")
        assert (await vm.facts()).migration is Migration.NONE

    run(tmp_path, test)


def test_the_channel_of_who_arrives_is_opened_once_it_runs_here(tmp_path: Path) -> None:
    """Before, what is written there is read too late; from the event on it is open, whether facts were read or not."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.status = "inmigrate"
        await vm.connect()
        boot = (await vm.facts()).boot
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(str(tmp_path / "channel"))
            listening.listen()
            with pytest.raises(PortError, match="is being migrated here"):
                await vm.open_channel()
            await qemu.event("RESUME")
            assert (await vm.next_event()).kind is VmEventKind.RESUMED
            await (await vm.open_channel()).aclose()
        qemu.status = "running"
        facts = await vm.facts()
        assert (facts.boot, facts.migration) == (boot + 1, Migration.ARRIVED)

    run(tmp_path, test)


def test_end_of_an_incoming_migration_begins_a_boot(tmp_path: Path) -> None:
    """The memory that has come from elsewhere is a new boot to the books."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.status = "inmigrate"
        await vm.connect()
        before = await vm.facts()
        qemu.status = "running"
        after = await vm.facts()
        assert (after.boot, after.boot_began_s) == (before.boot + 1, trio.current_time())
        assert (await vm.facts()).boot == after.boot

    run(tmp_path, test)
