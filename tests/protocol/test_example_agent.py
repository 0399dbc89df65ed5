"""protocol/examples/agent.c: an agent in C that was written from SPEC.md, against the vectors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from ballonet_protocol import (
    COORDINATOR,
    AckStatus,
    AckWhy,
    BalloonAck,
    Connection,
    Deflate,
    ErrorMessage,
    Hello,
    HelloAck,
    Inflate,
    Message,
    Ping,
    PolicyAck,
    Pong,
    Report,
    SetPolicy,
)
from ballonet_protocol.testing import NONCE, SESSION, drain, load_vectors, make_hello

pytestmark = pytest.mark.slow  # a process with sanitizers for each frame

MOST_LINES = 600
WARNINGS = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES = [case for case in load_vectors("frames")["cases"] if case["to"] == "agent"]


@pytest.fixture(scope="session")
def agent(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built with every warning an error and with the sanitizers of addresses and undefined behaviour."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        reason = "the agent in C needs a compiler; as root: apt-get install -y --no-install-recommends gcc libc6-dev"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("agent-c") / "agent"
    source = workspace / "protocol" / "examples" / "agent.c"
    command = [compiler, *WARNINGS, *SANITIZERS, "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


class Line:
    """A running agent on two pipes, and the coordinator's end of the wire."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program, "-", "64"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.host = Connection(COORDINATOR)
        self.heard: deque[Message] = deque()

    def write(self, wire: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(wire)
        self.process.stdin.flush()

    def until(self, kind: type[Message]) -> Message:
        """The next message of this kind; those before it are dropped."""
        assert self.process.stdout is not None
        while True:
            self.heard.extend(drain(self.host))
            while self.heard:
                if isinstance(message := self.heard.popleft(), kind):
                    return message
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the agent ended"
            self.host.receive_data(data)

    def rest(self) -> list[Message]:
        """Everything else that it says once its input has ended; it ends well, with nothing that a sanitizer minds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        with self.process.stdout as out:
            self.host.receive_data(out.read())
        assert self.process.wait(10) == 0
        return [*self.heard, *drain(self.host)]

    def open(self) -> HelloAck:
        self.write(self.host.open_session(SESSION, make_hello(nonce=NONCE, ram_bytes=2**40)))
        ack = self.until(HelloAck)
        assert isinstance(ack, HelloAck)
        return ack


def test_it_is_small_and_needs_the_c_library_alone(workspace: Path) -> None:
    """At most 600 lines, and every header is the C library's or the kernel's face in it."""
    lines = (workspace / "protocol" / "examples" / "agent.c").read_text().splitlines()
    assert len(lines) <= MOST_LINES
    headers = [line for line in lines if line.startswith("#include")]
    assert headers
    assert all(line.startswith("#include <") for line in headers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_vectors(agent: Path, case: dict[str, Any]) -> None:
    """A frame of the vectors gets the ERROR that it may get, or none."""
    line = Line(agent)
    if case["state"] == "ACTIVE":
        line.open()
    elif case["state"] == "IDLE":
        line.host.open_session(SESSION, make_hello(nonce=NONCE))  # what it would answer is understood
    line.write(bytes.fromhex(case["wire"]))
    said = line.rest()
    errors = [int(message.code) for message in said if isinstance(message, ErrorMessage)]
    permitted = [outcome.get("error") for outcome in case["permitted"]]
    assert (errors[0] if errors else None) in permitted
    if all("message" not in outcome for outcome in case["permitted"]):
        assert not [message for message in said if isinstance(message, (Pong, BalloonAck))]


def test_it_reports_and_consents(agent: Path) -> None:
    """A session, a report of this machine, answers to INFLATE, DEFLATE and a policy, and a report behind a consent."""
    line = Line(agent)
    ack = line.open()
    assert (ack.nonce, ack.implementation, ack.floor_bytes) == (NONCE, "agent.c", 64 << 20)
    report = line.until(Report)
    assert isinstance(report, Report)
    assert 0 < report.memory.available_bytes < report.memory.total_bytes == ack.total_bytes
    line.write(line.host.send(Inflate(gen=3, target_bytes=1, ttl_ms=5_000)))
    answer = line.until(BalloonAck)
    assert isinstance(answer, BalloonAck)
    assert answer.status in (AckStatus.CLAMPED, AckStatus.REFUSED)
    assert answer.effective_bytes is not None
    assert answer.effective_bytes >= 64 << 20
    line.write(line.host.send(Deflate(gen=4, target_bytes=2**50, ttl_ms=5_000)))
    answer = line.until(BalloonAck)
    assert isinstance(answer, BalloonAck)
    assert (answer.status, answer.why, answer.effective_bytes) == (AckStatus.CLAMPED, AckWhy.ABOVE_RAM, 2**40)
    assert isinstance(line.until(Report), Report)
    line.write(line.host.send(Inflate(gen=2, target_bytes=1, ttl_ms=5_000)))
    answer = line.until(BalloonAck)
    assert isinstance(answer, BalloonAck)
    assert (answer.status, answer.gen, answer.effective_bytes) == (AckStatus.STALE, 4, None)
    line.write(line.host.send(SetPolicy(gen=1, report_ms=250)) + line.host.send(Ping(token=9)))
    assert isinstance(line.until(PolicyAck), PolicyAck)
    pong = line.until(Pong)
    assert isinstance(pong, Pong)
    assert pong.token == 9
    assert not [message for message in line.rest() if isinstance(message, (Hello, ErrorMessage))]


def test_conformance(agent: Path, tmp_path: Path) -> None:
    """Strictly tried by the kit, nothing fails; skipped is what pipes and a settled guest cannot show."""
    report = tmp_path / "junit.xml"
    kit = Path(sys.executable).with_name("ballonet-conform")
    command = [kit, "agent", "--connect", f"exec:{agent} - 64", "--strict", "--json", "--junit", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    verdicts = {case["id"]: case["outcome"] for case in json.loads(done.stdout)["cases"]}
    skipped = {case for case, verdict in verdicts.items() if verdict == "skipped"}
    assert skipped <= {"2.1/1", "9.3/6", "9.5/1", "9.8/1", "9.10/2"}
    assert set(verdicts.values()) <= {"passed", "skipped"}
    assert len(verdicts) > 90
