"""config.py: settings or a sentence that says which line, key, value and what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.config import AgentSettings, check_port, parse_config


def test_empty_is_the_defaults() -> None:
    """No line, no problem, every default."""
    assert parse_config("", "agent.conf") == (AgentSettings(), [])
    assert parse_config("# nothing\n\n   \n", "agent.conf") == (AgentSettings(), [])


def test_all_keys() -> None:
    """Each key sets what its name says; spaces around it do not matter."""
    text = """
    port = unix:/run/agent.sock
    floor=512M
    report_ms = 500
    settling_s = 0
    lock_memory = no
    proc_root = /tmp/proc/
    sys_root = /tmp/sys
    dev_root = /tmp/dev
    """
    assert parse_config(text, "agent.conf") == (
        AgentSettings(
            port="unix:/run/agent.sock",
            floor_kib=512 * 1024,
            report_ms=500,
            settling_s=0,
            lock_memory=False,
            proc_root="/tmp/proc",
            sys_root="/tmp/sys",
            dev_root="/tmp/dev",
        ),
        [],
    )


@pytest.mark.parametrize(
    ("line", "key", "value", "allowed"),
    [
        ("report_ms = 5", "report_ms", "5", "250 to 60000"),
        ("report_ms = fast", "report_ms", "fast", "250 to 60000"),
        ("settling_s = -1", "settling_s", "-1", "0 to 3600"),
        ("floor = 512", "floor", "512", '"512M"'),
        ("lock_memory = true", "lock_memory", "true", '"yes" or "no"'),
        ("port = a/b", "port", "a/b", "virtio port"),
        ("port = unix:relative", "port", "unix:relative", "unix:/PATH"),
        ("proc_root = proc", "proc_root", "proc", "absolute"),
        ("colour = red", "colour", "red", "allowed are port"),
        ("report_ms", "report_ms", "", "key = value"),
    ],
)
def test_errors_name_everything(line: str, key: str, value: str, allowed: str) -> None:
    """File, line, key, value and what is allowed are in the sentence; the default stays and other lines count."""
    settings, (problem, *_) = parse_config(f"# first\n{line}\nlock_memory = no\n", "x.conf")
    assert "x.conf line 2" in problem
    for part in (key, value, allowed):
        assert part in problem
    if key != "lock_memory":
        assert settings == AgentSettings(lock_memory=False)


def test_repeated_key() -> None:
    """The first of two lines holds, the second is a problem."""
    settings, problems = parse_config("report_ms = 500\nreport_ms = 600\n", "x.conf")
    assert settings.report_ms == 500
    assert "line 2" in problems[0]


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises; a problem is one line for the log."""
    _, problems = parse_config(text, "x.conf")
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("port", ["org.ballonet.agent.0", "unix:/a", "uart:/dev/ttyS1"])
def test_ports(port: str) -> None:
    """The three kinds of port are taken as they are."""
    assert check_port(port) == port


def test_other_editors(tmp_path) -> None:
    """A byte order mark and carriage returns change nothing."""
    assert parse_config("\ufeffreport_ms = 500\r\nfloor = 1G\r\n", "x.conf") == (
        AgentSettings(report_ms=500, floor_kib=1 << 20),
        [],
    )


def test_all_wrong() -> None:
    """Each line of a file that is no settings is named, up to a hundred, then their number; defaults are in force."""
    settings, problems = parse_config("rubbish\n" * 5000, "x.conf")
    assert settings == AgentSettings()
    assert [problem.partition(":")[0] for problem in problems[:100]] == [f"x.conf line {n}" for n in range(1, 101)]
    assert problems[100:] == ["x.conf: 4900 more lines after 100 wrong ones are not looked at"]


def test_long_line() -> None:
    """A line of any length is named with its beginning only."""
    _, (problem,) = parse_config("report_ms = " + "9" * 60_000, "x.conf")
    assert "x.conf line 1: report_ms" in problem
    assert len(problem) < 300
