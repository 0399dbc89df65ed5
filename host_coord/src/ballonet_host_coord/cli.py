"""`ballonet`: the command for people. Exit codes: 0 done, 1 failed, 2 misused or wrong settings, 3 no coordinator,
4 no room for what `reserve` asked for.

Every option can come from the environment, as BALLONET_CONFIG, BALLONET_SOCKET or BALLONET_<COMMAND>_<OPTION>.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
import trio

from .cli_asking import FAILED, UNREACHABLE, ask, fail, settings_socket, socket_option
from .cli_guests import guest_commands
from .clock import SystemClock
from .config import DEFAULT_PATH, ConfigError, TomlSettings
from .control import ControlError, Unreachable
from .host_memory import ProcHostMemory
from .model import Settings
from .notify import notify
from .ports import PortError
from .status import render

log = logging.getLogger("ballonet")

MISUSED = 2

# What the journal reads from the beginning of a line: see sd-daemon(3).
JOURNAL_LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
DEMO = "ballonet_host_coord.demo.cli"


class _Commands(click.Group):
    """The commands, `simulate`, and `demo` where it is installed. These two are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "simulate", *(["demo"] if _has_demo() else [])])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "simulate":
            from .simulate.cli import simulate

            return simulate
        if cmd_name != "demo" or not _has_demo():
            return super().get_command(ctx, cmd_name)
        try:
            command: click.Command = importlib.import_module(DEMO).demo
        except ModuleNotFoundError as error:
            return _needs_more(str(error.name))
        return command


def _has_demo() -> bool:
    return importlib.util.find_spec(DEMO) is not None


def _needs_more(module: str) -> click.Command:
    @click.command("demo", help="See it work (not installed).", context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1)
    def demo(rest: tuple[str, ...]) -> NoReturn:
        # A path and not a name: on an index the names may be strangers'.
        fail(f"the demo needs {module}; in a copy of the tree: pip install ./protocol ./guest_agent ./host_coord")

    return demo


def _config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        default=DEFAULT_PATH,
        show_default=True,
        envvar="BALLONET_CONFIG",
        metavar="FILE",
        help="Settings; drop-ins beside it in NAME.d/*.toml.",
    )(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "BALLONET"})
@click.version_option(importlib.metadata.version("ballonet-host-coord"), prog_name="ballonet")
def cli() -> None:
    """Move memory between this host's guests by their demand."""


