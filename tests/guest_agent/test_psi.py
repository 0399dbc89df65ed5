"""psi.py: stall times and averages; a kernel without PSI is a value."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.psi import ABSENT, OFF, PRESENT, UNREADABLE, Psi, parse_psi, psi_state

FIXTURES = Path(__file__).parent / "fixtures"


def test_linux_6_1() -> None:
    """Percent with two decimals become parts of ten thousand, exactly."""
    assert parse_psi((FIXTURES / "linux-6.1/pressure_memory").read_text()) == Psi(
        some_avg10_permyriad=1234,
        full_avg10_permyriad=310,
        some_us=918273,
        full_us=104512,
        some_avg60_permyriad=456,
        full_avg60_permyriad=120,
        some_avg300_permyriad=102,
        full_avg300_permyriad=33,
    )


def test_no_psi() -> None:
    """A missing file, an empty one and one without a `some` total all mean: no PSI."""
    assert parse_psi(None) is None
    assert parse_psi("") is None
    assert parse_psi("full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n") is None


@pytest.mark.parametrize(
    ("error_number", "state"),
    [
        (errno.EOPNOTSUPP, OFF),
        (errno.ENOENT, ABSENT),
        (errno.ENOTDIR, ABSENT),
        (errno.EACCES, UNREADABLE),
        (errno.EIO, UNREADABLE),
        (0, UNREADABLE),
    ],
)
def test_why_there_is_none(error_number: int, state: str) -> None:
    """Off, absent and unreadable are told apart by the error; a text without totals is unreadable."""
    assert psi_state(None, error_number) == state
    assert psi_state(Psi(some_us=5), 0) == PRESENT


@pytest.mark.parametrize("average", ["1.2", "1,20", "101.00", "-1.00", "1.2e", "nan", ""])
def test_absurd_average_is_unknown(average: str) -> None:
    """An average that the kernel would not print is unknown; the total beside it still counts."""
    assert parse_psi(f"some avg10={average} total=5\n") == Psi(None, None, 5, None)


def test_100_percent() -> None:
    """The largest average is 10000, never more, as the wire demands."""
    psi = parse_psi("some avg10=100.00 total=5\nfull avg10=100.99 total=5\n")
    assert psi == Psi(10000, 10000, 5, 5)


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises."""
    parse_psi(text)


@given(st.text(), st.text(), st.text())
def test_known_names_with_any_values(average: str, total: str, rest: str) -> None:
    """Known names with absurd values do not raise and stay within bounds."""
    psi = parse_psi(f"some avg10={average} total=1 {rest}\nfull avg10={average} total={total}")
    if psi is not None and psi.some_avg10_permyriad is not None:
        assert 0 <= psi.some_avg10_permyriad <= 10000
