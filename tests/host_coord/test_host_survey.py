"""Who holds the host's memory, from a /proc made of files: everything is counted once, and as somebody's."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ballonet_host_coord.host_memory import ProcHostMemory
from ballonet_host_coord.host_survey import SCAN_EVERY_S, Surveyor, hugetlb_kib
from ballonet_host_coord.model import Account, UnmanagedGuest
from ballonet_host_coord.ports import PortError

from .builders import GIB, MIB


class Host:
    """8 GiB, of which 5 are available, and two QEMUs: 11 is ours, 22 is not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scans = 0
        self.qemus = {11: "web", 22: "stranger"}
        self.write("meminfo", f"MemTotal: {8 * GIB} kB\nMemAvailable: {5 * GIB} kB\nHugetlb: {GIB} kB\n")
        self.process(11, 900 * MIB)
        self.process(22, 300 * MIB)
        self.surveyor = Surveyor(str(root), str(root / "sys"), self.find)

    def find(self) -> dict[int, str]:
        self.scans += 1
        return self.qemus

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid: int, held_kib: int, swap_kib: int = 0) -> None:
        half_kib = held_kib // 2
        self.write(
            f"{pid}/status",
            f"Name:\tqemu\nVmSize:\t{GIB} kB\nRssAnon:\t{held_kib - half_kib} kB\nRssShmem:\t{half_kib} kB\n"
            f"VmSwap:\t{swap_kib} kB\n",
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_others_hold_what_is_neither_free_nor_huge_nor_ours(host: Host) -> None:
    """8 GiB less 5 available, 1 of huge pages and our guest's 900 MiB; what is in swap takes none of it."""
    host.process(11, 900 * MIB, swap_kib=500 * MIB)
    seen = host.surveyor.survey(frozenset({11}), 7.0)
    assert seen.accounts == (Account("MemTotal", 8 * GIB, GIB, 2 * GIB - 900 * MIB),)
    assert (seen.read_s, seen.managed) == (7.0, frozenset({11}))


def test_a_qemu_that_is_not_ours_is_named(host: Host) -> None:
    """With what it holds and the RAM that it was given; ours is not, and one that has ended holds nothing."""
    assert host.surveyor.survey(frozenset({11}), 0.0).unmanaged == (UnmanagedGuest(22, "stranger", 300 * MIB),)
    words = ("qemu-system-x86_64", "-name", "guest=stranger", "-m", "size=2097152k,slots=4,maxmem=8G", "-nodefaults")
    host.write("22/cmdline", "\0".join(words) + "\0")
    (told,) = host.surveyor.survey(frozenset({11}), 0.5).unmanaged
    assert told == UnmanagedGuest(22, "stranger", 300 * MIB, 2 * GIB)
    (host.root / "22/cmdline").unlink()
    (host.root / "22/status").unlink()
    assert host.surveyor.survey(frozenset({11}), 1.0).unmanaged == (UnmanagedGuest(22, "stranger", 0),)


def test_each_limit_above_us_is_an_account(host: Host) -> None:
    """What their other tenants hold is what they use beside our guests; guests outside of them take nothing."""
    host.write("self/cgroup", "0::/slice/unit\n")
    host.write("self/mountinfo", f"30 24 0:26 / {host.root}/cg rw shared:4 - cgroup2 cgroup2 rw\n")
    for folder, limit_kib, used_kib in (("slice", 4 * GIB, 2 * GIB), ("slice/unit", 2 * GIB, 100 * MIB)):
        host.write(f"cg/{folder}/memory.max", f"{limit_kib * 1024}\n")
        host.write(f"cg/{folder}/memory.current", f"{used_kib * 1024}\n")
    accounts = host.surveyor.survey(frozenset({11}), 0.0).accounts[1:]
    assert accounts == (
        Account(f"the limit of {host.root}/cg/slice/unit", 2 * GIB, 0, 0),
        Account(f"the limit of {host.root}/cg/slice", 4 * GIB, 0, 2 * GIB - 900 * MIB),
    )


def test_the_host_is_not_scanned_for_every_survey(host: Host) -> None:
    """Processes are looked through twice a minute, and when other ones are ours than before."""
    for at_s in (0.0, 5.0, SCAN_EVERY_S - 1):
        host.surveyor.survey(frozenset({11}), at_s)
    assert host.scans == 1
    host.surveyor.survey(frozenset({11, 22}), SCAN_EVERY_S - 1)
    host.surveyor.survey(frozenset({11, 22}), 2 * SCAN_EVERY_S)
    assert host.scans == 3


def test_a_stranger_has_the_ram_that_is_not_in_huge_pages(host: Host) -> None:
    """No budget has those; beside them it is what QEMU was told."""
    host.write("22/mounts", "none /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n")
    for path, ram_kib in (("/dev/shm/x", 3 * GIB), ("/dev/hugepages", 0)):
        host.write("22/cmdline", f"kvm\0-m\0003G\0-mem-path\0{path}\0")
        (stranger,) = host.surveyor.survey(frozenset({11}), 0.0).unmanaged
        assert stranger.ram_kib == ram_kib


@pytest.mark.parametrize(
    ("holes", "enabled", "refills"),
    [
        ("511\n", "always [madvise] never\n", True), ("0\n", "[always] madvise never\n", False),
        ("511\n", "always madvise [never]\n", False), (None, "[always] madvise never\n", None),
    ],
)  # fmt: skip
def test_whether_khugepaged_may_fill_balloons_again(
    host: Host, holes: str | None, enabled: str, refills: bool | None
) -> None:
    """It needs transparent huge pages and blocks in which pages may be missing."""
    folder = "sys/kernel/mm/transparent_hugepage"
    host.write(f"{folder}/enabled", enabled)
    if holes is not None:
        host.write(f"{folder}/khugepaged/max_ptes_none", holes)
    assert host.surveyor.survey(frozenset(), 0.0).refills is refills


def test_huge_pages_of_all_sizes_are_found_on_any_kernel(tmp_path: Path) -> None:
    """By `Hugetlb`, by sysfs where meminfo has the default size alone, and by that where there is no sysfs."""
    old = {"HugePages_Total": 3, "Hugepagesize": 2048}
    assert hugetlb_kib({**old, "Hugetlb": 77}, str(tmp_path)) == 77
    assert hugetlb_kib(old, str(tmp_path)) == 6144
    for size, count in (("2048", "3"), ("1048576", "2")):
        folder = tmp_path / f"kernel/mm/hugepages/hugepages-{size}kB"
        folder.mkdir(parents=True)
        (folder / "nr_hugepages").write_text(count + "\n")
    assert hugetlb_kib(old, str(tmp_path)) == 6144 + 2 * GIB
    assert hugetlb_kib({}, "/nowhere") == 0


class Clock:
    def now(self) -> float:
        return 5.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a survey waits for nothing")


def test_this_host_is_surveyed() -> None:
    """The running kernel's /proc is read without an error, and others hold some of it; none is a word that names it."""
    seen = trio.run(ProcHostMemory(Clock()).survey, ())
    account = seen.accounts[0]
    assert 0 < account.others_kib < account.total_kib
    with pytest.raises(PortError, match="surveyed"):
        trio.run(ProcHostMemory(Clock(), proc_root="/nowhere").survey, ())
