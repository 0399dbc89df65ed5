"""The conformance kit against our own coordinator: the real one, over simulated machines, passes every case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.protocol.needs import needs_coordinator

from ballonet_protocol import COORDINATOR
from ballonet_protocol.conform import (
    PASSED,
    Case,
    CoordinatorTalk,
    Line,
    Verdict,
    cases_coordinator_consent,
    cli,
    run,
    select,
)
from ballonet_protocol.conform.cli import OK, UNREACHABLE, USAGE, main
from ballonet_protocol.conform.results import as_text
from ballonet_protocol.conform.table import Skipped

if TYPE_CHECKING:
    from .real_coordinator import Kit

#: Sessions wait for a second when a line comes back; machines that wait beside each other take no longer than one.
SHARDS = 10


def _kit(cases: list[Case]) -> Kit:
    def kit(line: Line, size_bytes: Callable[[], int]) -> list[Verdict]:
        return run(CoordinatorTalk(line, size=size_bytes), cases)

    return kit


def _shards() -> list[list[Case]]:
    """A machine of its own for each case that has its balloon moved, and the others about equal in time."""
    cases = select(COORDINATOR, strict=True)
    moving = [
        case for case in cases if case.run is not None and case.run.__module__ == cases_coordinator_consent.__name__
    ]
    shards: list[list[Case]] = [[] for _ in range(SHARDS)]
    for case in sorted(cases, key=lambda case: -case.slow_s):
        if case not in moving and case.rule is None:
            min(shards, key=lambda shard: sum(1.5 + one.slow_s for one in shard)).append(case)
    rules = [case for case in cases if case.rule is not None]
    return [[*mine, *rules] for mine in [*shards, *([case] for case in moving)]]


@needs_coordinator
@pytest.mark.slow
def test_our_coordinator_passes_every_case(tmp_path: Path) -> None:
    """The real coordinator keeps every sentence, strict; it wants memory, so no case is skipped."""
    from .real_coordinator import serve

    shards = _shards()
    verdicts = [verdict for found in serve(tmp_path, list(map(_kit, shards))) for verdict in found]
    assert [as_text(verdict) for verdict in verdicts if verdict.outcome == "failed"] == []
    passed = {verdict.case.id for verdict in verdicts if verdict.outcome == PASSED}
    assert {case.id for case in select(COORDINATOR, strict=True)} - passed == set()


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No coordinator, or no place to listen, is 3; a wrong address is 2."""
    monkeypatch.setattr("ballonet_protocol.conform.lines.ACCEPT_S", 0.1)
    assert main(["coordinator", "--listen", f"unix:{tmp_path / 'channel'}"]) == UNREACHABLE
    assert not (tmp_path / "channel").exists()
    (tmp_path / "file").write_text("not a socket")
    assert main(["coordinator", "--listen", f"unix:{tmp_path / 'file'}"]) == UNREACHABLE
    assert (tmp_path / "file").read_text() == "not a socket"
    with pytest.raises(SystemExit) as stopped:
        main(["coordinator", "--listen", "pty:/dev/ttyS0"])
    assert stopped.value.code == USAGE
    assert main(["coordinator", "--list", "--only", "9"]) == OK
    assert "needs --size COMMAND" in capsys.readouterr().out


def test_size_is_a_commands_number() -> None:
    """--size takes what a command prints; one that fails, or prints no number, skips the case."""
    assert cli._sizing("echo 1048576")() == 1 << 20
    for command in ("exit 1", "echo many"):
        with pytest.raises(Skipped):
            cli._sizing(command)()
