"""sample.py: the balloon's size and the guest's memory with the balloon empty."""

from __future__ import annotations

from ballonet_guest_agent.sample import Sample

MEMINFO = "MemTotal: 1000000 kB\n"
COUNTERS = "balloon_inflate 3000\nballoon_deflate 500\n"


def test_balloon_from_counters() -> None:
    """Pages in less pages out, in the guest's own page size."""
    assert Sample.from_texts(MEMINFO, COUNTERS, None, True).balloon_kib == 10_000
    assert Sample.from_texts(MEMINFO, COUNTERS, None, True, page_kib=16).balloon_kib == 40_000


def test_balloon_from_meminfo() -> None:
    """Without counters the newer kernels' `Balloon` line serves; without either the size is unknown, not zero."""
    assert Sample.from_texts(MEMINFO + "Balloon: 77 kB\n", "", None, True).balloon_kib == 77
    assert Sample.from_texts(MEMINFO, "", None, True).balloon_kib is None


def test_total_is_with_the_balloon_empty() -> None:
    """MemTotal holds the balloon's pages only where deflate-on-oom was negotiated; else they are added back."""
    assert Sample.from_texts(MEMINFO, COUNTERS, None, True).total_kib == 1_000_000
    assert Sample.from_texts(MEMINFO, COUNTERS, None, False).total_kib == 1_010_000
    assert Sample.from_texts(MEMINFO, COUNTERS, None, None).total_kib == 1_010_000
    assert Sample.from_texts("", COUNTERS, None, False).total_kib is None
