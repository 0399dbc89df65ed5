"""`python tests/bench/run.py [--json FILE] [--only NAME[,NAME]] [--quick]`: measure, print a table, assert nothing.

README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import codec
import decide
import footprint
import host_cost
import imports
import latency
import sample_cost
import steps
import trio
from figures import Findings
from house import NoGuests, find_image, open_house

PURE = {
    codec.NAME: codec.measure,
    decide.NAME: decide.measure,
    host_cost.NAME: host_cost.measure,
    imports.NAME: imports.measure,
    sample_cost.NAME: sample_cost.measure,
}
REAL = {footprint.NAME: footprint.measure, steps.NAME: steps.measure, latency.NAME: latency.measure}
NAMES = (*PURE, *REAL)


def say(line: str) -> None:
    """Progress, so that nobody waits ten minutes before a silent terminal."""
    print(f"[{time.monotonic() - BEGAN_S:4.0f} s] {line}", file=sys.stderr, flush=True)


BEGAN_S = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description="ballonet's benchmarks")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: does it work at all?")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else list(NAMES)
    if unknown := set(only) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")

    findings = Findings()
    accelerator = None
    try:
        for name, measure in PURE.items():
            if name in only:
                say(name)
                measure(findings, options.quick)
        if real := [name for name in REAL if name in only]:
            try:
                accelerator = trio.run(measure_guest, real, findings, options.quick, strict_exception_groups=True)
            except NoGuests as why:
                for name in real:
                    findings.add(name, "everything", "", [], str(why))
    finally:
        # A guest that dies in the eighth minute does not take the first seven with it.
        show(findings, accelerator, options.quick, options.json)
    return 0


def show(findings: Findings, accelerator: str | None, quick: bool, path: Path | None) -> None:
    """The table on stdout, and the same as JSON at `path`."""
    print(findings.table())
    if path:
        value = {
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "accelerator": accelerator},
            "quick": quick,
            "seconds": round(time.monotonic() - BEGAN_S, 1),
            "figures": [figure.as_json() for figure in findings.figures],
        }
        path.write_text(json.dumps(value, indent=1) + "\n")


async def measure_guest(names: list[str], findings: Findings, quick: bool) -> str:
    """Everything that needs a guest, in one of them. The accelerator's name. Raises NoGuests."""
    image, accelerator = find_image()
    name = accelerator.partition(",")[0]
    say(f"a real guest boots, accelerator {name}")
    async with open_house(image, accelerator, findings, quick, say) as house:
        say("it is up")
        for bench in names:
            say(bench)
            await REAL[bench](house)
    return name


if __name__ == "__main__":
    sys.exit(main())
