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


_LINES = {
    "pgfault": "page_faults",
    "pgmajfault": "major_faults",
    "workingset_refault_anon": "refaults_anon",
    "workingset_refault_file": "refaults_file",
    "pswpin": "swap_in_pages",
    "pswpout": "swap_out_pages",
    "pgscan_direct": "direct_scan_pages",
    "pgscan_kswapd": "kswapd_scan_pages",
    "oom_kill": "oom_kills",
    "balloon_inflate": "balloon_inflated_pages",
    "balloon_deflate": "balloon_deflated_pages",
    # Before 5.9 there was one refault counter, and it counted files only.
    "workingset_refault": "refaults_file",
}


def parse_vmstat(text: str) -> VmStat:
    """Parse "name 123" lines by name, never by position. Never raises.

    `restored_pages` are refaults of pages that had been in use when they were evicted, of both kinds (one line before
    5.9). `alloc_stalls` is the sum of all `allocstall*`; before 4.8 `pgscan_direct` was one counter per zone, and the
    zones are added up (`pgscan_direct_throttle` counts something else and stays out).
    """
    found: dict[str, int] = {}
    zones_scanned: int | None = None
    for line in text.split("\n"):
        name, _, digits = line.partition(" ")
        field = _LINES.get(name)
        if field is not None:
            count = parse_count(digits)
            if count is not None and field not in found:
                found[field] = count
        elif name.startswith("workingset_restore"):
            count = parse_count(digits)
            if count is not None:
                found["restored_pages"] = found.get("restored_pages", 0) + count
        elif name.startswith("allocstall"):
            count = parse_count(digits)
            if count is not None:
                found["alloc_stalls"] = found.get("alloc_stalls", 0) + count
        elif name.startswith("pgscan_direct_") and name != "pgscan_direct_throttle":
            count = parse_count(digits)
            if count is not None:
                zones_scanned = (zones_scanned or 0) + count
    if zones_scanned is not None and "direct_scan_pages" not in found:
        found["direct_scan_pages"] = zones_scanned
    return VmStat(**found)
