"""What starting a machine says when QEMU does not start. Machines that do are in tests/vm."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import trio

from ballonet_host_coord.demo import machine, requirements
from ballonet_host_coord.demo.image import Image
from ballonet_host_coord.demo.machine import MachineError, MachineSpec, command_line, open_machine

IMAGE = Image(Path("disk"), Path("swap"), Path("kernel"), Path("initrd"))


def start(folder: Path) -> None:
    async def main() -> None:
        async with open_machine(MachineSpec("vm", 1024), IMAGE, "tcg", folder):
            raise AssertionError("no monitor, yet it started")

    trio.run(main, strict_exception_groups=True)


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Put a shell script in QEMU's place."""
    monkeypatch.setattr(requirements, "SEARCH_PATH", f"{tmp_path}:/usr/bin:/bin")

    def script(line: str) -> None:
        program = tmp_path / "qemu-system-x86_64"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    return script


def test_qemus_own_words_are_in_the_error(qemu, tmp_path):
    """When QEMU refuses to start the reason reaches the operator."""
    qemu("echo 'cannot set up guest memory' >&2; exit 1")
    with pytest.raises(MachineError, match=r"exit code 1; vm: cannot set up guest memory"):
        start(tmp_path)


def test_a_qemu_without_a_monitor_is_given_up_and_ended(qemu, tmp_path, monkeypatch):
    """A QEMU that hangs before it opens its monitor does not hang us, and does not stay."""
    monkeypatch.setattr(machine, "SOCKETS_S", 0.3)
    qemu(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(MachineError, match="no monitor"):
        start(tmp_path)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_a_path_too_long_for_sockets_is_named(tmp_path):
    """Unix sockets have short paths: said before QEMU cuts one off."""
    with pytest.raises(MachineError, match="too long"):
        start(tmp_path / ("x" * 108))


def test_ports_and_options_follow_the_spec():
    """The balloon's options, the ports and the swap disk are the spec's."""
    bare = MachineSpec("vm", 1024, deflate_on_oom=False, agent_port=False, swap=False, waiting=False)
    words = " ".join(command_line(bare, IMAGE, "tcg", Path("/f")))
    assert "deflate-on-oom=off" in words
    assert machine.AGENT_PORT not in words
    assert "swap," not in words
    assert " -S " not in words
    full = " ".join(command_line(MachineSpec("vm", 1024, compared_agent_port=True), IMAGE, "tcg", Path("/f")))
    assert "deflate-on-oom=on,free-page-reporting=on" in full
    assert all(port in full for port in (machine.AGENT_PORT, machine.DEMO_PORT, machine.COMPARED_AGENT_PORT))
    assert "file=swap," in full
    assert " -S " in full


def test_a_guest_keeps_its_writes_only_when_told():
    """The image's disk is shared and thrown away; kept, it is the guest's own. What comes besides is never written."""
    shared = " ".join(command_line(MachineSpec("vm", 1024), IMAGE, "tcg", Path("/f")))
    assert all(f"file={name},format=raw,if=virtio,snapshot=on" in shared for name in ("disk", "swap"))
    own = MachineSpec("vm", 1024, keep_writes=True, more_disks=(Path("more"),), kernel_arguments="psi=0")
    words = command_line(own, IMAGE, "tcg", Path("/f"))
    drives = [value for option, value in pairwise(words) if option == "-drive"]
    assert [drive.partition(",")[0] for drive in drives] == ["file=disk", "file=swap", "file=more"]
    assert not any("snapshot" in drive for drive in drives)
    assert drives[-1] == "file=more,format=raw,if=virtio,readonly=on"
    assert words[words.index("-append") + 1].endswith(" psi=0")
