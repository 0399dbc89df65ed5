"""Another mover is told from ourselves and from the guest: only what is certain is said, and then nothing is done."""

from __future__ import annotations

from typing import Any

import pytest

from ballonet_host_coord import other_mover
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    OOM_WHY,
    SOON,
    AgentFacts,
    BalloonStatistics,
    Booking,
    Command,
    Hotplug,
    LinkState,
    ReportKind,
    RunState,
    VmFacts,
    Wish,
)
from ballonet_host_coord.other_mover import (
    FOUND_S,
    LOWERED_S,
    RAISED_S,
    SETTLED_S,
)

from .builders import MIB, NOW_S, make_report, make_vm
from .steps import FREE_MIB, RESTS_AT_MIB, heard, settled, step


def resting(**changes: Any) -> Ledger:
    """Guest a has stood at the 500 MiB that we set for a minute."""
    ledger = settled(RESTS_AT_MIB)
    for second in range(-60, 0):
        assert at(ledger, second, RESTS_AT_MIB, **changes) == []
    return ledger


def at(ledger: Ledger, second: float, size_mib: int, wanted_mib: int | None = None, **changes: Any) -> list[Command]:
    now_s = NOW_S + second
    return step(ledger, (heard(size_mib, now_s, **changes), wanted_mib or size_mib), now_s=now_s)


def found(ledger: Ledger, size_mib: int, seconds: int = 15, **changes: Any) -> int | None:
    """Let it have this size from now on; where another mover is said to have set it, in MiB."""
    for second in range(seconds):
        at(ledger, second, size_mib, **changes)
        if (set_kib := ledger.set_by_another_kib("a")) is not None:
            return set_kib // MIB
    return None


def raised(ledger: Ledger, **changes: Any) -> int | None:
    """300 MiB more, all of it free unless said otherwise."""
    return found(ledger, RESTS_AT_MIB + 300, **{"free_mib": FREE_MIB + 300, **changes})


@pytest.mark.parametrize("free_mib", [FREE_MIB, None])
def test_a_settled_guest_that_is_smaller_was_set_by_another(free_mib: int | None) -> None:
    """No guest inflates by itself, whatever else is known of it; two readings are enough, and nothing is sent."""
    ledger = resting()
    assert at(ledger, 0, 300, wanted_mib=900, free_mib=free_mib) == []
    assert ledger.set_by_another_kib("a") is None
    assert at(ledger, LOWERED_S, 300, wanted_mib=900, free_mib=free_mib) == []
    assert ledger.set_by_another_kib("a") == 300 * MIB
    assert ledger.target_kib("a") is None, "booked with what it has, not with what we had promised"
    at(ledger, LOWERED_S + 1, 300)
    assert ledger.set_by_another_kib("a") is None, "it is said once"


def test_a_settled_guest_that_is_larger_without_need_was_set_by_another() -> None:
    """All of what came lies free, nothing was reclaimed, and the driver lives."""
    assert raised(resting()) == RESTS_AT_MIB + 300


def test_the_other_movers_target_is_not_overwritten_while_it_is_unclear() -> None:
    """Halfway through its way, our own stop would be the newer target."""
    ledger = resting()
    for second in range(int(RAISED_S)):
        assert at(ledger, second, RESTS_AT_MIB + min(300, 100 * (second + 1)), wanted_mib=900, free_mib=500) == []


def test_the_agents_word_of_an_unannounced_move_is_no_need() -> None:
    """It says so whoever moved it; a DEMAND for any other reason, or of a starving guest, is a need."""

    def wish(why: int, severity: int) -> Wish:
        return Wish(800 * MIB, why, severity, arrived_s=NOW_S)

    assert raised(resting(), wish=wish(OOM_WHY, SOON)) is not None
    assert raised(resting(), wish=wish(OOM_WHY, SOON + 2)) is None
    assert raised(resting(), wish=wish(1, SOON)) is None


