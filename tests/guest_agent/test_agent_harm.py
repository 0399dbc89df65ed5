"""agent.py: what is a harm and whose, with /proc as real guests showed it while their balloons grew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet_guest_agent.actions import Instant
from ballonet_guest_agent.want import comfort_kib
from ballonet_protocol import (
    AckStatus,
    AckWhy,
    BalloonAck,
    BalloonStatus,
    Demand,
    DemandWhy,
    Message,
    MoveStatus,
    Severity,
)

MIB = 1024
RECORDED = json.loads((Path(__file__).parent / "fixtures/moves.json").read_text())
MEMINFO = ("MemTotal", "MemFree", "MemAvailable", "AnonPages", "SwapFree", "Unevictable", "SUnreclaim", "Shmem")


def only(messages: list[object], kind: type) -> list:
    return [message for message in messages if isinstance(message, kind)]


class Replay:
    """A recorded guest before an agent. PSI triggers fire as the kernel's would, as far as four looks a second show."""

    def __init__(self, make_stage, name: str, psi: bool = True) -> None:
        self.rows = [dict(zip(RECORDED["columns"], row)) for row in RECORDED[name]]
        self.row = self.rows[0]
        self.psi = psi
        self.stage = make_stage(has_psi_trigger=psi)
        self.stage.guest.texts = self.texts
        self.stage.open()
        self.stage.wait(3)  # an agent that has just come knows of no counter whether it rose
        self.heard: list[Message] = []

    def texts(self) -> tuple[str, str, str | None]:
        row = self.row
        meminfo = "".join(f"{name}: {row[name]} kB\n" for name in MEMINFO)
        meminfo += "Committed_AS: 300000 kB\nSwapTotal: 524284 kB\n"
        vmstat = "".join(f"{name} {count}\n" for name, count in row.items() if name not in MEMINFO)
        psi = None
        if self.psi:
            psi = "".join(f"{kind} avg10=0.00 total={row['psi_' + kind]}\n" for kind in ("some", "full"))
        return meminfo, vmstat, psi

    def play(self, until_s: float = 1e9) -> Iterator[None]:
        """Row by row; what the coordinator hears collects in `heard`."""
        began_s = self.stage.monotonic_s - self.row["t_s"]
        for row in [row for row in self.rows if self.row["t_s"] < row["t_s"] <= until_s]:
            before, self.row = self.row, row
            self.heard += self.stage.wait(began_s + row["t_s"] - self.stage.monotonic_s)
            for kind, stall_us in (("full", 10_000), ("some", 25_000)):
                if self.psi and row["psi_" + kind] - before["psi_" + kind] >= stall_us:
                    self.heard += self.stage.press(kind)
                    break
            yield

    def to_the_end(self) -> list[Message]:
        for _ in self.play():
            pass
        return self.heard


@pytest.mark.parametrize("psi", [True, False])
def test_working_set_that_is_taken_stops_the_move(make_stage, psi: bool) -> None:
    """A file that is read all the time no longer fits: the move is stopped on its way, with memory still available."""
    replay = Replay(make_stage, "loop", psi)
    assert replay.stage.inflate(400 * MIB)[0].status == AckStatus.ACCEPTED
    for _ in replay.play():
        if only(replay.heard, Demand):
            break
    sample = replay.stage.agent.watch.sample
    size_kib = 1024 * MIB - sample.balloon_kib
    assert 400 * MIB + 1 * MIB < size_kib < 512 * MIB
    assert sample.memory.available_kib > 4 * comfort_kib(size_kib)
    (demand,) = only(replay.heard, Demand)
    assert demand.gen == 1
    assert demand.why == (DemandWhy.PSI if psi else DemandWhy.REFAULT)
    assert [status.status for status in only(replay.heard, BalloonStatus)] == [MoveStatus.STALLED]


def test_cache_that_nobody_reads_is_given_up(make_stage) -> None:
    """The balloon grows into idle page cache: PSI shows kswapd's work, a fifth of it `full`, and nobody objects."""
    replay = Replay(make_stage, "idle")
    assert replay.rows[-1]["psi_full"] - replay.rows[0]["psi_full"] > 200_000
    replay.stage.inflate(400 * MIB)
    heard = replay.to_the_end()
    assert only(heard, Demand) == []
    assert [status.status for status in only(heard, BalloonStatus)] == [MoveStatus.REACHED]


def test_file_that_never_fitted_is_no_objection(make_stage) -> None:
    """A guest that streams through more than it has stalls in kswapd all the time; it is made smaller all the same."""
    replay = Replay(make_stage, "stream")
    for _ in replay.play(until_s=1.0):
        pass
    assert only(replay.stage.inflate(640 * MIB), BalloonAck)[0].status == AckStatus.ACCEPTED
    heard = replay.to_the_end()
    assert [demand for demand in only(heard, Demand) if demand.gen is not None] == []
    assert only(heard, BalloonStatus)[-1].status == MoveStatus.REACHED


