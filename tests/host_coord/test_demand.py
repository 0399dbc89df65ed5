"""Demand: use without the balloon, commitment within a bound, harm, and a past that fades."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.demand import (
    CACHE_HALF_LIFE_S,
    HARM_STEP_LEAST_KIB,
    LEAD_MOST_RATIO,
    LEAD_S,
    PAGE_KIB,
    REFAULT_KIB_PER_S,
    WISH_FRESH_S,
    demand_at,
    observe,
    remember,
)
from ballonet_host_coord.model import DemandModel, ReportKind, Wish
from ballonet_host_coord.slider import tuning

from .builders import GIB, MIB, NOW_S, RESERVE_KIB, make_report, make_settings, make_vm

SETTINGS = make_settings()
VM = make_vm()
SIZES = st.integers(0, 2 * GIB)
MAYBE_SIZES = st.none() | SIZES


MIDDLE = tuning(50)


def fold(*reports, moved_by_us=False, settings=SETTINGS, tuned=MIDDLE, model=DemandModel.BALLONET):
    estimate = None
    for report in reports:
        estimate = observe(estimate, report, VM, settings, moved_by_us, tuned, model)
    assert estimate is not None
    return estimate


def demand_of(*reports, wish=None, now_s=None, tuned=MIDDLE, **options):
    now_s = reports[-1].arrived_s if now_s is None else now_s
    return demand_at(fold(*reports, tuned=tuned, **options), wish, VM, SETTINGS, now_s, tuned)


def rising(*uses_mib):
    """Reports a second apart of a guest with room for all of it."""
    return [make_report(float(at_s), 1000 * MIB, use_kib=mib * MIB) for at_s, mib in enumerate(uses_mib)]


@st.composite
def reports(draw):
    return make_report(
        arrived_s=draw(st.floats(0, 100)),
        boottime_ms=draw(st.integers(0, 10**6)),
        total_kib=draw(SIZES),
        available_kib=draw(SIZES),
        committed_kib=draw(MAYBE_SIZES),
        balloon_kib=draw(MAYBE_SIZES),
        file_kib=draw(MAYBE_SIZES),
        swap_total_kib=draw(MAYBE_SIZES),
        swap_free_kib=draw(MAYBE_SIZES),
        swap_in_kib=draw(MAYBE_SIZES),
        psi_some_us=draw(MAYBE_SIZES),
        psi_full_us=draw(MAYBE_SIZES),
        kind=draw(st.sampled_from(ReportKind)),
    )


@given(st.lists(reports(), min_size=1, max_size=4), st.none() | SIZES, st.floats(0, 1000))
def test_no_claim_of_a_guest_leads_out_of_bounds(those, wanted_kib, now_s):
    """Whatever a guest reports, use and demand stay within 0 and its RAM and the ratios within 0 and 1."""
    wish = None if wanted_kib is None else Wish(wanted_kib, 1, 2, arrived_s=now_s)
    demand = demand_of(*those, wish=wish, now_s=now_s)
    assert 0 <= demand.use_kib <= demand.demand_kib <= VM.ram_kib
    assert demand.demand_kib <= demand.held_kib <= VM.ram_kib
    assert all(ratio is None or 0 <= ratio <= 1 for ratio in (demand.psi_some_ratio, demand.psi_full_ratio))


def test_the_balloon_is_not_use() -> None:
    """An idle guest in a full balloon uses what it used before: its balloon is not memory in use."""
    wide = demand_of(make_report(actual_kib=1000 * MIB, use_kib=119 * MIB))
    narrow = demand_of(make_report(actual_kib=300 * MIB, use_kib=119 * MIB))
    assert wide.use_kib == narrow.use_kib == 119 * MIB


def test_a_guest_that_does_not_count_its_balloon_is_believed_the_devices() -> None:
    """Without mem.balloon the device's own figure stands in."""
    report = make_report(actual_kib=512 * MIB, use_kib=200 * MIB, balloon_kib=None)
    assert demand_of(report).use_kib == 200 * MIB


def test_the_kernels_reserve_belongs_to_use() -> None:
    """Guest numbers are brought to the hypervisor's scale: RAM less MemTotal is never available."""
    report = make_report(actual_kib=512 * MIB, available_kib=512 * MIB - RESERVE_KIB)
    assert demand_of(report).use_kib == RESERVE_KIB


@given(st.integers(0, 4 * GIB))
def test_commitment_lifts_demand_within_the_buffer(committed_kib):
    """Reserved and never touched memory is no demand beyond a buffer over use."""
    demand = demand_of(make_report(use_kib=200 * MIB, committed_kib=committed_kib))
    assert demand.demand_kib == max(200 * MIB, min(committed_kib + RESERVE_KIB, 240 * MIB))


