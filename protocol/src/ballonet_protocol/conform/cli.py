"""The command `ballonet-conform`: tries an agent or a coordinator against SPEC.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Callable

from ballonet_protocol import AGENT, COORDINATOR

from .as_agent import CoordinatorTalk
from .as_coordinator import AgentTalk
from .lines import Line, Unreachable, connect, listen
from .results import as_json, as_junit, as_line, as_summary, as_text
from .runner import FAILED, run
from .table import Skipped, select

OK, FAILURES, USAGE, UNREACHABLE = 0, 1, 2, 3


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that begins like that of our other commands."""

    def add_usage(self, usage, actions, groups, prefix=None):  # type: ignore[no-untyped-def]
        super().add_usage(usage, actions, groups, "Usage: ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ballonet-conform",
        description="Tries a peer of ballonet's wire, case by case, against the sentences of SPEC.md.",
        epilog="exit codes: 0 all passed or skipped, 1 failures, 2 usage, 3 the peer cannot be reached",
        formatter_class=_Help,
    )
    roles = parser.add_subparsers(dest="role", required=True, metavar="agent|coordinator")
    agent = roles.add_parser(
        "agent", prog="ballonet-conform agent", formatter_class=_Help, help="plays the coordinator against an agent"
    )
    agent.add_argument("--connect", metavar="ADDRESS", help="where the agent is: unix:PATH, pty:PATH or exec:COMMAND")
    agent.add_argument("--hurt", metavar="COMMAND", help="makes the guest stall, for the case of a move that hurts")
    host = roles.add_parser(
        "coordinator",
        prog="ballonet-conform coordinator",
        formatter_class=_Help,
        help="plays an agent against a coordinator",
    )
    host.add_argument("--listen", metavar="ADDRESS", help="where the coordinator connects to: unix:PATH")
    host.add_argument(
        "--size", metavar="COMMAND", help="prints the bytes that the hypervisor's balloon target gives the guest"
    )
    for role in (agent, host):
        role.add_argument("--strict", action="store_true", help="try what SHOULD be, too")
        role.add_argument("--list", action="store_true", help="list the cases and stop")
        role.add_argument("--only", metavar="ID[,ID]", default="", help="cases, sections or chapters: 5.2/1, 5.2, 5")
        role.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit's XML")
        role.add_argument("--json", action="store_true", help="verdicts as JSON on stdout, progress on stderr")
        role.add_argument("--timeout", metavar="S", type=float, default=30.0, help="seconds for one case (30)")
    return parser


def _talk(options: argparse.Namespace, line: Line) -> AgentTalk | CoordinatorTalk:
    def say(text: str) -> None:
        print(f"        {text}", file=sys.stderr)

    if options.role == AGENT.value:
        return AgentTalk(line, say, _hurting(options.hurt) if options.hurt else None)
    return CoordinatorTalk(line, say, _sizing(options.size) if options.size else None)


def _hurting(command: str) -> Callable[[], None]:
    def hurt() -> None:
        _output(command)

    return hurt


def _sizing(command: str) -> Callable[[], int]:
    def size() -> int:
        text = _output(command)
        try:
            return int(text)
        except ValueError as error:
            raise Skipped(f"{command} printed {text[:40]!r}, which is no number") from error

    return size


def _output(command: str) -> str:
    """What the user's own command prints. Raises Skipped where it fails: the peer is not to blame."""
    try:
        done = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True, timeout=60)  # noqa: S602
    except subprocess.SubprocessError as error:
        raise Skipped(str(error)) from error
    return done.stdout


def _print_all(text: str) -> None:
    """Print `text`; a reader that has had enough (`--list | head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end


def main(arguments: list[str] | None = None) -> int:
    """Read the arguments, try the peer. The exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    role = AGENT if options.role == AGENT.value else COORDINATOR
    only = tuple(word for word in options.only.split(",") if word)
    cases = select(role, options.strict or options.list, only)
    if not cases:
        parser.error(f"--only {options.only}: no such case; --list shows them")
    if options.list:
        _print_all("\n".join(map(as_line, cases)))
        return OK
    address = options.connect if role is AGENT else options.listen
    if not address:
        parser.error("--connect is missing" if role is AGENT else "--listen is missing")
    out = sys.stderr if options.json else sys.stdout
    try:
        line = connect(address) if role is AGENT else listen(address)
    except ValueError as error:
        parser.error(str(error))
    except Unreachable as error:
        print(f"cannot reach the {role.value}: {error}", file=sys.stderr)
        return UNREACHABLE
    try:
        talk = _talk(options, line)
        verdicts = run(talk, cases, options.timeout, lambda one: print(as_text(one), file=out, flush=True))
    except Unreachable as error:
        print(f"cannot reach the {role.value}: {error}", file=sys.stderr)
        return UNREACHABLE
    except KeyboardInterrupt:
        return FAILURES
    finally:
        line.close()
    print(as_summary(verdicts), file=out)
    if options.json:
        print(as_json(role, verdicts))
    if options.junit:
        with open(options.junit, "w", encoding="utf-8") as file:
            file.write(as_junit(role, verdicts))
    return FAILURES if any(one.outcome == FAILED for one in verdicts) else OK
