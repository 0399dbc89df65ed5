"""The hypervisor port over QMP, against a QEMU that is as forgetful and as talkative as the real one."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from ballonet_host_coord import qmp_hypervisor
from ballonet_host_coord.model import (
    BalloonStatistics,
    GuestSettings,
    HostSettings,
    RunState,
    Settings,
    VmEventKind,
)  # fmt: skip
from ballonet_host_coord.ports import PortError, VmAbsent, VmGone
from ballonet_host_coord.qemu_arguments import Arguments, read_arguments
from ballonet_host_coord.qmp import QmpClient
from ballonet_host_coord.qmp_hypervisor import QmpHypervisor, QmpVm

from .fake_qemu import BALLOON, MIB, FakeQemu


class Clock:
    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def run(
    folder: Path, test: Callable[[FakeQemu, QmpVm], Awaitable[None]], arguments: Arguments | None = None
) -> None:
    """Run `test` with a machine and our port to it; time jumps when all wait. `arguments`: of its command line."""

    async def in_time(_seconds: float, _function: object, pid: int) -> Arguments | None:
        assert pid == os.getpid()
        return arguments

    async def main() -> None:
        qemu = FakeQemu(str(folder / "qmp"))
        guest = GuestSettings("web", 1, 1, 1, qmp_path=qemu.path, channel_path=str(folder / "channel"))
        settings = Settings(HostSettings(control_path=str(folder / "control")), (guest,))
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(qemu.path)
            listening.listen()
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, qemu.serve, [trio.SocketListener(listening)])
                with trio.fail_after(600):
                    hypervisor = QmpHypervisor(settings, Clock())
                    assert hypervisor.list() == ("web",)
                    vm = hypervisor.vm("web")
                    await test(qemu, vm)
                    await vm.aclose()
                nursery.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qmp_hypervisor, "in_time", in_time)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


def test_facts_are_what_qemu_says(tmp_path: Path) -> None:
    """RAM, actual, run state, deflate-on-oom and the process come from QEMU and the kernel, in our units."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.actual_bytes = 400 * MIB
        await vm.connect()
        facts = await vm.facts()
        assert facts.run_state is RunState.RUNNING
        assert (facts.ram_kib, facts.actual_kib) == (1024 * 1024, 400 * 1024)
        assert facts.deflate_on_oom is True
        assert facts.qemu_pid == os.getpid()
        assert (facts.statistics, facts.statistics_count) == (None, 0)
        assert facts.read_s == trio.current_time()
        # The machine is as old as its process.
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            began_s = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            age_s = float(uptime.read().split()[0]) - began_s
        assert facts.boot == 1
        assert facts.boot_began_s == pytest.approx(facts.read_s - age_s, abs=5)
        assert qemu.properties[BALLOON, "guest-stats-polling-interval"] == 1

    run(tmp_path, test)


def test_facts_take_few_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot change while connected is asked once; each further reading is four commands in one write."""
    writes: list[int] = []
    send = QmpClient._send

    async def counted(client: QmpClient, lines: bytes) -> None:
        writes.append(lines.count(b"\n"))
        await send(client, lines)

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        before = len(qemu.heard)
        monkeypatch.setattr(QmpClient, "_send", counted)
        await vm.facts()
        await vm.facts()
        assert len(qemu.heard) - before == 8
        assert writes == [4, 4]

    run(tmp_path, test)


def test_statistics_arrive_when_the_driver_answers(tmp_path: Path) -> None:
    """Each new last-update is one new set of statistics; figures that the driver lacks are unknown."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        earlier = await vm.facts()
        await trio.sleep(1)
        now = int(time.time())
        qemu.last_update = now
        qemu.statistics = {"stat-total-memory": 900 * MIB, "stat-available-memory": 5 * MIB, "stat-free-memory": -1}
        facts = await vm.facts()
        assert facts.statistics_count == 1
        assert facts.statistics == BalloonStatistics(
            arrived_s=earlier.read_s, total_kib=900 * 1024, available_kib=5 * 1024
        )
        assert (await vm.facts()).statistics_count == 1
        qemu.last_update = now + 1
        assert (await vm.facts()).statistics_count == 2

    run(tmp_path, test)


