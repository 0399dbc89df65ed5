"""Snapshots survive JSON unchanged, and what is not a snapshot of this version is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord import model
from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import SNAPSHOT_VERSION, Snapshot
from ballonet_host_coord.slider import DEFAULT_SLIDER
from ballonet_host_coord.snapshot import decision_to_json, snapshot_from_json, snapshot_to_json

from .builders import make_guest, make_snapshot

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False, width=32))
GUESTS = st.builds(
    model.GuestSnapshot,
    residency=st.none() | st.from_type(model.Residency),
    agent=st.builds(
        model.AgentFacts,
        consent=st.none() | st.from_type(model.Consent),
        boot_id=st.none() | st.binary(max_size=16),
        capabilities=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    ),
    report=st.none() | st.from_type(model.UsageReport),
    demand=st.none() | st.from_type(model.Demand),
    wish=st.none() | st.from_type(model.Wish),
    stuck_since_s=st.none() | st.integers(0, 9).map(float),
)
HOSTS = st.builds(
    model.HostSnapshot,
    facts=st.none() | st.from_type(model.HostFacts),
    slider=st.integers(0, 100),
    state=st.sampled_from(model.HostState),
)
"""A place that the slider has; any other is a ValueError of whoever decides with it."""
SNAPSHOTS = st.builds(
    Snapshot,
    host=HOSTS,
    guests=st.lists(GUESTS, max_size=3).map(tuple),
    observe=st.booleans(),
    version=st.just(SNAPSHOT_VERSION),
)


@given(SNAPSHOTS)
def test_snapshot_survives_json(snapshot):
    """Written as text and read again, it is equal: None stays None, enums, bytes and tuples return as themselves."""
    assert snapshot_from_json(json.loads(json.dumps(snapshot_to_json(snapshot)))) == snapshot


def test_replayed_snapshot_gives_the_same_decision():
    """What `explain` computes from a record is what was decided then."""
    snapshot = make_snapshot(make_guest("alpha"), make_guest("beta", 900 * 1024))
    replayed = snapshot_from_json(json.loads(json.dumps(snapshot_to_json(snapshot))))
    assert one_iteration(replayed) == one_iteration(snapshot)


def test_snapshot_from_before_the_slider_is_read():
    """A recording of a ballonet that had no slider and watched no host loads: the default, and a host at ease."""
    value = snapshot_to_json(make_snapshot(make_guest(), facts=model.HostFacts(8, 4)))
    for name in ("slider", "state", "lacking_kib", "state_why"):
        del value["host"][name]
    del value["host"]["facts"]["cgroup_used_kib"]
    host = snapshot_from_json(value).host
    assert host == model.HostSnapshot(host.budget_kib, host.headroom_kib, model.HostFacts(8, 4))
    assert (host.slider, host.state, host.lacking_kib) == (DEFAULT_SLIDER, model.HostState.EASY, 0)


def test_decision_is_plain_json():
    """Names as keys, words as values."""
    decision = json.loads(json.dumps(decision_to_json(one_iteration(make_snapshot(make_guest())))))
    assert decision["guests"][0]["name"] == "alpha"
    assert decision["guests"][0]["phase"] == "freeing"


@pytest.mark.parametrize("version", [None, 0, SNAPSHOT_VERSION + 1, str(SNAPSHOT_VERSION)])
def test_other_version_is_refused(version):
    """A version that is not ours is refused by name rather than half understood."""
    value = {**snapshot_to_json(make_snapshot()), "version": version}
    with pytest.raises(ValueError, match=f"snapshot version {version!r}"):
        snapshot_from_json(value)


def test_unknown_fields_are_passed_over():
    """A later writer of the same version may say more."""
    snapshot = make_snapshot(make_guest())
    assert snapshot_from_json({**snapshot_to_json(snapshot), "mood": "calm"}) == snapshot


def broken(path, wrong):
    value = snapshot_to_json(make_snapshot(make_guest()))
    *way, last = path
    place = value
    for step in way:
        place = place[step]
    place[last] = wrong
    return value


WRONG_PLACES = [
    (["guests"], "all"),
    (["guests", 0], 7),
    (["now_s"], "noon"),
    (["observe"], 1),
    (["guests", 0, "vm", "run_state"], "asleep"),
    (["guests", 0, "vm", "ram_kib"], 1.5),
    (["guests", 0, "vm", "ram_kib"], True),
    (["guests", 0, "vm"], None),
    (["guests", 0, "agent", "boot_id"], "not hex"),
    (["guests", 0, "agent", "boot_id"], 7),
    (["guests", 0, "agent", "link"], []),
]


@pytest.mark.parametrize(("path", "wrong"), WRONG_PLACES)
def test_wrong_type_or_word_is_refused(path, wrong):
    """Wrong types and unknown words are a ValueError and nothing else, wherever they stand."""
    with pytest.raises(ValueError):  # noqa: PT011 - each says something of its own
        snapshot_from_json(broken(path, wrong))


@pytest.mark.parametrize("value", [None, [], "text", {"version": SNAPSHOT_VERSION}])
def test_what_is_no_snapshot_is_refused(value):
    """Anything but an object with all its fields is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - each says something of its own
        snapshot_from_json(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
PLACES = [["host"], ["host", "facts"], ["guests", 0, "settings"], ["guests", 0, "agent", "boot_id"], ["guests", 0]]


@given(st.sampled_from(PLACES), JSON)
def test_anything_in_any_place_is_read_or_refused(path, wrong):
    """Whatever stands where a part of a snapshot belongs, the answer is a snapshot or a ValueError."""
    try:
        result = snapshot_from_json(broken(path, wrong))
    except ValueError:
        return
    assert isinstance(result, Snapshot)
