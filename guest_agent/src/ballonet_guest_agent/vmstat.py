"""Text of /proc/vmstat -> counters since boot; names that changed between kernels are brought together here."""

from __future__ import annotations

from ballonet_guest_agent.values import Value, parse_count


class VmStat(Value):
    """Counters since boot, in pages or events as the kernel counts them. None: this kernel does not count it."""

    page_faults: int | None = None
    major_faults: int | None = None
    refaults_anon: int | None = None
    refaults_file: int | None = None
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None
    direct_scan_pages: int | None = None
    kswapd_scan_pages: int | None = None
    restored_pages: int | None = None
    alloc_stalls: int | None = None
    oom_kills: int | None = None
    balloon_inflated_pages: int | None = None
    balloon_deflated_pages: int | None = None


#: In the order of the kernel's file, so that each is found a little behind the one before.
_LINES = {
    "workingset_refault_anon": "refaults_anon",
    "workingset_refault_file": "refaults_file",
    # Before 5.9 there was one refault counter, and it counted files only.
    "workingset_refault": "refaults_file",
    "pswpin": "swap_in_pages",
    "pswpout": "swap_out_pages",
    "pgfault": "page_faults",
    "pgmajfault": "major_faults",
    "pgscan_kswapd": "kswapd_scan_pages",
    "pgscan_direct": "direct_scan_pages",
    "oom_kill": "oom_kills",
    "balloon_inflate": "balloon_inflated_pages",
    "balloon_deflate": "balloon_deflated_pages",
}


def parse_vmstat(text: str) -> VmStat:
    """Find "name 123" lines by name, never by position. Never raises.

    `restored_pages` are refaults of pages that had been in use when they were evicted, of both kinds (one line before
    5.9). `alloc_stalls` is the sum of all `allocstall*`; before 4.8 `pgscan_direct` was one counter per zone, and the
    zones are added up (`pgscan_direct_throttle` counts something else and stays out).

    A kernel counts 150 things and more, of which a dozen are wanted: looking for these takes a quarter of the time that
    going through all lines takes, and an idle agent does little else.
    """
    text = f"\n{text}\n"
    found: dict[str, int] = {}
    place = 0
    for name, field in _LINES.items():
        if field not in found:
            at, count = _count_of(text, f"\n{name} ", place)
            if count is not None:
                place, found[field] = at, count
    restored = _family(text, "\nworkingset_restore")
    if restored:
        found["restored_pages"] = sum(restored.values())
    stalls = _family(text, "\nallocstall")
    if stalls:
        found["alloc_stalls"] = sum(stalls.values())
    if "direct_scan_pages" not in found:
        zones = _family(text, "\npgscan_direct_")
        zones.pop("pgscan_direct_throttle", None)
        if zones:
            found["direct_scan_pages"] = sum(zones.values())
    return VmStat(**found)


def _count_of(text: str, start: str, place: int) -> tuple[int, int | None]:
    """Where a line that begins with `start` is, and the count on it; looked for from `place` on, then from the top."""
    at = text.find(start, place)
    if at < 0:
        at = text.find(start)
        if at < 0:
            return place, None
    first = at + len(start)
    return at, parse_count(text[first : text.index("\n", first)])


def _family(text: str, start: str) -> dict[str, int]:
    """Names that begin like `start`, and their counts."""
    counts: dict[str, int] = {}
    at = text.find(start)
    while at >= 0:
        end = text.index("\n", at + 1)
        name, _, digits = text[at + 1 : end].partition(" ")
        count = parse_count(digits)
        if count is not None:
            counts[name] = count
        at = text.find(start, end)
    return counts
