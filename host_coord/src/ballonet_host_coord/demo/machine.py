"""A QEMU process with a guest of ours in it: balloon, agent's channel, workload's channel, two monitors.

The coordinator gets `qmp_path` and `agent_path` as any VM's; `monitor` is a second QMP connection for whoever
started the machine (a monitor serves one client), and `guest()` talks to the workload inside.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from . import requirements
from .accelerator import KVM
from .image import Image
from .lines import JsonLines, PeerGone, json_lines

AGENT_PORT = "org.ballonet.agent.0"
DEMO_PORT = "org.ballonet.demo.0"
COMPARED_AGENT_PORT = "org.qemu.guest_agent.0"
BALLOON = "/machine/peripheral/balloon0"

# Linux's sockaddr_un, its final zero included.
LONGEST_SOCKET_PATH = 107
# QEMU opens its sockets in well under a second, also on a machine that is busy with other guests.
SOCKETS_S = 20.0
QUIT_S = 5.0


class MachineError(Exception):
    """QEMU, its monitor or the guest did not do what was asked. The text carries what they said."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What one VM is made of.

    `waiting`: it waits before its first instruction until told `cont`. `keep_writes`: the guest writes to the image's
    own disk and swap, which nobody else may use then. `more_disks` come last, read-only. `kernel_arguments` are added.
    `incoming`: it waits for `migrate-incoming`, and for the machine that comes then.
    """

    name: str
    ram_kib: int
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    waiting: bool = True
    swap: bool = True
    agent_port: bool = True
    compared_agent_port: bool = False
    keep_writes: bool = False
    incoming: bool = False
    more_disks: tuple[Path, ...] = ()
    kernel_arguments: str = ""
    hotplug_kib: int = 0
    """The size of a virtio-mem device, by which the guest may grow; 0 for none. It is empty at first."""
    hotplug_block_kib: int = 2048


class Monitor:
    """QMP commands by name."""

    def __init__(self, peer: JsonLines) -> None:
        self._peer = peer

    async def next_event(self) -> dict[str, Any]:
        """QMP's next event: {"event": name, "data": ..., "timestamp": ...}. Raises PeerGone."""
        return await self._peer.next_event()

    async def call(self, command: str, /, **arguments: Any) -> Any:
        """The command's return value. Raises MachineError with QEMU's text, PeerGone."""
        answer = await self._peer.call({"execute": command, "arguments": arguments})
        if "error" in answer:
            raise MachineError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    async def set_balloon(self, target_kib: int) -> None:
        await self.call("balloon", value=target_kib * 1024)

    async def actual_kib(self) -> int:
        return int((await self.call("query-balloon"))["actual"]) // 1024

    async def balloon_statistics(self, period_s: int) -> None:
        """Have QEMU ask the guest's balloon driver for statistics every `period_s` seconds (0: never)."""
        await self.call("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=period_s)

    async def guest_stats(self) -> dict[str, Any]:
        """QEMU's `guest-stats`: {"stats": {name: value}, "last-update": Unix time or 0}."""
        return dict(await self.call("qom-get", path=BALLOON, property="guest-stats"))


class Guest:
    """The workload in the guest; its commands are described in share/workload.py."""

    def __init__(self, peer: JsonLines) -> None:
        self._peer = peer

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Raises MachineError where the workload refuses, PeerGone where QEMU is gone."""
        answer = await self._peer.call({"do": do, **arguments})
        if "error" in answer:
            raise MachineError(f"{do} {arguments}: {answer['error']}")
        return answer

    async def hold(self, mib: int, give_up_s: float = 60.0) -> dict[str, Any]:
        return await self.ask("hold", mib=mib, give_up_s=give_up_s)

    async def counters(self) -> dict[str, Any]:
        return await self.ask("counters")

    async def state(self) -> dict[str, Any]:
        return await self.ask("state")

    async def run(self, command: str, timeout_s: float = 30.0) -> str:
        """A shell command's output. Raises MachineError where it fails or takes longer."""
        answer = await self.ask("run", command=command, timeout_s=timeout_s)
        if answer["code"] != 0:
            raise MachineError(f"in the guest: {command!r}: exit code {answer['code']}: {answer['output']}")
        return str(answer["output"])


class Machine:
    """A running QEMU process; made by `open_machine`."""

    def __init__(self, spec: MachineSpec, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self.name = spec.name
        self.folder = folder
        self.process = process
        self.qmp_path = folder / "qmp.sock"
        self.monitor_path = folder / "monitor.sock"
        self.agent_path = folder / "agent.sock"
        self.demo_path = folder / "demo.sock"
        self.monitor: Monitor

    @property
    def pid(self) -> int:
        return self.process.pid

    def console(self) -> str:
        """What the guest's kernel and services wrote so far."""
        return _text(self.folder / "console.log")

    def last_words(self) -> str:
        """The end of what QEMU and the console said, for an error's text."""
        return f"{self.name}: {_text(self.folder / 'qemu.log')[-1000:]}{self.console()[-1500:]}"

    @asynccontextmanager
    async def guest(self, within_s: float = 120.0) -> AsyncIterator[Guest]:
        """Connect to the workload once it answers (one client at a time). Raises MachineError after `within_s`."""
        async with json_lines(self.demo_path) as peer:
            guest = Guest(peer)
            try:
                await self._first_answer(guest, within_s)
            except (trio.TooSlowError, PeerGone):
                raise MachineError(f"no answer from the workload in {within_s:g} s; {self.last_words()}") from None
            yield guest

    async def _first_answer(self, guest: Guest, within_s: float) -> None:
        # What is written before the guest opens its port is lost or kept, as QEMU likes: ask again.
        with trio.fail_after(within_s):
            while True:
                with trio.move_on_after(1.0):
                    await guest.state()
                    return

    def kill(self) -> None:
        """End QEMU at once, as a crash would. Its memory is the host's again when this returns."""
        self.process.kill()
        self.process.wait()

    async def gone(self) -> int:
        """Wait until QEMU ends; its exit code."""
        if self.process.poll() is None:
            descriptor = os.pidfd_open(self.process.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        return self.process.wait()

    async def close(self) -> None:
        """End QEMU: asked first, so that its throw-away files go, then by force."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(QUIT_S):
                with contextlib.suppress(PeerGone, MachineError, AttributeError):
                    await self.monitor.call("quit")
                await self.gone()
            self.kill()


def command_line(spec: MachineSpec, image: Image, accelerator: str, folder: Path) -> list[str]:
    """QEMU's arguments for `spec`, its sockets and logs in `folder`."""
    on_off = {True: "on", False: "off"}
    balloon = (
        f"virtio-balloon-pci,id=balloon0,deflate-on-oom={on_off[spec.deflate_on_oom]},"
        f"free-page-reporting={on_off[spec.free_page_reporting]}"
    )
    ports = [(DEMO_PORT, "demo")]
    if spec.agent_port:
        ports.append((AGENT_PORT, "agent"))
    if spec.compared_agent_port:
        ports.append((COMPARED_AGENT_PORT, "compared"))
    # What a guest keeps outlives it and not the host: nothing is gained by waiting for the host's disk.
    kept = "cache=unsafe" if spec.keep_writes else "snapshot=on"
    disks = [f"file={image.disk},format=raw,if=virtio,{kept},discard=unmap"]
    if spec.swap:
        disks.append(f"file={image.swap},format=raw,if=virtio,{kept},discard=unmap")
    disks += [f"file={disk},format=raw,if=virtio,readonly=on" for disk in spec.more_disks]
    # Without no_timer_check an emulated guest whose host is busy may panic: "IO-APIC + timer doesn't work!".
    kernel_arguments = "console=ttyS0 root=/dev/vda rw quiet mitigations=off no_timer_check systemd.show_status=no"
    if not spec.swap:
        # Else the guest waits 90 s for a disk that does not come.
        kernel_arguments += " systemd.mask=dev-vdb.swap"
    if spec.kernel_arguments:
        kernel_arguments += f" {spec.kernel_arguments}"
    memory, hotplug = f"{spec.ram_kib}K", []
    if spec.hotplug_kib:
        memory += f",maxmem={spec.ram_kib + spec.hotplug_kib}K"
        hotplug = [
            "-object", f"memory-backend-ram,id=hotplug,size={spec.hotplug_kib}K",
            "-device", f"virtio-mem-pci,id=vmem0,memdev=hotplug,block-size={spec.hotplug_block_kib}K,requested-size=0",
        ]  # fmt: skip
    return [
        requirements.program("qemu-system-x86_64") or "qemu-system-x86_64",
        "-name", spec.name, "-machine", "pc", "-accel", accelerator,
        *(["-cpu", "host"] if accelerator == KVM else []),
        "-smp", "1", "-m", memory, *hotplug,
        "-nodefaults", "-no-user-config", "-display", "none", *(["-S"] if spec.waiting and not spec.incoming else []),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", kernel_arguments,
        *_flat("-drive", disks),
        "-device", balloon, "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        *_flat("-chardev", (f"socket,id={tag},path={folder / tag}.sock,server=on,wait=off" for _, tag in ports)),
        *_flat("-device", (f"virtserialport,id={tag},chardev={tag},name={name}" for name, tag in ports)),
        *_flat("-qmp", (f"unix:{folder / name}.sock,server=on,wait=off" for name in ("qmp", "monitor"))),
        "-serial", f"file:{folder / 'console.log'}",
        *(["-incoming", "defer"] if spec.incoming else []),
    ]  # fmt: skip


@contextlib.contextmanager
def machine_folder() -> Iterator[Path]:
    """A folder whose path is short enough for the sockets of many machines in it; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="ballonet-", dir="/tmp") as folder:
        yield Path(folder)


@asynccontextmanager
async def open_machine(spec: MachineSpec, image: Image, accelerator: str, parent: Path) -> AsyncIterator[Machine]:
    """Start QEMU; it is ended, and waited for, on the way out. Raises MachineError with what QEMU said.

    With `spec.waiting` (the default) nothing runs until somebody sends `cont`.
    """
    folder = parent / spec.name
    if len(str(folder / "monitor.sock")) > LONGEST_SOCKET_PATH:
        raise MachineError(f"{folder} is too long a path for Unix sockets")
    folder.mkdir()
    machine = Machine(spec, folder, _start(command_line(spec, image, accelerator, folder), folder / "qemu.log"))
    try:
        await sockets_open(machine)
        async with json_lines(machine.monitor_path) as peer:
            machine.monitor = Monitor(peer)
            try:
                with trio.fail_after(SOCKETS_S):
                    await machine.monitor.call("qmp_capabilities")
            except (trio.TooSlowError, PeerGone):
                raise MachineError(f"QEMU's monitor says nothing; {machine.last_words()}") from None
            try:
                yield machine
            finally:
                await machine.close()
    finally:
        machine.kill()


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start QEMU so that it ends when we are killed: a guest that nobody can reach only holds memory.

    The kernel ends it with the *thread* that started it, hence no worker thread here.
    """
    if setpriv := requirements.program("setpriv"):
        command = [setpriv, "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _listens(path: Path) -> bool:
    """A socket that was bound a moment ago refuses its clients until it listens: flag __SO_ACCEPTCON."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f" {path}") and line.split()[3] == "00010000" for line in lines)


async def sockets_open(machine: Machine) -> None:
    """Wait until QEMU listens. Raises MachineError where it ends first, or takes too long."""
    with trio.move_on_after(SOCKETS_S):
        # Monitors come last in the order that QEMU opens its sockets in.
        while not (_listens(machine.monitor_path) and _listens(machine.qmp_path)):
            if machine.process.poll() is not None:
                raise MachineError(f"QEMU ended with exit code {machine.process.returncode}; {machine.last_words()}")
            await trio.sleep(0.02)
        return
    raise MachineError(f"QEMU opened no monitor in {SOCKETS_S:g} s; {machine.last_words()}")


def _flat(option: str, values: Any) -> list[str]:
    return [argument for value in values for argument in (option, value)]


def _text(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""
