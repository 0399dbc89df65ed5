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
from .machine import MachineError
from .real import run_real
from .requirements import RequirementsError
from .simulated import run_simulated
from .table import Screen, ScreenHandler
from .verdict import Verdict


@click.command("demo")
@click.option("--simulated", is_flag=True, help="Simulated guests: nothing but Python needed, under a minute.")
@click.option("--json", "json_path", metavar="FILE", help="Write the verdict there for programs.")
@click.option("-v", "--verbose", is_flag=True, help="Show every command of the coordinator.")
def demo(simulated: bool, json_path: str | None, verbose: bool) -> None:
    """Boot two guests on one budget and watch memory follow the need. Exit code 0 only when all of it holds."""
    screen = Screen()
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[ScreenHandler(screen)])
    verdict = _simulated(screen) if simulated else _real(screen)
    print()
    print(verdict.to_text())
    if json_path:
        Path(json_path).write_text(json.dumps(verdict.to_json(), indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if verdict.holds else 1)


def _real(screen: Screen) -> Verdict:
    try:
        requirements.ensure(requirements.TO_RUN, screen.say)
        image = build_image(screen.say)
    except (RequirementsError, ImageError) as error:
        print(f"no real guests here, so simulated ones: {error}", flush=True)
        return _simulated(screen)
    try:
        return trio.run(run_real, image, screen, strict_exception_groups=True)
    except* MachineError as group:
        _fail(group)
    raise AssertionError("unreachable")


def _simulated(screen: Screen) -> Verdict:
    return trio.run(run_simulated, screen, strict_exception_groups=True)


def _fail(group: BaseExceptionGroup[BaseException]) -> None:
    for error in group.exceptions:
        print(f"the demo failed: {error}", file=sys.stderr, flush=True)
    sys.exit(1)
