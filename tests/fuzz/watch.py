"""What a target costs: the slowest input, the memory that one input needs, the memory that stays.

Time is CPU time of the thread, because a busy machine's clock measures the others; an input over the limit is run twice
more and its best time counts, because an interrupt is still charged to somebody.

Memory that stays is counted from the end of a warm-up, in which the interpreter fills its caches, and the greater of
two figures. All inputs together: the small blocks in use (an object has at least one), each taken for 512 bytes, their
upper limit. Each sixteenth input: what tracemalloc says it left behind, summed up, large blocks included. Tracing all
of them would make the fuzzer three times slower; the size of the process shows libFuzzer's own tables, which grow all
the time.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

SLOWEST_MS = 50.0  # for 4 KiB: an agent's answer to stalled memory has 100 ms in all
MOST_GROWTH_KIB = 1024
MOST_FOR_ONE_INPUT_KIB = 1024
SMALL_BLOCK_KIB = 0.5  # pymalloc's largest
NOTHING_BYTES = 1024  # a traced run's own numbers, some 140 bytes; small leaks are seen among the small blocks
TRACED_EACH = 16  # inputs
LOOKS_EVERY_S = 2.0

Target = Callable[[bytes], float]


class Watch:
    """Runs a target's inputs and keeps the figures. `figures_path` is rewritten every two seconds and at the end."""

    def __init__(
        self,
        target: Target,
        warm_up_s: float,
        figures_path: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executions = 0
        self.slowest_ms = 0.0
        self.growth_kib = 0.0
        self.most_for_one_input_kib = 0.0
        self._target = target
        self._figures_path = figures_path
        self._clock = clock
        self._warm_at_s = clock() + warm_up_s
        self._look_at_s = clock() + LOOKS_EVERY_S
        self._base_blocks: int | None = None
        self._left_behind_kib = 0.0

    def run(self, data: bytes) -> None:
        """One input. Raises AssertionError for a finding, and lets the target's exceptions pass."""
        self.executions += 1
        traced = self.executions % TRACED_EACH == 0
        slowest_ms = 1000 * (self._run_traced(data) if traced else self._target(data))
        if slowest_ms > SLOWEST_MS:
            slowest_ms = min(slowest_ms, *(1000 * self._target(data) for _ in range(2)))
        self.slowest_ms = max(self.slowest_ms, slowest_ms)
        assert slowest_ms <= SLOWEST_MS, f"4 KiB took {slowest_ms:.0f} ms"
        if self._clock() >= self._look_at_s:
            self.look()

    def _run_traced(self, data: bytes) -> float:
        tracemalloc.start()
        try:
            slowest_s = self._target(data)
            _now, peak = tracemalloc.get_traced_memory()
            gc.collect()  # empties the interpreter's free lists too
            left_behind, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if self._base_blocks is not None and left_behind > NOTHING_BYTES:
            self._left_behind_kib += left_behind / 1024
        self.most_for_one_input_kib = max(self.most_for_one_input_kib, peak / 1024)
        assert peak <= MOST_FOR_ONE_INPUT_KIB * 1024, f"one input took {peak // 1024} KiB"
        return slowest_s

    def look(self) -> None:
        """Measures what has stayed, and writes the figures. Raises AssertionError when it is too much."""
        now_s = self._clock()
        self._look_at_s = now_s + LOOKS_EVERY_S
        if now_s >= self._warm_at_s:
            gc.collect()
            blocks = sys.getallocatedblocks()
            if self._base_blocks is None:
                self._base_blocks = blocks
            small_kib = (blocks - self._base_blocks) * SMALL_BLOCK_KIB
            self.growth_kib = max(self.growth_kib, small_kib, self._left_behind_kib)
        self.write_figures()
        assert self.growth_kib <= MOST_GROWTH_KIB, f"memory grew by {self.growth_kib:.0f} KiB"

    def write_figures(self) -> None:
        """Leaves the figures where the parent finds them, also after a crash of this process."""
        if self._figures_path is not None:
            self._figures_path.write_text(json.dumps(self.figures()))

    def figures(self) -> dict[str, float]:
        """The figures so far."""
        return {
            "executions": self.executions,
            "slowest_ms": self.slowest_ms,
            "growth_kib": self.growth_kib,
            "most_for_one_input_kib": self.most_for_one_input_kib,
        }
