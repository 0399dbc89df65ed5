"""vmstat.py: counters by name on three generations of kernels."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.vmstat import VmStat, parse_vmstat

FIXTURES = Path(__file__).parent / "fixtures"


def test_linux_6_1() -> None:
    """Allocation stalls of all zones are added up; look-alike names stay out."""
    assert parse_vmstat((FIXTURES / "linux-6.1/vmstat").read_text()) == VmStat(
        page_faults=5120034,
        major_faults=3120,
        refaults_anon=512,
        refaults_file=18220,
        swap_in_pages=256,
        swap_out_pages=12288,
        direct_scan_pages=40960,
        kswapd_scan_pages=204800,
        restored_pages=4,
        alloc_stalls=12,
        oom_kills=1,
        balloon_inflated_pages=131072,
        balloon_deflated_pages=26112,
    )


def test_linux_4_4() -> None:
    """Before 4.8 direct scans are counted per zone (throttling is something else); one refault counter means files."""
    vm = parse_vmstat((FIXTURES / "linux-4.4/vmstat").read_text())
    assert (vm.direct_scan_pages, vm.alloc_stalls) == (321, 42)
    assert (vm.refaults_file, vm.refaults_anon) == (700, None)
    assert vm.oom_kills is None


def test_a_running_machine() -> None:
    """A real 6.18 text leaves nothing unknown."""
    vm = parse_vmstat((FIXTURES / "linux-6.18/vmstat").read_text())
    assert [name for name in vm._fields if getattr(vm, name) is None] == []


def test_unknown_is_not_zero() -> None:
    """A counter that is missing or no number stays unknown."""
    assert parse_vmstat("") == VmStat()
    assert parse_vmstat("pgfault x\nallocstall_dma\npgscan_direct_dma -3\n") == VmStat()


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises."""
    parse_vmstat(text)


@given(st.lists(st.tuples(st.sampled_from(["pgfault", "allocstall_x", "pgscan_direct_y", "oom_kill"]), st.text())))
def test_known_names_with_any_values(lines: list[tuple[str, str]]) -> None:
    """Known names with absurd values do not raise, and counters are never negative."""
    vm = parse_vmstat("\n".join(f"{name} {value}" for name, value in lines))
    assert all(value is None or value >= 0 for value in (getattr(vm, name) for name in vm._fields))


def test_restored_pages_of_both_kinds() -> None:
    """One line before 5.9, two after it."""
    assert parse_vmstat("workingset_restore 7\n").restored_pages == 7
    assert parse_vmstat("workingset_restore_anon 3\nworkingset_restore_file 4\n").restored_pages == 7
