"""`python host_agents.py SPEC FIRST COUNT`: some guests of the host's benchmark, in a process of their own.

Each is behind the two Unix sockets that a QEMU has: the agent's channel and a monitor. Nobody sleeps on behalf of
anybody: one loop wakes at the earliest of what the agents, the balloons and the workloads wait for. SPEC is a JSON
file, see host_many.py.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host_guest import MIB, SYSTEM_KIB, LightAgent, Machine
from host_proc import RecordedProcess
from host_table import Table

BUSY_S = 0.1
"""While a balloon moves or a workload waits the machine is looked at this often."""
NICER = 5
"""On a few cores the guests of five hundred machines would take what the coordinator needs."""
EVENT_APART_S = 1.0
"""QEMU tells of a balloon's size no more often."""
TOLD_KIB = 2 * MIB
"""What a process holds is written anew when it has changed by this."""
BALLOON = "/machine/peripheral/balloon0"
BACKLOG = 2


class Guest:
    """One guest: its machine, its agent and its two sockets."""

    def __init__(self, number: int, spec: dict[str, Any], table: Table, loop: PostLoop) -> None:
        now_s = time.monotonic()
        self.number = number
        self.due_s = 0.0
        self._table = table
        self._loop = loop
        self._random = random.Random(number)
        self._spec = spec
        self._base_kib = int(self._random.uniform(*spec["base_mib"]) * MIB)
        # It begins with its need, its cache and its buffer, as one that has been served for long.
        size_kib = min(spec["ram_kib"], (self._base_kib + SYSTEM_KIB + 30 * MIB) * 5 // 4)
        self.machine = Machine(spec["ram_kib"], size_kib, self._base_kib, now_s)
        table.target_kib[number] = self._target_kib = size_kib
        self._agent = LightAgent(self.machine, number)
        self._process = RecordedProcess(Path(spec["folder"]) / "proc", number, spec["ram_kib"])
        self._told_kib = -TOLD_KIB
        self._stalled_since_s: float | None = None
        self._event_s = 0.0
        self._event_kib = size_kib
        self._stepping = False
        self._work_s = now_s + spec["quiet_s"] + self._random.expovariate(1 / spec["step_every_s"])
        self._channel: socket.socket | None = None
        self._monitor: socket.socket | None = None
        self._asked = b""
        loop.listen(f"{spec['folder']}/{number}.agent", self._accepted_channel)
        if spec["port"] == "qmp":
            loop.listen(f"{spec['folder']}/{number}.qmp", self._accepted_monitor)
        self.live(now_s)

    # --- time ----------------------------------------------------------------------------------------------

    def live(self, now_s: float) -> None:
        """Bring the machine, the workload and the agent up to now."""
        table, number, machine = self._table, self.number, self.machine
        if now_s >= self._work_s:
            self._work(now_s)
        if table.target_kib[number] != self._target_kib:
            self._target_kib = table.target_kib[number]
            machine.set_target(self._target_kib, now_s)
        machine.advance(now_s)
        pause_s = self._agent.live(now_s)
        self._write()
        self._show(now_s)
        self.due_s = min(now_s + (min(BUSY_S, pause_s) if machine.busy else pause_s), self._work_s)
        self._loop.at(self.due_s, self)

    def _work(self, now_s: float) -> None:
        """Quiet, then a step up for a while, and back."""
        spec = self._spec
        if self._stepping:
            self.machine.work(self._base_kib, now_s)
            self._work_s = now_s + self._random.expovariate(1 / spec["step_every_s"])
        else:
            self.machine.work(self._base_kib + int(self._random.uniform(*spec["step_mib"]) * MIB), now_s)
            self._work_s = now_s + self._random.uniform(*spec["hold_s"])
        self._stepping = not self._stepping

    def _show(self, now_s: float) -> None:
        """What the hypervisor and the kernel would say from now on."""
        table, number, machine = self._table, self.number, self.machine
        size_kib = machine.size_kib
        table.actual_kib[number] = size_kib
        table.available_kib[number] = machine.available_kib
        if abs(machine.resident_kib - self._told_kib) >= TOLD_KIB:
            self._told_kib = machine.resident_kib
            self._process.holds(self._told_kib)
        table.stalled_ms[number] = int(machine.stalled_s * 1000)
        if not machine.waits:
            self._stalled_since_s = None
        else:
            self._stalled_since_s = self._stalled_since_s or now_s
            waited_ms = int((now_s - self._stalled_since_s) * 1000)
            table.unmet_ms[number] = max(table.unmet_ms[number], waited_ms)
        if self._monitor is not None and size_kib != self._event_kib and now_s >= self._event_s + EVENT_APART_S:
            self._event_s, self._event_kib = now_s, size_kib
            stamp = {"seconds": int(now_s), "microseconds": 0}
            event = {"event": "BALLOON_CHANGE", "timestamp": stamp, "data": {"actual": size_kib * 1024}}
            self._say(event)

    # --- the agent's channel -------------------------------------------------------------------------------

    def _accepted_channel(self, client: socket.socket) -> None:
        self._channel = client
        self._agent.connected()
        self._loop.read(client, self._heard, self._left)

    def _heard(self, data: bytes) -> None:
        now_s = time.monotonic()
        self.machine.advance(now_s)
        self._agent.received(data, now_s)
        self.live(now_s)

    def _left(self) -> None:
        self._channel = None
        self._agent.connected()

    def _write(self) -> None:
        frames, self._agent.frames = self._agent.frames, []
        table, number = self._table, self.number
        for frame, is_demand in frames:
            if self._channel is None:
                continue
            if is_demand:
                table.demands[number] += 1
                if not table.demanded_ns[number]:
                    table.demanded_ns[number] = time.monotonic_ns()
            try:
                if self._channel.send(frame) == len(frame):
                    continue
            except OSError:
                pass
            table.lost_frames[number] += 1

    # --- the monitor ---------------------------------------------------------------------------------------

    def _accepted_monitor(self, client: socket.socket) -> None:
        self._monitor = client
        self._say({"QMP": {"version": {}, "capabilities": []}})
        self._loop.read(client, self._commanded, self._monitor_left)

    def _monitor_left(self) -> None:
        self._monitor = None

    def _commanded(self, data: bytes) -> None:
        *lines, self._asked = (self._asked + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            self._say({**self._answer(command["execute"], command.get("arguments", {})), "id": command["id"]})

    def _say(self, message: dict[str, Any]) -> None:
        if self._monitor is not None:
            with contextlib.suppress(OSError):  # it has left: that is heard next
                self._monitor.send(json.dumps(message).encode() + b"\r\n")

    def _answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "balloon":
            self._table.target_kib[self.number] = arguments["value"] // 1024
            self.live(time.monotonic())
            return {"return": {}}
        if name == "query-balloon":
            now_s = time.monotonic()
            self.machine.advance(now_s)
            self._show(now_s)
            return {"return": {"actual": self.machine.size_kib * 1024}}
        if name == "qom-get" and arguments.get("property") == "guest-stats":
            return {"return": self._statistics()}
        if name == "qom-list":
            return {"return": DEVICES.get(arguments["path"], [])}
        answers: dict[str, Any] = {
            "query-status": {"status": "running", "running": True},
            "query-memory-size-summary": {"base-memory": self.machine.ram_kib * 1024, "plugged-memory": 0},
            "query-migrate": {},
            "qom-get": {"deflate-on-oom": True, "name": "org.ballonet.agent.0"}.get(arguments.get("property", "")),
            "qom-set": {},
            "qmp_capabilities": {},
        }
        if name in answers:
            return {"return": answers[name]}
        return {"error": {"class": "CommandNotFound", "desc": name}}

    def _statistics(self) -> dict[str, Any]:
        free_bytes = self.machine.free_kib * 1024
        statistics = {
            "stat-total-memory": self.machine.ram_kib * 1024, "stat-free-memory": free_bytes,
            "stat-available-memory": free_bytes, "stat-disk-caches": 100 << 20, "stat-swap-in": 0, "stat-swap-out": 0,
            "stat-major-faults": 0, "stat-minor-faults": 0, "stat-htlb-pgalloc": 0, "stat-htlb-pgfail": 0,
        }  # fmt: skip
        return {"stats": statistics, "last-update": int(time.time())}


DEVICES = {
    "/machine/peripheral": [
        {"name": "type", "type": "string"},
        {"name": "balloon0", "type": "child<virtio-balloon-pci>"},
        {"name": "port1", "type": "child<virtserialport>"},
    ],
    "/machine/peripheral-anon": [{"name": "device[0]", "type": "child<virtio-serial-pci>"}],
}


class PostLoop:
    """Sockets and moments."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._moments: list[tuple[float, int, Guest]] = []
        self._stops = False

    def at(self, due_s: float, guest: Guest) -> None:
        heapq.heappush(self._moments, (due_s, guest.number, guest))

    def listen(self, path: str, accepted: Callable[[socket.socket], None]) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(BACKLOG)

        def accept() -> None:
            client, _ = listening.accept()
            client.setblocking(False)
            accepted(client)

        self._selector.register(listening, selectors.EVENT_READ, accept)

    def read(self, client: socket.socket, heard: Callable[[bytes], None], left: Callable[[], None]) -> None:
        def receive() -> None:
            try:
                data = client.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                heard(data)
            else:
                self._selector.unregister(client)
                client.close()
                left()

        self._selector.register(client, selectors.EVENT_READ, receive)

    def run(self, guests: list[Guest], table: Table, poll_s: float) -> None:
        """Until SIGTERM. `poll_s`: how often targets are looked for that another process wrote; 0 for never."""
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop())
        polled_s = 0.0
        while not self._stops:
            now_s = time.monotonic()
            pause_s = max(0.0, self._moments[0][0] - now_s) if self._moments else 1.0
            for key, _ in self._selector.select(min(pause_s, poll_s or 1.0)):
                key.data()
            now_s = time.monotonic()
            while self._moments and self._moments[0][0] <= now_s:
                due_s, _, guest = heapq.heappop(self._moments)
                if due_s == guest.due_s:  # else it has been looked after meanwhile
                    guest.live(now_s)
            if poll_s and now_s >= polled_s + poll_s:
                polled_s = now_s
                for guest in guests:
                    if table.target_kib[guest.number] != guest.machine.target_kib:
                        guest.live(now_s)

    def _stop(self) -> None:
        self._stops = True


def main() -> None:
    os.nice(NICER)
    spec = json.loads(Path(sys.argv[1]).read_text())
    first, count = int(sys.argv[2]), int(sys.argv[3])
    table = Table(Path(spec["folder"]) / "table", spec["count"])
    loop = PostLoop()
    guests = [Guest(number, spec, table, loop) for number in range(first, first + count)]
    print("ready", flush=True)
    loop.run(guests, table, 0.02 if spec["port"] == "libvirt" else 0.0)
    print(json.dumps({"cpu_s": time.process_time(), "pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    main()