OWN_ACTS: dict[str, dict[str, Any]] = {
    "it reclaims": {"stalls": 4},
    "it uses what it took": {"free_mib": FREE_MIB + 20},
    "its agent is away": {"agent": AgentFacts(LinkState.OPENING, session=1)},
    "its agent counts no reclaim": {"stalls": None},
    "its driver sends nothing": {"free_mib": None},
    "its agent began anew": {"agent": AgentFacts(LinkState.LIVE, session=2)},
}


@pytest.mark.parametrize("case", OWN_ACTS)
def test_a_larger_guest_that_may_have_done_it_itself_is_nobody_elses(case: str) -> None:
    """Then its size becomes its target, as ever."""
    ledger = resting()
    assert raised(ledger, **OWN_ACTS[case]) is None
    assert ledger.target_kib("a") == (RESTS_AT_MIB + 300) * MIB


def test_a_guest_that_reclaimed_before_it_grew_did_it_itself() -> None:
    """The report that tells of the stall may come before the balloon's size does."""
    ledger = resting()
    at(ledger, -0.5, RESTS_AT_MIB, stalls=9)
    assert raised(ledger, stalls=9) is None


def test_statistics_from_before_are_no_sign_of_a_living_driver() -> None:
    """An unloaded driver leaves all its memory to the guest, and its last statistics at the device."""
    ledger = resting()
    old = BalloonStatistics(NOW_S - 1, free_kib=500 * MIB)
    assert raised(ledger, vm=make_vm(actual_kib=(RESTS_AT_MIB + 300) * MIB, statistics=old)) is None


def test_a_driver_that_is_loaded_anew_is_no_other_mover() -> None:
    """It gives all back and inflates to our target again."""
    ledger = resting()
    for second, size_mib in enumerate((1024, 1024, 900, 700, RESTS_AT_MIB, RESTS_AT_MIB)):
        assert at(ledger, second, size_mib, free_mib=600) == []
        assert ledger.set_by_another_kib("a") is None


@pytest.mark.parametrize("size_mib", [RESTS_AT_MIB - 10, RESTS_AT_MIB + 10])
def test_a_few_mib_are_nobodys_order(size_mib: int) -> None:
    """Drivers round, and the OOM notifier gives single MiB."""
    assert found(resting(), size_mib, free_mib=400) is None


def without_agent(size_mib: int, now_s: float, free_mib: int, **counted: Any) -> dict[str, Any]:
    """Guest a as its balloon driver alone tells of it: 100 MiB of what is available are page cache."""
    counts = {"available_kib": (free_mib + 100) * MIB, "major_faults": 7, "swap_in_bytes": 0, **counted}
    statistics = BalloonStatistics(now_s, free_kib=free_mib * MIB, **counts)
    return {
        "agent": AgentFacts(LinkState.NONE),
        "report": make_report(now_s, size_mib * MIB, kind=ReportKind.STATISTICS),
        "vm": make_vm(actual_kib=size_mib * MIB, statistics=statistics, read_s=now_s),
    }


def raised_without_agent(free_mib: int = FREE_MIB + 300, since: int = 0, **counted: Any) -> int | None:
    """300 MiB more, with these statistics from `since` on."""
    ledger = settled(RESTS_AT_MIB)
    for second in range(-60, 12):
        size_mib, lies_mib = (RESTS_AT_MIB, FREE_MIB) if second < 0 else (RESTS_AT_MIB + 300, free_mib)
        told = without_agent(size_mib, NOW_S + second, lies_mib, **(counted if second >= since else {}))
        at(ledger, second, size_mib, **told)
        if (set_kib := ledger.set_by_another_kib("a")) is not None:
            return set_kib // MIB
    return None


def test_without_an_agent_the_drivers_statistics_tell() -> None:
    """What came lies free, and the guest reads no page again that it had to drop: nobody took it in need."""
    assert raised_without_agent() == RESTS_AT_MIB + 300
    assert raised_without_agent(FREE_MIB + 20, available_kib=(FREE_MIB + 300) * MIB) == RESTS_AT_MIB + 300, "as cache"


