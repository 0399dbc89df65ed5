"""guest_rules.py: what applies to a guest that nobody named, and which word is the stronger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.guest_rules import is_pattern, sane_policy, settings_for
from ballonet_host_coord.model import Domain, GuestRules, GuestSettings

from .builders import GIB, MIB

WEB = Domain("web1", "u", ram_kib=4 * GIB, startup_kib=2 * GIB)
RULES = GuestRules(
    defaults=(("weight", 1), ("buffer_percent", 1), ("overhead_kib", 1)),
    sections=(
        ("web1", (("weight", 4),)),
        ("web*", (("weight", 2), ("buffer_percent", 2))),
        ("*1", (("weight", 3), ("buffer_percent", 3))),
        ("db*", (("weight", 9),)),
    ),
)


def test_nothing_said() -> None:
    """A guest of which nobody has said anything keeps a quarter and may have all; it boots as its machine says."""
    assert settings_for(GuestRules(), WEB) == (GuestSettings("web1", GIB, 2 * GIB, 4 * GIB), [])
    small = Domain("small", "u", ram_kib=300 * MIB, startup_kib=300 * MIB)
    assert settings_for(GuestRules(), small)[0] == GuestSettings("small", 300 * MIB, 300 * MIB, 300 * MIB)


def test_precedence() -> None:
    """Set at run time, then the metadata, its own section, the last pattern that fits, the defaults: in this order."""
    settings, notes = settings_for(RULES, WEB)
    assert (settings.weight, settings.buffer_percent, settings.overhead_kib) == (4, 3, 1)
    tagged = Domain("web1", "u", 4 * GIB, 2 * GIB, (("weight", "5"), ("buffer", "6")))
    settings, more = settings_for(RULES, tagged)
    assert (settings.weight, settings.buffer_percent) == (5, 6)
    settings, most = settings_for(RULES, tagged, {"weight": 6})
    assert (settings.weight, settings.buffer_percent) == (6, 6)
    assert notes == more == most == []


@pytest.mark.parametrize(
    ("key", "text", "note"),
    [
        ("weight", "0", 'metadata weight="0": allowed is a whole number from 1 to 10000'),
        ("weight", "many", "allowed is a whole number"),
        ("minimum", "12", "allowed is a size"),
        ("minimun", "1G", "did you mean minimum?"),
        ("qmp", "/tmp/x", "unknown"),
        ("start_when_it_fits", "perhaps", "allowed is true or false"),
    ],
)
def test_faulty_metadata_is_said_and_left_out(key: str, text: str, note: str) -> None:
    """A word that is not allowed costs itself alone: the guest has the settings that it would have without."""
    settings, notes = settings_for(RULES, Domain("web1", "u", 4 * GIB, 2 * GIB, ((key, text), ("buffer", "7"))))
    assert (settings.weight, settings.buffer_percent) == (4, 7)
    assert len(notes) == 1
    assert note in notes[0]


def test_metadata_that_turns_to_nonsense_changes_nothing() -> None:
    """What it said last that could be taken holds on, and the sentence says so; a key that is gone is gone."""
    first = Domain("web1", "u", 4 * GIB, 2 * GIB, (("weight", "5"), ("buffer", "6"), ("minimun", "1G")))
    sane = sane_policy(first)
    assert sane == {"weight": "5", "buffer": "6"}
    then = Domain("web1", "u", 4 * GIB, 2 * GIB, (("weight", "many"), ("minimum", "lots")))
    settings, notes = settings_for(RULES, then, before=sane)
    assert (settings.weight, settings.buffer_percent, settings.minimum_kib) == (5, 3, GIB)
    assert notes[0].endswith('; "5" is in force as before')
    assert "before" not in notes[1]
    assert sane_policy(then, sane) == {"weight": "5"}


def test_values_at_odds_with_the_machine_are_clipped() -> None:
    """A maximum beyond the machine, a minimum beyond that: the nearest that fits, and a sentence; startup follows."""
    rules = GuestRules(defaults=(("maximum_kib", 8 * GIB), ("minimum_kib", 6 * GIB), ("startup_kib", GIB)))
    settings, notes = settings_for(rules, WEB)
    assert settings == GuestSettings("web1", 4 * GIB, 4 * GIB, 4 * GIB)
    assert [note.split()[0] for note in notes] == ["maximum", "minimum"]


@given(
    name=st.text(min_size=1, max_size=200),
    maximum_kib=st.integers(1, 2**40),
    startup_kib=st.integers(0, 2**41),
    policy=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=40)), max_size=5),
)
def test_every_machine_gets_settings_that_hold(
    name: str, maximum_kib: int, startup_kib: int, policy: list[tuple[str, str]]
) -> None:
    """Whatever a domain is called and its metadata says, its bounds are in order and within the machine."""
    settings, _ = settings_for(RULES, Domain(name, "u", maximum_kib, startup_kib, tuple(policy)))
    assert 0 < settings.minimum_kib <= settings.startup_kib <= settings.maximum_kib <= maximum_kib


@pytest.mark.parametrize(("name", "expected"), [("web*", True), ("a?", True), ("[ab]1", True), ("web-1", False)])
def test_pattern(name: str, expected: bool) -> None:
    """A name with a character of fnmatch stands for several."""
    assert is_pattern(name) is expected


def test_a_domain_that_cannot_be_read_is_known_by_its_fault() -> None:
    """Nothing is taken for granted of it, and its line says why."""
    settings, notes = settings_for(RULES, Domain("odd", "u", fault="domain odd: no <memory>"))
    assert (settings.minimum_kib, settings.maximum_kib) == (0, 0)
    assert notes == ["domain odd: no <memory>"]
