"""A guest that resides above its balloon's size is flagged when that lasts, and booked with what resides at once."""

from __future__ import annotations

import json
import logging

import pytest

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.booking import READ_APART_KIB, book
from ballonet_host_coord.explain import explain
from ballonet_host_coord.explain_text import render_explained
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import Residency, RunState
from ballonet_host_coord.refilled import LASTS_S, above_since_s, in_words, is_flagged
from ballonet_host_coord.session import AgentSession
from ballonet_host_coord.summary import summarise

from .builders import MIB, NOW_S, CountedRandomness, make_guest, make_settings, make_snapshot, make_vm
from .test_coordinator import HostThatSays, coordinator_of

ABOVE = Residency(900 * MIB, 30 * MIB)
"""Of a guest whose balloon says 512 MiB."""


def above(**changes):
    vm = make_vm()
    booking = book(make_settings(), vm, ABOVE, vm.actual_kib, True)
    return make_guest(**{"residency": ABOVE, "booking": booking, "above_since_s": NOW_S - 40, **changes})


@pytest.mark.parametrize(
    ("resident_kib", "answered", "state", "begins"),
    [
        (512 * MIB + READ_APART_KIB + 1, True, RunState.RUNNING, True),
        (512 * MIB + READ_APART_KIB, True, RunState.RUNNING, False),
        (900 * MIB, False, RunState.RUNNING, False),
        (900 * MIB, True, RunState.PAUSED, False),
        (None, True, RunState.RUNNING, False),
    ],
)
def test_it_counts_from_the_first_look_that_shows_it(resident_kib, answered, state, begins):
    """By more than two readings differ by, of a guest that runs and whose driver has answered."""
    residency = None if resident_kib is None else Residency(resident_kib, 0)
    vm = make_vm(run_state=state)
    assert above_since_s(None, vm, residency, answered, 7.0) == (7.0 if begins else None)
    assert above_since_s(3.0, vm, residency, answered, 7.0) == (3.0 if begins else None)


def test_a_move_is_no_flag():
    """Residency follows a balloon with a delay; what is gone after some seconds was that."""
    record = GuestRecord(make_settings(), AgentSession(CountedRandomness()), Ledger())
    for second in range(int(LASTS_S)):
        assert not is_flagged(record.snapshot(NOW_S + second), NOW_S + second)
        record.vm_read(make_vm(), ABOVE, NOW_S + second)
    assert is_flagged(record.snapshot(NOW_S + LASTS_S), NOW_S + LASTS_S)
    record.vm_read(make_vm(), Residency(500 * MIB, 0), NOW_S + 20)
    assert not is_flagged(record.snapshot(NOW_S + 99), NOW_S + 99)
    record.vm_read(make_vm(), ABOVE, NOW_S + 100)
    record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 101, statistics_count=0), ABOVE, NOW_S + 101)
    assert record.snapshot(NOW_S + 200).above_since_s is None


@pytest.mark.parametrize(
    ("refills", "words"),
    [(True, "khugepaged fills"), (None, "khugepaged fills"), (False, "khugepaged refills nothing on this host, so")],
)
def test_the_flag_says_how_much_and_what_it_may_be(refills, words):
    """Where the host's kernel refills nothing it is not blamed."""
    guest = above()
    said = in_words(guest, refills, NOW_S)
    assert said.startswith("resides in 900 MiB, 388 above its balloon's size, for 40 s, and is booked with it: ")
    assert words in said
    assert in_words(make_guest(), refills, NOW_S) == ""


def test_status_and_explain_show_it_and_the_books_hold_it():
    """State, reason and flag; 900 MiB are booked though the guest says 512 (I8)."""
    guest = above()
    snapshot = make_snapshot(guest, refills=True)
    (line,) = json.loads(json.dumps(summarise(snapshot, one_iteration(snapshot), {}, "")))["guests"]
    assert (line["state"], line["resides_above"], line["booked_kib"]) == ("over actual", True, 930 * MIB)
    assert line["why"].endswith(in_words(guest, True, NOW_S))
    assert "388 above its balloon's size" in " ".join(render_explained(explain(snapshot)).split())
    (well,) = summarise(make_snapshot(make_guest()), one_iteration(make_snapshot(make_guest())), {}, "")["guests"]
    assert (well["state"], well["resides_above"]) == ("steady", False)


def test_the_journal_says_it_once(caplog):
    """When it is flagged first, and again only after it was well."""
    coordinator = coordinator_of(HostThatSays())
    with caplog.at_level(logging.WARNING, "ballonet"):
        for guest in (above(), above(), make_guest(), above()):
            coordinator._watch_refilled(make_snapshot(guest))
    assert [record.getMessage()[:31] for record in caplog.records] == ["alpha: resides in 900 MiB, 388 a"[:31]] * 2
