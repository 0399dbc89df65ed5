"""Boots and their statistics: what QEMU shows of an earlier boot never counts for this one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.boots import UNSUPPORTED, BootTracker, Process
from ballonet_host_coord.model import BalloonStatistics

QEMU = Process(100, 5000)


def connected(stamp: int = 0) -> BootTracker:
    """A tracker that has just connected to a QEMU showing `stamp`, at 10 s; QEMU began at 4 s."""
    boots = BootTracker()
    boots.connected(QEMU, began_s=4.0, now_s=10.0)
    boots.statistics_read(stamp, {}, 10.0)
    return boots


def test_first_statistics_of_a_fresh_guest_count() -> None:
    """A guest that has shown nothing and then shows statistics has a driver that answered."""
    boots = connected()
    assert (boots.boot, boots.boot_began_s, boots.statistics_count) == (1, 4.0, 0)
    boots.statistics_read(0, {}, 11.0)
    assert boots.statistics is None
    boots.statistics_read(1700, {"stat-total-memory": 2048}, 12.0)
    assert boots.statistics_count == 1
    assert boots.statistics == BalloonStatistics(arrived_s=11.0, total_kib=2)


def test_a_process_that_is_found_late_makes_no_other_boot() -> None:
    """Where it could not be told at connection, the boot and its statistics go on; a reconnection finds them, too."""
    boots = BootTracker()
    boots.connected(None, began_s=10.0, now_s=10.0)
    boots.statistics_read(0, {}, 10.0)
    boots.statistics_read(1700, {}, 11.0)
    boots.found(QEMU)
    assert boots.connected(QEMU, began_s=4.0, now_s=20.0) is False
    assert (boots.boot, boots.statistics_count) == (1, 1)


def test_what_was_there_at_connection_counts_for_nothing() -> None:
    """Statistics that were there before us prove no driver; the next ones do."""
    boots = connected(stamp=1700)
    boots.statistics_read(1700, {}, 11.0)
    assert boots.statistics_count == 0
    boots.statistics_read(1701, {}, 12.0)
    boots.statistics_read(1701, {}, 12.5)
    assert boots.statistics_count == 1


def test_reset_forgets_the_last_boots_statistics() -> None:
    """After a reset the frozen statistics of the last boot neither stand nor count."""
    boots = connected()
    boots.statistics_read(1700, {}, 11.0)
    boots.reset(12.0, wall_s=1702)
    assert (boots.boot, boots.boot_began_s, boots.statistics, boots.statistics_count) == (2, 12.0, None, 0)
    boots.statistics_read(1700, {}, 13.0)
    assert boots.statistics_count == 0


def test_last_words_of_the_last_boot_do_not_count() -> None:
    """Statistics that the last boot's driver sent unseen, just before the reset, are not taken for the new one's."""
    boots = connected()
    boots.statistics_read(1700, {}, 11.0)
    boots.reset(12.0, wall_s=1702)
    boots.statistics_read(1702, {}, 12.1)
    assert boots.statistics_count == 0
    boots.statistics_read(1720, {}, 30.0)
    assert boots.statistics_count == 1


def test_wall_clock_set_back_does_not_hide_a_driver() -> None:
    """With stamps from a clock that was set back, the second change since the reset counts."""
    boots = connected()
    boots.statistics_read(1700, {}, 11.0)
    boots.reset(12.0, wall_s=1702)
    boots.statistics_read(900, {}, 20.0)
    assert boots.statistics_count == 0
    boots.statistics_read(901, {}, 21.0)
    assert boots.statistics_count == 1


def test_same_process_goes_on_with_its_boot() -> None:
    """Connecting again to the same process changes nothing, and what it showed before is not news."""
    boots = connected()
    boots.statistics_read(1700, {}, 11.0)
    boots.connected(QEMU, began_s=4.0, now_s=50.0)
    boots.statistics_read(1700, {}, 50.0)
    assert (boots.boot, boots.boot_began_s, boots.statistics_count) == (1, 4.0, 1)


def test_another_process_is_another_boot() -> None:
    """A process of another number, or of the same number begun later, or one that cannot be told, is a new boot."""
    boots = connected()
    boots.connected(Process(100, 9000), began_s=58.0, now_s=60.0)
    assert (boots.boot, boots.boot_began_s) == (2, 58.0)
    boots.connected(Process(101, 9000), began_s=59.0, now_s=61.0)
    assert (boots.boot, boots.boot_began_s) == (3, 59.0)
    for boot in (4, 5):
        boots.connected(None, began_s=70.0, now_s=70.0)
        assert boots.boot == boot


def test_incoming_migration_begins_a_boot() -> None:
    """What has just migrated in is believed only after its driver has answered here."""
    boots = connected(stamp=1700)
    boots.statistics_read(1701, {}, 11.0)
    boots.migrated_in(12.0)
    assert (boots.boot, boots.statistics_count) == (2, 0)


@pytest.mark.parametrize("nothing", [-1, UNSUPPORTED, UNSUPPORTED + 5, None, True, 1.5, "12"])
def test_statistics_that_the_driver_does_not_tell_are_unknown(nothing: object) -> None:
    """An unsupported or senseless figure is unknown, never a number."""
    boots = connected()
    boots.statistics_read(1700, {"stat-free-memory": nothing, "stat-swap-in": nothing, "stat-disk-caches": 0}, 11.0)
    assert boots.statistics == BalloonStatistics(arrived_s=10.0, caches_kib=0)


@given(stamps=st.lists(st.integers(0, 50), max_size=40), reset_at=st.integers(0, 50))
def test_statistics_up_to_the_reset_never_count_once(stamps: list[int], reset_at: int) -> None:
    """On a wall clock that only goes forward, one look at anything from before the reset counts nothing."""
    boots = connected()
    before = sorted(stamp for stamp in stamps if stamp <= reset_at)
    for number, stamp in enumerate(before):
        boots.statistics_read(stamp, {}, 11.0 + number)
    boots.reset(100.0, wall_s=reset_at)
    for last_unseen in range(max(before, default=0), reset_at + 1):
        boots.reset(100.0, wall_s=reset_at)
        boots.statistics_read(last_unseen, {}, 101.0)
        assert boots.statistics_count == 0
