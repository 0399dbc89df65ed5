"""The slider: five numbers, each monotone from performance to density, joined between the points of the curve."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.slider import CURVE, DEFAULT_SLIDER, MOST_SLIDER, tuning

PLACES = st.integers(0, MOST_SLIDER)
SIZES = st.integers(0, 1 << 30)


@given(PLACES, PLACES)
def test_no_number_moves_against_the_slider(one: int, other: int) -> None:
    """I10: towards density buffers, memory of the past, cache and surplus never grow, and harm is never seen sooner."""
    performance, density = tuning(min(one, other)), tuning(max(one, other))
    assert performance.buffer_ratio >= density.buffer_ratio
    assert performance.held_half_life_s >= density.held_half_life_s
    assert performance.cache_kept_ratio >= density.cache_kept_ratio
    assert performance.harm_psi_some_ratio <= density.harm_psi_some_ratio
    assert performance.surplus_ratio >= density.surplus_ratio


def test_the_ends_differ_in_every_number() -> None:
    """No number is left where it was from one end to the other."""
    assert all(
        first != last for first, last in zip(astuple(tuning(0)), astuple(tuning(MOST_SLIDER)), strict=True)
    )


@pytest.mark.parametrize("place", CURVE)
def test_a_point_of_the_curve_is_what_is_written_there(place: int) -> None:
    """At the points themselves nothing is computed."""
    assert tuning(place) == CURVE[place]


@given(PLACES)
def test_between_two_points_every_number_lies_between_theirs(place: int) -> None:
    """Interpolation leaves neither end's range."""
    below, above = max(at for at in CURVE if at <= place), min(at for at in CURVE if at >= place)
    for found, left, right in zip(astuple(tuning(place)), astuple(CURVE[below]), astuple(CURVE[above]), strict=True):
        assert min(left, right) * (1 - 1e-12) <= found <= max(left, right) * (1 + 1e-12)


def test_times_are_joined_by_their_logarithm_and_the_rest_straight() -> None:
    """Halfway a half-life is the geometric mean, so that a step of the slider is the same factor; a ratio is the
    arithmetic one."""
    middle = tuning(75)
    assert middle.held_half_life_s == pytest.approx((45.0 * 10.0) ** 0.5)
    assert middle.buffer_ratio == pytest.approx((1.0 + 0.25) / 2)
    assert middle.harm_psi_some_ratio == pytest.approx((0.10 + 0.30) / 2)
    assert tuning(40).surplus_ratio == pytest.approx(0.4)


@pytest.mark.parametrize("slider", [-1, MOST_SLIDER + 1])
def test_what_is_no_place_of_the_slider_is_refused(slider: int) -> None:
    """Beyond the ends nothing is guessed."""
    with pytest.raises(ValueError, match=f"slider {slider}: allowed is 0"):
        tuning(slider)


def test_the_default_buffer_is_what_the_guests_settings_say() -> None:
    """Whoever sets a buffer and leaves the slider alone gets that buffer, and keeps what nobody else needs."""
    default = tuning(DEFAULT_SLIDER)
    assert (default.buffer_ratio, default.surplus_ratio) == (1.0, 1.0)


def test_the_buffer_or_the_cache_where_that_is_more() -> None:
    """Cache that is worth keeping stands in for the buffer and is not added to it."""
    tuned = tuning(50)
    assert tuned.buffered_kib(1000, cache_kib=0, buffer_percent=20) == 1200
    assert tuned.buffered_kib(1000, cache_kib=150, buffer_percent=20) == 1200
    assert tuned.buffered_kib(1000, cache_kib=500, buffer_percent=20) == 1500
    assert tuning(100).buffered_kib(1000, cache_kib=0, buffer_percent=20) == 1050


@given(PLACES, PLACES, SIZES, SIZES, st.integers(0, 1000))
def test_what_ranks_with_the_buffer_never_grows_towards_density(one, other, demand_kib, cache_kib, percent) -> None:
    """I10, for one guest: rounding included."""
    performance, density = tuning(min(one, other)), tuning(max(one, other))
    wide_kib = performance.buffered_kib(demand_kib, cache_kib, percent)
    assert wide_kib >= density.buffered_kib(demand_kib, cache_kib, percent) >= demand_kib