@cli.command()
@_config_option
@click.option("--observe", is_flag=True, help="Decide, and move nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def serve(config: str, observe: bool, verbose: bool) -> None:
    """Run the coordinator in the foreground until SIGTERM or SIGINT."""
    settings, source = _load(config)
    _log_to_stderr(verbose)
    for warning in source.warnings:
        log.warning("%s: %s", config, warning)
    failed = False
    try:
        trio.run(functools.partial(_serve, settings, observe, source), strict_exception_groups=True)
    except* (ControlError, PortError, OSError) as group:
        failed = True
        for error in _leaves(group):
            log.error("%s", error)
    if failed:
        sys.exit(FAILED)


@cli.command()
@_config_option
@click.option("--settings-only", is_flag=True, help="Judge the files alone.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(config: str, settings_only: bool, as_json: bool) -> None:
    """Say what is wrong with the settings, the host and each guest, and how to mend it. Touches nothing.

    A problem keeps the coordinator or a guest from working; a hint makes either worse.

    \b
    Exit code:
      0  all is well (there may be hints)
      1  something must be mended
      2  the settings or the command line are wrong
      3  nothing is wrong as far as could be seen, which was not all
    """
    from . import checking
    from .finding import exit_code

    if settings_only and as_json:
        raise click.UsageError("say --settings-only or --json")
    settings, source = _load(config, checking.faults_as_json if as_json else None)
    if settings_only:
        for warning in source.warnings:
            click.echo(f"{config}: {warning}", err=True)
        names = ", ".join(guest.name for guest in settings.guests)
        click.echo(f"{config}: OK, {len(settings.guests)} guest(s){': ' if names else ''}{names}")
        return
    found = trio.run(checking.check, settings, source.warnings)
    click.echo(checking.as_json(found) if as_json else checking.as_text(found))
    sys.exit(exit_code(found))


@cli.command()
@socket_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(socket_path: str | None, as_json: bool) -> None:
    """Show the host and every guest: what it has, needs and gets, and why."""
    answer = ask(socket_path, "status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    # click takes colours out again where it believes that the terminal has none.
    click.echo(render(answer, shutil.get_terminal_size().columns, color=color), color=color)


@cli.command()
@click.argument("guest", required=False)
@socket_option
@click.option("--snapshot", "snapshot_path", metavar="FILE", help="Explain what --save wrote, not this moment.")
@click.option("--recording", "recording_path", metavar="FILE", help="Explain a turn of a recording.")
@click.option("--at", metavar="TIME", help="Its time: +90s, 14:03:20 or 2026-11-24 14:03:20. [default: its end]")
@click.option("--save", "save_path", metavar="FILE", help="Write the snapshot to FILE as well.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    guest: str | None,
    socket_path: str | None,
    snapshot_path: str | None,
    recording_path: str | None,
    at: str | None,
    save_path: str | None,
    as_json: bool,
) -> None:
    """Say why GUEST, or every guest, has what it has, and what would change it."""
    from . import explaining

    if snapshot_path and recording_path:
        raise click.UsageError("say --snapshot or --recording")
    if at and not recording_path:
        raise click.UsageError("--at is a time in a --recording")
    try:
        if snapshot_path:
            turn = explaining.saved(snapshot_path)
        elif recording_path:
            turn, said = explaining.recorded(recording_path, at)
            click.echo(f"{recording_path}: {said}", err=True)
        else:
            turn = ask(socket_path, "snapshot")
        if save_path:
            explaining.save(turn, save_path)
        width = shutil.get_terminal_size().columns
        click.echo(explaining.as_json(turn, guest) if as_json else explaining.as_text(turn, guest, width))
    except (PortError, LookupError, ValueError) as error:
        fail(str(error.args[0]))


@cli.command()
@click.argument("file")
@click.option("--for", "duration", metavar="DURATION", help="End after 90s, 10m, 2h. [default: with Ctrl-C]")
@socket_option
def record(file: str, duration: str | None, socket_path: str | None) -> None:
    """Write what the coordinator knows and decides to FILE, once a second, until Ctrl-C. FILE is appended to."""
    from .explaining import parse_duration_s
    from .follow import Follower
    from .recorder import FileRecorder

    try:
        for_s = parse_duration_s(duration) if duration is not None else float("inf")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from error
    _log_to_stderr(verbose=False)
    try:
        recorder = FileRecorder(file, sync=True)
        follower = Follower(socket_path or settings_socket(), recorder, log.warning)
        try:
            trio.run(follower.run, for_s)
        finally:
            recorder.close()
            if follower.turns:
                click.echo(f"{file}: {follower.turns} turns, {recorder.written_bytes} bytes")
    except Unreachable as error:
        fail(str(error), UNREACHABLE)
    except (ControlError, PortError) as error:
        fail(str(error))


for _name, _command in guest_commands.commands.items():
    cli.add_command(_command, _name)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a guest's name may have what the locale has not
    cli()


async def _serve(settings: Settings, observe: bool, source: TomlSettings) -> None:
    # Imported here: commands that only ask a running coordinator need none of it.
    from . import service

    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        await service.serve(settings, observe=observe, source=source)
        nursery.cancel_scope.cancel()


async def _stop_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            notify("STOPPING=1")
            scope.cancel()
            return


def _load(
    config: str, as_json: Callable[[list[str]], str] | None = None
) -> tuple[Settings, TomlSettings]:  # fmt: skip
    """The settings and where they come from. Ends the program where they have faults, with every fault said."""
    source = TomlSettings(config, ProcHostMemory(SystemClock()))
    try:
        return source.load(), source
    except PortError as error:
        fail(str(error))
    except ConfigError as error:
        faults = [str(fault) for fault in error.faults]
        for fault in faults:
            click.echo(fault, err=True)
        if as_json is not None:
            click.echo(as_json(faults))
        sys.exit(MISUSED)


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves


class _JournalFormatter(logging.Formatter):
    """Each line with its level, as the journal wants it; it stamps the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        level = max((known for known in JOURNAL_LEVELS if known <= record.levelno), default=logging.DEBUG)
        return "\n".join(f"<{JOURNAL_LEVELS[level]}>{line}" for line in super().format(record).splitlines())


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