@pytest.mark.parametrize(
    "counted",
    [
        {"major_faults": 8},
        {"major_faults": 8, "since": -5},
        {"swap_in_bytes": 4096},
        {"major_faults": None, "since": -60},
        {"swap_in_bytes": None, "since": -60},
        {"available_kib": None, "since": -60},
        {"free_mib": FREE_MIB + 100},
        {"free_mib": 100, "available_kib": 600 * MIB},
    ],
)
def test_without_an_agent_what_may_be_the_guests_own_act_is_nobody_elses(counted: dict[str, Any]) -> None:
    """It swaps or drops pages, now or a moment before; its driver does not count; it uses what came; a kernel that
    gives memory back to its page cache (5.0 to 5.6) leaves little free."""
    assert raised_without_agent(**counted) is None


def test_where_nothing_can_become_certain_nobody_waits() -> None:
    """Where neither an agent nor a driver counts what a guest in need does, or it was silent since a moment ago, a
    larger size is followed at once: waiting would only keep memory from a guest that may be in need."""
    for case in ("its agent is away", "its agent counts no reclaim", "its driver sends nothing"):
        assert at(resting(), 0, RESTS_AT_MIB + 300, **OWN_ACTS[case]) != [], case


def test_a_target_that_was_set_a_moment_ago_is_ours() -> None:
    """An older one may still be in force; after a while at rest it is not."""
    ledger = settled(RESTS_AT_MIB)
    ledger.began_boot("a", 2, RESTS_AT_MIB * MIB, adopted=False)
    at(ledger, 1 - SETTLED_S, RESTS_AT_MIB)
    assert found(ledger, 300) is None


@pytest.mark.parametrize("loss", ["not taken", "monitor away", "adopted again"])
def test_a_target_that_may_not_have_arrived_is_ours(loss: str) -> None:
    """An older, smaller one may be in force then, and the guest may have been unable to follow for long."""
    ledger = settled(RESTS_AT_MIB)
    if loss == "not taken":
        ledger.target_failed("a")
    elif loss == "monitor away":
        gone = heard(RESTS_AT_MIB, NOW_S - 70, vm=make_vm(run_state=RunState.UNREACHABLE))
        step(ledger, (gone, RESTS_AT_MIB), now_s=NOW_S - 70)
    else:
        ledger.began_boot("a", 1, RESTS_AT_MIB * MIB, adopted=True)
    for second in range(-60, 0):
        at(ledger, second, RESTS_AT_MIB)
    assert found(ledger, 300) is None


def test_one_reading_is_not_enough() -> None:
    """Turns follow each other faster than readings."""
    ledger = resting()
    at(ledger, 0, 300)
    at(ledger, 0.1, 300)
    assert ledger.set_by_another_kib("a") is None
    at(ledger, 0.2, RESTS_AT_MIB)
    assert found(ledger, RESTS_AT_MIB) is None


def test_a_larger_balloon_must_stand_still_first() -> None:
    """Not before 5 s, and 2 s after it last moved: a driver on its way back to our target is none of another's."""
    ledger = resting()
    for second, size_mib in enumerate((800, 800, 800, 800, 800)):
        at(ledger, second, size_mib, free_mib=600)
        assert ledger.set_by_another_kib("a") is None
    for second in range(5, 9):
        at(ledger, second, 800 - 10 * second, free_mib=600)
        assert ledger.set_by_another_kib("a") is None
    at(ledger, 10, 720, free_mib=600)
    assert ledger.set_by_another_kib("a") == 720 * MIB


def test_what_reclaim_can_free_is_no_sign() -> None:
    """Little that lies free, though it is all that came, may be a kernel that refilled its reserves."""
    assert raised(resting(free_mib=10), free_mib=100) is None
    assert found(resting(free_mib=10), RESTS_AT_MIB + 60, free_mib=70) is None


