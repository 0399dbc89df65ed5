"""Text of /proc/pressure/memory -> stall times; a kernel without PSI is a value (None), not an error."""

from __future__ import annotations

from ballonet_guest_agent.values import Value, parse_count


class Psi(Value):
    """`some`: at least one task stalled on memory; `full`: all of them. Times in microseconds since boot."""

    some_avg10_permyriad: int | None = None
    full_avg10_permyriad: int | None = None
    some_us: int | None = None
    full_us: int | None = None


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
            if name == "avg10":
                found.setdefault(kind + "_avg10_permyriad", _permyriad(value))
            elif name == "total":
                found.setdefault(kind + "_us", parse_count(value))
    if found.get("some_us") is None:
        return None
    return Psi(**found)
