"""`python -m tests.matrix.run [--json FILE] [--only NAME[,NAME]] [--every] [-- PYTEST'S WORDS]`: the matrix.

README.md beside this file says what it is.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from .combinations import USUAL, Combination, NotRun, Outcome, as_json, every_combination, exit_code, table, tools_of
from .environments import CACHE, ROOT, CannotRun, build_wheels, environment, find, run_tests


def try_one(
    combination: Combination, tools: tuple[str, ...], wheels: list[Path], words: list[str]
) -> Outcome | NotRun:
    """Find the interpreter, make the environment, run the tests; or say what could not be done."""
    try:
        interpreter = find(combination.python)
        folder = environment(combination, interpreter, tools, wheels)
    except CannotRun as why:
        outcome: Outcome | NotRun = NotRun(combination.name, str(why))
        print(f"{combination.name}: not run", file=sys.stderr, flush=True)
        return outcome
    outcome = run_tests(combination, interpreter, folder, words)
    said = f"{outcome.passed} passed, {outcome.skipped} skipped, {outcome.failed} failed"
    print(f"{combination.name}: Python {outcome.python}: {said}", file=sys.stderr, flush=True)
    if outcome.failed:
        print("".join((folder / "pytest.log").read_text().splitlines(keepends=True)[-60:]), file=sys.stderr, flush=True)
    return outcome


def main(arguments: list[str] | None = None) -> int:
    every = every_combination()
    parser = argparse.ArgumentParser(prog="python -m tests.matrix.run", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was found there, too")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(one.name for one in every)}")
    parser.add_argument("--every", action="store_true", help="every Python with every distribution's libraries")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="so many at a time")
    parser.add_argument("words", nargs="*", metavar="WORD", help="for pytest, behind --")
    options = parser.parse_args(arguments)
    combinations = every if options.every else USUAL
    if options.only:
        names = options.only.split(",")
        if unknown := set(names) - {one.name for one in every}:
            parser.error(f"no combination {', '.join(sorted(unknown))}; there are {', '.join(o.name for o in every)}")
        combinations = tuple(one for one in every if one.name in names)

    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs would change the same environments
        tools, wheels = tools_of((ROOT / "requirements-dev.txt").read_text()), build_wheels()
        one = partial(try_one, tools=tools, wheels=wheels, words=options.words)
        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            found = list(pool.map(one, combinations))
    outcomes = [one for one in found if isinstance(one, Outcome)]
    not_run = [one for one in found if isinstance(one, NotRun)]
    print(table(outcomes, not_run))
    if options.json:
        options.json.write_text(json.dumps(as_json(outcomes, not_run), indent=2) + "\n")
    return exit_code(outcomes, not_run, os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main())
