"""KVM is taken when a kernel was seen to boot under it, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_host_coord.demo import accelerator, requirements
from ballonet_host_coord.demo.accelerator import KVM, TCG, choose_accelerator

# A QEMU that writes $1 to the console that it was given and then does $2.
FAKE = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in -serial) console=${2#file:};; esac; shift; done
printf '%s' '@SAYS@' >"$console"
@DOES@
"""


@pytest.fixture
def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    choose_accelerator.cache_clear()
    monkeypatch.setattr(requirements, "SEARCH_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(accelerator, "PROBE_S", 0.5)
    monkeypatch.setattr("os.access", lambda path, mode: True)

    def fake(says: str, does: str) -> None:
        program = tmp_path / "qemu-system-x86_64"
        program.write_text(FAKE.replace("@SAYS@", says).replace("@DOES@", does))
        program.chmod(0o755)

    yield fake
    choose_accelerator.cache_clear()


@pytest.mark.parametrize(
    ("says", "does", "chosen"),
    [
        ("Linux version 6.1 VFS: Unable to mount root fs", "exit 0", KVM),
        ("", "exit 1", TCG),
        ("Linux version 6.1", "exec sleep 60", TCG),
    ],
    ids=["boots", "aborts", "hangs"],
)
def test_only_a_kernel_that_booted_decides(fake_qemu, says, does, chosen):
    """A QEMU that aborts or hangs with KVM is run without it."""
    fake_qemu(says, does)
    assert choose_accelerator(Path("kernel")) == chosen


def test_no_device_no_probe(fake_qemu, monkeypatch):
    """Where /dev/kvm may not be opened nothing is started."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    fake_qemu("Unable to mount root fs", "exit 0")
    assert choose_accelerator(Path("kernel")) == TCG
