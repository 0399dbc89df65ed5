"""The agent on a long run: its memory does not grow with samples, nor its descriptors with hosts that come and go.

Both run in interpreters of their own, so that nothing but the agent is counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.loop import REOPEN_S

from .test_loop_vport import Stage

FIXTURE = Path(__file__).parent / "fixtures/linux-6.1"
SAMPLES, RECONNECTIONS = 100_000, 1_000
#: A tenth of what is done in all is warm-up: lists reach their size, caches fill.
WARM_UP = 10
#: Objects that come and go, such as a frame in the queue. One object lost with each sample would be 90,000.
MOST_BLOCKS = 500
#: A heap that is used differently each second is never quite the same. 10 bytes lost with each sample would be 900 KiB.
MOST_KIB = 128


def run(code: str, *arguments: object) -> dict[str, int]:
    """What a script prints as JSON."""
    path = [folder for folder in sys.path if folder]
    start = f"import sys; sys.path[:0] = {path!r}\nfrom ballonet_guest_agent.diet import lean_msgpack; lean_msgpack()\n"
    result = subprocess.run(
        [sys.executable, "-S", "-c", start + MEASURE + code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found: dict[str, int] = json.loads(result.stdout)
    return found


MEASURE = """
import gc, os

def measure():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
    return sys.getallocatedblocks(), kib, len(os.listdir("/proc/self/fd"))
"""

#: A guest that is pressed, inflated, deflated and pinged now and then; its numbers differ from sample to sample.
MANY_SAMPLES = """
from ballonet_guest_agent.actions import Identity, Instant, TakeSample, Write
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.procfs import Procfs
from ballonet_protocol import COORDINATOR, Connection, Deflate, Hello, Inflate, Ping

count, folders = int(sys.argv[1]), sys.argv[2:]
guests = [Procfs(folder, folder) for folder in folders]
agent, host = Agent(AgentSettings(settling_s=0), Identity(bytes(16), has_psi_trigger=True)), Connection(COORDINATOR)
samples = written = 0
now = Instant(1000.0, 1000.0)

def perform(actions):
    global samples, written
    todo = list(actions)
    while todo:
        action = todo.pop(0)
        if isinstance(action, TakeSample):
            samples += 1
            todo[:0] = agent.sampled(guests[samples % len(guests)].sample(), now)
        elif isinstance(action, Write):
            written += 1
            if samples < 20 or samples % 20 == 0:
                host.receive_data(action.data)
                while host.next_message() is not None:
                    pass

perform(agent.connected(now))
hello = Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=("psi",), ram_bytes=1 << 30)
perform(agent.received(host.open_session(1, hello), now))
before = None
turns = 0
while samples < count:
    turns += 1
    now = Instant(1000.0 + turns, 1000.0 + turns)
    if turns % 5 == 0:
        perform(agent.received(host.send(Ping(token=turns)), now))
    if turns % 100 == 0:
        kind = Inflate if turns % 200 else Deflate
        command = kind(gen=turns, target_bytes=(900 + turns % 100) << 20, ttl_ms=30_000)
        perform(agent.received(host.send(command), now))
    if turns % 50 == 0:
        perform(agent.pressed("some", now))
    perform(agent.tick(now))
    if before is None and samples >= count // 10:
        before = measure()
after = measure()
import json
print(json.dumps({
    "samples": samples, "written": written, "live": agent.session.live,
    "blocks": after[0] - before[0], "kib": after[1] - before[1], "fds": after[2] - before[2],
}))
"""

#: Every third host leaves in the middle of a frame, every second with a BYE; and now and then the port itself is lost.
MANY_HOSTS = """
import _socket
from ballonet_guest_agent.actions import Identity, Instant
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.loop import Loop
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.unixport import UnixPort
from ballonet_protocol import COORDINATOR, Bye, ByeWhy, Connection, Hello

