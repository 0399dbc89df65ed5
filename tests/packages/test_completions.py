"""The completions in the packages, asked by the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Need

# What a person types before Tab, and what must be offered.
OFFERS = [
    ("ballonet-agent ", {"check", "run", "sample"}),
    ("ballonet-agent check --j", {"--json"}),
    ("ballonet ", {"check", "explain", "record", "release", "resume", "serve", "simulate", "status"}),
    ("ballonet simulate --mix ser", {"servers"}),
    ("ballonet-conform ", {"agent", "coordinator"}),
    ("ballonet-conform agent --st", {"--strict"}),
]
# A shell starts Python for each answer; this ends a shell that hangs.
LONGEST_S = 60.0


@pytest.mark.parametrize(("line", "offers"), OFFERS)
def test_bash(line: str, offers: set[str], environment: dict[str, str], unpacked: Path, need: Need) -> None:
    """bash-completion finds the file by the command's name, and its function offers what there is."""
    need("bash")
    loader = Path("/usr/share/bash-completion/bash_completion")
    if not loader.exists():
        need("bash-completion")
    script = f"""
        source {loader}
        words=($1); [[ $1 == *' ' ]] && words+=('')
        _completion_loader "${{words[0]}}"
        COMP_WORDS=("${{words[@]}}") COMP_CWORD=$(( ${{#words[@]}} - 1 )) COMP_LINE=$1 COMP_POINT=${{#1}}
        function=$(complete -p "${{words[0]}}" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" "${{words[0]}}" "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line], capture_output=True, text=True, check=False,
        env={**environment, "XDG_DATA_DIRS": f"{unpacked}/usr/share", "BASH_COMPLETION_USER_DIR": "/nonexistent"},
    )  # fmt: skip
    assert offers <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(("line", "offers"), OFFERS)
def test_fish(line: str, offers: set[str], environment: dict[str, str], unpacked: Path, need: Need) -> None:
    """fish finds the file by the command's name, and offers what there is."""
    need("fish")
    folder = unpacked / "usr/share/fish/vendor_completions.d"
    script = f"set -p fish_complete_path {folder}; complete --do-complete {line!r}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, check=False,
        env={**environment, "XDG_CONFIG_HOME": str(unpacked), "XDG_DATA_HOME": str(unpacked)},
    )  # fmt: skip
    assert offers <= {row.partition("\t")[0] for row in done.stdout.splitlines()}, done.stderr


class Terminal:
    """A shell at a terminal, asked and heard."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.heard = ""
        self.process, self._fd = pty.fork()
        if self.process == 0:
            os.execvpe(words[0], words, environment)

    def say(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, *patterns: str) -> None:
        """Until each pattern has been heard since the last call; what was heard is forgotten then."""
        end = time.monotonic() + LONGEST_S
        while not all(re.search(pattern, self.heard) for pattern in patterns):
            if not select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
                pytest.fail(f"{patterns} not within {LONGEST_S} s, but {self.heard!r}")
            self.heard += os.read(self._fd, 4096).decode(errors="replace")
        self.heard = ""

    def close(self) -> None:
        os.kill(self.process, 9)
        os.waitpid(self.process, 0)
        os.close(self._fd)


@pytest.mark.parametrize(("line", "offers"), OFFERS)
def test_zsh(line: str, offers: set[str], environment: dict[str, str], unpacked: Path, need: Need) -> None:
    """zsh loads the file by the command's name, and the first Tab already completes or lists what there is."""
    need("zsh")
    terminal = Terminal(["zsh", "-f", "-i"], {**environment, "COLUMNS": "100", "LINES": "40"})
    try:
        folder = unpacked / "usr/share/zsh/vendor-completions"
        terminal.say(f"fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; PS1=; print rea''dy\n")
        terminal.wait_for("ready")
        terminal.say(f"{line}\t")
        terminal.wait_for(*(rf"{re.escape(offer)}(?![\w-])" for offer in offers))
    finally:
        terminal.close()
