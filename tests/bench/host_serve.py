"""`python host_serve.py SPEC`: the real coordinator in a process of its own, watched; SPEC is JSON (host_many.py).

Each line on stdin is answered by one line of JSON on stdout: what has been counted so far, and the samples that came
since the last answer. "profile" begins one of the loop's thread, whose top lines are in FOLDER/profile at the end.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import trio
from host_table import Table

from ballonet_host_coord import libvirt_vm
from ballonet_host_coord.attendant import Attendant
from ballonet_host_coord.channel_socket import ChannelStream, lock_directory, open_channel
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import (
    Command,
    Decision,
    GuestRules,
    GuestSettings,
    HostSettings,
    LinkState,
    SetTarget,
    Settings,
    Snapshot,
    Wish,
)
from ballonet_host_coord.qmp import QmpClient
from ballonet_host_coord.service import serve

LOCAL = {"ID", "UUID", "UUIDString", "c_pointer", "connect", "domain", "isAlive", "name", "setKeepAlive"}
"""Methods of libvirt's objects that answer by themselves."""


class Watch:
    """Counts and stamps in the coordinator's own process. A DEMAND's stamp is its sender's, from before it left."""

    def __init__(self, table: Table, numbers: dict[str, int]) -> None:
        self.calls: Counter[str] = Counter()
        """To libvirt, and QMP commands."""
        self.turns = 0
        self.demands = 0
        """DEMANDs that the coordinator heard."""
        self.already = 0
        """Of them, those whose guest had as much, or was promised it."""
        self._table = table
        self._numbers = numbers
        self._heard: set[str] = set()
        self._ordered: set[str] = set()
        self._waiting: set[str] = set()
        self.samples: dict[str, list[float]] = {}

    def coordinator_made(self, coordinator: Coordinator) -> None:
        coordinator.on_turn = self._turned
        turn, wished = coordinator.turn, Attendant.wished

        def timed(now_s: float) -> list[Command]:
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            commands = turn(now_s)
            self._sample("turn_cpu", time.thread_time() - began_cpu_s)
            self._sample("turn", time.perf_counter() - began_s)
            self.turns += 1
            return commands

        def heard(attendant: Attendant, wish: Wish) -> None:
            self.demands += 1
            self._heard.add(attendant.record.name)
            wished(attendant, wish)

        coordinator.turn = timed  # type: ignore[method-assign]
        Attendant.wished = heard  # type: ignore[method-assign]

    def _turned(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        """A DEMAND is answered by this turn's command, or waits for another guest's memory, or is met already."""
        heard, self._heard = self._heard, set()
        if not heard and not self._waiting:
            return
        ordered = {command.guest for command in commands if isinstance(command, SetTarget)}
        given = {guest.name: guest.given_kib for guest in snapshot.guests if guest.name in heard}
        targets = {guest.name: guest.target_kib for guest in decision.guests if guest.name in heard}
        for name in heard:
            if name in ordered:
                self._ordered.add(name)
            elif targets[name] > given[name]:
                self._waiting.add(name)
            elif name not in self._waiting and name not in self._ordered:
                self.already += 1
                self._table.demanded_ns[self._numbers[name]] = 0
        self._ordered |= self._waiting & ordered

    def commanded(self, name: str) -> None:
        """The balloon command of this guest is out; in whatever thread."""
        if name not in self._ordered:
            return
        self._ordered.discard(name)
        kind = "reclaimed" if name in self._waiting else "at_once"
        self._waiting.discard(name)
        number = self._numbers[name]
        since_ns, self._table.demanded_ns[number] = self._table.demanded_ns[number], 0
        if since_ns:
            self._sample(kind, (time.monotonic_ns() - since_ns) / 1e9)

    def _sample(self, kind: str, seconds: float) -> None:
        self.samples.setdefault(kind, []).append(seconds)

    # --- where calls are seen ------------------------------------------------------------------------------

    def watch_qmp(self, names_by_path: dict[str, str]) -> None:
        send = QmpClient._send

        async def seen(client: QmpClient, line: bytes) -> None:
            await send(client, line)
            for one in line.splitlines():
                command = json.loads(one)["execute"]
                self.calls[f"qmp {command}"] += 1
                if command == "balloon":
                    self.commanded(names_by_path[client._stream.socket.getpeername()])
            self.calls["qmp (writes)"] += 1

        QmpClient._send = seen  # type: ignore[method-assign]

    def watch_libvirt(self, lib: Any) -> None:
        """At the module's boundary: whatever of it asks libvirtd. Each call's time is a sample, too."""
        for owner in (lib.virConnect, lib.virDomain, lib.virStream):
            for name in dir(owner):
                function = getattr(owner, name)
                if callable(function) and name not in LOCAL and not name.startswith("_"):
                    setattr(owner, name, self._seen(name, function))

    def _seen(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(subject: Any, *arguments: Any) -> Any:
            self.calls[name] += 1
            if name == "setMemoryFlags":
                self.commanded(subject.name())
            began_s = time.perf_counter()
            try:
                return function(subject, *arguments)
            finally:
                self._sample(f"call {name}", time.perf_counter() - began_s)

        return call

    def answer(self, coordinator: Coordinator) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        live = [a for a in coordinator.guests if a.record.session.facts().link is LinkState.LIVE]
        samples, self.samples = self.samples, {}
        memory = _smaps_rollup()
        decision = coordinator.decision
        return {
            "now_s": time.monotonic(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "loop_cpu_s": time.thread_time(),
            "switches": usage.ru_nvcsw + usage.ru_nivcsw,
            "pss_kib": memory.get("Pss", 0),
            "rss_kib": memory.get("Rss", 0),
            "calls": dict(self.calls),
            "turns": self.turns,
            "demands": self.demands,
            "already": self.already,
            "waiting": len(self._waiting),
            "guests": len(list(coordinator.guests)),
            "live": len(live),
            "booked_kib": decision.booked_kib if decision else 0,
            "overdrawn_kib": decision.overdrawn_kib if decision else 0,
            "samples": samples,
        }


def _smaps_rollup() -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def settings_of(spec: dict[str, Any]) -> Settings:
    host = HostSettings(**spec["host"])
    guests = tuple(GuestSettings(**guest) for guest in spec["guests"])
    rules = GuestRules(defaults=tuple(spec.get("defaults", {}).items()))
    return Settings(host, guests, spec.get("uri"), tuple(spec.get("domains", ["*"])), rules)


class Profile:
    """Looks where the loop's thread is each time that the process has worked for a while; costs next to nothing."""

    EVERY_S = 0.002
    TOP = 45

    def __init__(self) -> None:
        self._own: Counter[str] = Counter()
        self._within: Counter[str] = Counter()

    def begin(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, self.EVERY_S, self.EVERY_S)

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        places = []
        while frame is not None:
            code = frame.f_code
            places.append(f"{Path(code.co_filename).stem}.{code.co_qualname}")
            frame = frame.f_back
        self._own[places[0]] += 1
        self._within.update(set(places))

    def text(self) -> str:
        """Per cent of the samples: within a function with all that it calls, and in the function itself."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        samples = max(1, self._own.total())
        lines = [f"{samples} samples", "within   own"]
        names = [name for name, _ in self._within.most_common(self.TOP)]
        names += [name for name, _ in self._own.most_common(self.TOP) if name not in names]
        lines += [f"{self._within[name] / samples:6.1%} {self._own[name] / samples:5.1%}  {name}" for name in names]
        return "\n".join(lines)


def _scripted_channels(paths: dict[str, str]) -> None:
    """Through libvirt too the agents are those at these sockets, opened as any other channel's."""

    async def opened(vm: libvirt_vm.LibvirtVm) -> ChannelStream:
        return await open_channel(paths[vm.name], lock_directory(vm._hypervisor.lock_directories))

    libvirt_vm.LibvirtVm.open_channel = opened  # type: ignore[method-assign]


async def run(spec: dict[str, Any], watch: Watch, profile: Profile) -> None:
    made: list[Coordinator] = []

    def on_ready(coordinator: Coordinator) -> None:
        made.append(coordinator)
        watch.coordinator_made(coordinator)

    async with trio.open_nursery() as nursery:

        async def served() -> None:
            await serve(settings_of(spec), on_ready=on_ready)

        nursery.start_soon(served)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line.startswith("profile"):
                profile.begin()
            print(json.dumps(watch.answer(made[0])), flush=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    folder = Path(spec["folder"])
    table = Table(folder / "table", spec["count"])
    watch = Watch(table, {name: number for number, name in enumerate(spec["names"])})
    if spec.get("recorded"):
        import host_recorded

        host_recorded.stand_in(table, folder, spec["count"], spec["ram_kib"])
    if run_folder := spec.get("run_folder"):
        libvirt_vm.run_folders = lambda: (run_folder,)
    if channels := spec.get("channels"):
        _scripted_channels(channels)
    watch.watch_qmp({guest["qmp_path"]: guest["name"] for guest in spec["guests"]})
    if spec.get("uri"):
        import libvirt

        watch.watch_libvirt(libvirt)
    profile = Profile()
    trio.run(run, spec, watch, profile, strict_exception_groups=True)
    if spec.get("profile"):
        (folder / "profile").write_text(profile.text())


if __name__ == "__main__":
    main()