count, path, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = AgentSettings(proc_root=folder, sys_root=folder)
port = UnixPort(path)
seconds = 1000.0
loop = Loop(
    Agent(settings, Identity(bytes(16))), port, Procfs(folder, folder), PsiTriggers(folder + "/no"),
    now=lambda: Instant(seconds, seconds), say=lambda level, text: None,
)
loop.turn(0)
sessions = 0
before = None
for number in range(1, count + 1):
    seconds += 10.0  # what is said is budgeted by time
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(path)
    host = Connection(COORDINATOR)
    hello = host.open_session(number, Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=()))
    client.send(hello[: len(hello) // 2] if number % 3 == 0 else hello)
    for _ in range(3):
        loop.turn(0)
    sessions += loop.agent.session.live
    if number % 2 and number % 3:
        host.receive_data(client.recv(65536))
        while host.next_message() is not None:
            pass
        client.send(host.send(Bye(why=ByeWhy.STOP)))
    client.close()
    for _ in range(3):
        loop.turn(0)
    if number % 100 == 0:
        loop._lose_port("pulled out")
        loop._open()
    if number == count // 10:
        before = measure()
after = measure()
loop.close()
import json
print(json.dumps({
    "sessions": sessions,
    "blocks": after[0] - before[0], "kib": after[1] - before[1], "fds": after[2] - before[2],
}))
"""


def fake_proc(folder: Path, step: int = 0) -> Path:
    """A /proc whose numbers depend on `step`."""
    (folder / "pressure").mkdir(parents=True)
    for name in ("meminfo", "vmstat"):
        lines = []
        for line in (FIXTURE / name).read_text().splitlines():
            words = line.split()
            words[1] = str(int(words[1]) + step * 37 * (int(words[1]) > 1000))
            lines.append(" ".join(words))
        (folder / name).write_text("\n".join(lines) + "\n")
    stall = f"avg10=0.{step:02} avg60=0.00 avg300=0.00 total={step * 1000}"
    (folder / "pressure/memory").write_text(f"some {stall}\nfull {stall}\n")
    return folder


@pytest.mark.slow
def test_no_growth_over_many_samples(tmp_path: Path) -> None:
    """A hundred thousand samples, reports, demands and moves later the agent has the size that it had after a tenth."""
    folders = [fake_proc(tmp_path / str(step), step) for step in range(50)]
    found = run(MANY_SAMPLES, SAMPLES, *folders)
    assert found["samples"] >= SAMPLES
    assert found["written"] > SAMPLES // 2
    assert found["live"]
    assert found["blocks"] <= MOST_BLOCKS
    assert found["kib"] <= MOST_KIB
    assert found["fds"] == 0


def test_no_descriptor_is_lost_with_a_host(tmp_path: Path) -> None:
    """A thousand hosts come and go, politely or not, and ports are lost: each descriptor is closed, nothing is kept."""
    found = run(MANY_HOSTS, RECONNECTIONS, tmp_path / "agent.sock", fake_proc(tmp_path / "proc"))
    assert found["sessions"] == RECONNECTIONS - RECONNECTIONS // 3
    assert found["fds"] == 0
    assert found["blocks"] <= MOST_BLOCKS
    assert found["kib"] <= MOST_KIB


def test_no_descriptor_is_lost_on_a_virtio_port(make_guest) -> None:
    """A thousand hosts on one port, which stays open all the time and is now and then taken away."""
    stage = Stage(make_guest)
    counts, sessions = set(), 0
    try:
        stage.turn()
        for number in range(RECONNECTIONS):
            stage.turn(10.0)
            host, _ = stage.serve()
            sessions += stage.rig.agent.session.live
            host.close()
            stage.turn()
            if number % 100 == 99:
                stage.vport.unplug()
                stage.turn(1.0)
                stage.vport.plug()
                stage.turn(REOPEN_S)
                counts.add(len(os.listdir("/proc/self/fd")))
    finally:
        stage.rig.release()
        stage.vport.release()
    assert sessions == RECONNECTIONS
    assert len(counts) == 1
    assert stage.port.opened == 1 + RECONNECTIONS // 100