def test_cgroup_at_its_limit_is_no_short_guest(make_stage) -> None:
    """A cgroup that thrashes at its own limit raises the guest's PSI: no DEMAND, and the guest can be made smaller."""
    replay = Replay(make_stage, "cgroup")
    for _ in replay.play(until_s=3.0):
        pass
    assert replay.row["psi_full"] - replay.rows[0]["psi_full"] > 500_000
    assert only(replay.stage.inflate(720 * MIB), BalloonAck)[0].status == AckStatus.ACCEPTED
    for _ in replay.play(until_s=7.0):
        pass
    assert only(replay.heard, Demand) == []


def test_unknown_counters_count_against_the_move(stage) -> None:
    """A kernel that does not say what reclaims and who waits: each stall is a harm."""
    stage.open()
    stage.inflate(600 * MIB)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [1]


def counted(stage) -> dict[str, int]:
    """A guest whose kernel counts everything that tells stalls apart."""
    counters = stage.guest.counters
    counters.update(pgscan_direct=0, pgscan_kswapd=0, allocstall_normal=0, workingset_restore_file=0)
    return counters


@pytest.mark.parametrize("sign", ["pgscan_direct", "allocstall_normal", "workingset_restore_file", "pswpin"])
def test_any_task_that_waits_stops_a_move(stage, sign: str) -> None:
    """kswapd alone stops nothing; with any sign that a task waited it does, and it refuses the next INFLATE."""
    counters = counted(stage)
    stage.open()
    stage.wait(5)
    stage.inflate(600 * MIB)
    counters["pgscan_kswapd"] += 1000
    assert only(stage.press("full"), Demand) == []
    counters[sign] += 1
    counters["pgscan_kswapd"] += 1000
    stage.wait(0.1)
    assert [demand.gen for demand in only(stage.press("full"), Demand)] == [1]
    assert only(stage.inflate(600 * MIB), BalloonAck)[0].why == AckWhy.PRESSURE


def test_kswapd_alone_is_a_need_where_nothing_moves(stage) -> None:
    """Without an INFLATE it is the guest itself that makes kswapd work: asked at once, before anybody waits."""
    counters = counted(stage)
    stage.open()
    stage.wait(5)
    counters["pgscan_kswapd"] += 1000
    assert [demand.severity for demand in only(stage.press("some"), Demand)] == [Severity.STALLING]


def test_short_guest_is_heard_whatever_the_counters_say(stage) -> None:
    """Below comfort a stall is a harm, though nothing has been scanned."""
    counted(stage)
    stage.open()
    stage.wait(5)
    stage.guest.used_kib = stage.guest.size_kib - stage.guest.reserve_kib - 10 * MIB
    stage.inflate(600 * MIB)
    assert [demand.gen for demand in only(stage.press("some"), Demand)] == [1]


@pytest.mark.parametrize(
    ("counter", "pages", "why"),
    [("workingset_restore_file", 600, DemandWhy.REFAULT), ("pswpin", 100, DemandWhy.SWAP_IN)],
)
def test_counters_stop_a_move_with_memory_available(stage, counter: str, pages: int, why: int) -> None:
    """Working set read back, or swap, while the balloon grows and without any stall: stopped; otherwise no matter."""
    counters = counted(stage)
    stage.open()
    for in_move in (False, True):
        if in_move:
            stage.inflate(600 * MIB)
        heard = []
        for _ in range(8):
            counters[counter] += pages
            counters["pgscan_kswapd"] += 1
            heard += stage.wait(0.25)
        assert [(d.why, d.gen) for d in only(heard, Demand)][:1] == ([(why, 1)] if in_move else [])


@pytest.mark.parametrize("swappable", [True, False])
def test_guest_that_outgrows_what_was_agreed(stage, swappable: bool) -> None:
    """On the way down programs lock up more than the agreed size holds: stopped before anybody is killed."""
    guest = stage.guest
    guest.swap_total_kib = guest.swap_free_kib = 1024 * MIB if swappable else 0
    stage.open()
    stage.inflate(400 * MIB)
    guest.inflate(100 * MIB)
    stage.wait(0.5)
    guest.anon_kib += 300 * MIB
    guest.used_kib += 300 * MIB
    heard = stage.wait(0.5)
    expected = [] if swappable else [(DemandWhy.COMMIT, Severity.SHORT, 1)]
    assert [(demand.why, demand.severity, demand.gen) for demand in only(heard, Demand)] == expected
    assert stage.agent.consent.live == swappable


def test_agreed_size_may_be_missed_by_a_little(stage) -> None:
    """An INFLATE that was clamped to what cannot move is not stopped for the next megabyte."""
    stage.guest.swap_total_kib = stage.guest.swap_free_kib = 0
    stage.guest.anon_kib = stage.guest.used_kib = 350 * MIB
    stage.open()
    assert stage.inflate(0)[0].why == AckWhy.PRESSURE
    stage.guest.anon_kib += 19 * MIB
    stage.guest.used_kib += 19 * MIB
    assert only(stage.wait(2), Demand) == []


def test_held_up_clocks_are_no_sleep(stage) -> None:
    """Two clocks that were read with a second between them, in whatever input: no wake-up, the consent stands."""
    stage.open()
    stage.inflate(600 * MIB)
    late = Instant(stage.monotonic_s + 1.0, stage.monotonic_s)
    stage.do(stage.agent.tick(late))
    stage.monotonic_s += 1.0
    stage.do(stage.agent.tick(stage.now))
    assert stage.agent.consent.live
    assert not any("woke up" in text for text in stage.logs)
