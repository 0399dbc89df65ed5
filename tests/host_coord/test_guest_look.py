"""What is looked at of guests: by monitor, by the running coordinator, by libvirt; and that nobody is disturbed."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing

from ballonet_host_coord.control import serve_control
from ballonet_host_coord.guest_check import GuestSight
from ballonet_host_coord.guest_look import (
    ask_service,
    by_service,
    listening_paths,
    look_at_domains,
    look_at_guests,
    look_at_socket,
)  # fmt: skip
from ballonet_host_coord.host_check import Service
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import GuestSettings, HostSettings, RunState, Settings
from ballonet_host_coord.snapshot import snapshot_to_json

from .builders import make_guest, make_snapshot, make_vm
from .fake_libvirt import FakeLibvirt
from .fake_qemu import BALLOON, FakeQemu
from .libvirt_world import run as with_libvirt

SILENT = Service(error="no coordinator runs")


def with_qemu(folder: Path, test: Callable[[FakeQemu, Settings], Awaitable[None]]) -> None:
    async def main() -> None:
        qemu = FakeQemu(str(folder / "qmp"))
        guest = GuestSettings("web", 1, 1, 1, qmp_path=qemu.path, channel_path=str(folder / "channel"))
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(qemu.path)
            listening.listen()
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, qemu.serve, [trio.SocketListener(listening)])
                await test(qemu, Settings(HostSettings(), (guest,)))
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


def test_a_free_monitor_is_asked_and_left(tmp_path: Path) -> None:
    """Sizes, balloon and port come from QEMU by commands that only read, and the monitor is free afterwards."""

    async def test(qemu: FakeQemu, settings: Settings) -> None:
        qemu.properties[BALLOON, "free-page-reporting"] = False
        for _ in range(2):
            (seen,) = await look_at_guests(settings, SILENT, None)
            assert (seen.error, seen.ram_kib, seen.has_balloon) == ("", 1 << 20, True)
            assert (seen.deflate_on_oom, seen.free_page_reporting, seen.has_port) == (True, False, True)
        assert set(qemu.heard) == {"qmp_capabilities", "qom-list", "qom-get", "query-memory-size-summary"}

    with_qemu(tmp_path, test)


def test_the_running_coordinators_monitors_are_left_alone(tmp_path: Path) -> None:
    """While a coordinator answers no monitor is connected to, known guest or not."""

    async def test(qemu: FakeQemu, settings: Settings) -> None:
        known = make_snapshot(make_guest("web", vm=make_vm(deflate_on_oom=False)))
        (seen,) = await look_at_guests(settings, Service(answers=True), known)
        assert (seen.deflate_on_oom, seen.runs) == (False, True)
        (seen,) = await look_at_guests(settings, Service(answers=True), None)
        assert seen.unjudged
        assert qemu.client is None

    with_qemu(tmp_path, test)


def test_a_guest_that_is_not_there_does_not_run(tmp_path: Path) -> None:
    """Neither a missing socket nor a stale one is an error of the look; the stale one is known as such."""
    settings = Settings(HostSettings(), (GuestSettings("web", 1, 1, 1, qmp_path=str(tmp_path / "qmp")),))
    (seen,) = trio.run(look_at_guests, settings, SILENT, None)
    assert (seen.runs, seen.error) == (False, "")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "qmp"))
        assert look_at_socket(str(tmp_path / "qmp"), frozenset({str(tmp_path / "qmp")})).heard
    (seen,) = trio.run(look_at_guests, settings, SILENT, None)
    assert seen.runs is False
    assert seen.monitor is not None
    assert (seen.monitor.heard, seen.monitor.owner_uid) == (False, os.geteuid())


def test_a_held_monitor_is_unsure(tmp_path: Path) -> None:
    """Who is let in and not greeted says that another client holds the monitor, not that the guest is at fault."""

    async def main() -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(str(tmp_path / "qmp"))
            listening.listen()
            settings = Settings(HostSettings(), (GuestSettings("web", 1, 1, 1, qmp_path=str(tmp_path / "qmp")),))
            (seen,) = await look_at_guests(settings, SILENT, None)
            assert ("another client" in seen.error, seen.unjudged) == (True, True)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


def test_qemus_process_tells_what_its_snapshot_does_not(tmp_path: Path) -> None:
    """Free page reporting and what pins the memory are read from the process's arguments."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_text("qemu\0-device\0virtio-balloon-pci\0-overcommit\0mem-lock=on\0")
    known = make_guest("web", vm=make_vm(qemu_pid=7))
    seen = by_service(GuestSight("web"), known, str(tmp_path))
    assert (seen.free_page_reporting, seen.pins, seen.qemu_uid) == (False, ("its memory is locked",), os.geteuid())
    told = make_guest("web", vm=make_vm(qemu_pid=7, hands_off="its memory is locked; another reason"))
    assert by_service(GuestSight("web"), told, str(tmp_path)).pins == ("its memory is locked", "another reason")
    stopped = by_service(GuestSight("web"), make_guest("web", vm=make_vm(run_state=RunState.ABSENT)), str(tmp_path))
    assert (stopped.runs, stopped.resident_kib) == (False, 0)