def test_our_own_step_is_nobody_elses() -> None:
    """A grant and a startup target are followed from where the balloon was."""
    ledger = settled(900)
    for second, size_mib in enumerate((900, 700, 600, 500)):
        ledger.began_boot("a", second, 500 * MIB, adopted=False)
        at(ledger, second, size_mib)
        assert ledger.set_by_another_kib("a") is None


def test_a_guest_that_is_left_alone_gets_no_target_when_another_moves_it() -> None:
    """Neither up nor down; what it has is booked."""
    ledger = resting()
    for second, size_mib in enumerate((500, 300, 800, 800, 300)):
        assert at(ledger, second, size_mib, hands_off="paused") == []
    assert ledger.target_kib("a") is None


# --- found, with no target of ours ----------------------------------------------------------------------


def found_at_rest(seconds: int = 60, **changes: Any) -> Ledger:
    """A ledger that found guest a at 500 MiB, so many seconds ago, and has sent nothing."""
    ledger = Ledger()
    assert ledger.began_boot("a", 1, 400 * MIB, adopted=True) is None
    for second in range(-seconds, 0):
        assert at(ledger, second, RESTS_AT_MIB, **changes) == []
    assert ledger.target_kib("a") is None, "what was only found promises nothing"
    return ledger


@pytest.mark.parametrize("size_mib", [300, 800])
def test_a_guest_that_was_only_found_is_given_way_to(size_mib: int) -> None:
    """Also after a restart, and where there is plenty: nothing is set meanwhile, whatever it is to have."""
    ledger = found_at_rest()
    free_mib = FREE_MIB + max(0, size_mib - RESTS_AT_MIB)
    set_mib = None
    for second in range(10):
        assert at(ledger, second, size_mib, wanted_mib=1000, free_mib=free_mib) == []
        if (set_kib := ledger.set_by_another_kib("a")) is not None:
            set_mib = set_kib // MIB
            break
    assert set_mib == size_mib


def test_what_a_found_guest_takes_by_itself_is_no_other_mover() -> None:
    """Its size becomes its target, as that of a guest that we had set: else its driver, loaded anew, would go back."""
    ledger = found_at_rest()
    assert raised(ledger, **OWN_ACTS["it reclaims"]) is None
    assert ledger.target_kib("a") == (RESTS_AT_MIB + 300) * MIB


def test_a_grant_to_a_found_guest_is_booked() -> None:
    """From then on its target is ours, and on its way."""
    ledger = found_at_rest()
    assert at(ledger, 0, RESTS_AT_MIB, wanted_mib=900) != []
    assert ledger.target_kib("a") == 900 * MIB


def test_a_guest_that_still_moves_when_it_is_found_is_not_at_rest() -> None:
    """A shrink that the process before ordered goes on: in one run, or after a standstill with nothing left to give."""
    ledger = found_at_rest(2)
    for second in range(30):
        at(ledger, second, RESTS_AT_MIB - 10 * second)
        assert ledger.set_by_another_kib("a") is None

    ledger = Ledger()
    ledger.began_boot("a", 1, 400 * MIB, adopted=True)
    starved: dict[str, Any] = {"free_mib": 10}
    for second in range(-int(FOUND_S) + 5, 30):
        now_s = NOW_S + second
        size_mib = RESTS_AT_MIB if second < 0 else RESTS_AT_MIB - 100
        starved["report"] = make_report(now_s, size_mib * MIB, available_kib=20 * MIB, alloc_stalls=3)
        at(ledger, second, size_mib, **starved)
        assert ledger.set_by_another_kib("a") is None


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"booking": Booking(1024 * MIB, 0, True)},
        {"vm": make_vm(actual_kib=RESTS_AT_MIB * MIB, run_state=RunState.PAUSED)},
        {"vm": make_vm(actual_kib=RESTS_AT_MIB * MIB, boot_began_s=NOW_S - 12)},
        {"report": None},
    ],
    ids=["it boots", "it stands still", "it arrived", "nothing was heard"],
)
def test_a_boot_a_pause_and_an_arrival_are_no_rest(meanwhile: dict[str, Any]) -> None:
    """What moves soon after them is on its way to a target that is none of another mover's."""
    ledger = Ledger()
    ledger.began_boot("a", 1, 400 * MIB, adopted=True)
    for second in range(-10, 0):
        at(ledger, second, RESTS_AT_MIB, **meanwhile)
    for second in range(10):
        at(ledger, second, 300)
        assert ledger.set_by_another_kib("a") is None


