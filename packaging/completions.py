"""Completions for bash, zsh and fish: click's own for its commands, and static ones for the command without click."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from commands import Command, Option

SHELLS = ("bash", "zsh", "fish")
FILES = {"bash": "bash/{}", "zsh": "zsh/_{}", "fish": "fish/{}.fish"}


def from_click(program: str, shell: str) -> str:
    """What click writes, for a file that the shell loads by itself."""
    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    text = kind(click.Command(program), {}, program, variable).source().strip()
    if shell == "zsh" and "loadautofunc" not in text:
        # Before click 8.1.4 the first Tab only defined the function.
        (function,) = re.findall(r"^compdef (\w+) ", text, re.MULTILINE)
        text += f'\n[[ $zsh_eval_context[-1] == loadautofunc ]] && {function} "$@"'
    return f"{text}\n"


def static(command: Command, shell: str) -> str:
    """A completion without running the command: its subcommands, and their options."""
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](command)
    return "\n".join(lines) + "\n"


def _names(options: tuple[Option, ...]) -> str:
    return " ".join(name for option in options for name in option.names)


def _bash(command: Command) -> Iterator[str]:
    function = f"_{command.name}".replace("-", "_")
    words = " ".join(below.name for below in command.subcommands)
    yield f"{function}() {{"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    case "$COMP_CWORD:${COMP_WORDS[1]}:$before" in'
    yield f'    1:*) mapfile -t COMPREPLY < <(compgen -W "{words} {_names(command.options)}" -- "$word") ;;'
    for below in command.subcommands:
        for option in below.options:
            if option.value:
                then = 'mapfile -t COMPREPLY < <(compgen -f -- "$word")' if option.is_file else "COMPREPLY=()"
                yield f"    *:{below.name}:{option.names[-1]}) {then} ;;"
        yield f'    *:{below.name}:*) mapfile -t COMPREPLY < <(compgen -W "{_names(below.options)}" -- "$word") ;;'
    yield "    esac"
    yield "}"
    yield f"complete -F {function} {command.name}"


def _zsh(command: Command) -> Iterator[str]:
    def quoted(text: str) -> str:
        return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")

    def spec(option: Option) -> Iterator[str]:
        value = f":{quoted(option.value)}:{'_files' if option.is_file else ''}" if option.value else ""
        for name in option.names:
            yield f"'{name}[{quoted(option.help)}]{value}'"

    yield f"#compdef {command.name}"
    yield "if (( CURRENT == 2 )); then"
    described = (f"'{below.name}:{quoted(below.help)}'" for below in command.subcommands)
    yield f"    local -a roles=({' '.join(described)})"
    yield "    _describe role roles"
    yield f"    _arguments {' '.join(word for option in command.options for word in spec(option))}"
    yield "    return"
    yield "fi"
    yield 'local role="${words[2]}"'
    yield "(( CURRENT-- ))"
    yield "shift words"
    yield 'case "$role" in'
    for below in command.subcommands:
        words = " ".join(word for option in below.options for word in spec(option))
        yield f"    {below.name}) _arguments {words} ;;"
    yield "esac"


def _fish(command: Command) -> Iterator[str]:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def complete(condition: str, option: Option) -> str:
        names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
        value = ("-r -F " if option.is_file else "-x ") if option.value else ""
        return f"complete -c {command.name} -n {quoted(condition)} {names} {value}-d {quoted(option.help)}"

    yield f"complete -c {command.name} -f"
    for below in command.subcommands:
        yield f"complete -c {command.name} -n __fish_use_subcommand -a {below.name} -d {quoted(below.help)}"
    for option in command.options:
        yield complete("__fish_use_subcommand", option)
    for below in command.subcommands:
        for option in below.options:
            yield complete(f"__fish_seen_subcommand_from {below.name}", option)
