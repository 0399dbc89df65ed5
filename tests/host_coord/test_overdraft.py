"""An overdraft is told when it begins and ends, and raises an alarm however it flickers."""

from __future__ import annotations

import pytest

from ballonet_host_coord.model import Booking, Migration
from ballonet_host_coord.overdraft import ALARM_S, CALM_S, OverdraftWatch, overdrawn_cause

from .builders import MIB, make_guest, make_snapshot, make_vm


def play(*seconds: tuple[int, bool]) -> tuple[OverdraftWatch, list[str]]:
    """Turns a second apart: so many, overdrawn or not. Returns what was said."""
    watch, said, now_s = OverdraftWatch(), [], 0.0
    for count, overdrawn in seconds:
        for _ in range(count):
            said.append(watch.turn(300 * MIB if overdrawn else 0, "alpha", now_s))
            now_s += 1.0
    return watch, [line for line in said if line]


def test_beginning_and_end_are_told_once() -> None:
    """A boot's overdraft is two lines in the journal and no alarm."""
    watch, said = play((5, False), (20, True), (30, False))
    assert said == ["OVERDRAWN by 300 MiB: alpha", "overdraft over after 20 s"]
    assert not watch.alarm


def test_a_minute_raises_an_alarm_once() -> None:
    """It stands until the overdraft is over."""
    watch, said = play((100, True))
    assert [line.split(" by")[0] for line in said] == ["OVERDRAWN", f"overdrawn for {ALARM_S:.0f} s"]
    assert watch.alarm.startswith("overdrawn for 99 s by 300 MiB: alpha")


def test_flicker_does_not_reset_the_clock() -> None:
    """A turn that was balanced ends nothing; what is counted is the time that was overdrawn."""
    watch, said = play(*[(7, True), (1, False)] * 10)
    assert len(said) == 2
    assert watch.alarm


def test_calm_ends_it() -> None:
    """After that much balance the next overdraft is a new one."""
    watch, said = play((50, True), (int(CALM_S) + 1, False), (50, True))
    assert [line.split()[0] for line in said] == ["OVERDRAWN", "overdraft", "OVERDRAWN"]
    assert not watch.alarm


@pytest.mark.parametrize(
    ("migration", "claimed", "cause"),
    [
        (Migration.INCOMING, True, "alpha migrates here and is booked with its whole RAM"),
        (Migration.ARRIVED, True, "alpha migrates here and is booked with its whole RAM"),
        (Migration.ARRIVED, False, "alpha migrated here with 1024 MiB"),
        (Migration.NONE, True, "alpha has booted and its balloon has not answered yet"),
        (Migration.NONE, False, "alpha was found at 1024 MiB"),
    ],
)
def test_who_came_from_elsewhere_is_named_so(migration: Migration, claimed: bool, cause: str) -> None:
    """An operator can tell a migration that did not fit from a reset."""
    vm = make_vm(actual_kib=1024 * MIB, migration=migration)
    booking = Booking(1024 * MIB, 0, claimed=claimed)
    guest = make_guest(vm=vm, booking=booking, hypervisor_target_kib=None)
    assert overdrawn_cause(make_snapshot(guest, budget_kib=900 * MIB)) == cause
