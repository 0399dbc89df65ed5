"""The README as data: its blocks, its commands, and the ones that a section has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
AGENT, COORDINATOR, BY_HAND, SIMULATE = (
    "Install the agent in each guest", "Install the coordinator on the host", "Two guests by hand", "Simulate",
)  # fmt: skip


def section(title: str) -> str:
    """The text under one heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title!r}"
    return found[1]


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines(text: str = TEXT) -> list[str]:
    """Every shell command as it stands there, continued lines joined, lines that are only comment left out."""
    joined = "\n".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [line for line in joined if shlex.split(line, comments=True)]


def commands(text: str = TEXT) -> list[list[str]]:
    """The same as words, without comments."""
    return [shlex.split(line, comments=True) for line in lines(text)]


def qemu_options() -> list[str]:
    """What the README gives QEMU, without the program's name."""
    return next(words[1:] for words in commands() if words[0] == "qemu-system-x86_64")


def settings_example() -> str:
    """The coordinator's settings for two guests."""
    return blocks("toml")[0]


def libvirt_example() -> str:
    """The coordinator's settings for libvirt's domains."""
    return blocks("toml")[1]
