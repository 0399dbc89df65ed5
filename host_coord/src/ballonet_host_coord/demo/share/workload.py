"""Runs in the demo's guest: holds memory when told to, and says how long that took and how it felt.

`workload.py PORT` serves JSON lines on a virtio-serial port, one object each way, matched by `id`; commands run
side by side. `do` is one of

hold      {"mib": N, "give_up_s": S}: have N MiB in use. Answered when every page of it has been written and all
          but 8 MiB and a 64th of it (SWAPPED_*) is resident, not in swap, or after S seconds:
          {"held_kib", "rss_kib", "swap_kib", "touched_s", "usable_s" (null: not within S), "longest_stall_us"
          (for one chunk), "failures" (of mmap), "died" (the holder was killed; then only this and "held_kib"),
          "start_s", "end_s" (CLOCK_MONOTONIC of the guest)}. 0 gives all of it back.
state     what is held, and how its memory felt since the last `hold`: {"held_kib", "longest_stall_us",
          "deaths" (of the holder), "holder_pid"}
counters  {"meminfo": {name: KiB}, "vmstat": {name: count}, "psi": text or null, "monotonic_s", "boottime_s"}
run       {"command": shell text, "timeout_s": S}: {"code", "output"}; code null: not finished within S

The memory is held by a process of its own, which the kernel may kill without silencing this one. It goes on
writing every page once a second, as a program that needs its memory does: what is only kept and never used
would be swapped out, and nobody would be the worse for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

CHUNK = 1 << 20
PAGE = mmap.PAGESIZE
MARK = b"\x01" * (CHUNK // PAGE)
# How long mmap may refuse before the next try: the agent asks for memory within 100 ms.
RETRY_S = 0.02
# Of what is held, this much may be in swap while all of it still counts as usable: a part, and the interpreter.
SWAPPED_SHARE = 1 / 64
SWAPPED_KIB = 8192
KEEP_WARM_S = 1.0
LONGEST_OUTPUT = 256 * 1024


class Holder:
    """The process that holds the memory: one JSON line in, one out, warm pages in between."""

    def __init__(self) -> None:
        self.chunks: list[mmap.mmap] = []
        self.failures = 0
        self.longest_stall_s = 0.0

    def hold(self, mib: int, give_up_s: float) -> dict[str, Any]:
        """Grow or shrink to `mib` MiB and report as `hold` above says."""
        start = time.monotonic()
        self.failures, self.longest_stall_s = 0, 0.0
        while len(self.chunks) > mib:
            self.chunks.pop().close()
        while len(self.chunks) < mib and time.monotonic() - start < give_up_s:
            self._grow()
        touched = time.monotonic() - start
        # Written once is not usable yet: what was first written may have been swapped out for what came last.
        usable = None
        while usable is None and time.monotonic() - start < give_up_s:
            rss_kib, swap_kib = own_memory_kib()
            if len(self.chunks) == mib and swap_kib <= SWAPPED_KIB + mib * 1024 * SWAPPED_SHARE:
                usable = time.monotonic() - start
            else:
                self.warm(give_up_s - (time.monotonic() - start))
        rss_kib, swap_kib = own_memory_kib()
        return {
            "held_kib": len(self.chunks) * CHUNK // 1024,
            "rss_kib": rss_kib,
            "swap_kib": swap_kib,
            "touched_s": touched,
            "usable_s": usable,
            "longest_stall_us": round(self.longest_stall_s * 1e6),
            "failures": self.failures,
            "died": False,
            "start_s": start,
            "end_s": time.monotonic(),
        }

    def warm(self, within_s: float = math.inf) -> None:
        """Write every page that is held once more, as far as the time allows."""
        until = time.monotonic() + within_s
        for chunk in self.chunks:
            if time.monotonic() > until:
                return
            self._touch(chunk)

    def _grow(self) -> None:
        try:
            chunk = mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            self.failures += 1
            time.sleep(RETRY_S)
            return
        self._touch(chunk)
        self.chunks.append(chunk)

    def _touch(self, chunk: mmap.mmap) -> None:
        before = time.monotonic()
        chunk[::PAGE] = MARK
        self.longest_stall_s = max(self.longest_stall_s, time.monotonic() - before)


def own_memory_kib() -> tuple[int, int]:
    """(VmRSS, VmSwap) of this process."""
    found = {"VmRSS": 0, "VmSwap": 0}
    with open("/proc/self/status") as status:
        for line in status:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0])
    return found["VmRSS"], found["VmSwap"]


def run_holder() -> None:
    """The holder's process. Orders on stdin, answers on stdout; ends with its parent."""
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")
    holder = Holder()
    while True:
        if not select.select([0], [], [], KEEP_WARM_S)[0]:
            before = holder.longest_stall_s
            holder.warm()
            if holder.longest_stall_s > before:
                print(json.dumps({"longest_stall_us": round(holder.longest_stall_s * 1e6)}), flush=True)
            continue
        # One order at a time and none while one is carried out, so select() and readline() agree.
        line = sys.stdin.readline()
        if not line:
            return
        order = json.loads(line)
        print(json.dumps(holder.hold(order["mib"], order["give_up_s"])), flush=True)


