"""The guest agent's real process on a Unix socket, over a stand-in for /proc that a test may make stall.

Two things about it are made up: the guest's age, since a conformance run wants a guest that has settled and one that
has not, and the PSI triggers, which only a kernel has: without them the daemon reads the stall counter itself.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "guest_agent" / "fixtures" / "linux-6.1"

START = """
import sys, time
sys.path[:] = {path!r}
import ballonet_guest_agent.daemon as daemon
import ballonet_guest_agent.loop as loop
daemon.PsiTriggers.arm = lambda self, some_us, full_us: "no kernel behind this /proc"
class Clocks:
    CLOCK_BOOTTIME, monotonic = 7, staticmethod(time.monotonic)
    born_s = time.monotonic()
    def clock_gettime(self, clock):
        return time.monotonic() - self.born_s + {age_s}
loop.time = Clocks()
sys.exit(daemon.main(sys.argv[1:]))
"""


class RealAgent:
    """One daemon in a directory of its own. It listens when this is made."""

    def __init__(self, folder: Path, age_s: float = 3600.0, port: str = "") -> None:
        self.proc = folder / "proc"
        (self.proc / "pressure").mkdir(parents=True)
        for name in ("meminfo", "vmstat", "pressure_memory"):
            (self.proc / name.replace("_", "/")).write_text((FIXTURES / name).read_text())
        self.address = f"unix:{folder / 'agent.sock'}"
        settings = folder / "agent.conf"
        settings.write_text(f"port = {port or self.address}\nproc_root = {self.proc}\nsys_root = {folder}\n")
        code = START.format(path=sys.path, age_s=age_s)
        self.command = [sys.executable, "-S", "-c", code, "--config", str(settings)]
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "is open" in line:
                break

    def hurt(self) -> None:
        """The guest's tasks have stalled for 400 ms."""
        file = self.proc / "pressure" / "memory"
        # In place: the daemon keeps the file open.
        text = re.sub(r"total=(\d+)", lambda found: f"total={int(found[1]) + 400_000}", file.read_text())
        with file.open("r+") as kept:
            kept.write(text)

    def stop(self) -> None:
        """Its exit code is 0."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, said
