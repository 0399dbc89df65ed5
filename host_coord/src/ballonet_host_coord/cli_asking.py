"""How a command of `ballonet` asks the running coordinator, and how it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
import trio

from .config import DEFAULT_PATH, ConfigError, TomlSettings
from .control import ControlError, NoRoom, Unreachable, request
from .plain_text import printable

FAILED, UNREACHABLE, NO_ROOM = 1, 3, 4


def socket_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--socket",
        "socket_path",
        envvar="BALLONET_SOCKET",
        metavar="PATH",
        help="The coordinator's control socket. [default: what the settings say]",
    )(command)


def ask(socket_path: str | None, operation: str, arguments: dict[str, Any] | None = None) -> Any:
    """The running coordinator's answer. Ends the program where there is none."""
    try:
        return trio.run(request, socket_path or settings_socket(), operation, arguments)
    except Unreachable as error:
        fail(str(error), UNREACHABLE)
    except NoRoom as error:
        fail(str(error), NO_ROOM)
    except ControlError as error:
        fail(str(error))


def settings_socket() -> str:
    """Where a coordinator with the default settings listens; faults in them are its own to tell, in `status` too."""
    try:
        return TomlSettings(os.environ.get("BALLONET_CONFIG", DEFAULT_PATH)).load().host.control_path
    except ConfigError as error:
        return error.control_path


def say(line: str, *, err: bool = False) -> None:
    """One line for people. Names, paths and what a peer said may stand in it: no control character gets through."""
    click.echo(printable(line), err=err)


def fail(message: str, code: int = FAILED) -> NoReturn:
    say(f"ballonet: {message}", err=True)
    sys.exit(code)


def mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"