def test_reset_is_a_boot_whose_driver_has_not_answered(tmp_path: Path) -> None:
    """After a reset, `actual` and statistics are the last boot's until the new driver's own are there."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        await vm.facts()
        qemu.last_update = 1000
        assert (await vm.facts()).statistics_count == 1
        await trio.sleep(5)
        await qemu.event("RESET", seconds=1005)
        # The event alone, with nobody waiting for events, is known to the next facts.
        facts = await vm.facts()
        assert (facts.boot, facts.boot_began_s, facts.statistics_count) == (2, trio.current_time(), 0)
        qemu.last_update = 1005
        assert (await vm.facts()).statistics_count == 0
        qemu.last_update = 1016
        assert (await vm.facts()).statistics_count == 1
        assert (await vm.next_event()).kind is VmEventKind.RESET

    run(tmp_path, test)


def test_target_is_set_in_bytes_and_never_nothing(tmp_path: Path) -> None:
    """A target reaches QEMU; zero and less never do."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        await vm.set_target(300 * 1024)
        assert qemu.actual_bytes == 300 * MIB
        for nothing in (0, -5):
            with pytest.raises(PortError, match="would leave the guest nothing"):
                await vm.set_target(nothing)
        assert qemu.said("balloon") == 1

    run(tmp_path, test)


def test_only_a_waiting_machine_is_started(tmp_path: Path) -> None:
    """A machine before its first instruction is continued, a running one left, a paused one refused."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        await vm.start()
        qemu.status = "paused"
        with pytest.raises(PortError, match="is paused and does not wait"):
            await vm.start()
        assert qemu.said("cont") == 0
        qemu.status = "prelaunch"
        await vm.start()
        assert (qemu.status, qemu.said("cont")) == ("running", 1)

    run(tmp_path, test)


def test_events_are_told_in_our_words(tmp_path: Path) -> None:
    """What happens to the machine and the agent's port is told; other ports and other events are not."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        await qemu.event("RTC_CHANGE")
        await qemu.event("VSERPORT_CHANGE", id="port2", open=True)
        await qemu.event("VSERPORT_CHANGE", id="port1", open=True)
        await qemu.event("VSERPORT_CHANGE", id="port1", open=False)
        for name in ("STOP", "RESUME", "BALLOON_CHANGE", "MIGRATION", "SHUTDOWN"):
            await qemu.event(name)
        await qemu.die()
        kinds = [(await vm.next_event()).kind for _ in range(8)]
        assert kinds == [
            VmEventKind.CHANNEL_OPEN,
            VmEventKind.CHANNEL_CLOSED,
            VmEventKind.PAUSED,
            VmEventKind.RESUMED,
            VmEventKind.BALLOON,
            VmEventKind.MIGRATION,
            VmEventKind.SHUTDOWN,
            VmEventKind.GONE,
        ]
        with pytest.raises(VmGone):
            await vm.next_event()

    run(tmp_path, test)


def test_death_is_told_to_everybody_and_can_be_recovered_from(tmp_path: Path) -> None:
    """When the process ends, every call raises VmGone; after connect the same port serves again."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        await vm.facts()
        await qemu.die()
        for call in (vm.facts, vm.start, lambda: vm.set_target(1)):
            with pytest.raises(VmGone):
                await call()
        await vm.connect()
        # The same process under a new connection.
        assert (await vm.facts()).boot == 1

    run(tmp_path, test)


def test_slow_machine_keeps_its_connection_and_boot(tmp_path: Path) -> None:
    """A QEMU that stood still is gone for the moment; connecting again takes up the old connection."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        qemu.hangs = True
        with pytest.raises(VmGone, match="did not answer"):
            await vm.facts()
        qemu.hangs = False
        await vm.connect()
        assert (await vm.facts()).boot == 1
        assert qemu.said("qmp_capabilities") == 1

    run(tmp_path, test)