def test_memory_that_is_plugged_into_a_found_guest_is_no_other_mover() -> None:
    """Neither when its RAM grows, nor while its kernel is still taking what was requested of its device."""
    ledger = found_at_rest()
    for second in range(15):
        vm = make_vm(actual_kib=800 * MIB, ram_kib=1500 * MIB)
        at(ledger, second, 800, vm=vm)
        assert ledger.set_by_another_kib("a") is None

    def plugging(size_mib: int, now_s: float) -> VmFacts:
        hotplug = Hotplug(1024 * MIB, 2 * MIB, (size_mib - 400) * MIB, requested_kib=400 * MIB)
        statistics = BalloonStatistics(now_s, free_kib=(size_mib - 300) * MIB)
        return make_vm(actual_kib=size_mib * MIB, ram_kib=2048 * MIB, hotplug=hotplug, statistics=statistics)

    ledger = Ledger()
    ledger.began_boot("a", 1, 400 * MIB, adopted=True)
    for second in range(-20, 20):
        at(ledger, second, size_mib := (RESTS_AT_MIB if second < 0 else 800), vm=plugging(size_mib, NOW_S + second))
        assert ledger.set_by_another_kib("a") is None


@pytest.mark.parametrize("loss", ["monitor away", "adopted again"])
def test_what_happened_out_of_sight_is_taken_as_it_is_found(loss: str) -> None:
    """A found size promises nothing: nobody waits for a balloon to come back to it."""
    ledger = found_at_rest()
    if loss == "adopted again":
        ledger.began_boot("a", 2, 400 * MIB, adopted=True)
    else:
        step(ledger, (heard(RESTS_AT_MIB, NOW_S, vm=make_vm(run_state=RunState.UNREACHABLE)), 500), now_s=NOW_S)
    for second in range(1, 30):
        assert at(ledger, second, 300) == []
        assert ledger.set_by_another_kib("a") is None


def test_a_pause_ends_no_watch_over_a_found_guest() -> None:
    """A snapshot, a backup: where it rests afterwards is found as before."""
    ledger = found_at_rest()
    for second in range(5):
        vm = make_vm(actual_kib=RESTS_AT_MIB * MIB, run_state=RunState.PAUSED)
        at(ledger, second, RESTS_AT_MIB, vm=vm)
    for second in range(5, 25):
        assert at(ledger, second, RESTS_AT_MIB) == []
    set_mib = [ledger.set_by_another_kib("a") for second in range(25, 35) if at(ledger, second, 300) == []]
    assert 300 * MIB in set_mib


def test_a_guest_that_has_said_nothing_since_it_stood_still_may_go_on() -> None:
    """On a host without a free core a whole guest stands still, and a shrink of the process before with it."""
    ledger = Ledger()
    ledger.began_boot("a", 1, 400 * MIB, adopted=True)
    for second in range(-10, 10):
        size_mib = RESTS_AT_MIB if second < 0 else 300
        report = make_report(NOW_S - 11, RESTS_AT_MIB * MIB, alloc_stalls=3)
        at(ledger, second, size_mib, report=report)
        assert ledger.set_by_another_kib("a") is None


# --- safeguards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "value", "changes"),
    [("CALM_S", float("-inf"), {"stalls": 4}), ("FREE_SHARE", 0.0, {"free_mib": FREE_MIB + 20})],
)
def test_a_detection_that_is_too_eager_is_caught(
    figure: str, value: float, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of its safeguards off, a guest that helped itself would be left alone for good."""
    monkeypatch.setattr(other_mover, figure, value)
    assert raised(resting(), **changes) is not None
