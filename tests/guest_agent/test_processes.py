"""processes.py: who runs, who serves as the agent, and who has the port."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.processes import Process, holders, running


def process(proc: Path, pid: int, cmdline: bytes, name: str, fds: dict[str, Path] | None = None) -> None:
    """A process of a made-up /proc."""
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_bytes(cmdline)
    (folder / "status").write_text(
        f"Name:\t{name}\nCapPrm:\t0000000000000000\nCapEff:\t0000000001004000\nVmLck:\t    9000 kB\n"
    )
    (folder / "oom_score_adj").write_text("-900\n")
    for number, target in (fds or {}).items():
        (folder / "fd" / number).symlink_to(target)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([b"/usr/bin/python3", b"-m", b"ballonet_guest_agent"], True),
        ([b"python3", b"-S", b"-c", b"import sys; from ballonet_guest_agent.daemon import main; x"], True),
        ([b"/usr/bin/python3", b"/usr/bin/ballonet-agent", b"run"], True),
        ([b"/usr/bin/python3", b"/usr/bin/ballonet-agent", b"check"], False),
        ([b"vi", b"ballonet_guest_agent/run"], False),
        ([b""], False),
    ],
)
def test_running(tmp_path: Path, words: list[bytes], found: bool) -> None:
    """The agent is known by how it is started; what is in force of it is read from its status."""
    process(tmp_path, 77, b"\0".join(words), "python3")
    assert running(str(tmp_path)) == [Process(77, "python3", found, 0x1004000, 9000, -900)]


def test_holders(tmp_path: Path) -> None:
    """Who has the very file open is named, by whatever name it was opened; others are not."""
    port, link, other = tmp_path / "vport1p1", tmp_path / "link", tmp_path / "other"
    port.touch(), other.touch()
    link.symlink_to(port)
    process(tmp_path, 5, b"a", "a", {"3": other, "4": port})
    process(tmp_path, 6, b"b", "b", {"3": other})
    assert [holder.pid for holder in holders(str(tmp_path), str(link)) or ()] == [5]


def test_nobody_may_look(tmp_path: Path) -> None:
    """Where no process shows its descriptors it is unknown who holds the port, which is not nobody."""
    (tmp_path / "port").touch()
    (tmp_path / "5").mkdir()
    assert holders(str(tmp_path), str(tmp_path / "port")) is None
    assert holders(str(tmp_path), str(tmp_path / "missing")) == ()


def test_a_real_holder(tmp_path: Path) -> None:
    """The real /proc shows a child that has a file open, until it ends."""
    path = tmp_path / "port"
    path.touch()
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert [holder.pid for holder in holders("/proc", str(path)) or ()] == [child.pid]
    assert any(found.pid == child.pid for found in running("/proc"))
    assert all(found.pid != os.getpid() for found in running("/proc"))
    child.communicate()
    assert holders("/proc", str(path)) == ()