class Controller:
    """What answers on the port. Each command has a thread; only `hold` commands wait for each other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._one_writer = threading.Lock()
        self._one_hold = threading.Lock()
        self._one_change = threading.Lock()
        self._holder = start_holder()
        self._last: dict[str, Any] = {}
        self._deaths = 0
        self._answered = threading.Event()
        self._commands: dict[str, Callable[..., dict[str, Any]]] = {
            "hold": self.hold, "state": self.state, "counters": counters, "run": run,
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the port goes away."""
        threading.Thread(target=self._listen_to_holder, args=(self._holder,), daemon=True).start()
        held = b""
        while True:
            data = os.read(self._port, 65536)
            if not data:
                # No host client just now; its half line went with it.
                held = b""
                time.sleep(0.05)
                continue
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: bytes) -> None:
        ident = None
        try:
            request = json.loads(line)
            ident = request.pop("id")
            answer = self._commands[request.pop("do")](**request)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            answer = {"error": f"{type(fault).__name__}: {fault}"}
        data = json.dumps(answer | {"id": ident}).encode() + b"\n"
        with self._one_writer:
            while data:
                data = data[os.write(self._port, data) :]

    def hold(self, mib: int, give_up_s: float = 60.0) -> dict[str, Any]:
        with self._one_hold:
            with self._one_change:
                self._answered.clear()
                holder = self._holder
            order = json.dumps({"mib": mib, "give_up_s": give_up_s}).encode() + b"\n"
            assert holder.stdin is not None
            # A holder that was killed just now breaks the pipe; its listener answers for it.
            with contextlib.suppress(BrokenPipeError):
                os.write(holder.stdin.fileno(), order)
            self._answered.wait()
            return dict(self._last)

    def state(self) -> dict[str, Any]:
        return {
            "held_kib": self._last.get("held_kib", 0),
            "longest_stall_us": self._last.get("longest_stall_us", 0),
            "deaths": self._deaths,
            "holder_pid": self._holder.pid,
        }

    def _listen_to_holder(self, holder: subprocess.Popen[bytes]) -> None:
        while True:
            assert holder.stdout is not None
            for line in holder.stdout:
                news = json.loads(line)
                self._last = self._last | news
                if "held_kib" in news:
                    self._answered.set()
            holder.wait()
            holder = start_holder()
            with self._one_change:
                self._deaths += 1  # whoever reads it finds the next holder in place
                self._holder = holder
                self._last = {"held_kib": 0, "died": True}
                self._answered.set()


def start_holder() -> subprocess.Popen[bytes]:
    command = [sys.executable, os.path.abspath(__file__), "--holder"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def counters() -> dict[str, Any]:
    """What the kernel counts; see the module's docstring."""
    meminfo, vmstat = {}, {}
    with open("/proc/meminfo") as text:
        for line in text:
            name, _, rest = line.partition(":")
            meminfo[name] = int(rest.split()[0])
    with open("/proc/vmstat") as text:
        for line in text:
            name, _, count = line.partition(" ")
            vmstat[name] = int(count)
    try:
        with open("/proc/pressure/memory") as text:
            psi = text.read()
    except OSError:
        psi = None
    return {
        "meminfo": meminfo,
        "vmstat": vmstat,
        "psi": psi,
        "monotonic_s": time.monotonic(),
        "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
    }


def run(command: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """Run a shell command; output and errors come together. What it left in the background is ended with it."""
    # Our own protection from the OOM killer is not meant for what we are told to run.
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"echo 0 >/proc/self/oom_score_adj; {command}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    code: int | None
    try:
        output, _ = process.communicate(timeout=timeout_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    return {"code": code, "output": output[-LONGEST_OUTPUT:].decode(errors="replace")}


def stay_in_memory() -> None:
    """Keep the pages that are in use now or later: answering must not wait for swap."""
    now_future_onfault = 1 | 2 | 4
    ctypes.CDLL(None, use_errno=True).mlockall(now_future_onfault)


if __name__ == "__main__":
    if sys.argv[1] == "--holder":
        run_holder()
    else:
        stay_in_memory()
        Controller(os.open(sys.argv[1], os.O_RDWR)).serve()
