"""oom_score.py: the score of a process that no service manager protects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.oom_score import OOM_SCORE_ADJ, protect_from_oom


@pytest.mark.parametrize(("before", "after"), [("0", "-900"), ("-500", "-500"), ("-1000", "-1000"), ("300", "300")])
def test_only_a_score_that_nobody_set(tmp_path: Path, before: str, after: str) -> None:
    """Zero becomes the unit's score; what somebody has set stays."""
    (tmp_path / "self").mkdir()
    score = tmp_path / "self/oom_score_adj"
    score.write_text(before + "\n")
    assert protect_from_oom(str(tmp_path)) is None
    assert score.read_text().split()[0] == after


def test_without_the_right(tmp_path: Path) -> None:
    """What the kernel refuses is a reason, not an error."""
    assert protect_from_oom(str(tmp_path)) == "No such file or directory"


def test_same_score_as_the_unit() -> None:
    """The unit and the agent name one number."""
    import ballonet_guest_agent

    unit = Path(ballonet_guest_agent.__file__).parent / "share/ballonet-guest-agent.service"
    assert f"OOMScoreAdjust={OOM_SCORE_ADJ}\n" in unit.read_text()


def test_a_real_process() -> None:
    """In a process of its own the kernel's file says -900 afterwards, or the reason is that it may not be lowered."""
    code = (
        "from ballonet_guest_agent.oom_score import protect_from_oom\n"
        "before = open('/proc/self/oom_score_adj').read().strip()\n"
        "reason = protect_from_oom()\n"
        "after = open('/proc/self/oom_score_adj').read().strip()\n"
        "assert (reason, after) == (None, '-900' if before == '0' else before) or 'ermi' in reason, (reason, after)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_daemon_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that nobody protects does so before it serves."""
    from ballonet_guest_agent import daemon
    from ballonet_guest_agent.config import AgentSettings

    class Served:
        def __init__(self, *_parts: object) -> None:
            return

        def run(self) -> int:
            return 7

    (tmp_path / "self").mkdir()
    (tmp_path / "self/oom_score_adj").write_text("0\n")
    monkeypatch.setattr(daemon, "Loop", Served)
    settings = AgentSettings(proc_root=str(tmp_path), sys_root=str(tmp_path), lock_memory=False)
    assert daemon.run_daemon(settings, "unix:/nowhere", []) == 7
    assert (tmp_path / "self/oom_score_adj").read_text().startswith("-900")
