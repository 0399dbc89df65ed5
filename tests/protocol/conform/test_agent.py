"""The conformance kit against our own agent: the real daemon passes every case, on each kind of line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tty
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ballonet_protocol import AGENT
from ballonet_protocol.conform import PASSED, AgentTalk, Case, Verdict, run, select
from ballonet_protocol.conform.cli import OK, UNREACHABLE, USAGE, main
from ballonet_protocol.conform.lines import connect
from ballonet_protocol.conform.results import as_text
from ballonet_protocol.conform.table import YOUNG

from .real_agent import RealAgent

#: Cases wait, for a second between two ERRORs above all; agents that wait beside each other take no longer than one.
SHARDS = 8


def _shards() -> list[tuple[float, list[Case]]]:
    """(age of the guest, cases): about equal in time, and those that want a young guest with one."""
    cases = select(AGENT, strict=True)
    shards: list[tuple[float, list[Case]]] = [(3600.0, []) for _ in range(SHARDS)]
    shards.append((1.0, [case for case in cases if YOUNG in case.needs]))
    for case in sorted(cases, key=lambda case: -case.slow_s):
        if YOUNG not in case.needs and case.rule is None:
            min(shards[:SHARDS], key=lambda shard: sum(1 + one.slow_s for one in shard[1]))[1].append(case)
    rules = [case for case in cases if case.rule is not None]
    return [(age_s, [*mine, *rules]) for age_s, mine in shards]


def _try(folder: Path, age_s: float, cases: list[Case]) -> list[Verdict]:
    agent = RealAgent(folder, age_s)
    line = connect(agent.address)
    try:
        return run(AgentTalk(line, hurt=agent.hurt), cases)
    finally:
        line.close()
        agent.stop()


@pytest.mark.slow
@pytest.mark.matrix
def test_our_agent_passes_every_case(tmp_path: Path) -> None:
    """The real process on a Unix socket keeps every sentence, strict, and no case is skipped for want of a guest."""
    shards = _shards()
    folders = [tmp_path / str(number) for number in range(len(shards))]
    with ThreadPoolExecutor(len(shards)) as pool:
        runs = list(pool.map(_try, folders, *zip(*shards)))
    verdicts = [verdict for found in runs for verdict in found]
    assert [as_text(verdict) for verdict in verdicts if verdict.outcome == "failed"] == []
    passed = {verdict.case.id for verdict in verdicts if verdict.outcome == PASSED}
    assert {case.id for case in select(AGENT, strict=True)} - passed == set()


def test_cli_on_a_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command tries a peer, and writes verdicts for programs and for continuous integration."""
    agent = RealAgent(tmp_path / "agent")
    junit = tmp_path / "junit.xml"
    only = "5.1/1,5.3,9.8/1"
    try:
        assert main(["agent", "--connect", agent.address, "--only", only, "--json", "--junit", str(junit)]) == OK
    finally:
        agent.stop()
    said = capsys.readouterr()
    found = json.loads(said.out)
    outcomes = {case["id"]: case["outcome"] for case in found["cases"]}
    assert outcomes == {"5.1/1": "passed", "5.3/1": "passed", "5.3/2": "passed", "5.3/3": "passed", "9.8/1": "skipped"}
    assert "4 passed, 0 failed, 1 skipped" in said.err
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "0", "1")


@pytest.mark.slow
@pytest.mark.matrix
def test_hurt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--hurt runs a command when an INFLATE is on its way; one that fails is not the agent's fault."""
    agent = RealAgent(tmp_path)
    psi = agent.proc / "pressure" / "memory"
    more = shlex.join(["sed", "-i.old", "s/total=/total=9/", str(psi)])
    keep = f"cp {psi} {psi}.new && {more.replace(str(psi), f'{psi}.new')} && cat {psi}.new > {psi}"
    try:
        for command, outcome in ((keep, "passed  9.5/1"), ("exit 7", "skipped 9.5/1")):
            assert main(["agent", "--connect", agent.address, "--only", "9.5/1", "--hurt", command]) == OK
            assert outcome in capsys.readouterr().out
    finally:
        agent.stop()


def test_exec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program is tried on its standard input and output: here one that carries bytes to our agent's socket."""
    agent = RealAgent(tmp_path)
    carrier = (
        "import os, selectors, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "x = selectors.DefaultSelector(); x.register(0, 1, s.fileno()); x.register(s, 1, 1)\n"
        "while True:\n"
        "    for key, _ in x.select():\n"
        "        data = os.read(key.fd, 4096)\n"
        "        data or sys.exit(); os.write(key.data, data)\n"
    )
    command = shlex.join([sys.executable, "-c", carrier, agent.address.removeprefix("unix:")])
    try:
        assert main(["agent", "--connect", f"exec:{command}", "--only", "5.1,2.1,5.8/1"]) == OK
    finally:
        agent.stop()
    said = capsys.readouterr().out
    assert "skipped 2.1/1" in said
    assert "0 failed" in said


def test_pty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An agent on a serial line is tried on the line's other end: two pseudo-terminals with a wire between them."""
    ends = [os.openpty() for _ in range(2)]
    names = [os.ttyname(slave) for _, slave in ends]
    wire = (
        "import os, sys, threading, tty\n"
        "a, b = map(int, sys.argv[1:])\n"
        "def carry(x, y):\n"
        "    while True: os.write(y, os.read(x, 4096))\n"
        "threading.Thread(target=carry, args=(a, b), daemon=True).start(); carry(b, a)\n"
    )
    masters = [master for master, _ in ends]
    for _, slave in ends:
        tty.setraw(slave)
    carrier = subprocess.Popen([sys.executable, "-c", wire, *map(str, masters)], pass_fds=masters)
    agent = RealAgent(tmp_path, port=f"uart:{names[0]}")
    try:
        assert main(["agent", "--connect", f"pty:{names[1]}", "--only", "5.1,3.4/2,5.8/1"]) == OK
    finally:
        agent.stop()
        carrier.terminate()
        carrier.wait()
        for pair in ends:
            for fd in pair:
                os.close(fd)
    assert "0 failed" in capsys.readouterr().out


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there is 3; a wrong word, address or case is 2."""
    assert main(["agent", "--connect", f"unix:{tmp_path / 'nobody'}"]) == UNREACHABLE
    assert main(["agent", "--connect", "exec:/nowhere/agent"]) == UNREACHABLE
    for stranger in ("true", "cat /dev/urandom", "sh -c 'exit 3'"):
        assert main(["agent", "--connect", f"exec:{stranger}"]) == UNREACHABLE
    for wrong in (["agent"], ["agent", "--connect", "udp:x"], ["agent", "--only", "99/1", "--list"], ["guest"], []):
        with pytest.raises(SystemExit) as stopped:
            main(wrong)
        assert stopped.value.code == USAGE
    capsys.readouterr()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names every case, the SHOULD ones too, and tries nobody."""
    assert main(["agent", "--list"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(select(AGENT, strict=True))
    assert any(line.startswith("5.3/2   MUST") for line in lines)
