"""Text of /proc/meminfo -> sizes in KiB; a line that is missing or absurd is None, never 0."""

from __future__ import annotations

from ballonet_guest_agent.values import Value, parse_count, total_of


class MemInfo(Value):
    """What the agent uses of /proc/meminfo. The kernel's "kB" is KiB. None: this kernel does not say."""

    total_kib: int | None = None
    free_kib: int | None = None
    available_kib: int | None = None
    committed_kib: int | None = None
    commit_limit_kib: int | None = None
    anon_kib: int | None = None
    file_kib: int | None = None
    shmem_kib: int | None = None
    slab_unreclaimable_kib: int | None = None
    unevictable_kib: int | None = None
    swap_total_kib: int | None = None
    swap_free_kib: int | None = None
    balloon_kib: int | None = None


_LINES = {
    "MemTotal": "total_kib",
    "MemFree": "free_kib",
    "MemAvailable": "available_kib",
    "Committed_AS": "committed_kib",
    "CommitLimit": "commit_limit_kib",
    "AnonPages": "anon_kib",
    "Active(file)": "active_file",
    "Inactive(file)": "inactive_file",
    "Shmem": "shmem_kib",
    "SUnreclaim": "slab_unreclaimable_kib",
    "Unevictable": "unevictable_kib",
    "SwapTotal": "swap_total_kib",
    "SwapFree": "swap_free_kib",
    "Balloon": "balloon_kib",
}


def parse_meminfo(text: str) -> MemInfo:
    """Parse "Name:   123 kB" lines. Never raises. A name that appears twice keeps its first reading."""
    found: dict[str, int | None] = {}
    for line in text.split("\n"):
        name, colon, rest = line.partition(":")
        field = _LINES.get(name)
        if field is None or not colon or field in found:
            continue
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[field] = parse_count(words[0])
    found["file_kib"] = total_of(found.pop("active_file", None), found.pop("inactive_file", None))
    return MemInfo(**found)
