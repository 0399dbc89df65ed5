"""Our three commands as values, read from click and argparse: what man pages and completions are made of."""

from __future__ import annotations

import argparse
import inspect
from typing import NamedTuple

import click

from ballonet_guest_agent.cli import main as agent
from ballonet_host_coord.cli import cli as coordinator
from ballonet_protocol.conform.cli import _parser as conform


class Option(NamedTuple):
    """One option, or with no `names` one argument."""

    names: tuple[str, ...]
    value: str
    """What stands for its value in texts; empty for a flag."""
    help: str
    choices: tuple[str, ...] = ()
    is_file: bool = False


class Command(NamedTuple):
    """One command; with `subcommands` a group of them."""

    name: str
    help: str
    """Paragraphs apart by empty lines. One that begins with a line of `\\b` keeps its lines, as in click."""
    options: tuple[Option, ...]
    subcommands: tuple[Command, ...] = ()


def all_commands() -> dict[str, Command]:
    """Program's name -> its tree."""
    return {
        "ballonet-agent": from_click(agent, "ballonet-agent"),
        "ballonet": from_click(coordinator, "ballonet"),
        "ballonet-conform": from_argparse(conform(), "ballonet-conform"),
    }


def from_click(command: click.Command, name: str, parent: click.Context | None = None) -> Command:
    """A click command and all below it."""
    ctx = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    options = tuple(_click_option(parameter, ctx) for parameter in command.get_params(ctx))
    text = inspect.cleandoc(command.help or "")
    if command.epilog:
        text += f"\n\n{inspect.cleandoc(command.epilog)}"
    below = []
    if isinstance(command, click.Group):
        for word in command.list_commands(ctx):
            found = command.get_command(ctx, word)
            assert found is not None
            below.append(from_click(found, word, ctx))
    return Command(name, text, options, tuple(below))


def _click_option(parameter: click.Parameter, ctx: click.Context) -> Option:
    value = parameter.make_metavar(ctx) if _takes_context(parameter) else parameter.make_metavar()  # type: ignore[call-arg]
    choices = tuple(parameter.type.choices) if isinstance(parameter.type, click.Choice) else ()
    record = parameter.get_help_record(ctx)
    text = record[1] if record is not None else ""
    if isinstance(parameter, click.Option):
        flag = parameter.is_flag or parameter.count
        names = (*parameter.opts, *parameter.secondary_opts)
        return Option(names, "" if flag else value, text, choices, "FILE" in value or "RECORDING" in value)
    return Option((), value, text, choices, "FILE" in value)


def _takes_context(parameter: click.Parameter) -> bool:
    """click 8.2 wants the context for a metavar, 8.1 takes none."""
    return len(inspect.signature(parameter.make_metavar).parameters) == 1


def from_argparse(parser: argparse.ArgumentParser, name: str) -> Command:
    """An argparse parser and all below it."""
    options, below = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, choice in action.choices.items():
                text = next(str(pseudo.help) for pseudo in action._choices_actions if pseudo.dest == word)
                below.append(from_argparse(choice, word)._replace(help=text))
        else:
            value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            options.append(Option(tuple(action.option_strings), value, action.help or "", (), "FILE" in value))
    return Command(name, parser.description or "", tuple(options), tuple(below))