def test_rising_use_is_extrapolated_and_bounded() -> None:
    """Demand looks as far ahead as a deflate takes, and never by more than a quarter of the RAM."""
    assert demand_of(*rising(200, 230, 260)).demand_kib == 260 * MIB + int(LEAD_S * 30 * MIB)
    assert demand_of(*rising(100, 400, 700)).demand_kib == 700 * MIB + int(VM.ram_kib * LEAD_MOST_RATIO)


@pytest.mark.parametrize(
    ("uses_mib", "lead_mib"),
    [
        ((200, 230), 0),
        ((200, 200, 500), 0),
        ((200, 500, 500), 0),
        ((200, 500, 400, 700), 0),
        ((200, 400, 430), 60),
        ((200, 230, 430), 60),
    ],
)
def test_a_single_step_up_is_no_trend(uses_mib: tuple[int, ...], lead_mib: int) -> None:
    """Only a rise that has lasted for two reports goes on, at the slower of the two rates."""
    assert demand_of(*rising(*uses_mib)).demand_kib == (uses_mib[-1] + lead_mib) * MIB


def test_a_guest_that_was_full_shows_no_trend() -> None:
    """How fast it fills what it was given a moment ago says how much it was given, not how much it will need."""
    sizes_mib = (500, 600, 700, 800)
    full = [
        make_report(float(at_s), size * MIB, use_kib=size * MIB) for at_s, size in enumerate(sizes_mib)
    ]
    assert demand_of(*full).demand_kib == 800 * MIB
    roomy = [
        make_report(float(at_s), 1000 * MIB, use_kib=size * MIB) for at_s, size in enumerate(sizes_mib)
    ]
    assert demand_of(*roomy).demand_kib == 1000 * MIB


@pytest.mark.parametrize("change", [{"boottime_ms": 0}, {"kind": ReportKind.STATISTICS}])
def test_two_reports_that_do_not_follow_have_no_rate(change) -> None:
    """Across a reset of the guest's clock or a change of source nothing is extrapolated."""
    first, second = make_report(5.0, use_kib=200 * MIB), make_report(6.0, use_kib=300 * MIB)
    last = make_report(7.0, use_kib=400 * MIB)
    assert demand_of(first, second, last).demand_kib == 600 * MIB
    assert demand_of(first, second, replace(last, **change)).demand_kib == 400 * MIB


def test_swap_that_is_read_back_belongs_to_the_working_set() -> None:
    """Read back now it counts in full, half of it later, and never more than is swapped out."""
    swap = {"swap_total_kib": 500 * MIB, "swap_free_kib": 400 * MIB}
    first = make_report(0.0, swap_in_kib=0, **swap)
    second = make_report(1.0, swap_in_kib=40 * MIB, **swap)
    assert fold(first, second).use_kib == 240 * MIB
    later = make_report(31.0, swap_in_kib=40 * MIB, **swap)
    assert fold(first, second, later).use_kib == 220 * MIB
    flood = make_report(1.0, swap_in_kib=400 * MIB, **swap)
    assert fold(first, flood).use_kib == 300 * MIB


def stalled(available_kib=20 * MIB):
    before = make_report(0.0, psi_some_us=0, psi_full_us=0, available_kib=available_kib)
    return before, make_report(1.0, psi_some_us=300_000, psi_full_us=100_000, available_kib=available_kib)


def test_a_stalled_guest_needs_more_than_it_has() -> None:
    """Stalls that nothing of ours explains, with little available, are proof of a shortage."""
    demand = demand_of(*stalled())
    assert demand.urgent
    assert demand.demand_kib == 512 * MIB + HARM_STEP_LEAST_KIB
    assert (demand.psi_some_ratio, demand.psi_full_ratio) == (0.3, 0.1)


def test_stalls_of_our_own_making_prove_nothing() -> None:
    """I9: what happens while we shrink the guest is not demand yet."""
    demand = demand_of(*stalled(), moved_by_us=True)
    assert not demand.urgent
    assert demand.demand_kib < 512 * MIB


def test_stalls_with_memory_available_prove_nothing() -> None:
    """A limit inside the guest stalls it, too; more memory would not cure that."""
    assert not demand_of(*stalled(available_kib=300 * MIB)).urgent


