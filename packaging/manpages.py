"""Man pages: a page's frame (man/*.in) with what the code knows filled in, so that no option is written down twice.

@COMMANDS PROGRAM@   the program's own options, and a subsection for each command with its options
@SETTINGS FILE@      the settings that a sample in a package's share/ explains, with their defaults
@DATE@ @VERSION@     day of $SOURCE_DATE_EPOCH, version of the distributions
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import ballonet_guest_agent
from commands import Command, Option

ROOT = Path(__file__).resolve().parent.parent
FRAMES = ROOT / "packaging/man"
SAMPLES = {
    "agent.conf": ROOT / "guest_agent/src/ballonet_guest_agent/share/agent.conf",
    "coordinator.toml": ROOT / "host_coord/src/ballonet_host_coord/share/coordinator.toml",
}


def pages(commands: dict[str, Command]) -> dict[str, str]:
    """File name -> text in the language of groff_man(7)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = time.strftime("%Y-%m-%d", time.gmtime(int(epoch))) if epoch else ""
    made = {}
    for frame in sorted(FRAMES.glob("*.in")):
        text = frame.read_text(encoding="utf-8")
        text = text.replace("@DATE@", date).replace("@VERSION@", ballonet_guest_agent.__version__)
        text = re.sub(r"^@COMMANDS (\S+)@$", lambda found: command_text(commands[found[1]]), text, flags=re.MULTILINE)
        text = re.sub(r"^@SETTINGS (\S+)@$", lambda found: settings_text(SAMPLES[found[1]]), text, flags=re.MULTILINE)
        made[frame.stem] = text
    return made


def escape(text: str) -> str:
    """Text that groff shows as it stands: hyphens to copy and paste, no control lines."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def _argument(text: str) -> str:
    """A macro's argument."""
    return '"' + escape(text).replace('"', "\\(dq") + '"'


def command_text(command: Command) -> str:
    """The options of all, and a subsection for each command."""
    lines: list[str] = []
    for option in command.options:
        lines += _option(option)
    for below in command.subcommands:
        arguments = " ".join(option.value for option in below.options if not option.names)
        lines += [f".SS {_argument(f'{command.name} {below.name} [OPTION ...] {arguments}'.strip())}"]
        lines += _paragraphs(below.help)
        for option in below.options:
            if option.names:
                lines += _option(option)
    return "\n".join(lines)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", escape(paragraph.removeprefix("\b\n")), ".fi")
        else:
            yield escape(" ".join(paragraph.split()))


def _option(option: Option) -> Iterator[str]:
    yield ".TP"
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.names)
    yield f"{names} \\fI{escape(option.value)}\\fR" if option.value else names
    yield from _paragraphs(option.help)


def settings(sample: str) -> Iterator[tuple[str, list[str], str]]:
    """What a sample explains: ("", lines, "") for a section's line, else (key, explanation, value as it stands there).

    Settings below one explanation share it: all but the first have an empty one.
    """
    remarks: list[str] = []
    for line in sample.splitlines():
        if found := re.fullmatch(r"#?(\[.*\])", line):
            yield "", [*remarks, found[1]], ""
            remarks = []
        elif found := re.fullmatch(r"#(\w+) = (.*)", line):
            yield found[1], remarks, found[2]
            remarks = []
        elif line.startswith("# "):
            remarks.append(line[2:])
        elif not line:
            remarks = []


def settings_text(sample: Path) -> str:
    """Sections and settings of a sample as subsections and tagged paragraphs."""
    lines = []
    for key, remarks, value in settings(sample.read_text(encoding="utf-8")):
        if not key:
            *above, section = remarks
            lines += [f".SS {_argument(section)}", *map(escape, above)]
            continue
        default = [line for line in remarks if line.startswith("default: ")]
        text = [line for line in remarks if line not in default]
        lines += [".TP", f"\\fB{escape(key)}\\fR = \\fI{escape(value)}\\fR"]
        lines += [escape(line) for line in text] or ["As above."]
        if default:
            lines.append(escape(f"Default: {default[0].partition(': ')[2]}."))
    return "\n".join(lines)
