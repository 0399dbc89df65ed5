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
from .model import HostSettings

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
    """Where a coordinator with the default settings would listen; faults in them are `serve`'s to tell."""
    try:
        return TomlSettings(os.environ.get("BALLONET_CONFIG", DEFAULT_PATH)).load().host.control_path
    except ConfigError:
        return HostSettings().control_path


def fail(message: str, code: int = FAILED) -> NoReturn:
    click.echo(f"ballonet: {message}", err=True)
    sys.exit(code)


def mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"