def test_a_wish_is_demand_while_it_is_fresh() -> None:
    """A DEMAND counts for three seconds, clamped to the RAM, and urgently."""
    report = make_report(use_kib=200 * MIB)
    wish = Wish(9 * GIB, 1, 2, arrived_s=NOW_S)
    fresh = demand_of(report, wish=wish, now_s=NOW_S + WISH_FRESH_S)
    assert (fresh.demand_kib, fresh.urgent) == (VM.ram_kib, True)
    stale = demand_of(report, wish=wish, now_s=NOW_S + WISH_FRESH_S + 0.1)
    assert (stale.demand_kib, stale.urgent) == (200 * MIB, False)


def test_a_wish_that_blames_our_move_is_no_demand_yet() -> None:
    """I9: neither now nor in what is remembered."""
    estimate = fold(make_report(use_kib=200 * MIB))
    wish = Wish(900 * MIB, 1, 2, arrived_s=NOW_S, gen=4)
    assert demand_at(estimate, wish, VM, SETTINGS, NOW_S).demand_kib == 200 * MIB
    assert remember(estimate, wish, VM) == estimate


@given(st.lists(reports(), min_size=1, max_size=3), SIZES, st.integers(1, 9), st.integers(0, 100))
def test_blame_changes_nothing_and_its_repetition_counts(those, want_kib, gen, slider):
    """I9: whatever a guest blames on a move, its demand and its past are as without; said again without the blame, a
    second later, it is demand."""
    tuned, last_s = tuning(slider), those[-1].arrived_s
    estimate = fold(*those, tuned=tuned)
    blames = Wish(want_kib, 1, 2, arrived_s=last_s, gen=gen)
    assert remember(estimate, blames, VM) == estimate
    now_s = last_s + 1
    quiet = demand_at(estimate, None, VM, SETTINGS, now_s, tuned)
    assert demand_at(estimate, blames, VM, SETTINGS, now_s, tuned) == quiet
    again = demand_at(estimate, replace(blames, arrived_s=now_s, gen=None), VM, SETTINGS, now_s, tuned)
    proven_kib = min(estimate.committed_kib or 0, 2 * estimate.use_kib)
    wished_kib = min(max(want_kib, proven_kib), VM.ram_kib)
    assert (again.demand_kib, again.urgent) == (max(quiet.demand_kib, wished_kib), True)


def test_who_is_short_is_believed_what_it_has_committed() -> None:
    """Up to twice what it uses: its own step cannot tell how much it lacks."""
    wish = Wish(300 * MIB, 1, 3, arrived_s=NOW_S)
    for committed_mib, demand_mib in ((0, 300), (350, 350 + 40), (2000, 400)):
        report = make_report(use_kib=200 * MIB, committed_kib=committed_mib * MIB)
        demand = demand_at(fold(report), wish, VM, SETTINGS, NOW_S, MIDDLE)
        assert demand.demand_kib == demand_mib * MIB


def test_a_wish_is_not_taken_back_the_moment_it_ends() -> None:
    """What was wished stays in what is held, and fades from there."""
    estimate = remember(fold(make_report(use_kib=200 * MIB)), Wish(600 * MIB, 1, 2, arrived_s=NOW_S), VM)
    later = demand_at(estimate, None, VM, SETTINGS, NOW_S + MIDDLE.held_half_life_s, MIDDLE)
    assert (later.demand_kib, later.held_kib) == (200 * MIB, 400 * MIB)


def test_demand_rises_at_once_and_falls_by_halves() -> None:
    """Half of what is no longer needed is given back in one half-life, however often the guest reports."""
    assert MIDDLE.held_half_life_s == 45.0
    high, low = make_report(0.0, use_kib=400 * MIB), make_report(45.0, use_kib=200 * MIB)
    assert demand_of(high, low).held_kib == 300 * MIB
    steps = [make_report(float(at_s), use_kib=200 * MIB) for at_s in range(1, 46)]
    assert abs(demand_of(high, *steps).held_kib - 300 * MIB) < MIB


def test_constant_reports_reach_a_fixed_point() -> None:
    """I6: the past is forgotten in the end, so that nothing changes any more."""
    low = [make_report(float(at_s), use_kib=200 * MIB) for at_s in range(1, 600, 5)]
    demand = demand_of(make_report(0.0, use_kib=400 * MIB), *low)
    assert demand.held_kib == demand.demand_kib == 200 * MIB


# --- file cache -----------------------------------------------------------------------------------------

FILE_KIB = 400 * MIB


def cached(until_s, refaults_per_s=0, every_s=1, **changes):
    """Reports of a guest with 400 MiB of file cache that reads so many dropped pages again each second."""
    return [
        make_report(float(at_s), file_kib=FILE_KIB, **{"refaults": refaults_per_s * at_s, **changes})
        for at_s in range(0, until_s + 1, every_s)
    ]


BUSY_PAGES_PER_S = REFAULT_KIB_PER_S // PAGE_KIB + 1