def test_the_coordinator_is_asked_over_its_socket(tmp_path: Path) -> None:
    """Its snapshot comes whole; where nobody listens that is said, and no error."""
    snapshot = make_snapshot(make_guest("web"))

    async def answer(_operation: str, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"snapshot": snapshot_to_json(snapshot)}

    async def main() -> None:
        path = str(tmp_path / "control")
        service, known = await ask_service(path)
        assert (service.answers, service.denied, known) == (False, False, None)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, answer)
            assert await ask_service(path) == (Service(answers=True), snapshot)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_domains_are_read_from_their_xml() -> None:
    """Those that the patterns fit, each with its own faults: a broken one keeps no other from being judged."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for name in ("web1", "web2", "db"):
            fake.domain(name)
        fake.running["web2"].xml = "<domain><name>web2</name></domain>"
        fake.running["web1"].xml = fake.running["web1"].xml.replace("autodeflate='on'", "")
        settings = Settings(HostSettings(), (), "qemu:///system", ("web*",))
        web1, web2 = await look_at_domains(hypervisor.link, settings, None)
        assert (web1.deflate_on_oom, web1.has_port, web1.statistics_period_s) == (False, False, 0)
        assert (web1.ram_kib, web1.resident_kib) == (1048576, 300000)
        assert ("web2" in web2.error, web2.unjudged) == (True, False)

    with_libvirt(test)


def test_a_monitor_that_a_coordinator_may_hold_is_not_met(tmp_path: Path) -> None:
    """Where a coordinator may run that the caller may not ask, nobody connects, and the guest is unjudged."""

    async def test(qemu: FakeQemu, settings: Settings) -> None:
        (seen,) = await look_at_guests(settings, Service(error="permission denied", denied=True), None)
        assert (seen.unjudged, qemu.client) == (True, None)

    with_qemu(tmp_path, test)


def test_a_missing_balloon_is_named_though_the_coordinator_gave_up(tmp_path: Path) -> None:
    """QEMU's arguments tell why it is unreachable; with a balloon there it is the monitor's fault."""
    (tmp_path / "7").mkdir()
    known = make_guest("web", vm=make_vm(qemu_pid=7, run_state=RunState.UNREACHABLE))
    (tmp_path / "7/cmdline").write_text("qemu\0-m\0160M\0")
    seen = by_service(GuestSight("web"), known, str(tmp_path))
    assert (seen.has_balloon, seen.error) == (False, "")
    (tmp_path / "7/cmdline").write_text("qemu\0-device\0virtio-balloon-pci\0")
    assert "does not answer the coordinator" in by_service(GuestSight("web"), known, str(tmp_path)).error


def test_a_listening_socket_with_a_strange_name_is_found(tmp_path: Path) -> None:
    """libvirt puts the domain's name into the path; what Python takes for a line's end is none in /proc."""
    path = tmp_path / "a\x85b\u2028c\x1d"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert look_at_socket(str(path), listening_paths("/proc/net/unix")).heard
