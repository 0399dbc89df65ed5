"""The process of a domain is found by what it says of itself, and a stranger's word is not taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from ballonet_host_coord.boots import Process
from ballonet_host_coord.qemu_process import age_s, belongs_to, find_qemu, run_folders


@contextmanager
def qemu(*arguments: str) -> Iterator[int]:
    """A process with these arguments; its pid."""
    child = subprocess.Popen([sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE)
    try:
        yield child.pid
    finally:
        child.communicate(b"\n")


def ours() -> str:
    return f"+{os.getuid()}"


def test_a_domain_is_found_with_and_without_its_pid_file(tmp_path: Path) -> None:
    """The file's process where it says the domain's uuid, else the one that does; with when it began."""
    domain = str(uuid.uuid4())
    assert find_qemu("web", domain, "", [str(tmp_path)]) is None
    with qemu("-name", "web", "-uuid", domain) as pid, qemu("-uuid", str(uuid.uuid4())) as other:
        found = find_qemu("web", domain, ours(), [str(tmp_path)])
        assert found is not None
        assert (found.pid, found.began_wall_s) == (pid, psutil.Process(pid).create_time())
        assert 0 <= age_s(found) < 60
        # A pid file of an earlier start names whoever has that number now.
        for content in (f"{pid}\n", f"{other}", "-3", "9" * 30, "", "rubbish"):
            (tmp_path / "web.pid").write_text(content)
            assert find_qemu("web", domain, "", [str(tmp_path)]) == found


@pytest.mark.parametrize("arguments", [("-uuid",), ("{}",), ("-name", "{}"), ("{}", "-uuid")])
def test_only_the_uuid_as_an_option_counts(arguments: tuple[str, ...]) -> None:
    """The same text elsewhere among the arguments is no domain."""
    domain = str(uuid.uuid4())
    with qemu(*(argument.format(domain) for argument in arguments)):
        assert find_qemu("web", domain, "", []) is None


def test_who_is_not_the_right_user_is_not_it() -> None:
    """Anybody can start a process that says a domain's uuid; its memory is not the guest's."""
    domain = str(uuid.uuid4())
    with qemu("-uuid", domain) as pid:
        assert find_qemu("web", domain, "+4000000000", []) is None
        found = find_qemu("web", domain, "no such user", [])
        assert found is not None
        assert found.pid == pid


def test_two_that_say_the_same_are_none(tmp_path: Path) -> None:
    """One of them lies, and which cannot be told; libvirt's own pid file decides where there is one."""
    domain = str(uuid.uuid4())
    with ExitStack() as stack:
        first, _ = (stack.enter_context(qemu("-uuid", domain)) for _ in range(2))
        assert find_qemu("web", domain, "", [str(tmp_path)]) is None
        (tmp_path / "web.pid").write_text(str(first))
        found = find_qemu("web", domain, "", [str(tmp_path)])
        assert found is not None
        assert found.pid == first


def test_pid_files_are_looked_for_in_system_and_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of libvirt have their folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert run_folders() == ("/run/libvirt/qemu", "/run/user/7/libvirt/qemu/run")


def test_a_process_is_known_again_by_its_beginning_and_its_user() -> None:
    """A later process of the same number is another, and so is one of another user."""
    with qemu("-uuid", "x") as pid:
        process = Process(pid, psutil.Process(pid).create_time())
        assert belongs_to(process)
        assert belongs_to(process, ours())
        assert not belongs_to(process, "+4000000000")
        assert not belongs_to(Process(pid, process.began_wall_s - 60))
    assert not belongs_to(process)
