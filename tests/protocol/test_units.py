"""Sizes as people write them, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_protocol.units import GIB, KIB, MIB, bytes_to_kib, format_kib, kib_to_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size_kib"),
    [
        ("512M", 512 * 1024),
        ("2GiB", 2 * 1024**2),
        ("1.5G", 1536 * 1024),
        ("1.5 gib", 1536 * 1024),
        (" 64K ", 64),
        ("64kb", 64),
        ("1T", 1024**3),
        ("0M", 0),
        ("0.5M", 512),
        ("007M", 7 * 1024),
        ("1.3G", 1363148),
        ("0.3K", 0),
    ],
)
def test_parse_size(text: str, size_kib: int) -> None:
    """Units are powers of 1024, whatever their spelling; a fraction is exact."""
    assert parse_size(text) == size_kib


@pytest.mark.parametrize(
    "text",
    [
        *("", "512", "M", "-1M", "1,5G", "1.G", ".5G", "1.2.3G", "1e3M", "12X", "1GIGABYTE", "1bM"),
        *("²M", "١M", "nan", "1_0M", "1 0M", "9" * 30 + "M", "1mm"),
    ],
)
def test_parse_size_refuses(text: str) -> None:
    """Anything else is refused with the value and what is allowed; a bare number too, since nobody knows its unit."""
    with pytest.raises(ValueError, match="allowed is a number and one of K, M, G, T") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size_kib", "text"),
    [
        (0, "0 KiB"),
        (1023, "1023 KiB"),
        (1024, "1 MiB"),
        (512 * 1024, "512 MiB"),
        (1536 * 1024, "1.5 GiB"),
        (1024**3, "1 TiB"),
        (-3 * 1024, "-3 MiB"),
        (1300, "1.3 MiB"),
    ],
)
def test_format_kib(size_kib: int, text: str) -> None:
    """A size is shown in the largest unit that keeps it at 1 or more, with one decimal at most."""
    assert format_kib(size_kib) == text


@given(st.integers(0, 2**43))
def test_format_and_parse_agree(size_kib: int) -> None:
    """What is shown reads back as nearly the same size: off by half of its last digit at most."""
    assert abs(parse_size(format_kib(size_kib)) - size_kib) <= size_kib / 20


@given(st.integers(0, 2**53))
def test_bytes_and_kib(size: int) -> None:
    """KiB survive the way to bytes and back; bytes lose less than a KiB."""
    assert bytes_to_kib(kib_to_bytes(size)) == size
    assert 0 <= size - kib_to_bytes(bytes_to_kib(size)) < KIB
    assert (GIB, MIB) == (1024 * MIB, 1024 * KIB)
