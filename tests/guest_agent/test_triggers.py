"""triggers.py: both or none."""

from __future__ import annotations

import os
from pathlib import Path

from ballonet_guest_agent.triggers import PsiTriggers


def test_arm_writes_what_the_kernel_reads(tmp_path: Path, monkeypatch) -> None:
    """Each descriptor gets one line, ended by a zero, with the window of half a second."""
    path = tmp_path / "memory"
    path.touch()
    written = []
    monkeypatch.setattr("os.write", lambda fd, data: written.append(data) or len(data))
    triggers = PsiTriggers(str(path))
    assert triggers.arm(25_000, 10_000) is None
    assert written == [b"some 25000 500000\0", b"full 10000 500000\0"]
    assert sorted(triggers.fds.values()) == ["full", "some"]
    assert triggers.arm(30_000, 10_000) is None
    assert len(triggers.fds) == 2
    triggers.close()


def test_refused(tmp_path: Path, monkeypatch) -> None:
    """When the kernel refuses one, none stays open, and the reason is told."""
    path = tmp_path / "memory"
    path.touch()
    before = len(os.listdir("/proc/self/fd"))

    def write(_fd: int, data: bytes) -> int:
        if data.startswith(b"full"):
            raise OSError(22, "Invalid argument")
        return len(data)

    monkeypatch.setattr("os.write", write)
    triggers = PsiTriggers(str(path))
    assert triggers.arm(25_000, 10_000) == "Invalid argument; a window of 500 ms needs CAP_SYS_RESOURCE"
    assert triggers.fds == {}
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_psi(tmp_path: Path) -> None:
    """A kernel without PSI is a reason, not an error."""
    assert PsiTriggers(str(tmp_path / "missing")).arm(25_000, 10_000) == "No such file or directory"
