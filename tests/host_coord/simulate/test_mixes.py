"""Generated demand has the figures that its sources state, and is the same for the same seed."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, median

import pytest

from ballonet_host_coord.simulate import mix_desktops, mix_farm
from ballonet_host_coord.simulate.course import GIB, MIB, Course, finish
from ballonet_host_coord.simulate.mixes import MIXES

HOUR_S = 3600.0
SEED = 20261124


def peak_of_sum_kib(courses: list[Course]) -> int:
    """The most that all of them use together."""
    steps: list[tuple[float, int]] = []
    for course in courses:
        before_kib = 0
        for t_s, used_kib, _ in course.samples:
            steps.append((t_s, used_kib - before_kib))
            before_kib = used_kib
    total_kib = most_kib = 0
    for _, change_kib in sorted(steps):
        total_kib += change_kib
        most_kib = max(most_kib, total_kib)
    return most_kib


def gain(courses: list[Course]) -> float:
    return sum(course.peak_kib for course in courses) / peak_of_sum_kib(courses)


def rises_mib_per_s(course: Course) -> list[float]:
    return [
        (after[1] - before[1]) / MIB / (after[0] - before[0])
        for before, after in pairwise(course.samples)
        if after[1] > before[1] and after[0] - before[0] < 3
    ]


def logged_in_s(course: Course) -> float:
    """When it first uses clearly more than in the night: the log-in."""
    idle_kib = max(used_kib for t_s, used_kib, _ in course.samples if t_s < HOUR_S)
    return next(t_s for t_s, used_kib, _ in course.samples if used_kib > idle_kib + 16 * MIB)


@pytest.fixture(scope="module")
def desktops() -> dict[str, list[Course]]:
    return {name: MIXES[name](120, SEED) for name in ("desktops-storm", "desktops-staggered")}


@pytest.fixture(scope="module")
def servers() -> list[Course]:
    return MIXES["servers"](64, SEED)


@pytest.fixture(scope="module")
def farm() -> list[Course]:
    return MIXES["build-farm"](6, SEED)


@pytest.mark.parametrize("name", MIXES)
def test_the_same_seed_makes_the_same_demand(name):
    """Two makings of a mix are equal, and another seed's is another."""
    mix = MIXES[name]
    assert mix(4, 1, 4 * HOUR_S) == mix(4, 1, 4 * HOUR_S)
    assert mix(4, 1, 4 * HOUR_S) != mix(4, 2, 4 * HOUR_S)


@pytest.mark.parametrize("name", MIXES)
def test_a_small_mix_begins_a_larger_one(name):
    """Machine n does not depend on how many there are, so that density asks about the same machines each time."""
    mix = MIXES[name]
    assert mix(7, SEED, 2 * HOUR_S)[:5] == mix(5, SEED, 2 * HOUR_S)


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("duration_s", [1.0, 600.0, 90_000.0])
def test_a_course_is_well_formed(name, duration_s):
    """Times rise within the duration, sizes lie within what is provisioned, names differ."""
    courses = MIXES[name](5, SEED, duration_s)
    assert len({course.name for course in courses}) == 5
    for course in courses:
        times_s = [t_s for t_s, _, _ in course.samples]
        assert all(before < after for before, after in pairwise(times_s))
        assert 0 <= times_s[0] < 60
        assert times_s[-1] < course.end_s == duration_s
        for _, used_kib, cached_kib in course.samples:
            assert 0 <= used_kib <= course.provisioned_kib
            assert cached_kib is None or 0 <= cached_kib <= course.provisioned_kib - used_kib


@pytest.mark.parametrize("name", MIXES)
def test_machines_do_not_step_at_the_same_moments(name):
    """Apart from what is meant to coincide, no two machines share their sample times."""
    courses = MIXES[name](10, SEED, 6 * HOUR_S)
    times_s = [t_s for course in courses for t_s, _, _ in course.samples if t_s > 60]
    assert len(set(times_s)) > 0.75 * len(times_s)


