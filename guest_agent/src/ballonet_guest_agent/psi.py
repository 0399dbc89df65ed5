"""Text of /proc/pressure/memory -> stall times; a kernel without PSI is a value, not an error."""

from __future__ import annotations

import errno

from ballonet_guest_agent.values import Value, parse_count

#: What there is of PSI. PRESENT: it was read. OFF: the file is there and reading it is not supported, as with psi=0 on
#: Linux 5.4. ABSENT: no such file: before 4.20, without CONFIG_PSI, and with psi=0 from 5.10 on. UNREADABLE: anything
#: else, no permission or a text without totals.
PRESENT, OFF, ABSENT, UNREADABLE = "present", "off", "absent", "unreadable"


class Psi(Value):
    """`some`: at least one task stalled on memory; `full`: all of them. Times in microseconds since boot.

    The averages of 60 s and 300 s are not in a REPORT: whoever has the totals can make any average of them.
    """

    some_avg10_permyriad: int | None = None
    full_avg10_permyriad: int | None = None
    some_us: int | None = None
    full_us: int | None = None
    some_avg60_permyriad: int | None = None
    full_avg60_permyriad: int | None = None
    some_avg300_permyriad: int | None = None
    full_avg300_permyriad: int | None = None


def psi_state(psi: Psi | None, error_number: int) -> str:
    """What was read, as a state. `error_number` is the error of opening or reading the file, 0 when there was none."""
    if psi is not None:
        return PRESENT
    if error_number == errno.EOPNOTSUPP:
        return OFF
    return ABSENT if error_number in (errno.ENOENT, errno.ENOTDIR) else UNREADABLE


def _permyriad(text: str) -> int | None:
    """"12.34" (percent) -> 1234 (1/10000). None for anything else."""
    whole, point, fraction = text.partition(".")
    if not point or len(fraction) != 2:
        return None
    percent, hundredths = parse_count(whole), parse_count(fraction)
    if percent is None or hundredths is None or percent > 100:
        return None
    return min(percent * 100 + hundredths, 10000)


def parse_psi(text: str | None) -> Psi | None:
    """Parse the `some` and `full` lines. None when there is no `some` total: then there is no PSI. Never raises."""
    if text is None:
        return None
    found: dict[str, int | None] = {}
    for line in text.split("\n"):
        words = line.split(" ")
        kind = words[0]
        if kind not in ("some", "full"):
            continue
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name in ("avg10", "avg60", "avg300"):
                found.setdefault(f"{kind}_{name}_permyriad", _permyriad(value))
            elif name == "total":
                found.setdefault(kind + "_us", parse_count(value))
    if found.get("some_us") is None:
        return None
    return Psi(**found)
