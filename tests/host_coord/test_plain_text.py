"""plain_text.py: no letter of a name reaches a terminal's ears, and columns stay columns."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.plain_text import cell, columns, printable, shell_word, wrapped

HOSTILE = ("a\x1b[31mb", "a\x9b31mb", "a\rb", "a\tb", "a\x85b", "a\u2028<3>b", "a\u202eb", "a\u200db", "\x00", "\ud800")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_is_left(text: str) -> None:
    """What is shown is printable, in one line, and as long as the name is."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1
    assert len(shown) == len(text)


def test_wide_and_combining_letters_are_counted_as_a_terminal_does() -> None:
    """A wide letter has two columns, a combining one none."""
    assert [columns(text) for text in ("größe", "雲の上", "e\u0301", "")] == [5, 6, 1, 0]


@given(st.text(), st.integers(1, 30), st.booleans())
def test_a_cell_is_exactly_as_wide_as_it_should_be(text: str, width: int, right: bool) -> None:
    """Whatever the letters are."""
    assert columns(cell(printable(text), width, right=right)) == width


@given(st.text(alphabet=st.sampled_from("ab -雲е́\u0301"), max_size=200), st.integers(10, 60))
def test_no_wrapped_line_is_wider_than_it_may_be(text: str, width: int) -> None:
    """And no letter is lost."""
    lines = wrapped(text, width, "  ")
    assert all(columns(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


NAMES = ("web", "web 1 \"the 'big' one\"", "$(x);`y`", "größe-Ω", "-x", "--all")


@pytest.mark.parametrize("name", [*NAMES, *HOSTILE[:-2]])
def test_a_shell_reads_the_name_back(name: str) -> None:
    """The word is one argument after the options, and equals the name; it can be seen, and so copied."""
    word = shell_word(name)
    assert word.isprintable()
    script = f'take() {{ [ "$1" = -- ] && shift; printf %s "$1"; }}; take {word}'
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert said.stdout.decode() == name
