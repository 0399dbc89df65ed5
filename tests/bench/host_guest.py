"""One guest of the host's benchmark: a machine that is arithmetic, and an agent that speaks the whole protocol.

Five hundred of the real agent's cores would want more than this machine has, so this one is light: it keeps the real
one's rhythm (a REPORT each period while quiet, four a second while it moves or waits), asks when its workload waits for
memory, agrees to every move, and stops one that hurts. The balloon has the speeds that were measured
(`simulated/machine.py`).
"""

from __future__ import annotations

from ballonet_host_coord.simulated.machine import (
    CACHE_KIB,
    DEFLATE_KIB_PER_S,
    IDLE_KIB,
    INFLATE_KIB_PER_S,
    LEFT_FREE_KIB,
    MIB,
    TOUCH_KIB_PER_S,
)
from ballonet_protocol import (
    AGENT,
    AckStatus,
    AckWhy,
    BalloonAck,
    Bye,
    Connection,
    Deflate,
    Demand,
    DemandWhy,
    Hello,
    HelloAck,
    Inflate,
    Limits,
    MemoryReport,
    Message,
    MoveStatus,
    Ping,
    Pong,
    PsiReport,
    Report,
    Severity,
    VmReport,
)
from ballonet_protocol.limits import REPORT_LEAST_MS

KIB = 1024
KERNEL_KIB = 43 * MIB
SYSTEM_KIB = IDLE_KIB + KERNEL_KIB
UP_S = 3600.0
"""How long it has been up: nothing in it settles any more."""
CLOSEST_S = REPORT_LEAST_MS / 1000
STALL_AGAIN_S = 0.5
"""A PSI trigger fires once per window."""
WANT_PERCENT = 125
SIGNIFICANT_PART = 50


class Machine:
    """Sizes in KiB on the hypervisor's scale. Every method brings it up to `now_s` first."""

    def __init__(self, ram_kib: int, size_kib: int, wanted_kib: int, now_s: float) -> None:
        self.ram_kib = ram_kib
        self.size_kib = self.target_kib = size_kib
        self.touched_kib = self.wanted_kib = wanted_kib
        self.resident_kib = SYSTEM_KIB + wanted_kib
        self.stalled_s = 0.0
        self._now_s = now_s

    def advance(self, now_s: float) -> None:
        passed_s, self._now_s = now_s - self._now_s, now_s
        if passed_s <= 0:
            return
        if self.size_kib < self.target_kib:
            self.size_kib = min(self.target_kib, self.size_kib + int(DEFLATE_KIB_PER_S * passed_s))
        elif self.size_kib > self.target_kib:
            least_kib = max(self.target_kib, self.size_kib - int(INFLATE_KIB_PER_S * passed_s))
            self.size_kib = max(least_kib, min(self.size_kib, self.used_kib + LEFT_FREE_KIB))
        room_kib = max(0, self.size_kib - self.used_kib - LEFT_FREE_KIB)
        missing_kib = self.wanted_kib - self.touched_kib
        self.touched_kib += min(missing_kib, int(TOUCH_KIB_PER_S * passed_s), room_kib)
        if self.waits:
            self.stalled_s += passed_s
        self.resident_kib = min(max(self.resident_kib, self.used_kib + self.cache_kib), self.size_kib)

    def work(self, wanted_kib: int, now_s: float) -> None:
        self.advance(now_s)
        self.wanted_kib = wanted_kib
        self.touched_kib = min(self.touched_kib, wanted_kib)

    def set_target(self, target_kib: int, now_s: float) -> None:
        self.advance(now_s)
        self.target_kib = min(target_kib, self.ram_kib)

    @property
    def used_kib(self) -> int:
        return SYSTEM_KIB + self.touched_kib

    @property
    def cache_kib(self) -> int:
        return max(0, min(CACHE_KIB, self.size_kib - self.used_kib - LEFT_FREE_KIB))

    @property
    def free_kib(self) -> int:
        return max(0, self.size_kib - self.used_kib - self.cache_kib)

    @property
    def available_kib(self) -> int:
        return max(0, self.free_kib - LEFT_FREE_KIB) + self.cache_kib * 9 // 10

    @property
    def moves(self) -> bool:
        return self.size_kib != self.target_kib

    @property
    def waits(self) -> bool:
        """Its workload wants memory that is not there."""
        return self.touched_kib < self.wanted_kib and self.size_kib - self.used_kib <= LEFT_FREE_KIB

    @property
    def busy(self) -> bool:
        return self.moves or self.touched_kib < self.wanted_kib


