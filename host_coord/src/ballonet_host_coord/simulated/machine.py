"""A machine that is only arithmetic: a guest kernel with a balloon, a workload that touches memory, a QEMU around it.

Nothing happens by itself: `advance(now)` brings the state up to `now` in steps of at most `STEP_S`. Figures with a
mark (m) were measured with a Debian 12 guest under TCG, so that a time in the simulation means something.

What it shows beyond arithmetic, because real machines do:

* the balloon device goes on telling the last boot's size after a reset, until this boot's driver has probed;
* memory that was touched stays resident on the host until a balloon takes it;
* with deflate-on-oom a workload in need takes memory back by itself, slowly, and the device's `actual` follows;
* an inflation stops where the guest has nothing left to give.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ballonet_host_coord.model import BalloonStatistics, Migration, RunState, VmFacts

STEP_S = 0.05
MIB = 1024
PAGE_KIB = 4

BOOT_S = 20.0
"""From power-on to the balloon driver's probe (m)."""
BOOT_RESIDENT_KIB = 340 * MIB
"""Touched by a boot: firmware, kernel, initrd, first services (m)."""
KERNEL_SHARE = 1 / 24
"""RAM that the kernel keeps before /proc/meminfo counts: page structs, text, crash reserve (m: 1024 -> 979 MiB)."""
IDLE_KIB = 96 * MIB
"""What an idle Debian with systemd cannot give back (m: 91 to 119 MiB)."""
CACHE_KIB = 120 * MIB
LEFT_FREE_KIB = 24 * MIB
"""Watermarks: a guest with this little left stalls instead of handing out more."""
INFLATE_KIB_PER_S = 300 * MIB
"""1024 -> 400 MiB took 2.0 s (m)."""
DEFLATE_KIB_PER_S = 1500 * MIB
"""400 -> 1024 MiB took 0.4 s (m)."""
TOUCH_KIB_PER_S = 600 * MIB
SELF_DEFLATE_KIB_PER_S = 64 * MIB
"""deflate-on-oom gives 1 MiB per call of the OOM notifier: a last net, not a control loop."""
SELF_DEFLATE_AFTER_S = 0.5
PRESS_EVERY_S = 0.5
"""One PSI event per window."""

GUEST_STATE = (
    "character", "target_kib", "device_actual_kib", "_boot_began_s", "_balloon_kib", "_inflated_pages",
    "_deflated_pages", "_took_back", "_wanted_kib", "_touched_kib", "_stall_us", "_stalled_since_s", "_pressed_s",
    "_resident_kib", "oom_kills", "deepest_shortage_kib",
)  # fmt: skip
"""What a machine is, beside the process that it runs in."""

_pids = itertools.count(1)


@dataclass
class Character:
    """How a machine differs from the ideal one."""

    boot_s: float = BOOT_S
    deflate_on_oom: bool = True
    stuck: bool = False
    """The balloon driver takes no notice of targets (unbound, crashed, absent)."""
    hidden_floor_kib: int = 0
    """The balloon stops there without a word."""
    has_agent: bool = True
    has_statistics: bool = True


