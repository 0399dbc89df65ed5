"""learned.py: what a coordinator has learned of a guest's boot, kept for the next one, and for nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.choices import Choices
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.learned import LONGEST_AWAY_S, Learned, from_rows, to_row
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import AgentFacts, LinkState
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.simulated.stores import MemoryState

from .builders import MIB, NOW_S, make_report, make_settings, make_vm

BOOT = b"b" * 16
KEPT = Learned(BOOT, NOW_S - 10, 700.0 * MIB, 0.6)


class Session:
    def __init__(self, boot_id: bytes | None = BOOT) -> None:
        self.boot_id = boot_id

    def facts(self) -> AgentFacts:
        return AgentFacts(LinkState.LIVE, boot_id=self.boot_id)


def told(learned: Learned | None, boot_id: bytes | None = BOOT) -> Any:
    """The record after its first report, and what it would keep itself."""
    session: Any = Session(boot_id)
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm_read(make_vm(), None, NOW_S)
    record.learned = learned
    record.reported(make_report())
    return record


def test_the_next_coordinator_goes_on_with_what_was_learned() -> None:
    """Of the same boot, and faded by the time that has passed; never less than what the report shows."""
    fresh = told(None).has_learned()
    known = told(KEPT).has_learned()
    assert fresh.held_kib < known.held_kib < KEPT.held_kib
    assert fresh.cache_kept_ratio == 1.0 > KEPT.cache_kept_ratio > known.cache_kept_ratio
    assert told(replace(KEPT, held_kib=1.0)).has_learned().held_kib == fresh.held_kib


@pytest.mark.parametrize("boot_id", [b"c" * 16, None])
def test_another_boot_has_taught_nothing(boot_id: bytes | None) -> None:
    """What is said of a boot holds for that boot; one whose number is not known is none."""
    record = told(KEPT, boot_id)
    assert record._estimate == told(None, boot_id)._estimate


def test_what_was_kept_is_kept_on_until_the_guest_is_heard() -> None:
    """A coordinator that is started twice in a row loses nothing."""
    session: Any = Session(None)
    record = GuestRecord(make_settings(), session, Ledger())
    record.learned = KEPT
    assert record.has_learned() == KEPT


def test_it_is_read_as_it_was_written_by_the_calendar() -> None:
    """The clock begins anew with a coordinator: the age of what was learned is what counts."""
    state = MemoryState()
    Choices(state).keep_learned({"web": KEPT}, NOW_S, 5000.0)
    (found,) = Choices(state).kept_learned(3.0, 5020.0).values()
    assert found == replace(KEPT, at_s=3.0 - 30.0)
    assert Choices(state).kept_learned(3.0, 5000.0 + LONGEST_AWAY_S) == {}
    assert Choices(state).kept_learned(3.0, 4000.0) == {}, "the calendar was set back: its age cannot be told"


ROW = to_row("web", KEPT, NOW_S, 5000.0)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(ANYTHING, st.integers(0, 4))
def test_what_is_no_row_is_learned_anew(value: Any, place: int) -> None:
    """No damage raises, and a good row beside it is read."""
    assert from_rows(value, 0.0, 5000.0) == {}
    damaged = [*ROW[:place], value, *ROW[place + 1 :]]
    found = from_rows([damaged, value, ["other", *ROW[1:]]], 0.0, 5000.0)
    assert "other" in found
    json.dumps([to_row(name, learned, 0.0, 5000.0) for name, learned in found.items()], allow_nan=False)


def test_a_row_that_cannot_be_read_does_not_end_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and everything is learned anew."""

    class Unreadable(MemoryState):
        def get(self, key: str) -> Any:
            raise PortError("state: disk I/O error")

    assert Choices(Unreadable()).kept_learned(0.0, 0.0) == {}
    assert "learned anew" in caplog.text
