"""The record type: what a dataclass would give, at the price of a few lines."""

from __future__ import annotations

import pytest

from ballonet_protocol import Bye, Drops, MemoryReport, Ping, Pong, Report

MEMORY = MemoryReport(total_bytes=4, free_bytes=3, available_bytes=2, committed_bytes=1)


def test_optional_is_none() -> None:
    """An optional field that was not given is None, not 0."""
    assert Pong(re=1, token=2).boottime_ms is None
    assert Report(boottime_ms=1, memory=MEMORY).memory.balloon_bytes is None


def test_mandatory_is_needed() -> None:
    """A record without a mandatory field cannot be made, and the error names the field."""
    with pytest.raises(TypeError, match="Pong needs token"):
        Pong(re=1)  # type: ignore[call-arg]


def test_unknown_field() -> None:
    """A field that the table does not have is refused by name."""
    with pytest.raises(TypeError, match="Ping has no field tokne"):
        Ping(token=1, tokne=2)  # type: ignore[call-arg]


def test_immutable() -> None:
    """A record's fields can be neither set nor deleted."""
    ping = Ping(token=1)
    with pytest.raises(AttributeError, match="Ping is immutable"):
        ping.token = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Ping is immutable"):
        del ping.token
    assert ping == Ping(token=1)


def test_equal_by_type_and_fields() -> None:
    """Records are equal when type and fields are; an absent field differs from 0; seq does not count."""
    assert Ping(token=1) == Ping(token=1, seq=9)
    assert hash(Ping(token=1)) == hash(Ping(token=1, seq=9))
    assert Ping(token=1) != Ping(token=2)
    assert Ping(token=1) != Bye(why=1)
    assert Drops(crc=0) != Drops()
    assert Ping(token=1) != 1


def test_replace() -> None:
    """`replace` changes the named fields of a copy and leaves the original alone."""
    pong = Pong(re=1, token=2, boottime_ms=3)
    assert pong.replace(token=4) == Pong(re=1, token=4, boottime_ms=3)
    assert pong == Pong(re=1, token=2, boottime_ms=3)
    with pytest.raises(TypeError, match="Pong has no field age"):
        pong.replace(age=1)


def test_repr_shows_what_is_there() -> None:
    """The repr names type and fields and leaves absent ones out."""
    assert repr(Pong(re=1, token=2)) == "Pong(re=1, token=2)"
