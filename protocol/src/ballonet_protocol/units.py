"""KiB inside, bytes on the wire, words for people: the conversions between the three."""

from __future__ import annotations

KIB = 1024  # bytes
MIB = 1024 * KIB  # bytes
GIB = 1024 * MIB  # bytes

# Powers of 1024 only: guests and balloons are counted in pages, so "512M" always meant MiB. KiB per unit.
_KIB_PER_UNIT = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}
_ALLOWED = 'a number and one of K, M, G, T (or KiB, MiB, GiB, TiB), like "512M" or "1.5GiB"'


def bytes_to_kib(size_bytes: int) -> int:
    """Whole KiB in `size_bytes`; what is left over is cut off."""
    return size_bytes // KIB


def kib_to_bytes(size_kib: int) -> int:
    """Bytes in `size_kib`."""
    return size_kib * KIB


def parse_size(text: str) -> int:
    """KiB in a size written by a person, such as "512M", "2GiB" or "1.3 G"; a part of a KiB is cut off.

    Raises ValueError, saying what is allowed, for anything else: also for a number without a unit, which one reader
    takes for bytes and the next for MiB.
    """
    word = text.strip().lower()
    digits = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(digits) :]
    number = digits.strip()
    whole, point, fraction = number.partition(".")
    well_formed = whole.isdecimal() and whole.isascii() and len(number) <= 20
    if point:
        well_formed = well_formed and fraction.isdecimal() and fraction.isascii()
    if not well_formed or unit[:1] not in _KIB_PER_UNIT or unit[1:] not in ("", "b", "ib"):
        raise ValueError(f"{text!r} is not a size; allowed is {_ALLOWED}")
    return int(whole + fraction) * _KIB_PER_UNIT[unit[0]] // int("1" + "0" * len(fraction))


def format_kib(size_kib: int) -> str:
    """A size for people, in the largest unit that keeps it at 1 or more: "512 MiB", "1.5 GiB", "-3 MiB"."""
    size = abs(size_kib)
    unit_kib, name = 1, "KiB"
    for larger_kib, larger_name in ((1024, "MiB"), (1024**2, "GiB"), (1024**3, "TiB")):
        if size >= larger_kib:
            unit_kib, name = larger_kib, larger_name
    tenths = (size * 10 + unit_kib // 2) // unit_kib
    number = f"{tenths // 10}.{tenths % 10}" if tenths % 10 else f"{tenths // 10}"
    return f"{'-' if size_kib < 0 else ''}{number} {name}"
