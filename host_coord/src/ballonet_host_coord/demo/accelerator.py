"""Chooses between KVM and emulation by trying: /dev/kvm being there proves nothing."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

from . import requirements

# tb-size bounds QEMU's own memory (MiB of translated code); the default is a quarter of the host's.
TCG = "tcg,thread=multi,tb-size=64"
KVM = "kvm"
# A kernel reaches its end without a root file system in about a second; a hanging KVM never does.
PROBE_S = 10.0


@functools.cache
def choose_accelerator(kernel: Path) -> str:
    """`KVM` where `kernel` boots under it within the time limit, else `TCG`; found out once per process."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    with tempfile.TemporaryDirectory(prefix="ballonet-") as folder:
        console = Path(folder, "console")
        command = [
            requirements.program("qemu-system-x86_64") or "qemu-system-x86_64",
            "-accel", KVM, "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1", "-no-reboot", "-serial", f"file:{console}",
        ]  # fmt: skip
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
            try:
                process.wait(PROBE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        # Without a root file system the kernel gets as far as looking for it: every part that KVM can break worked.
        works = console.is_file() and b"Unable to mount root fs" in console.read_bytes()
    return KVM if works else TCG
