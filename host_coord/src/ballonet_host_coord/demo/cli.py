"""`ballonet demo`: the main job before your eyes, with real guests where QEMU can be had."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click
import trio

from . import requirements
from .image import ImageError, build_image
from .lines import PeerGone
from .machine import MachineError
from .real import run_real
from .requirements import RequirementsError
from .simulated import run_simulated
from .table import Screen, ScreenHandler
from .verdict import Verdict

# What can go wrong without a bug of ours: a sentence is enough. Anything else comes with its traceback.
FAILURES = (RequirementsError, ImageError, MachineError, PeerGone, trio.TooSlowError, OSError, KeyboardInterrupt)


@click.command("demo")
@click.option("--simulated", is_flag=True, help="Simulated guests: nothing but Python needed, under a minute.")
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the verdict there for programs; without a verdict there is no file.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show every command of the coordinator.")
def demo(simulated: bool, json_path: Path | None, verbose: bool) -> None:
    """Boot two guests on one budget and watch memory follow the need. Exit code 0 only when all of it holds."""
    if json_path is not None:
        _clear(json_path)
    screen = Screen()
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[ScreenHandler(screen)])
    verdict: Verdict | None = None
    reasons: list[str] = []
    try:
        verdict = _simulated(screen) if simulated else _real(screen)
    except* FAILURES as group:
        reasons = _reasons(group)
    if verdict is None:
        print(*(f"the demo failed: {reason}" for reason in reasons), sep="\n", file=sys.stderr, flush=True)
        sys.exit(1)
    print()
    print(verdict.to_text())
    if json_path is not None:
        json_path.write_text(json.dumps(verdict.to_json(), indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if verdict.holds else 1)


def _real(screen: Screen) -> Verdict:
    """Real guests; simulated ones where QEMU cannot be had, which is known, and said, before anything else is."""
    held_back: list[str] = []

    def hold_back(text: str) -> None:
        held_back.append(text)
        if screen.live:
            screen.show(f"{text} ...")

    try:
        requirements.ensure(requirements.TO_RUN, hold_back)
    except RequirementsError as error:
        screen.show("")
        screen.say(f"simulated guests, because real ones cannot be had here: {error}")
        return _simulated(screen)
    screen.show("")
    for text in held_back:
        screen.say(text)
    image = build_image(screen.say)
    return trio.run(run_real, image, screen, strict_exception_groups=True)


def _simulated(screen: Screen) -> Verdict:
    return trio.run(run_simulated, screen, strict_exception_groups=True)


def _clear(path: Path) -> None:
    """Nobody may take the last run's verdict for this one's."""
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint="--json")
    if path.is_file():
        path.unlink()


def _reasons(error: BaseException) -> list[str]:
    """A text for each error in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    return [str(error) or type(error).__name__]
