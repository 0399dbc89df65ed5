"""usage.py: what a REPORT becomes on the coordinator's side."""

from __future__ import annotations

from ballonet_host_coord.model import ReportKind
from ballonet_host_coord.usage import usage_report
from ballonet_protocol import MemoryReport, PsiReport, Report, VmReport

MEMORY = MemoryReport(
    total_bytes=8 << 20, free_bytes=1 << 20, available_bytes=2 << 20, committed_bytes=5 << 20, balloon_bytes=3 << 20
)


def test_units():
    """Bytes become KiB, the guest's pages become KiB by its own page size, and the host's clock is the caller's."""
    vm = VmReport(swap_in_pages=3, refaults_anon=2, refaults_file=5, oom_kills=1)
    report = Report(boottime_ms=7, memory=MEMORY, psi=PsiReport(some_us=9), vm=vm, floor_bytes=4 << 20)
    usage = usage_report(report, 64.0, 12.5)
    assert (usage.kind, usage.arrived_s, usage.boottime_ms) == (ReportKind.AGENT, 12.5, 7)
    assert (usage.total_kib, usage.available_kib, usage.balloon_kib, usage.floor_kib) == (8192, 2048, 3072, 4096)
    assert (usage.swap_in_kib, usage.refaults, usage.psi_some_us, usage.oom_kills) == (192, 7, 9, 1)


def test_absent_stays_unknown():
    """What the agent did not say is None, never 0; more available than there is counts as all."""
    usage = usage_report(Report(boottime_ms=1, memory=MEMORY.replace(available_bytes=9 << 20)), 4.0, 0.0)
    assert usage.available_kib == usage.total_kib
    for name in ("swap_in_kib", "refaults", "psi_some_us", "oom_kills", "floor_kib", "file_kib"):
        assert getattr(usage, name) is None
