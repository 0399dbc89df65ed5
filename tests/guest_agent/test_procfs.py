"""procfs.py: a directory in place of /proc and /sys, with files that come, change and go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ballonet_guest_agent.procfs import KeptFile, Procfs
from ballonet_guest_agent.psi import ABSENT, OFF, PRESENT, UNREADABLE
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.zram import Zram

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


def set_swap(root: Path, total_kib: int, swaps: str) -> None:
    (root / "meminfo").write_text(f"SwapTotal: {total_kib} kB\nSwapFree: {total_kib} kB\n")
    (root / "swaps").write_text("Filename Type Size Used Priority\n" + swaps)


def add_zram(root: Path, mm_stat: str) -> Path:
    folder = root / "block/zram0"
    folder.mkdir(parents=True)
    (folder / "mm_stat").write_text(mm_stat)
    return folder / "mm_stat"


def test_zram_is_found_when_swap_changes(root: Path) -> None:
    """Without swap nothing is looked for; zram comes and goes with the amount of swap, its use is read each time."""
    procfs = Procfs(str(root), str(root))
    set_swap(root, 0, "")
    assert procfs.sample().zram == Zram(0, 0, 0)
    mm_stat = add_zram(root, "4096000 1024000 2048000 0 0 0 0\n")
    set_swap(root, 8000, "/dev/zram0 partition 8000 4000 100\n")
    assert procfs.sample().zram == Zram(8000, 4000, 2000)
    mm_stat.write_text("6144000 1024000 3072000 0 0 0 0\n")
    assert procfs.sample().zram == Zram(8000, 6000, 3000)
    set_swap(root, 9000, "/dev/vda2 partition 9000 0 -2\n")
    assert procfs.sample().zram == Zram(0, 0, 0)


def test_swaps_are_not_read_for_each_sample(root: Path) -> None:
    """While the amount of swap stays, the list of its devices is not read again."""
    procfs = Procfs(str(root), str(root))
    add_zram(root, "0 0 0 0 0 0 0\n")
    set_swap(root, 8000, "/dev/zram0 partition 8000 0 100\n")
    procfs.sample()
    (root / "swaps").unlink()
    assert procfs.sample().zram.size_kib == 8000


def test_zram_that_cannot_be_read(root: Path) -> None:
    """A device without statistics has a size and an unknown content."""
    set_swap(root, 8000, "/dev/zram0 partition 8000 0 100\n")
    assert Procfs(str(root), str(root)).sample().zram == Zram(8000, None, None)


def test_psi_off_and_unreadable(root: Path, monkeypatch) -> None:
    """What the kernel answers on reading decides between off, absent and unreadable; each is a state, none an error."""
    procfs = Procfs(str(root), str(root))
    assert procfs.sample().psi_state == PRESENT
    psi, pread, answer = root / "pressure/memory", os.pread, errno.EACCES

    def refuse(fd: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(psi):
            raise OSError(answer, os.strerror(answer))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", refuse)
    assert procfs.sample().psi_state == UNREADABLE
    answer = errno.EOPNOTSUPP
    assert (procfs.sample().psi, procfs.sample().psi_state, procfs.psi_state()) == (None, OFF, OFF)
    monkeypatch.undo()
    text = psi.read_text()
    psi.write_text("nonsense\n")
    assert procfs.sample().psi_state == UNREADABLE
    psi.write_text(text)
    assert procfs.sample().psi_state == PRESENT
    psi.unlink()
    assert Procfs(str(root), str(root)).sample().psi_state == ABSENT


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