def test_cache_is_worth_keeping_until_it_has_shown_the_opposite() -> None:
    """The first report keeps all of it; what is never missed fades by halves, to the slider's share and no further."""
    assert demand_of(*cached(0)).cache_kib == FILE_KIB
    half_life_s = int(CACHE_HALF_LIFE_S)
    assert demand_of(*cached(half_life_s)).cache_kib == pytest.approx(FILE_KIB / 2, abs=1)
    assert demand_of(*cached(half_life_s, every_s=20)).cache_kib == pytest.approx(FILE_KIB / 2, abs=1)
    assert demand_of(*cached(10 * half_life_s, every_s=20)).cache_kib == FILE_KIB // 4


def test_refaults_prove_that_the_cache_is_too_small() -> None:
    """More than 4 MiB a second read again: all of it ranks with the buffer, however far it had faded."""
    assert demand_of(*cached(600, BUSY_PAGES_PER_S, every_s=20)).cache_kib == FILE_KIB
    assert demand_of(*cached(600, BUSY_PAGES_PER_S - 2, every_s=20)).cache_kib == FILE_KIB // 4
    faded = cached(3000, every_s=20)
    again = make_report(3001.0, file_kib=FILE_KIB, refaults=BUSY_PAGES_PER_S)
    assert demand_of(*faded).cache_kib == FILE_KIB // 4
    assert demand_of(*faded, again).cache_kib == FILE_KIB


def test_where_no_refaults_are_told_the_sliders_share_is_kept() -> None:
    """Statistics and old kernels: neither all of it nor nothing; without a figure of the cache there is none."""
    assert demand_of(*cached(3, refaults=None)).cache_kib == FILE_KIB // 4
    assert demand_of(*cached(3, refaults=None), tuned=tuning(0)).cache_kib == FILE_KIB // 2
    assert demand_of(make_report(file_kib=None)).cache_kib == 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30), st.integers(0, 100))
def test_the_cache_is_never_worth_less_than_the_sliders_share(pages, slider) -> None:
    """Whatever is read again: between the slider's share and all of it."""
    total, course = 0, []
    for at_s, more in enumerate(pages):
        total += more
        course.append(make_report(float(at_s * 10), file_kib=FILE_KIB, refaults=total))
    cache_kib = demand_of(*course, tuned=tuning(slider)).cache_kib
    assert int(FILE_KIB * tuning(slider).cache_kept_ratio) <= cache_kib <= FILE_KIB


# --- Hyper-V's model ------------------------------------------------------------------------------------

HYPERV = {"model": DemandModel.HYPERV}


@given(st.integers(0, 2 * GIB), st.integers(0, 500))
def test_hypervs_demand_is_what_is_committed(committed_kib, use_mib) -> None:
    """The whole of it up to the RAM, whatever is used, and the kernel's reserve with it."""
    report = make_report(use_kib=use_mib * MIB, committed_kib=committed_kib)
    assert demand_of(report, **HYPERV).demand_kib == min(committed_kib + RESERVE_KIB, VM.ram_kib)


def test_hypervs_demand_knows_neither_trend_nor_stalls() -> None:
    """It is the reference that operators know: rising use and harm move nothing. Without a figure it is use."""
    told = {"committed_kib": 300 * MIB}
    course = [replace(report, **told) for report in rising(200, 230, 260)]
    assert demand_of(*course, **HYPERV).demand_kib == 300 * MIB + RESERVE_KIB
    hurt = [replace(report, **told) for report in stalled()]
    assert demand_of(*hurt, **HYPERV).demand_kib == 300 * MIB + RESERVE_KIB
    assert demand_of(make_report(use_kib=210 * MIB), **HYPERV).demand_kib == 210 * MIB


# --- the slider -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slider", "harmed"), [(0, True), (25, True), (50, True), (100, False)])
def test_how_much_stalling_is_harm_is_the_sliders(slider, harmed) -> None:
    """A fifth of the time waited is noticed by everybody but a host that is packed."""
    before, after = stalled()
    assert demand_of(before, replace(after, psi_some_us=200_000), tuned=tuning(slider)).urgent is harmed


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 500))
def test_the_past_is_kept_no_longer_towards_density(one, other, passed_s) -> None:
    """I10, over time: after the same reports no more is held further right."""
    course = make_report(0.0, use_kib=400 * MIB), make_report(float(passed_s), use_kib=100 * MIB)
    performance, density = (demand_of(*course, tuned=tuning(place)) for place in sorted((one, other)))
    assert performance.held_kib >= density.held_kib >= density.demand_kib == performance.demand_kib
