"""The process of a domain is found by what it says of itself, and a stranger's word is not taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from ballonet_host_coord.boots import Process
from ballonet_host_coord.qemu_arguments import Arguments
from ballonet_host_coord.qemu_process import (
    QemuFinder,
    age_s,
    arguments_of,
    belongs_to,
    find_qemu,
    guest_name,
    run_folders,
)  # fmt: skip


@contextmanager
def program(name: str, *arguments: str) -> Iterator[int]:
    """A process that calls itself so; its pid."""
    command = [name, "-c", "input()", *arguments]
    child = subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE)
    try:
        # A process that has just begun its program has no arguments yet; the kernel tells nobody when it has.
        while child.poll() is None and not Path(f"/proc/{child.pid}/cmdline").read_bytes():
            time.sleep(0.001)
        yield child.pid
    finally:
        child.communicate(b"\n")


def qemu(*arguments: str) -> AbstractContextManager[int]:
    """A process with these arguments; its pid."""
    return program(sys.executable, *arguments)


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


def test_every_qemu_is_found_by_its_programs_name() -> None:
    """Whatever the distribution calls it; user-mode emulators, tools and who has it among the arguments are none."""
    names = {"/usr/bin/qemu-system-x86_64": True, "/usr/bin/kvm": True, "/usr/libexec/qemu-kvm": True,
             "/usr/bin/qemu-img": False, "/usr/bin/qemu-aarch64-static": False, "/usr/bin/kvm-nx": False}  # fmt: skip
    with ExitStack() as running:
        pids = {running.enter_context(program(name, "-name", "guest=a b,process=x")): name for name in names}
        found = QemuFinder().find()
        assert {name: pid in found for pid, name in pids.items()} == names
        assert {found[pid] for pid, name in pids.items() if names[name]} == {"a b"}


def test_who_becomes_a_qemu_late_is_found_and_who_ends_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is looked at again before it is passed over, and after that no more."""
    said: dict[int, list[str]] = {10: ["sh"], 20: ["sh"]}
    asked: list[int] = []

    def arguments(pid: int) -> list[str] | None:
        asked.append(pid)
        return said[pid] if said[pid][0] == "kvm" else None

    monkeypatch.setattr("ballonet_host_coord.qemu_process._qemu_arguments", arguments)
    monkeypatch.setattr("ballonet_host_coord.qemu_process.psutil.pids", lambda: list(said))
    finder = QemuFinder()
    assert finder.find() == {}
    said[20] = ["kvm", "-name", "late"]
    assert finder.find() == {20: "late"}
    asked.clear()
    assert finder.find() == {20: "late"}
    assert asked == [20]
    del said[20]
    assert finder.find() == {}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["kvm", "-name", "web"], "web"), (["kvm", "-name", "guest=web,debug-threads=on"], "web"),
     (["kvm", "-name", "web,process=x"], "web"), (["kvm", "-m", "1G"], ""), (["kvm", "-name"], ""),
     (["kvm", "-name", "debug-threads=on"], "")],
)  # fmt: skip
def test_a_guests_name_is_what_its_qemu_was_told(arguments: list[str], name: str) -> None:
    """In QEMU's old and new way of saying it."""
    assert guest_name(arguments) == name


def test_a_process_tells_what_it_was_started_with(tmp_path: Path) -> None:
    """Its arguments, and huge pages where it sees them mounted; of one that is gone nothing is known."""
    with qemu("-overcommit", "mem-lock=on") as pid:
        assert arguments_of(pid) == Arguments(None, ("its memory is locked",))
    assert arguments_of(pid) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_text("kvm\0-m\0002G\0-mem-path\0/mnt/a b/x\0")
    assert arguments_of(7, str(tmp_path)) == Arguments(ram_kib=2 << 20)
    (tmp_path / "7/mounts").write_text("tmpfs /mnt tmpfs rw 0 0\nnone /mnt/a\\040b hugetlbfs rw,pagesize=2M 0 0\n")
    huge = Arguments(None, ("it uses hugepages",), hugepages_kib=2 << 20, ram_kib=2 << 20)
    assert arguments_of(7, str(tmp_path)) == huge
