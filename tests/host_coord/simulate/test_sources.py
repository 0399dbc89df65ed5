"""Where demand comes from: which part of it, and the machines that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.host_coord.builders import GIB, MIB

from ballonet_host_coord.simulate import sources
from ballonet_host_coord.simulate.sources import Source, courses_of, load


def starts(source: Source) -> list[float]:
    return [guest.trace.start_s for guest in load(source).guests]


def test_machine_n_is_shifted_n_times(trace_file):
    """The correlated case of runs that were recorded one after the other: each starts earlier by as much again."""
    assert starts(Source(trace_file)) == [0.0, 3600.0, 7200.0]
    assert starts(Source(trace_file, shift_s=2400.0)) == [0.0, 1200.0, 2400.0]


def test_together_is_at_the_same_moment(trace_file):
    """Then the clairvoyant needs all peaks at once."""
    assert starts(Source(trace_file, together=True)) == [0.0] * 3
    assert load(Source(trace_file, together=True)).oracle_kib == 9 << 20
    assert load(Source(trace_file)).oracle_kib < 9 << 20


def test_a_window_is_in_hours(trace_file):
    """What is asked for in hours is cut in seconds, and its beginning is the new 0."""
    house = load(Source(trace_file, from_h=1.0, to_h=2.5))
    assert [guest.trace.start_s for guest in house.guests] == [0.0, 0.0, 3600.0]
    assert house.span_s == 5400.0


def test_a_part_without_machines_is_refused(trace_file):
    """Nothing to simulate is said, not simulated."""
    with pytest.raises(ValueError, match="no machine exists then"):
        load(Source(trace_file, from_h=1000.0))


def test_so_many_machines_of_a_file(trace_file):
    """A count takes the first ones of a file."""
    assert [guest.trace.name for guest in load(Source(trace_file, vm_count=2)).guests] == ["vm0", "vm1"]


def test_a_mix_is_made_as_long_as_it_is_looked_at():
    """Three hours of a mix are the first three of its day."""
    (short,) = courses_of(Source(mix="servers", vm_count=1, seed=3, to_h=3.0))
    assert short.end_s == 3 * 3600.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(Path("folder/file.csv.gz")), "folder/file.csv.gz"),
        (Source(Path("a/b"), "web*", vm_count=4), "a/b, web*, 4 VMs"),
        (Source(mix="servers", vm_count=9, together=True), "servers, 9 VMs, started together"),
        (Source(mix="servers", from_h=2, to_h=3.5, shift_s=60), "servers, hours 2 to 3.5, each 60 s earlier"),
        (Source(mix="servers", from_h=2), "servers, hours 2 to the end"),
        (Source(mix="servers", characters=(("stuck", "*"), ("lying", "web*"))), "servers, stuck, lying web*"),
    ],
)
def test_a_source_says_what_it_is(source, said):
    """In the table and the JSON it stands which demand it was."""
    assert str(source) == said


def test_a_recording_is_a_house_with_its_hosts_settings(recording):
    """Guests have their own minimum, weight and buffer; of the budget it is known what QEMU itself takes."""
    house = load(Source(recording=recording))
    alpha, beta, again = house.guests
    assert [guest.trace.name for guest in house.guests] == ["alpha", "beta", "beta#2"]
    assert (alpha.minimum_kib, alpha.weight, alpha.buffer_percent) == (256 * MIB, 5000, 35)
    assert [step.used_kib // MIB for step in alpha.trace.steps] == [300, 700]
    assert (beta.trace.end_s, again.trace.start_s) == (200.0, 400.0)
    assert (house.budget_kib, house.headroom_kib) == (2 * GIB, 32 * MIB)
    # Beta uses less than its minimum, which counts all the same.
    assert house.oracle_kib == (700 + 256) * MIB


def test_a_recording_is_read_once_for_all_processes(recording):
    """A worker knows what its parent has read, and reads no file."""
    there = sources.recorded(recording)
    recording.unlink()
    sources._known.clear()
    sources.know({recording: there})
    assert len(load(Source(recording=recording, select="beta")).guests) == 2


def test_guests_of_a_recording_can_be_chosen(recording):
    """A glob that matches none is refused with those that there are."""
    with pytest.raises(ValueError, match=r"no guest matches 'gamma'; there are alpha, beta"):
        load(Source(recording=recording, select="gamma"))


def test_a_recording_without_turns_is_refused(tmp_path):
    """What is no recording at all is said with how much of it was passed over."""
    path = tmp_path / "none"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"holds no turn; 100 bytes are damaged"):
        load(Source(recording=path))


def test_characters_are_given_by_name(trace_file):
    """The last one that matches counts, and who matches none stays as it is."""
    source = Source(trace_file, characters=(("stuck", "*"), ("silent", "vm1"), ("hidden-floor", "vm2")))
    first, second, third = load(source).guests
    assert [mood.follows for mood in first.moods] == [False]
    assert [mood.silent for mood in second.moods] == [True]
    assert (third.moods, third.least_kib) == ((), 2 << 20)


def test_chance_of_a_character_is_the_seeds(trace_file):
    """The same seed makes the same bursts, another seed others; machines of one seed differ."""
    once, again, other = (load(Source(trace_file, seed=seed, characters=(("bursty", "*"),))) for seed in (1, 1, 2))
    assert once == again
    assert once.guests != other.guests
    lengths = {len(guest.trace.steps) for guest in once.guests}
    assert min(lengths) > 2
    assert len(lengths) > 1


def test_a_character_keeps_what_the_owner_has_set(recording):
    """A recorded guest that lies has its own minimum and buffer still."""
    alpha = load(Source(recording=recording, characters=(("lying", "alpha"),))).guests[0]
    assert (alpha.minimum_kib, alpha.buffer_percent, alpha.moods[0].shows_ratio) == (256 * MIB, 35, 3.0)


def test_a_character_for_nobody_is_refused(trace_file):
    """With names that there are."""
    with pytest.raises(ValueError, match=r"lying=web\*: no machine's name matches; there are vm0, vm1, vm2"):
        load(Source(trace_file, characters=(("lying", "web*"),)))