def test_hanging_machine_is_given_up_in_seconds(tmp_path: Path) -> None:
    """Connecting to a QEMU that does not answer ends in bounded time with VmGone, and tells its process."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.hangs = True
        began_s = trio.current_time()
        with pytest.raises(VmGone) as caught:
            await vm.connect()
        assert trio.current_time() - began_s < 15
        assert not isinstance(caught.value, VmAbsent)
        assert vm.listener_pid == os.getpid()

    run(tmp_path, test)


def test_machine_without_a_balloon_is_told_what_to_add(tmp_path: Path) -> None:
    """A machine that cannot be served is refused with QEMU's option that is missing."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        del qemu.devices["/machine/peripheral"][1]
        with pytest.raises(PortError, match="-device virtio-balloon-pci,deflate-on-oom=on") as caught:
            await vm.connect()
        assert not isinstance(caught.value, VmGone)
        assert vm.listener_pid == os.getpid()

    run(tmp_path, test)


def test_machine_that_is_not_there_has_no_process(tmp_path: Path) -> None:
    """Where nobody listens there is nothing to book."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        assert vm.listener_pid == os.getpid()
        os.unlink(qemu.path)
        await vm.aclose()
        with pytest.raises(VmAbsent):
            await vm.connect()
        assert vm.listener_pid is None

    run(tmp_path, test)


@pytest.mark.parametrize(("says", "told"), [(True, True), (False, False), (None, None)])
def test_deflate_on_oom_is_told_as_it_is(tmp_path: Path, says: bool | None, told: bool | None) -> None:
    """Off is told as off, and a balloon that does not say as unknown."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.properties[BALLOON, "deflate-on-oom"] = says
        await vm.connect()
        assert (await vm.facts()).deflate_on_oom is told

    run(tmp_path, test)


def test_balloon_without_a_name_is_found(tmp_path: Path) -> None:
    """A balloon that was given no id= is found among the nameless devices."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        del qemu.devices["/machine/peripheral"][1]
        qemu.devices["/machine/peripheral-anon"].append({"name": "device[3]", "type": "child<virtio-balloon-pci>"})
        await vm.connect()
        assert ("/machine/peripheral-anon/device[3]", "guest-stats-polling-interval") in qemu.properties
        assert (await vm.facts()).statistics is None

    run(tmp_path, test)


def test_stranger_at_the_monitor_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """Answers of the wrong shape become a PortError with the command's name."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        qemu.status = 7  # type: ignore[assignment]
        with pytest.raises(PortError, match="query-status has no proper 'status'"):
            await vm.facts()

    run(tmp_path, test)


def test_channel_of_the_settings_is_opened(tmp_path: Path) -> None:
    """The agent's channel is the socket that the settings name, with its lock beside the control socket."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        with pytest.raises(PortError, match="channel: no such socket"):
            await vm.open_channel()
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(str(tmp_path / "channel"))
            listening.listen()
            await (await vm.open_channel()).aclose()
        assert len(list(tmp_path.glob("channel-*.lock"))) == 1

    run(tmp_path, test)


def test_what_its_command_line_says_is_left_alone(tmp_path: Path) -> None:
    """A guest whose memory is pinned, locked or in huge pages says so in its facts, with how much no budget has, and
    neither balloon nor virtio-mem is told anything."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        qemu.plug_device(256)
        await vm.connect()
        facts = await vm.facts()
        assert facts.hands_off == "it uses hugepages; its memory is locked"
        assert (facts.ram_kib, facts.hugepages_kib, facts.ordinary_kib) == (1280 << 10, 512 << 10, 768 << 10)
        with pytest.raises(PortError, match="left alone: it uses hugepages"):
            await vm.set_target(900 << 10)
        assert qemu.told == []

    options = ["-object", "memory-backend-memfd,id=m,hugetlb=on,size=512M", "-numa", "node,memdev=m",
               "-overcommit", "mem-lock=on"]  # fmt: skip
    run(tmp_path, test, read_arguments(options))


def test_of_a_command_line_that_cannot_be_read_nothing_is_known(tmp_path: Path) -> None:
    """Then the guest is moved as one without any."""

    async def test(qemu: FakeQemu, vm: QmpVm) -> None:
        await vm.connect()
        assert ((await vm.facts()).hands_off, (await vm.facts()).hugepages_kib) == ("", 0)
        await vm.set_target(900 << 10)
        assert qemu.told == [("balloon", 900)]

    run(tmp_path, test, None)
