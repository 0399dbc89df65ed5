"""Other people's text in a terminal, a journal or a shell: what may stand there, and how wide it is. Pure.

Names come from whoever may define a domain. libvirt 9 refuses a slash in one, and a newline where the domain is kept,
and lets every other character of XML through (m): tabs, carriage returns, the C1 controls that some terminals
obey, the marks that turn the direction of writing round, and names of nothing but spaces.
"""

from __future__ import annotations

import shlex
import textwrap
import unicodedata

_FILLER = "\0"
"""Stands for the second column of a wide letter while lines are wrapped; `printable` text has none."""


def printable(untrusted_text: str) -> str:
    """The text in one line, with "?" for every control character, line end and mark that is not seen."""
    return "".join(letter if letter.isprintable() else "?" for letter in untrusted_text)


def shown_name(untrusted_name: str) -> str:
    """`printable`, and in quotes where it begins or ends with a space, or is nothing else."""
    text = printable(untrusted_name)
    return text if text == text.strip() and text else f'"{text}"'


def columns(text: str) -> int:
    """How many columns of a terminal it takes: two for a wide letter (UAX #11), none for a combining one."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def cell(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` columns; what does not fit ends in "…"."""
    if columns(text) > width:
        kept, left = "", width - 1
        for letter in text:
            left -= _columns(letter)
            if left < 0:
                break
            kept += letter
        text = f"{kept}…"
    space = " " * (width - columns(text))
    return space + text if right else text + space


def wrapped(text: str, width: int, indent: str = "", *, first: str = "", break_on_hyphens: bool = True) -> list[str]:
    """Lines of at most `width` columns: the first begins with `first`, the others with `indent`."""
    filled = "".join(letter + _FILLER if _columns(letter) == 2 else letter for letter in text)
    lines = textwrap.wrap(
        filled, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=break_on_hyphens
    )
    return [line.replace(_FILLER, "") for line in lines]


def shell_word(untrusted_name: str) -> str:
    """As it is typed into a shell, whatever it holds, where a command expects a name and not an option."""
    if untrusted_name.isprintable():
        word = shlex.quote(untrusted_name)
    else:  # bash, zsh and busybox read such a word; a plain quoted one could not be copied from a terminal
        word = "$'" + "".join(_escaped(letter) for letter in untrusted_name) + "'"
    return f"-- {word}" if untrusted_name.startswith("-") else word


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