@pytest.mark.parametrize(("vm_count", "duration_s"), [(0, HOUR_S), (1, 0.0)])
def test_a_mix_of_nothing_is_refused(vm_count, duration_s):
    """No machine, or no time, is a caller's mistake."""
    with pytest.raises(ValueError, match="at least"):
        MIXES["servers"](vm_count, SEED, duration_s)


def test_a_course_without_samples_is_refused():
    """A machine that exists has a demand."""
    with pytest.raises(ValueError, match="no sample"):
        finish("a", GIB, [(5.0, 1.0, None)], end_s=5.0)


def test_a_mean_is_over_time():
    """Samples weigh by how long they hold, in the whole and in a part."""
    course = finish("a", GIB, [(0.0, 100.0, None), (10.0, 400.0, None)], end_s=40.0)
    assert course.mean_kib == (100 * 10 + 400 * 30) / 40 * MIB
    assert course.mean_between_kib(5.0, 15.0) == 250 * MIB
    assert course.mean_between_kib(50.0, 60.0) == 0
    assert course.peak_kib == 400 * MIB


def test_the_storm_comes_within_a_minute(desktops):
    """In the storm the first and the last log-in are less than 60 s apart."""
    times_s = [logged_in_s(course) for course in desktops["desktops-storm"]]
    # What is seen of a log-in begins a step of at most 5 s, of 20 to 60, after it.
    assert max(times_s) - min(times_s) < 60 + mix_desktops.FAST_S[1] * 2
    exact_s = [mix_desktops.login_s(number, SEED, mix_desktops.STORM_S) for number in range(120)]
    assert max(exact_s) - min(exact_s) <= 60


def test_staggered_people_come_over_hours(desktops):
    """Staggered, no minute has more than a twentieth of the log-ins, and they spread over more than two hours."""
    times_s = sorted(logged_in_s(course) for course in desktops["desktops-staggered"])
    assert times_s[-1] - times_s[0] > 2 * HOUR_S
    assert max(sum(t <= other < t + 60 for other in times_s) for t in times_s) <= 6


def test_both_desktops_are_the_same_machines(desktops):
    """The variants differ in when people come, not in their machines."""
    for storm, staggered in zip(*desktops.values(), strict=True):
        assert storm.name == staggered.name
        assert storm.samples[0] == staggered.samples[0]


@pytest.mark.parametrize("name", ["desktops-storm", "desktops-staggered"])
def test_desktops_use_what_was_announced(desktops, name):
    """At work 583 MiB on the mean, 700 with a buffer of 20 %; own peaks of 1024 on the mean, all different."""
    courses = desktops[name]
    at_work_mib = mean(course.mean_between_kib(10.5 * HOUR_S, 16 * HOUR_S) for course in courses) / MIB
    assert at_work_mib * 1.2 == pytest.approx(700, rel=0.03)
    peaks_mib = [course.peak_kib / MIB for course in courses]
    assert mean(peaks_mib) == pytest.approx(1024, rel=0.03)
    assert max(peaks_mib) - min(peaks_mib) > 300
    assert all(course.samples[0][1] < 512 * MIB for course in courses)


def test_the_announced_numbers_come_out(desktops):
    """On the announcement's host 85 fixed sizes fit, and 115 to 125 machines with demand and 20 %, staggered."""
    courses = desktops["desktops-staggered"]
    host_kib = mix_desktops.HOST_KIB
    fixed = next(n for n in range(120) if sum(course.peak_kib for course in courses[: n + 1]) > host_kib)
    assert 80 <= fixed <= 90
    buffered_kib = peak_of_sum_kib(courses) * 1.2 / len(courses)
    assert 113 <= host_kib / buffered_kib <= 127


def test_a_storm_leaves_little_to_gain(desktops):
    """In the storm everybody is near the own peak at once, so even the clairvoyant gains little."""
    assert 1.0 < gain(desktops["desktops-storm"]) < 1.2
    assert 1.5 < gain(desktops["desktops-staggered"]) < 1.75


def test_lunch_and_evening_are_valleys(desktops):
    """The mean at noon lies below the morning's, and the night's below both."""
    for courses in desktops.values():
        morning, noon, night = (
            mean(course.mean_between_kib(from_h * HOUR_S, to_h * HOUR_S) for course in courses)
            for from_h, to_h in ((10.5, 11.5), (12.5, 13.0), (20, 23))
        )
        assert night < noon < morning


