"""port.py: found by name, never blocking, silence and absence told apart."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ballonet_guest_agent.port import AWAY, PortNotFound, VirtioPort, find_port

NAME = "org.ballonet.agent.0"


def test_found_by_udevs_link(tmp_path: Path) -> None:
    """Where udev made the link, it is the path."""
    (tmp_path / "virtio-ports").mkdir()
    (tmp_path / "virtio-ports" / NAME).touch()
    assert find_port(NAME, str(tmp_path / "sys"), str(tmp_path)) == str(tmp_path / "virtio-ports" / NAME)


@pytest.mark.fault(40)
def test_found_in_sysfs_without_udev(tmp_path: Path) -> None:
    """Without udev the names in sysfs decide, whatever the port's number is."""
    for device, name in (("vport0p1", "other"), ("vport0p2", NAME), ("vport0p3", "")):
        folder = tmp_path / "sys/class/virtio-ports" / device
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
    (tmp_path / "sys/class/virtio-ports/vport0p0").mkdir()
    assert find_port(NAME, str(tmp_path / "sys"), "/dev") == "/dev/vport0p2"
    assert find_port("missing", str(tmp_path / "sys"), "/dev") is None


@pytest.mark.fault(37)
def test_missing_name(tmp_path: Path) -> None:
    """A name that is not there is said so, with an error that the loop waits out."""
    with pytest.raises(PortNotFound):
        VirtioPort(NAME, str(tmp_path), str(tmp_path)).open()


def test_a_file_is_no_port(tmp_path: Path) -> None:
    """What is not a character device is not opened as one."""
    (tmp_path / "virtio-ports").mkdir()
    (tmp_path / "virtio-ports" / NAME).touch()
    port = VirtioPort(NAME, str(tmp_path), str(tmp_path))
    with pytest.raises(OSError, match="not a character device"):
        port.open()
    assert port.fileno() == -1


class FifoPort(VirtioPort):
    """A named pipe behaves as the port does: nothing to read without a writer, and a hang-up that stays."""

    def __init__(self, path: Path) -> None:
        super().__init__("fifo")
        os.mkfifo(path)
        self.path = path

    def open(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)


def test_absence_and_silence(tmp_path: Path) -> None:
    """No host reads as AWAY, a silent one as None, one that left as AWAY after its last bytes."""
    port = FifoPort(tmp_path / "port")
    port.open()
    assert port.read() == AWAY
    host = os.open(port.path, os.O_WRONLY)
    assert port.read() is None
    os.write(host, b"abc")
    os.close(host)
    assert port.read() == b"abc"
    assert port.read() == AWAY
    port.close()
    assert port.fileno() == -1


@pytest.mark.fault(38)
@pytest.mark.parametrize(("code", "result"), [(errno.EAGAIN, 0), (errno.EINTR, 0), (errno.ENOMEM, 0)])
def test_write_that_is_not_taken(monkeypatch, code: int, result: int) -> None:
    """No room, an interruption and no memory all mean: later."""

    def write(_fd: int, _data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", write)
    assert VirtioPort(NAME).write(b"x") == result


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO, errno.EPIPE])
def test_write_to_an_unplugged_port(monkeypatch, code: int) -> None:
    """An unplugged port is the caller's to reopen."""

    def write(_fd: int, _data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", write)
    with pytest.raises(OSError, match=r"No such device|Broken pipe"):
        VirtioPort(NAME).write(b"x")


def test_writes_are_one_page_at_most(monkeypatch) -> None:
    """The driver allocates what it is given: never more than 4 KiB at once."""
    sizes = []
    monkeypatch.setattr("os.write", lambda _fd, data: sizes.append(len(data)) or len(data))
    assert VirtioPort(NAME).write(bytes(100_000)) == 4096
    assert sizes == [4096]
