"""A validated REPORT in the coordinator's words: KiB, on the guest kernel's scale except for the floor. Pure."""

from __future__ import annotations

from ballonet_protocol import Report

from .model import ReportKind, UsageReport

KIB = 1024


def usage_report(message: Report, page_kib: float, arrived_s: float) -> UsageReport:
    """`page_kib`: the size of the pages that the guest counts; `arrived_s`: the host's clock."""
    memory, psi, vm = message.memory, message.psi, message.vm
    refaults = None
    if vm is not None and (vm.refaults_anon is not None or vm.refaults_file is not None):
        refaults = (vm.refaults_anon or 0) + (vm.refaults_file or 0)
    return UsageReport(
        kind=ReportKind.AGENT,
        arrived_s=arrived_s,
        boottime_ms=message.boottime_ms,
        total_kib=memory.total_bytes // KIB,
        available_kib=min(memory.available_bytes, memory.total_bytes) // KIB,
        committed_kib=memory.committed_bytes // KIB,
        balloon_kib=_kib(memory.balloon_bytes),
        file_kib=_kib(memory.file_bytes),
        swap_total_kib=_kib(memory.swap_total_bytes),
        swap_free_kib=_kib(memory.swap_free_bytes),
        psi_some_us=psi.some_us if psi else None,
        psi_full_us=psi.full_us if psi else None,
        psi_some_avg10_permyriad=psi.some_avg10_permyriad if psi else None,
        psi_full_avg10_permyriad=psi.full_avg10_permyriad if psi else None,
        major_faults=vm.major_faults if vm else None,
        refaults=refaults,
        swap_in_kib=_pages_kib(vm.swap_in_pages if vm else None, page_kib),
        swap_out_kib=_pages_kib(vm.swap_out_pages if vm else None, page_kib),
        alloc_stalls=vm.alloc_stalls if vm else None,
        oom_kills=vm.oom_kills if vm else None,
        floor_kib=_kib(message.floor_bytes),
    )


def _kib(untrusted_bytes: int | None) -> int | None:
    return None if untrusted_bytes is None else untrusted_bytes // KIB


def _pages_kib(pages: int | None, page_kib: float) -> int | None:
    return None if pages is None else int(pages * page_kib)
