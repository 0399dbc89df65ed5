"""libc.py: locking memory in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from ballonet_guest_agent import libc


def test_lock_memory_says_what_it_did() -> None:
    """Locked pages show in the process's status; without the right the reason is a sentence."""
    code = (
        "from ballonet_guest_agent.libc import lock_memory\n"
        "reason = lock_memory()\n"
        "locked = [int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmLck')][0]\n"
        "assert (locked > 0) == (reason is None), (locked, reason)\n"
        "assert reason is None or 'CAP_IPC_LOCK' in reason\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ctypes(monkeypatch) -> None:
    """A Python without the C library's door says so instead of failing."""
    monkeypatch.setitem(sys.modules, "_ctypes", None)
    assert "_ctypes" in (libc.lock_memory() or "")
    assert not libc.send_datagram(b"/x", b"y")
