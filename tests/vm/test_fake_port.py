"""The fake virtio port against a real one: the same situations in a real guest, step by step the same observations."""

from __future__ import annotations

import base64
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.demo.machine import AGENT_PORT, Guest, Machine, MachineSpec
from ballonet_protocol.testing import MEASURED, POLLHUP, POLLIN, FakeVport, observe

RAM_KIB = 512 * 1024
PROBE = Path(__file__).parent / "in_guest/port_probe.py"
FOLDER = "/run/port-probe"
PATIENCE_S = 15.0
ANSWER_S = 100.0
"""Only a port that differs makes the probe wait, at every step that follows."""
QUIET_S = 0.2
STEP_S = 0.005
TOLERANCE = 0.05
"""Of capacities alone. Measured difference: none, in sixteen sizes and directions on one host kernel; but what a piece
of data costs a socket is the kernel's own business, and a fifth of a capacity is socket."""


class RealPort:
    """A real port with the verbs of MEASURED. What needs a moment is waited for, as far as it shows from outside."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        self._machine = machine
        self._guest = guest
        self._hosts: dict[str, socket.socket] = {}
        self._open = self._paused = False
        self._plugged = True

    async def play(self, steps: list[tuple[str, str, Any, Any]]) -> list[Any]:
        """What each step showed. A step is (who, verb, argument, what is expected)."""
        seen: list[Any] = []
        for is_guest, group in itertools.groupby(steps, lambda step: step[0] == "guest"):
            if is_guest:  # one way into the guest for all of them: it is what takes time here
                seen += await self.ask(*(step[1:] for step in group))
            else:
                seen += [await self._do(*step) for step in group]
        return seen

    async def _do(self, who: str, verb: str, argument: Any, expected: Any) -> Any:
        if who == "vm":
            return await getattr(self, verb)()
        if verb == "connect":
            return await self.connect(who)
        if verb == "leave":
            return await self.leave(who)
        host = self._hosts[who]
        if verb == "send":
            return host.send(argument)
        if verb == "fill":
            return await gather(lambda: host.send(bytes(argument)), expected)
        return await gather(lambda: len(host.recv(65536)), expected)

    async def begin(self) -> None:
        """As every situation begins: the VM runs, the port is plugged in and closed, no host, nothing under way."""
        if self._paused:
            await self.resume()
        for who in list(self._hosts):
            await gather(lambda host=self._hosts[who]: len(host.recv(65536)), 0)
            await self.leave(who)
        if self._open:
            await self.ask(("close", None, None))
        if not self._plugged:
            await self.plug()
        alone = ("poll", None, POLLIN | POLLHUP)
        quiet = (("open", None, "open"), alone, ("reads", 0, [0]), alone, ("close", None, None))
        assert await self.ask(*quiet) == [expected for _, _, expected in quiet]

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()

    async def ask(self, *steps: tuple[str, Any, Any]) -> list[Any]:
        question = json.dumps(steps, default=lambda data: {"bytes": data.decode("latin-1")})
        command = f"printf '%s' '{question}' >{FOLDER}/ask; cat {FOLDER}/answer"
        answers = json.loads(await self._guest.run(command, timeout_s=ANSWER_S))
        for (verb, _, _), answer in zip(steps, answers, strict=True):
            if verb == "close" or answer == "open":
                self._open = verb == "open"
        return [answer["bytes"].encode("latin-1") if isinstance(answer, dict) else answer for answer in answers]

    # ---- the host's end

    async def connect(self, who: str) -> None:
        alone = not self._hosts
        self._hosts[who] = socket.socket(socket.AF_UNIX)
        self._hosts[who].connect(str(self._machine.agent_path))
        self._hosts[who].setblocking(False)
        if alone:
            await self._until_served(True)

    async def leave(self, who: str) -> None:
        served = next(iter(self._hosts)) == who
        self._hosts.pop(who).close()
        if served and not self._hosts:
            await self._until_served(False)

    async def _until_served(self, served: bool) -> None:
        """Until QEMU has noticed: a paused VM may not go on before."""
        with trio.fail_after(PATIENCE_S):
            while served == any(
                chardev["label"] == "agent" and chardev["filename"].startswith("disconnected")
                for chardev in await self._machine.monitor.call("query-chardev")
            ):
                await trio.sleep(STEP_S)

    # ---- the VM

    async def pause(self) -> None:
        await self._machine.monitor.call("stop")
        self._paused = True

    async def resume(self) -> None:
        await self._machine.monitor.call("cont")
        self._paused = False

    async def suspend(self) -> None:
        await self._guest.run("(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 </dev/null &")
        with trio.fail_after(PATIENCE_S * 2):
            while (await self._machine.monitor.call("query-status"))["status"] != "suspended":
                await trio.sleep(STEP_S)

    async def wake(self) -> None:
        await self._machine.monitor.call("system_wakeup")
        await self._guest.run("true")

    async def unplug(self) -> None:
        await self._machine.monitor.call("device_del", id="agent")
        self._plugged = False

    async def plug(self) -> None:
        await self._machine.monitor.call(
            "device_add", driver="virtserialport", id="agent", chardev="agent", name=AGENT_PORT
        )
        self._plugged = True


async def gather(move: Callable[[], int], expected: int) -> int:
    """Bytes moved until there are as many as expected and no more follow, or none have moved for long."""
    total, last_s = 0, trio.current_time()
    while trio.current_time() < last_s + (QUIET_S if total >= expected else PATIENCE_S):
        try:
            moved = move()
            if not moved:
                break
            total, last_s = total + moved, trio.current_time()
        except BlockingIOError:
            await trio.sleep(STEP_S)
    return total


@asynccontextmanager
async def real_port(machines) -> AsyncIterator[RealPort]:
    async with machines(MachineSpec("fakeport", RAM_KIB, waiting=False)) as machine, machine.guest() as guest:
        # Masked and not only stopped: udev would start it again for a port that is plugged in.
        await guest.run("systemctl mask --runtime --now ballonet-guest-agent.service 2>&1", timeout_s=60)
        text = base64.b64encode(PROBE.read_bytes()).decode()
        await guest.run(f"mkdir {FOLDER} && echo {text} | base64 -d >{FOLDER}/probe.py")
        await guest.run(
            f"setsid python3 {FOLDER}/probe.py /dev/virtio-ports/{AGENT_PORT} {FOLDER} >{FOLDER}/log 2>&1 </dev/null & "
            f"until [ -p {FOLDER}/answer ]; do sleep 0.05; done"
        )
        port = RealPort(machine, guest)
        try:
            yield port
        finally:
            port.close()


def host_socket_bytes() -> int:
    return int(Path("/proc/sys/net/core/wmem_default").read_text())


@pytest.fixture(scope="module")
def observations(machines, play) -> dict[str, tuple[list[Any], list[Any]]]:
    """Situation -> what the fake showed and what the real port showed."""

    async def scenario() -> dict[str, tuple[list[Any], list[Any]]]:
        found = {}
        async with real_port(machines) as port:
            for situation, steps in MEASURED:
                fake = observe(FakeVport(host_socket_bytes()), steps)
                await port.begin()
                expected = [(*step[:3], shown) for step, shown in zip(steps, fake, strict=True)]
                found[situation] = (fake, await port.play(expected))
        return found

    return play(scenario)


def same(fake: Any, real: Any) -> bool:
    """Equal; large numbers, which are capacities, within TOLERANCE."""
    if isinstance(fake, list) and len(fake) > 100:
        return same(sum(fake[:-1]), sum(real[:-1])) and fake[-1] == real[-1]
    if isinstance(fake, int) and fake > 65_536:
        return isinstance(real, int) and abs(fake - real) <= TOLERANCE * fake
    return type(fake) is type(real) and fake == real


@pytest.mark.parametrize(("situation", "steps"), MEASURED, ids=[situation for situation, _ in MEASURED])
def test_real_port_shows_what_the_fake_shows(observations, situation: str, steps) -> None:
    """In this situation a port of a real guest and the fake show the same, step by step."""
    fake, real = observations[situation]
    for number, (step, of_fake, of_real) in enumerate(zip(steps, fake, real, strict=True), 1):
        assert same(of_fake, of_real), f"step {number}, {step[:2]}: fake {of_fake!r}, real {of_real!r}"
