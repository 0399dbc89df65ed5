"""libvirt's hook: what it asks, whom it refuses, and that it keeps nobody waiting for long."""

from __future__ import annotations

import fcntl
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

DOMAIN = """<domain type='qemu'><name>web</name><uuid>5b1f4c3e-9d1a-4a3b-8f0e-2c5d6e7f8a9b</uuid>
<memory unit='MiB'>1024</memory><currentMemory unit='MiB'>512</currentMemory><devices/></domain>"""
HOOK = Path(__file__).parents[2] / "packaging/libvirt/qemu"


def run_hook(folder: Path, words: list[str], does: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The hook with these settings, before a `ballonet` that notes its words and then `does` so."""
    (folder / "ballonet").write_text(f'#!/bin/sh\necho "$@" >>{folder}/calls\n{does}\n')
    (folder / "ballonet").chmod(0o755)
    text = HOOK.read_text()
    for name, value in {"SLOT": f"{folder}/slot", **settings}.items():
        text, count = re.subn(f"(?m)^BALLONET_HOOK_{name}=.*$", f"BALLONET_HOOK_{name}={value}", text)
        assert count == 1, name
    return subprocess.run(
        ["sh", "-c", text, "hook", *words], input=DOMAIN, text=True, check=False, timeout=60, capture_output=True,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
    )  # fmt: skip


def calls_of(folder: Path) -> list[str]:
    calls = folder / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("words", "strict", "answers", "code", "calls"),
    [
        (["web", "prepare", "begin", "-"], "no", 0, 0, 1),
        (["web", "prepare", "begin", "-"], "no", 1, 0, 1),
        (["web", "prepare", "begin", "-"], "no", 4, 0, 1),
        (["web", "prepare", "begin", "-"], "yes", 4, 1, 1),
        *((["web", "prepare", "begin", "-"], "yes", wrong, 0, 1) for wrong in (1, 2, 3)),
        (["--strange 'name' \"$(exit 9)", "prepare", "begin", "-"], "yes", 4, 1, 1),
        (["web", "started", "begin", "-"], "yes", 4, 0, 0),
        (["web", "stopped", "end", "-"], "yes", 4, 0, 0),
    ],
)
def test_the_libvirt_hook(
    tmp_path: Path, words: list[str], strict: str, answers: int, code: int, calls: int
) -> None:
    """It reserves at prepare alone, hands the XML on, and refuses a start only where told to and there is no room."""
    done = run_hook(tmp_path, words, f"cat >>{tmp_path}/xml; exit {answers}", STRICT=strict)
    assert done.returncode == code
    assert calls_of(tmp_path) == ["reserve --domain-xml - --timeout 10s --hold 60s"] * calls
    assert not calls or (tmp_path / "xml").read_text() == DOMAIN


@pytest.mark.parametrize("does", ["exit 0", "exit 3", "cat; exit 1"])
def test_the_libvirt_hook_gives_room_back(tmp_path: Path, does: str) -> None:
    """When the start has failed or the domain has ended; silently, and that it cannot be given back is no error."""
    done = run_hook(tmp_path, ["web", "release", "end", "-"], does, STRICT="yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls_of(tmp_path) == ["unreserve --domain-xml -"]


def test_the_libvirt_hook_ends_within_its_limit(tmp_path: Path) -> None:
    """A command that does not end is ended, and keeps no domain from starting."""
    does = "trap '' TERM\nwhile :; do sleep 0.1; done"
    assert run_hook(tmp_path, ["web", "prepare"], does, STRICT="yes", LIMIT="0.1s").returncode == 0


def test_only_some_hooks_wait(tmp_path: Path) -> None:
    """With every slot taken a hook asks for what is free at this moment, once; with one free again it waits in it. A
    slot is free as soon as who held it has ended."""
    with ExitStack() as slots:
        for number in (1, 2):
            file = slots.enter_context((tmp_path / f"slot.{number}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        assert run_hook(tmp_path, ["web", "prepare"], "exit 4", STRICT="yes", WAITERS="2").returncode == 1
        file.close()
        assert run_hook(tmp_path, ["web", "prepare"], "exit 4", STRICT="yes", WAITERS="2").returncode == 1
    assert run_hook(tmp_path, ["web", "prepare"], "exit 0", STRICT="yes", WAITERS="2").returncode == 0
    waited = [call.split()[4] for call in calls_of(tmp_path)]
    assert waited == ["1s", "10s", "10s"]


def test_a_hook_that_waits_takes_a_slot(tmp_path: Path) -> None:
    """While its command runs nobody else has it."""
    does = f"flock --nonblock {tmp_path}/slot.1 true || exit 4"
    assert run_hook(tmp_path, ["web", "prepare"], does, STRICT="yes").returncode == 1


def test_without_slots_a_hook_waits_all_the_same(tmp_path: Path) -> None:
    """Where no slot can be made, as in a user's own libvirt."""
    slot = str(tmp_path / "nowhere" / "slot")
    assert run_hook(tmp_path, ["web", "prepare"], "exit 4", STRICT="yes", SLOT=slot).returncode == 1
    assert calls_of(tmp_path) == ["reserve --domain-xml - --timeout 10s --hold 60s"]
