"""`python tests/fuzz/run.py [--seconds N]`: fuzz both targets, half the time each; `run.py frames FILE...` replays.

The parent starts one child per target and survives whatever becomes of it. A child that finds something leaves the
input in .fuzz/findings/ and ends with the traceback; the parent's closing lines count it and its exit code says so.
Inputs that reached new code stay in .fuzz/, and the next run begins with them. README.md beside this file says more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_BEHIND = ROOT / ".fuzz"
FINDINGS = LEFT_BEHIND / "findings"
CORPUS = Path(__file__).parent / "corpus"
ENGINE = Path(__file__).parent / "engine.py"
TARGETS = ("frames", "sessions")
LONGEST = {"frames": 4100, "sessions": 1000}  # bytes of an input: a whole frame; some 300 steps
HANG_S = 10  # for a whole input, by the wall clock: libFuzzer ends the run
WARM_UP_SHARE = 0.1
NO_ENGINE = 2


def main() -> int:
    """Returns 0, 1 when something was found, 2 when there is no fuzzer."""
    parser = argparse.ArgumentParser(description="fuzz the wire")
    parser.add_argument("--seconds", type=float, default=60, help="for both targets together")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="replay FILEs on this target instead")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.target is not None:
        return replay(options.target, options.files)
    if importlib.util.find_spec("atheris") is None:
        print("no fuzzer here: `make fuzz` installs atheris", file=sys.stderr)
        return NO_ENGINE
    found = [fuzz(target, options.seconds / len(TARGETS)) for target in TARGETS]
    return 1 if any(found) else 0


def replay(target: str, files: list[Path]) -> int:
    """Runs single inputs without the fuzzer, so that a debugger can follow. A finding raises."""
    from watch import Watch

    module = importlib.import_module(f"fuzz_{target}")
    watch = Watch(module.one_input, warm_up_s=0)
    for path in files:
        watch.run(path.read_bytes())
    print(closing_line(target, watch.figures(), crashes=0))
    return 0


def fuzz(target: str, seconds: float) -> bool:
    """Runs one target in a child and prints its closing line. True when something was found."""
    grown = LEFT_BEHIND / target
    for folder in (grown, FINDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    figures_path = LEFT_BEHIND / f"{target}.json"
    figures_path.unlink(missing_ok=True)
    began_s = time.monotonic()
    log_path = LEFT_BEHIND / f"{target}.log"
    with log_path.open("w") as log:
        done = subprocess.run(
            [sys.executable, ENGINE, target, str(seconds), grown, CORPUS / target],
            cwd=ROOT, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    figures = json.loads(figures_path.read_text()) if figures_path.exists() else {}
    found = done.returncode != 0
    if found:
        lines = log_path.read_text(errors="replace").splitlines()
        print("\n".join(lines[-40:]))
        print(f"{target}: exit code {done.returncode}; the input is in {FINDINGS.relative_to(ROOT)}/")
    print(closing_line(target, figures, crashes=int(found)), f"in {time.monotonic() - began_s:.0f} s", flush=True)
    return found


def closing_line(target: str, figures: dict[str, float], crashes: int) -> str:
    """What a run of one target comes to."""
    return (
        f"{target:8}  executions {figures.get('executions', 0):>9}  crashes {crashes}"
        f"  slowest 4 KiB {figures.get('slowest_ms', 0):.2f} ms"
        f"  memory growth {figures.get('growth_kib', 0):.0f} KiB"
        f"  most for one input {figures.get('most_for_one_input_kib', 0):.0f} KiB"
    )


if __name__ == "__main__":
    sys.exit(main())
