"""`python tests/bench/host.py [--json FILE] [--only real[,many]] [--quick]`: what the coordinator costs its host.

README.md beside this file says what each figure means. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import host_many
import host_real
from figures import Findings
from host_many import Load

NAMES = ("real", "many")
BEGAN_S = time.monotonic()


def say(line: str) -> None:
    print(f"[{time.monotonic() - BEGAN_S:4.0f} s] {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="the coordinator's cost")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--agents", type=int, default=500, help="how many at the most (500)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each run is measured (60)")
    parser.add_argument("--port", choices=("qmp", "libvirt"), help="only through this port")
    parser.add_argument("--quick", action="store_true", help="few agents, seconds: does it work at all?")
    parser.add_argument("--profile", action="store_true", help="of the run with the most agents")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else list(NAMES)
    if unknown := set(only) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    ports = (options.port,) if options.port else ("qmp", "libvirt")
    loads = [Load(max(2, options.agents // 10), 10, options.seconds / 3), Load(options.agents, 20, options.seconds)]
    if options.quick:
        loads = [Load(2, 0.5, 1.0), Load(8, 1.0, 3.0, step_every_s=4.0, hold_s=(1.0, 2.0), quiet_s=0.0)]
    if options.profile:
        for port in ports:
            say(f"profile, {loads[-1].count} agents, {port}")
            findings, course = Findings(), host_many.play(loads[-1], port, profile=True)
            host_many.add(findings, "many", course)
            print(f"{findings.table()}\n\n{course.profile}", flush=True)
        return 0
    findings = Findings()
    try:
        if "real" in only:
            host_real.measure(findings, options.quick, say, tuple(reversed(ports)))
        if "many" in only:
            host_many.measure(findings, loads, say, ports)
    finally:
        print(findings.table())
        if options.json:
            value = {
                "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
                "quick": options.quick,
                "seconds": round(time.monotonic() - BEGAN_S, 1),
                "figures": [figure.as_json() for figure in findings.figures],
            }
            options.json.write_text(json.dumps(value, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
