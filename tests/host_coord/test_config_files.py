"""The settings' files as files: whatever stands at their paths is a fault that names the file, and nothing worse."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet_host_coord import config
from ballonet_host_coord.cli_asking import settings_socket
from ballonet_host_coord.config import ConfigError, TomlSettings
from ballonet_host_coord.model import HostSettings

GUEST = '[guest.web]\nqmp = "/run/vm/web.qmp"\nminimum = "256M"\nmaximum = "1G"\n'


def faults(folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        TomlSettings(folder / "coordinator.toml").load()
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def drop_ins(tmp_path: Path) -> Path:
    """Beside a good file."""
    (tmp_path / "coordinator.toml").write_text(GUEST)
    (tmp_path / "coordinator.d").mkdir()
    return tmp_path / "coordinator.d"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _vanished(path: Path) -> None:
    """As a file that was listed and is gone when it is read."""
    path.symlink_to(path.with_name("nowhere"))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "a pipe that nobody writes to": (_pipe, "cannot be read: it is no file"),
    "a device without an end": (lambda path: path.symlink_to("/dev/zero"), "cannot be read: it is no file"),
    "a file that vanished": (_vanished, "cannot be read: No such file or directory"),
    "a loop": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "no UTF-8": (lambda path: path.write_bytes(b"[host]\n\xff"), "is not UTF-8 text (byte 7); TOML must be"),
    "half a surrogate": (lambda path: path.write_bytes(b'x = "\xed\xa0\x80"'), "is not UTF-8 text (byte 5)"),
    "depth": (lambda path: path.write_text("x = " + "[" * 5000), "is not read: it nests too deep"),
    "digits": (lambda path: path.write_text("x = " + "9" * 5000), "is not TOML: Exceeds the limit"),
    "size": (lambda path: path.write_bytes(b"#" * (config.MOST_BYTES + 1)), "cannot be read: it has more"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_readable_file_is_a_fault_with_its_name(drop_ins: Path, kind: str) -> None:
    """It neither waits for ever nor is it passed over."""
    make, said = HOSTILE[kind]
    path = drop_ins / "10-odd.toml"
    make(path)
    (fault,) = faults(drop_ins.parent)
    assert fault.startswith(f"{path}: {said}")


def test_a_folder_of_drop_ins_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    """Whoever wrote it there meant something by it."""
    (tmp_path / "coordinator.toml").write_text(GUEST)
    (tmp_path / "coordinator.d").write_text("[host]\n")
    assert faults(tmp_path) == [f"{tmp_path}/coordinator.d: is a file; drop-ins are files in a folder of this name"]


def test_a_folder_that_may_not_be_read_is_a_fault(drop_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are not taken for none."""

    def refused(_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(config.os, "listdir", refused)  # root may read everything
    assert faults(drop_ins.parent) == [f"{drop_ins}: cannot be read: Permission denied"]


def test_hidden_files_are_an_editors(drop_ins: Path) -> None:
    """An editor's lock, a link to nowhere, and other files beside them are passed over."""
    (drop_ins / ".#10-web.toml").symlink_to("me@here.1234")
    (drop_ins / "10-web.toml~").write_text("[hst]\n")
    (drop_ins / "README").write_text("no TOML")
    (drop_ins / "10-web.toml").write_text("[guest.web]\nweight = 7\n")
    (guest,) = TomlSettings(drop_ins.parent / "coordinator.toml").load().guests
    assert guest.weight == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"a\\u0007b" = 1', '"a\\x07b": unknown; sections are'),
        ('[host]\n"a\\u0007b" = 1', '[host] "a\\x07b" = 1: unknown'),
        ('guest = "\\u009b31m"', 'guest = "\\x9b31m": must be a section'),
        ('[guest]\nx = "\\u009b31m"', '[guest] x = "\\x9b31m": must be a section'),
        ("[host]\nslider = 0x" + "f" * 6000, "[host] slider = a number of thousands of digits: allowed is"),
    ],
)
def test_a_fault_is_one_line_that_can_be_seen(tmp_path: Path, text: str, said: str) -> None:
    """Whatever stands in the file."""
    (tmp_path / "coordinator.toml").write_text(text)
    (fault,) = faults(tmp_path)
    assert said in fault
    assert fault.isprintable()


def test_a_running_coordinator_is_found_although_the_files_have_faults(
    drop_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says in `status` what is wrong with them, so `status` must find it; what is not said is the default."""
    main = drop_ins.parent / "coordinator.toml"
    monkeypatch.setenv("BALLONET_CONFIG", str(main))
    (drop_ins / "10-bad.toml").write_text("[host")
    assert settings_socket() == HostSettings().control_path
    main.write_text(f'[host]\ncontrol = "{drop_ins}/control"\nslider = 101\n{GUEST}')
    assert settings_socket() == f"{drop_ins}/control"
