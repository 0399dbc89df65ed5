"""The demo's workload on this host, a pseudo-terminal in the place of its virtio-serial port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet_host_coord import demo

SCRIPT = Path(demo.__file__).parent / "share/workload.py"


class Port:
    """The host's end: one request, one answer."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._held = b""

    def send(self, text: str) -> None:
        self._file.write(text.encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        while b"\n" not in self._held:
            self._held += self._file.read(65536)
        line, _, self._held = self._held.partition(b"\n")
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.send(json.dumps({"do": do, "id": 7, **arguments}))
        return self.answer()

    def close(self) -> None:
        self._file.close()


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    process = subprocess.Popen([sys.executable, str(SCRIPT), os.ttyname(theirs)])
    port = Port(ours)
    yield port
    process.kill()
    process.wait()
    port.close()
    os.close(theirs)


def test_it_holds_what_it_is_told_to(port):
    """Memory is resident when the answer comes, and the times fit each other."""
    answer = port.ask("hold", mib=24)
    assert answer["id"] == 7
    assert answer["held_kib"] == 24 * 1024 <= answer["rss_kib"]
    assert 0 < answer["touched_s"] <= answer["usable_s"] <= answer["end_s"] - answer["start_s"]
    assert 0 < answer["longest_stall_us"] <= answer["touched_s"] * 1e6
    assert not answer["died"]


def test_it_gives_back_what_it_is_told_to(port):
    """A smaller number is a release, 0 gives all of it back."""
    full = port.ask("hold", mib=24)["rss_kib"]
    half = port.ask("hold", mib=12)
    assert half["held_kib"] == 12 * 1024
    assert half["rss_kib"] <= full - 11 * 1024
    assert port.ask("hold", mib=0)["rss_kib"] <= full - 23 * 1024


def test_it_answers_while_a_command_runs(port):
    """Commands run side by side: a slow one silences nobody."""
    port.send('{"do": "run", "id": 1, "command": "read line", "timeout_s": 2}')
    port.send('{"do": "run", "id": 2, "command": "sleep 1; echo slow"}')
    port.send('{"do": "state", "id": 3}')
    answers = [port.answer() for _ in range(3)]
    assert [answer["id"] for answer in answers][-1] == 2
    assert answers[-1]["output"] == "slow\n"


def test_a_command_that_takes_too_long_is_ended_with_its_children(port):
    """A time limit holds for what the command left in the background too."""
    answer = port.ask("run", command="echo before; sleep 60 & wait", timeout_s=0.3)
    assert answer["code"] is None
    assert answer["output"] == "before\n"


def test_a_killed_holder_is_reported_and_replaced(port):
    """What the OOM killer does to the holder is counted, and the next order is carried out."""
    state = port.ask("state")
    os.kill(state["holder_pid"], signal.SIGKILL)
    while port.ask("state")["deaths"] == state["deaths"]:
        pass
    assert port.ask("hold", mib=1)["held_kib"] == 1024


def test_an_order_that_meets_its_holders_death_is_answered(port):
    """No order waits for ever for a holder that is gone."""
    state = port.ask("state")
    os.kill(state["holder_pid"], signal.SIGSTOP)
    port.send('{"do": "hold", "id": 9, "mib": 1}')
    assert port.ask("state")["deaths"] == state["deaths"]
    os.kill(state["holder_pid"], signal.SIGKILL)
    answer = port.answer()
    assert (answer["id"], answer["died"], answer["held_kib"]) == (9, True, 0)


def test_counters_are_the_kernels(port):
    """Meminfo and vmstat come as numbers, with the clocks they were read at."""
    answer = port.ask("counters")
    assert answer["meminfo"]["MemTotal"] > 0
    assert answer["vmstat"]["pgfault"] > 0
    assert answer["boottime_s"] >= answer["monotonic_s"] > 0


@pytest.mark.parametrize("line", ["{", "[]", '{"do": "fly", "id": 7}', '{"do": "hold", "id": 7, "no": 1}', "{}"])
def test_what_it_does_not_understand_is_an_error(port, line):
    """A bad request is answered and harms nothing."""
    port.send(line)
    assert "error" in port.answer()
    assert port.ask("state")["id"] == 7
