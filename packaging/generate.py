"""Writes what a package has besides the code: `generate.py FOLDER` makes FOLDER/man/* and FOLDER/completions/SHELL/*.

The three distributions must be importable; a package's build says where with PYTHONPATH.
"""

from __future__ import annotations

import sys
from pathlib import Path

import completions
import manpages
from commands import all_commands


def generate(folder: Path) -> None:
    """Write every page and completion below `folder`."""
    commands = all_commands()
    texts = {f"man/{name}": text for name, text in manpages.pages(commands).items()}
    for program, command in commands.items():
        for shell in completions.SHELLS:
            file = "completions/" + completions.FILES[shell].format(program)
            clickless = program == "ballonet-conform"
            texts[file] = completions.static(command, shell) if clickless else completions.from_click(program, shell)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