def test_servers_have_the_shape_of_hosted_machines(servers):
    """Peaks near 57 % of what is provisioned, and a gain like that of 64 machines of the whole set (mean 2.57)."""
    of_provisioned = mean(course.peak_kib / course.provisioned_kib for course in servers)
    assert of_provisioned == pytest.approx(0.57, abs=0.05)
    assert 1.95 < gain(servers) < 3.6
    assert 3.5 < sum(course.provisioned_kib for course in servers) / peak_of_sum_kib(servers) < 7.5


@pytest.mark.slow
def test_servers_burst_like_hosted_machines(servers):
    """Over 300 s: the median machine's largest rise near 852 MiB; correlation near 0.47, and 0.20 after 1 h."""
    rises_mib, after_a_step, after_an_hour = [], [], []
    for course in servers:
        means_mib = [course.mean_between_kib(t_s, t_s + 300) / MIB for t_s in range(0, 86400, 300)]
        rises_mib.append(max(after - before for before, after in pairwise(means_mib)))
        after_a_step.append(autocorrelation(means_mib, 1))
        after_an_hour.append(autocorrelation(means_mib, 12))
    assert 500 < median(rises_mib) < 1500
    assert 0.3 < median(after_a_step) < 0.7
    assert 0.1 < median(after_an_hour) < 0.45


def autocorrelation(values: list[float], lag: int) -> float:
    middle = mean(values)
    variance = sum((value - middle) ** 2 for value in values)
    return sum((a - middle) * (b - middle) for a, b in zip(values, values[lag:], strict=False)) / variance


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("web", 0.15, 0.35), ("database", 0.55, 0.8), ("batch", 0.07, 0.2), ("idle", 0.07, 0.2)]
)
def test_each_kind_of_server_has_its_level(servers, kind, low, high):
    """Databases are flat and high, the others live far below their peaks."""
    levels = [course.mean_kib / course.peak_kib for course in servers if course.name.startswith(kind)]
    assert low < mean(levels) < high


def test_batch_runs_at_night(servers):
    """What batch machines use at night is more than by day; of web machines it is less."""
    by_kind = {
        kind: [
            sum(c.mean_between_kib(from_h * HOUR_S, to_h * HOUR_S) for c in servers if c.name.startswith(kind))
            for from_h, to_h in ((0, 5), (9, 17))
        ]
        for kind in ("batch", "web")
    }
    assert by_kind["batch"][0] > by_kind["batch"][1]
    assert by_kind["web"][0] < by_kind["web"][1]


def test_builds_rise_as_recorded(farm):
    """Rising steps while building: 99th percentile near 598 MiB/s, 99.9th near 833, none above 2100."""
    rises = sorted(rise for course in farm for rise in rises_mib_per_s(course))
    assert rises[int(0.99 * len(rises))] == pytest.approx(598, rel=0.1)
    assert rises[int(0.999 * len(rises))] == pytest.approx(833, rel=0.35)
    # Times are rounded to 10 ms.
    assert rises[-1] < 2100 * 1.02


def test_builds_peak_and_rest_as_recorded(farm):
    """Peaks of 11 to 15 of 16 GiB, rest below 1 GiB, and a cache that passes 5 GiB before a build's end."""
    for course in farm:
        assert 10.9 * GIB < course.peak_kib < 15 * GIB
        assert course.provisioned_kib == mix_farm.PROVISIONED_KIB
        assert min(used_kib for _, used_kib, _ in course.samples) < GIB
        assert max(cached_kib or 0 for _, _, cached_kib in course.samples) > 5 * GIB


def test_builders_look_often_while_building(farm):
    """Samples lie 1 to 2.5 s apart while building and up to a minute otherwise."""
    for course in farm:
        steps_s = [after[0] - before[0] for before, after in pairwise(course.samples) if before[1] > GIB]
        assert median(steps_s) == pytest.approx(1.75, abs=0.1)
        assert min(steps_s) > 0.9