class LightAgent:
    """Bytes, `now` and the machine in; frames out. What it has written since `frames` was taken waits there."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.frames: list[tuple[bytes, bool]] = []
        """Each with whether it is a DEMAND."""
        self._boot_id = number.to_bytes(16, "big")
        self._connection = Connection(AGENT)
        self._live = False
        self._period_s = 1.0
        self._reported_s = self._demanded_s = float("-inf")
        self._reported = (0, 0)
        self._gen = 0
        self._inflating = False

    def connected(self) -> None:
        self._connection = Connection(AGENT)
        self._live = False

    def received(self, data: bytes, now_s: float) -> None:
        self._connection.receive_data(data)
        while (message := self._connection.next_message()) is not None:
            self._take(message, now_s)

    def live(self, now_s: float) -> float:
        """Say what is due. Seconds until the next that is."""
        if not self._live:
            return 60.0
        machine = self.machine
        if machine.waits and now_s >= self._demanded_s + STALL_AGAIN_S:
            self._demand(now_s)
        stirred = machine.busy or self._changed()
        period_s = CLOSEST_S if stirred else self._period_s
        if now_s >= self._reported_s + period_s:
            self._report(now_s)
        return max(0.0, self._reported_s + self._period_s - now_s)

    def _changed(self) -> bool:
        enough_kib = self.machine.ram_kib // SIGNIFICANT_PART
        available_kib, size_kib = self._reported
        machine = self.machine
        return abs(machine.available_kib - available_kib) > enough_kib or abs(machine.size_kib - size_kib) > enough_kib

    def _take(self, message: Message, now_s: float) -> None:
        if isinstance(message, Hello):
            if message.limits is not None and message.limits.report_ms:
                self._period_s = message.limits.report_ms / 1000
            acknowledgement = HelloAck(
                re=message.seq, nonce=message.nonce, major=1, minor=0, capabilities=message.capabilities,
                implementation="bench", implementation_version="1", boot_id=self._boot_id,
                boottime_ms=_milliseconds(now_s), page_bytes=4096, total_bytes=self._total_kib * KIB,
                floor_bytes=SYSTEM_KIB * KIB, limits=Limits(), gen=0, status=MoveStatus.REACHED,
            )  # fmt: skip
            self._say(acknowledgement)
            self._live = True
            self._gen, self._inflating = 0, False
            self._report(now_s)
        elif isinstance(message, Inflate | Deflate):
            self._gen = message.gen
            self._inflating = isinstance(message, Inflate)
            acknowledgement = BalloonAck(
                re=message.seq, gen=message.gen, status=AckStatus.ACCEPTED, effective_bytes=message.target_bytes,
                why=AckWhy.NONE,
            )  # fmt: skip
            self._say(acknowledgement)
            self._report(now_s)
        elif isinstance(message, Bye):
            self._live = False
        elif isinstance(message, Ping):
            self._say(Pong(re=message.seq, token=message.token))

    def _demand(self, now_s: float) -> None:
        """Names the INFLATE that is under way, and stops it."""
        blamed = self._gen if self._inflating and self.machine.moves else None
        self._inflating = False
        self._demanded_s = now_s
        want_kib = min(self.machine.ram_kib, self.machine.used_kib * WANT_PERCENT // 100)
        demand = Demand(
            boottime_ms=_milliseconds(now_s), want_bytes=max(want_kib, self.machine.size_kib) * KIB, why=DemandWhy.PSI,
            severity=Severity.SHORT, gen=blamed,
        )  # fmt: skip
        self._say(demand)

    def _report(self, now_s: float) -> None:
        machine = self.machine
        self._reported_s = now_s
        self._reported = (machine.available_kib, machine.size_kib)
        stalled_us = int(machine.stalled_s * 1_000_000)
        memory = MemoryReport(
            total_bytes=self._total_kib * KIB, free_bytes=machine.free_kib * KIB,
            available_bytes=machine.available_kib * KIB, committed_bytes=(IDLE_KIB * 5 // 4 + machine.wanted_kib) * KIB,
            commit_limit_bytes=self._total_kib * KIB // 2, anon_bytes=machine.touched_kib * KIB,
            file_bytes=machine.cache_kib * KIB, shmem_bytes=0, slab_unreclaimable_bytes=12 << 20, swap_total_bytes=0,
            swap_free_bytes=0, balloon_bytes=(machine.ram_kib - machine.size_kib) * KIB,
        )  # fmt: skip
        psi = PsiReport(
            some_avg10_permyriad=0, full_avg10_permyriad=0, some_us=stalled_us, full_us=stalled_us // 2
        )
        counters = VmReport(
            page_faults=machine.touched_kib // 4, major_faults=0, refaults_anon=0, refaults_file=0, swap_in_pages=0,
            swap_out_pages=0, direct_scan_pages=0, alloc_stalls=stalled_us // 100_000, oom_kills=0,
        )  # fmt: skip
        status = MoveStatus.WORKING if machine.moves else MoveStatus.REACHED
        report = Report(
            boottime_ms=_milliseconds(now_s), memory=memory, psi=psi, vm=counters, floor_bytes=SYSTEM_KIB * KIB,
            gen=self._gen, status=status,
        )  # fmt: skip
        self._say(report)

    @property
    def _total_kib(self) -> int:
        """Its kernel's scale."""
        return self.machine.ram_kib - KERNEL_KIB

    def _say(self, message: Message) -> None:
        self.frames.append((self._connection.send(message), isinstance(message, Demand)))


def _milliseconds(now_s: float) -> int:
    return int((now_s + UP_S) * 1000)
