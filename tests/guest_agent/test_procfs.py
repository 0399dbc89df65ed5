"""procfs.py: a directory in place of /proc and /sys, with files that come, change and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_guest_agent.procfs import KeptFile, Procfs
from ballonet_guest_agent.sample import Sample

FIXTURES = Path(__file__).parent / "fixtures/linux-6.1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pressure").mkdir()
    for name in ("meminfo", "vmstat"):
        (tmp_path / name).write_text((FIXTURES / name).read_text())
    (tmp_path / "pressure/memory").write_text((FIXTURES / "pressure_memory").read_text())
    return tmp_path


def add_device(root: Path, name: str, device: str, features: str) -> Path:
    folder = root / "bus/virtio/devices" / name
    folder.mkdir(parents=True)
    (folder / "device").write_text(device + "\n")
    (folder / "features").write_text(features + "\n")
    return folder


def test_sample(root: Path) -> None:
    """The three files and the device make the sample that the parsers make of their texts."""
    add_device(root, "virtio0", "0x0005", "0010" + "0" * 60)
    expected = Sample.from_texts(
        (FIXTURES / "meminfo").read_text(),
        (FIXTURES / "vmstat").read_text(),
        (FIXTURES / "pressure_memory").read_text(),
        True,
    )
    procfs = Procfs(str(root), str(root))
    assert procfs.sample() == expected
    assert procfs.sample() == expected


def test_files_are_read_anew(root: Path) -> None:
    """The second sample sees what has changed since the first."""
    procfs = Procfs(str(root), str(root))
    procfs.sample()
    with (root / "meminfo").open("r+") as file:
        file.write("MemTotal:        1111111 kB\n")
    assert procfs.sample().memory.total_kib == 1111111


def test_nothing_there(tmp_path: Path) -> None:
    """Without any file the sample is all unknown and nothing is raised; files that appear later are read."""
    procfs = Procfs(str(tmp_path), str(tmp_path))
    sample = procfs.sample()
    assert (sample.total_kib, sample.psi, sample.deflate_on_oom) == (None, None, None)
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    assert procfs.sample().memory.total_kib == 5


@pytest.mark.parametrize(("features", "expected"), [("0010", True), ("1100", False), ("0", False), ("", False)])
def test_deflate_on_oom(root: Path, features: str, expected: bool) -> None:
    """It is the third character of the balloon device's features; other devices do not count."""
    add_device(root, "virtio0", "0x0001", "1111")
    add_device(root, "virtio7", "0x0005", features)
    assert Procfs(str(root), str(root)).deflate_on_oom() is expected


def test_balloon_device_comes_and_goes(root: Path) -> None:
    """A device that is unplugged is unknown again, and found again under another name."""
    procfs = Procfs(str(root), str(root))
    assert procfs.deflate_on_oom() is None
    folder = add_device(root, "virtio1", "0x0005", "0010")
    assert procfs.deflate_on_oom() is True
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert procfs.deflate_on_oom() is None
    add_device(root, "virtio2", "0x0005", "0000")
    assert procfs.deflate_on_oom() is False


def test_boot_id(root: Path) -> None:
    """Sixteen bytes of the kernel's boot_id; zeros when there is none or it is no id."""
    procfs = Procfs(str(root), str(root))
    assert procfs.boot_id() == bytes(16)
    folder = root / "sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_text("00112233-4455-6677-8899-aabbccddeeff\n")
    assert procfs.boot_id().hex() == "00112233445566778899aabbccddeeff"
    (folder / "boot_id").write_text("nonsense\n")
    assert procfs.boot_id() == bytes(16)


def test_endless_file() -> None:
    """A stand-in that never ends is cut at a megabyte."""
    text = KeptFile("/dev/zero").read()
    assert text is not None
    assert len(text) == 1 << 20


def test_large_file_is_read_whole(tmp_path: Path) -> None:
    """A file longer than one read is read to its end."""
    path = tmp_path / "vmstat"
    path.write_text("x" * 50_000)
    assert KeptFile(str(path)).read() == "x" * 50_000
