"""The man pages in the packages: groff takes them without a word, and they say what the commands and settings are."""

from __future__ import annotations

import functools
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent import config as agent
from ballonet_guest_agent.daemon import USAGE
from ballonet_host_coord import config as host

from .conftest import Need

PAGES = (
    "man1/ballonet-conform.1", "man5/ballonet-agent.conf.5", "man5/ballonet-coordinator.toml.5",
    "man8/ballonet-agent.8", "man8/ballonet.8",
)  # fmt: skip
COMMANDS = {"ballonet-agent": PAGES[3], "ballonet": PAGES[4], "ballonet-conform": PAGES[0]}
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")


def source(unpacked: Path, page: str) -> str:
    """The page's text, with groff's escapes taken away."""
    text = gzip.decompress((unpacked / f"usr/share/man/{page}.gz").read_bytes()).decode()
    return re.sub(r"\\f[BIR]", "", text.replace("\\-", "-").replace("\\e", "\\"))


def tags(text: str) -> set[str]:
    """The options that a part of a page explains: those in its paragraphs' tags."""
    return {option for tag in re.findall(r"^\.TP\n(-.*)$", text, re.MULTILINE) for option in OPTION.findall(tag)}


@functools.cache
def help_of(*words: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / words[0]), *words[1:], "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return done.stdout


def options_of(text: str) -> set[str]:
    """The options that a --help explains: those at the beginning of its lines."""
    lines = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    return {option for line in lines for option in OPTION.findall(line)}


def subcommands_of(command: str) -> list[str]:
    if command == "ballonet-conform":
        return ["agent", "coordinator"]
    listed = help_of(command).partition("Commands:\n")[2]
    return re.findall(r"^  (\w+)", listed, re.MULTILINE)


@pytest.mark.parametrize("page", [PAGES[3], PAGES[4]])
def test_exit_codes_are_a_table(page: str, unpacked: Path, need: Need) -> None:
    """A paragraph whose lines click keeps has its lines in the manual, too."""
    need("man", "groff")
    text = gzip.decompress((unpacked / f"usr/share/man/{page}.gz").read_bytes())
    done = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou"], input=text, capture_output=True, check=True)
    shown = done.stdout.decode()
    assert re.search(r"^ +Exit code:\n +0  ", shown, re.MULTILINE), shown


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_warning(page: str, unpacked: Path, need: Need) -> None:
    """Formatted with every warning switched on, a page has none, as Debian's `man --warnings` has it."""
    need("man", "groff")
    for command in (["groff", "-man", "-Tutf8", "-ww", "-z"], ["man", "--warnings", "-Tutf8", "-l"]):
        text = gzip.decompress((unpacked / f"usr/share/man/{page}.gz").read_bytes())
        done = subprocess.run(
            [*command, "-"], input=text, capture_output=True, check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_page_has_every_command_and_option(command: str, unpacked: Path) -> None:
    """Each subcommand has its subsection, with exactly the options that its --help knows."""
    page = source(unpacked, COMMANDS[command]).partition(".SH COMMANDS")[2]
    body = re.split(r"^\.SH ", page, flags=re.MULTILINE)[0]
    general, *parts = re.split(r"^\.SS ", body, flags=re.MULTILINE)
    assert tags(general) == options_of(help_of(command))
    sections = {part.split()[1]: part for part in parts}
    assert sorted(sections) == sorted(subcommands_of(command))
    for name, part in sections.items():
        assert tags(part) == options_of(help_of(command, name)), name


@pytest.mark.parametrize("command", COMMANDS)
def test_page_names_no_option_that_there_is_not(command: str, unpacked: Path) -> None:
    """Wherever a page names a long option, one of its commands has it."""
    known = {"--stdio", "--now"}  # somebody else's, in examples
    known |= options_of(help_of(command))
    known |= {option for name in subcommands_of(command) for option in options_of(help_of(command, name))}
    text = source(unpacked, COMMANDS[command])
    assert {option for option in OPTION.findall(text) if option.startswith("--")} <= known


def test_the_daemons_own_options_are_told(unpacked: Path) -> None:
    """The synopsis has what `python3 -m ballonet_guest_agent` takes."""
    synopsis = source(unpacked, "man8/ballonet-agent.8").partition("ballonet_guest_agent\n")[2].partition(".SH")[0]
    assert set(OPTION.findall(synopsis)) == set(re.findall(r"--\w+", USAGE))


@pytest.mark.parametrize(
    ("page", "keys"),
    [
        ("man5/ballonet-agent.conf.5", list(agent._KEYS)),
        (
            "man5/ballonet-coordinator.toml.5",
            [*host.HOST_KEYS, *host.DEMAND_KEYS, *host.LIBVIRT_KEYS, *host.DEFAULT_KEYS, "qmp", "channel"],
        ),
    ],
)  # fmt: skip
def test_page_has_every_setting(page: str, keys: list[str], unpacked: Path) -> None:
    """Each setting of the code has its paragraph, with explanation, and no other has one."""
    found = re.findall(r"^\.TP\n(\w+) = .+\n([A-Z].+)$", source(unpacked, page), re.MULTILINE)
    assert [key for key, _ in found] == keys


def test_exit_codes_of_the_page_are_the_codes(unpacked: Path) -> None:
    """The pages tell the exit codes that the commands' own constants are."""
    from ballonet_host_coord.cli import FAILED, MISUSED, UNREACHABLE
    from ballonet_host_coord.cli_asking import NO_ROOM
    from ballonet_protocol.conform import cli as conform

    def codes(page: str) -> list[str]:
        return re.findall(r"^\.B (\d+)$", source(unpacked, page).partition(".SH EXIT STATUS")[2], re.MULTILINE)

    assert codes("man8/ballonet.8") == [str(code) for code in (0, FAILED, MISUSED, UNREACHABLE, NO_ROOM)]
    assert codes("man1/ballonet-conform.1") == [
        str(code) for code in (conform.OK, conform.FAILURES, conform.USAGE, conform.UNREACHABLE)
    ]