class SimulatedMachine:
    """One machine. Sizes in KiB, times on the caller's clock."""

    def __init__(self, name: str, ram_kib: int, now_s: float, character: Character | None = None) -> None:
        self.name = name
        self.qemu_pid = next(_pids)
        self.ram_kib = ram_kib
        self.character = character or Character()
        self.run_state = RunState.PRELAUNCH
        self.migration = Migration.NONE
        self.boot = 1
        self.ended = False
        self.target_kib = ram_kib
        self.device_actual_kib = ram_kib
        self.on_press: Callable[[], None] | None = None
        """Called as a PSI trigger would be."""
        self._now_s = now_s
        self._boot_began_s = now_s
        self._arrived_s = now_s
        self._resident_kib = 0.0
        self._statistics_s = float("-inf")
        self._statistics_count = 0
        self._begin_boot()

    def _begin_boot(self) -> None:
        self._boot_began_s = self._now_s
        self._balloon_kib = 0.0
        self._inflated_pages = self._deflated_pages = 0
        self._took_back = False
        self._wanted_kib = 0
        self._touched_kib = 0.0
        self._stall_us = 0.0
        self._stalled_since_s: float | None = None
        self._pressed_s = float("-inf")
        self._statistics_count = 0
        self._statistics_s = float("-inf")
        self.oom_kills = 0
        self.deepest_shortage_kib = 0

    # --- acts --------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.run_state is RunState.PRELAUNCH:
            self.run_state = RunState.RUNNING
            self._begin_boot()

    def reset(self, now_s: float) -> None:
        """The guest reboots behind an open monitor: full RAM again, and a device that does not know it yet."""
        self.advance(now_s)
        self.boot += 1
        self.migration = Migration.NONE
        self._begin_boot()

    def work(self, wanted_kib: int, now_s: float) -> None:
        """The workload wants to hold this much from now on."""
        self.advance(now_s)
        self._wanted_kib = wanted_kib
        self._touched_kib = min(self._touched_kib, float(wanted_kib))

    def set_target(self, target_kib: int, now_s: float) -> None:
        self.advance(now_s)
        self.target_kib = min(target_kib, self.ram_kib)
        self._took_back = False

    def await_migration(self) -> None:
        """A process with `-incoming`: it has all its RAM, none of it touched, until another machine arrives."""
        self.run_state, self.migration = RunState.MIGRATING, Migration.INCOMING

    def begin_to_leave(self, now_s: float) -> None:
        """It is copied from now on; the guest lives on here meanwhile."""
        self.advance(now_s)
        self.run_state, self.migration = RunState.MIGRATING, Migration.OUTGOING

    def stay(self, now_s: float) -> None:
        """The migration was cancelled or has failed."""
        self.advance(now_s)
        self.run_state, self.migration = RunState.RUNNING, Migration.NONE

    def arrive_from(self, source: SimulatedMachine, now_s: float) -> None:
        """What waits here goes on as the guest that `source` had: its balloon, its memory and the device's words travel
        (m). `source` stands still, and holds its memory, until its process ends."""
        source.advance(now_s)
        self.advance(now_s)
        for name in GUEST_STATE:
            setattr(self, name, getattr(source, name))
        self.boot += 1
        self._statistics_count = 0
        self.run_state, self.migration = RunState.RUNNING, Migration.ARRIVED
        source.migration = Migration.LEFT
        self._arrived_s = now_s

    # --- time --------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> None:
        """Live up to `now_s`."""
        while self._now_s < now_s:
            step_s = min(STEP_S, now_s - self._now_s)
            self._now_s += step_s
            if self.is_running:
                self._live(step_s)
        self._now_s = max(self._now_s, now_s)

    def _live(self, step_s: float) -> None:
        up = self.is_up
        if up:
            self._move_balloon(step_s)
            self._touch(step_s)
            self.device_actual_kib = self.size_kib
            if self.character.has_statistics and self._now_s - self._statistics_s >= 1.0:
                self._statistics_s = self._now_s
                self._statistics_count += 1
        boot_kib = BOOT_RESIDENT_KIB * min(1.0, (self._now_s - self._boot_began_s) / self.character.boot_s)
        used_kib = max(IDLE_KIB + CACHE_KIB + self._touched_kib, boot_kib)
        self._resident_kib = min(max(self._resident_kib, used_kib), float(self.size_kib))

    def _move_balloon(self, step_s: float) -> None:
        if self.character.stuck:
            return
        away_kib = self.ram_kib - max(self.target_kib, self.character.hidden_floor_kib) - self._balloon_kib
        if away_kib < 0:
            self._shift(max(away_kib, -DEFLATE_KIB_PER_S * step_s))
        elif away_kib > 0 and not self._took_back:
            room_kib = max(0.0, self.free_kib + self._cache_kib - LEFT_FREE_KIB)
            self._shift(min(away_kib, INFLATE_KIB_PER_S * step_s, room_kib))

    def _touch(self, step_s: float) -> None:
        missing_kib = self._wanted_kib - self._touched_kib
        room_kib = max(0.0, self.size_kib - self._kernel_kib - IDLE_KIB - LEFT_FREE_KIB - self._touched_kib)
        self._touched_kib += max(0.0, min(missing_kib, TOUCH_KIB_PER_S * step_s, room_kib))
        short_kib = int(self._wanted_kib - self._touched_kib)
        if short_kib <= 0 or room_kib > TOUCH_KIB_PER_S * step_s:
            self._stalled_since_s = None
            return
        self.deepest_shortage_kib = max(self.deepest_shortage_kib, short_kib)
        self._stall_us += step_s * 1_000_000
        if self._stalled_since_s is None:
            self._stalled_since_s = self._now_s
        if self._now_s - self._pressed_s >= PRESS_EVERY_S:
            self._pressed_s = self._now_s
            if self.on_press is not None:
                self.on_press()
        if self.character.deflate_on_oom and self._now_s - self._stalled_since_s >= SELF_DEFLATE_AFTER_S:
            self._took_back = True  # the driver does not inflate this again before it hears of a target (m)
            self._shift(-min(self._balloon_kib, SELF_DEFLATE_KIB_PER_S * step_s))

    def _shift(self, inflate_kib: float) -> None:
        before_pages = int(self._balloon_kib) // PAGE_KIB
        self._balloon_kib = max(0.0, self._balloon_kib + inflate_kib)
        pages = int(self._balloon_kib) // PAGE_KIB - before_pages
        if pages > 0:
            self._inflated_pages += pages
        else:
            self._deflated_pages -= pages

    # --- views -------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """This boot's driver and agent are there."""
        return self.is_running and self._now_s - self._boot_began_s >= self.character.boot_s

    @property
    def is_running(self) -> bool:
        return self.run_state is RunState.RUNNING or self.migration is Migration.OUTGOING

    @property
    def size_kib(self) -> int:
        """What the guest has in truth."""
        return self.ram_kib - int(self._balloon_kib)

    @property
    def resident_kib(self) -> int:
        return int(self._resident_kib)

    @property
    def touched_kib(self) -> int:
        return int(self._touched_kib)

    @property
    def wanted_kib(self) -> int:
        return self._wanted_kib

    @property
    def stall_us(self) -> int:
        return int(self._stall_us)

    @property
    def uptime_s(self) -> float:
        return self._now_s - self._boot_began_s

    @property
    def _kernel_kib(self) -> int:
        return int(self.ram_kib * KERNEL_SHARE)

    @property
    def _cache_kib(self) -> float:
        room_kib = self.size_kib - self._kernel_kib - IDLE_KIB - self._touched_kib - LEFT_FREE_KIB
        return max(0.0, min(float(CACHE_KIB), room_kib))

    @property
    def free_kib(self) -> float:
        used_kib = self._kernel_kib + IDLE_KIB + self._touched_kib + self._cache_kib
        return max(0.0, self.size_kib - used_kib)

    def facts(self, now_s: float) -> VmFacts:
        """What its QEMU would answer."""
        self.advance(now_s)
        statistics = None
        if self._statistics_count:
            statistics = BalloonStatistics(
                arrived_s=self._statistics_s,
                total_kib=self._total_kib,
                free_kib=int(self.free_kib),
                available_kib=int(self._available_kib),
                caches_kib=int(self._cache_kib),
            )
        return VmFacts(
            run_state=self.run_state,
            ram_kib=self.ram_kib,
            actual_kib=self.device_actual_kib,
            boot=self.boot,
            boot_began_s=max(self._boot_began_s, self._arrived_s),
            deflate_on_oom=self.character.deflate_on_oom,
            statistics=statistics,
            statistics_count=self._statistics_count,
            qemu_pid=self.qemu_pid,
            read_s=now_s,
            migration=self.migration,
        )

    @property
    def _total_kib(self) -> int:
        total_kib = self.ram_kib - self._kernel_kib
        return total_kib if self.character.deflate_on_oom else total_kib - int(self._balloon_kib)

    @property
    def _available_kib(self) -> float:
        return max(0.0, self.free_kib - LEFT_FREE_KIB) + self._cache_kib * 0.9

    def proc_texts(self) -> tuple[str, str, str]:
        """/proc/meminfo, /proc/vmstat and /proc/pressure/memory of the guest, in the kernel's form."""
        committed_kib = int(IDLE_KIB * 1.3) + self._wanted_kib
        meminfo = "".join(
            f"{name}:{value:>15} kB\n"
            for name, value in (
                ("MemTotal", self._total_kib),
                ("MemFree", int(self.free_kib)),
                ("MemAvailable", int(self._available_kib)),
                ("Active(file)", int(self._cache_kib / 2)),
                ("Inactive(file)", int(self._cache_kib / 2)),
                ("SwapTotal", 0),
                ("SwapFree", 0),
                ("AnonPages", self.touched_kib),
                ("Shmem", 0),
                ("SUnreclaim", 12 * MIB),
                ("CommitLimit", self._total_kib // 2),
                ("Committed_AS", committed_kib),
            )
        )
        vmstat = "".join(
            f"{name} {value}\n"
            for name, value in (
                ("pgfault", self.touched_kib // PAGE_KIB),
                ("pgmajfault", 0),
                ("workingset_refault_anon", 0),
                ("workingset_refault_file", 0),
                ("pswpin", 0),
                ("pswpout", 0),
                ("pgscan_direct", 0),
                ("allocstall_normal", self.stall_us // 100_000),
                ("oom_kill", self.oom_kills),
                ("balloon_inflate", self._inflated_pages),
                ("balloon_deflate", self._deflated_pages),
            )
        )
        stalls = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={self.stall_us}\n"
        return meminfo, vmstat, stalls + f"full avg10=0.00 avg60=0.00 avg300=0.00 total={self.stall_us // 2}\n"
