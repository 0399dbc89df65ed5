"""The whole service over a real libvirtd: domains are found, have the settings of their metadata, and go again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord import libvirt_vm, service
from ballonet_host_coord.control import request
from ballonet_host_coord.model import HostSettings, Settings

from .rig import Rig

MIB = 1024
PATIENCE_S = 240.0
POLICY = "<metadata><ballonet:policy minimum='64M' weight='7000'/></metadata>"


@pytest.fixture(scope="module")
def raw(rig: Rig) -> Any:
    """A connection of the operator's, opened anew for each use."""
    import libvirt

    @contextmanager
    def connected() -> Iterator[Any]:
        connection = libvirt.open(rig.uri)
        try:
            yield connection
        finally:
            connection.close()

    return connected


def test_domains_are_found_served_and_let_go(rig: Rig, raw: Any, tmp_path: Path) -> None:
    """From an empty host: a domain starts and is a guest with its own settings; it is set, paused and destroyed; and
    libvirtd is started again in the midst without anybody being lost."""
    host = HostSettings(
        budget_kib=2048 * MIB, control_path=str(tmp_path / "control"), state_path=str(tmp_path / "state.sqlite")
    )
    settings = Settings(host, (), rig.uri, ("our*",))

    async def status() -> dict[str, Any]:
        return await request(host.control_path, "status")  # type: ignore[no-any-return]

    async def until(holds: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        with trio.fail_after(PATIENCE_S):
            while True:
                guests = {guest["name"]: guest for guest in (await status())["guests"]}
                if holds(guests):
                    return guests
                await trio.sleep(0.2)

    async def operate(task: Callable[[], Awaitable[None]]) -> None:
        async def run(task_status: trio.TaskStatus[None]) -> None:
            await service.serve(settings, on_ready=lambda _: task_status.started())

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            with trio.fail_after(PATIENCE_S):
                while not Path(host.control_path).exists():
                    await trio.sleep(0.05)
            await task()
            nursery.cancel_scope.cancel()

    async def day() -> None:
        assert (await until(lambda guests: True)) == {}
        with raw() as connection:
            for name in ("ours", "theirs"):
                connection.defineXML(rig.xml(name, memory_mib=192, top=POLICY)).create()
        unknown = (None, "unseen", "unreachable")
        (ours,) = (await until(lambda guests: guests.get("ours", {}).get("state") not in unknown)).values()
        assert ours["actual_kib"] == 192 * MIB
        answer = await request(host.control_path, "set", {"guest": "ours"})
        assert (answer["settings"]["minimum"], answer["settings"]["weight"]) == (64 * MIB, 7000)
        assert answer["settings"]["maximum"] == 192 * MIB
        await request(host.control_path, "pause", {"guest": "ours"})
        await until(lambda guests: "paused by the operator" in guests["ours"]["why"])
        await trio.to_thread.run_sync(rig.stop_libvirtd)
        await trio.sleep(3)
        assert list(await until(lambda guests: True)) == ["ours"]
        await trio.to_thread.run_sync(rig.start_libvirtd)
        await request(host.control_path, "resume", {"guest": "ours"})
        await until(lambda guests: guests["ours"]["state"] in ("steady", "short", "booting"))
        with raw() as connection:
            connection.lookupByName("ours").destroy()
        assert await until(lambda guests: not guests) == {}
        with raw() as connection:
            connection.lookupByName("theirs").destroy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libvirt_vm, "run_folders", lambda: (str(rig.runtime / "libvirt/qemu/run"),))
        trio.run(operate, day, strict_exception_groups=True)


def test_without_libvirts_module_the_status_says_what_to_install(tmp_path: Path) -> None:
    """The service starts, and its line names the package."""
    script = (
        "import sys; sys.modules['libvirt'] = None\n"
        "from ballonet_host_coord.cli import main; main()"
    )
    (tmp_path / "c.toml").write_text(
        f'[host]\nbudget = "1G"\ncontrol = "{tmp_path}/control"\nstate = "{tmp_path}/state"\n[libvirt]\n'
    )
    words = [sys.executable, "-c", script, "serve", "--config", str(tmp_path / "c.toml")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "python3-libvirt" in said:
                break
        process.terminate()
    assert "python3-libvirt" in said
