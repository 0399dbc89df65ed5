"""The host's memory from a /proc made of files: right numbers, optional files, and no more reading than needed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from ballonet_host_coord import host_memory
from ballonet_host_coord.host_memory import LOOK_WAITS_S, SMAPS_AGE_S, SMAPS_MOVED_KIB, ProcHostMemory
from ballonet_host_coord.model import HostFacts, Residency
from ballonet_host_coord.ports import PortError

MIB = 1024
RAM_KIB = 512 * MIB
PID = 4321


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("reading memory waits for nothing")


class Proc:
    """A /proc with a host and one QEMU."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("meminfo", "MemTotal:    8388608 kB\nMemFree: 1 kB\nMemAvailable:  2097152 kB\nHugePages_Total: 0\n")
        self.write(
            "pressure/memory",
            "some avg10=0.10 avg60=0.05 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n",
        )
        self.qemu(guest_kib=100 * MIB, own_kib=30 * MIB)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def qemu(self, guest_kib: int, own_kib: int, began_ticks: int = 777, *, told_by_smaps: bool = True) -> None:
        """The process holds this much. `told_by_smaps` False: smaps still says what it said before."""
        self.write(
            f"{PID}/status",
            f"Name:\tqemu\nVmSize:\t {RAM_KIB * 3} kB\nRssAnon:\t{guest_kib + own_kib} kB\n"
            "RssShmem:\t0 kB\nVmSwap:\t0 kB\n",
        )
        self.write(f"{PID}/stat", f"{PID} (CPU 0) odd) S " + " ".join(["1"] * 18) + f" {began_ticks} 5 6\n")
        if told_by_smaps:
            self.write(
                f"{PID}/smaps",
                f"10000000-{0x10000000 + RAM_KIB * 1024:x} rw-p 00000000 00:00 0 \nRss: {guest_kib} kB\nSwap: 0 kB\n",
            )


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(proc: Proc, clock: Clock) -> ProcHostMemory:
    return ProcHostMemory(clock, proc_root=str(proc.root))


def test_host_facts(memory: ProcHostMemory) -> None:
    """What the host has, has left and has waited for comes from meminfo and PSI."""
    assert memory.facts() == HostFacts(
        total_kib=8 * MIB * MIB,
        available_kib=2 * MIB * MIB,
        psi_some_us=1234,
        psi_full_us=99,
        cgroup_limit_kib=None,
        read_s=100.0,
    )


def test_kernel_without_psi_is_no_fault(memory: ProcHostMemory, proc: Proc) -> None:
    """A missing PSI file makes its figures unknown; a missing meminfo is an error that names it."""
    (proc.root / "pressure/memory").unlink()
    facts = memory.facts()
    assert (facts.psi_some_us, facts.psi_full_us, facts.total_kib) == (None, None, 8 * MIB * MIB)
    (proc.root / "meminfo").unlink()
    with pytest.raises(PortError, match="meminfo"):
        memory.facts()


def test_this_hosts_own_files_are_understood() -> None:
    """The running kernel's /proc is read without an error, and shows a host with some memory left."""
    facts = ProcHostMemory(Clock()).facts()
    assert 0 < facts.available_kib <= facts.total_kib


# --- cgroups --------------------------------------------------------------------------------------------


V2 = ("0::/system.slice/b.service\n", "30 24 0:26 / {top} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "memory.max")
V1 = (
    "5:cpu,cpuacct:/x\n4:memory:/system.slice/b.service\n0::/\n",
    "31 24 0:27 / {top}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n32 24 0:28 / {top} rw - cgroup cgroup rw,memory\n",
    "memory.limit_in_bytes",
)


@pytest.mark.parametrize(("cgroup", "mountinfo", "file"), [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize(
    ("limits", "expected_kib"),
    [
        ({}, None),
        ({"system.slice/b.service": "max"}, None),
        ({"system.slice/b.service": "9223372036854771712"}, None),
        ({"system.slice/b.service": "1073741824"}, MIB * MIB),
        ({"system.slice/b.service": "1073741824", "system.slice": "536870912"}, 512 * MIB),
        ({"system.slice": "1073741824", ".": "garbage"}, MIB * MIB),
    ],
)
def test_tightest_limit_of_our_cgroup_counts(
    memory: ProcHostMemory,
    proc: Proc,
    cgroup: str,
    mountinfo: str,
    file: str,
    limits: dict[str, str],
    expected_kib: int | None,
) -> None:
    """Our own cgroup's limit and its parents' count, in either version; what is no limit on this host does not."""
    proc.write("self/cgroup", cgroup)
    proc.write("self/mountinfo", mountinfo.format(top=proc.root / "cg"))
    for folder, limit in limits.items():
        proc.write(f"cg/{folder}/{file}", limit + "\n")
    assert memory.facts().cgroup_limit_kib == expected_kib


STAT = "anon 1000\ninactive_file 104857600\ntotal_inactive_file {total}\nactive_file 999999999\n"
"""Version 1 has both lines, its own and with its children; version 2 has the first, children included."""


@pytest.mark.parametrize(
    ("kind", "usage", "stat", "used_mib"),
    [
        (V2, "memory.current", STAT.replace("total_inactive_file {total}\n", ""), 700),
        (V1, "memory.usage_in_bytes", STAT.format(total=209715200), 600),
        (V1, "memory.usage_in_bytes", "garbage\ninactive_file\n", 800),
        (V2, "memory.current", None, 800),
        (V2, "memory.current", "inactive_file 9999999999\n", 0),
    ],
    ids=["v2", "v1", "no such line", "no memory.stat", "more file than use"],
)
def test_what_our_cgroup_uses_is_told_without_file_that_can_be_dropped(
    memory: ProcHostMemory, proc: Proc, kind: tuple[str, str, str], usage: str, stat: str | None, used_mib: int
) -> None:
    """Use less inactive file cache, children's included, never below zero; without memory.stat all of it counts."""
    cgroup, mountinfo, limit = kind
    proc.write("self/cgroup", cgroup)
    proc.write("self/mountinfo", mountinfo.format(top=proc.root / "cg"))
    proc.write(f"cg/system.slice/{limit}", "1073741824\n")
    proc.write(f"cg/system.slice/{usage}", f"{800 * MIB * 1024}\n")
    if stat is not None:
        proc.write("cg/system.slice/memory.stat", stat)
    facts = memory.facts()
    assert (facts.cgroup_limit_kib, facts.cgroup_used_kib) == (MIB * MIB, used_mib * MIB)


@pytest.mark.parametrize("usage", [None, "", "max\n"])
def test_a_cgroup_whose_use_is_not_told_has_its_limit_alone(
    memory: ProcHostMemory, proc: Proc, usage: str | None
) -> None:
    """Unknown use is None and never 0, which would be an empty host."""
    cgroup, mountinfo, limit = V2
    proc.write("self/cgroup", cgroup)
    proc.write("self/mountinfo", mountinfo.format(top=proc.root / "cg"))
    proc.write(f"cg/system.slice/{limit}", "1073741824\n")
    if usage is not None:
        proc.write("cg/system.slice/memory.current", usage)
    facts = memory.facts()
    assert (facts.cgroup_limit_kib, facts.cgroup_used_kib) == (MIB * MIB, None)


def looked(memory: ProcHostMemory, pid: int, ram_kib: int) -> Residency | None:
    """What is known after a look, as the coordinator takes one before each reading."""
    trio.run(memory.look, pid, ram_kib)
    return memory.residency(pid, ram_kib)


# --- residency ------------------------------------------------------------------------------------------


def test_residency_is_split(memory: ProcHostMemory) -> None:
    """The guest's part comes from smaps, the rest of what the process holds is QEMU's own."""
    assert looked(memory, PID, RAM_KIB) == Residency(100 * MIB, 30 * MIB, 100.0)


def test_small_movement_is_counted_without_smaps(memory: ProcHostMemory, proc: Proc, clock: Clock) -> None:
    """Between two looks at smaps what moves is the guest's, so every reading adds up to the status of its moment."""
    looked(memory, PID, RAM_KIB)
    clock.now_s += 1
    proc.qemu(101 * MIB, 32 * MIB)
    assert looked(memory, PID, RAM_KIB) == Residency(103 * MIB, 30 * MIB, 101.0)


def test_age_or_movement_brings_a_new_look(memory: ProcHostMemory, proc: Proc, clock: Clock) -> None:
    """A reading that is old, or from which the process has moved away, is replaced."""
    looked(memory, PID, RAM_KIB)
    clock.now_s += SMAPS_AGE_S
    proc.qemu(101 * MIB, 32 * MIB)
    assert looked(memory, PID, RAM_KIB) == Residency(101 * MIB, 32 * MIB, clock.now_s)
    clock.now_s += 5
    proc.qemu(101 * MIB, 33 * MIB + SMAPS_MOVED_KIB)
    assert looked(memory, PID, RAM_KIB) == Residency(101 * MIB, 33 * MIB + SMAPS_MOVED_KIB, clock.now_s)


def test_smaps_is_not_read_all_the_time(
    memory: ProcHostMemory, proc: Proc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading that took a second is not repeated for twenty, however much moves, and nothing is lost."""
    ticks = iter([0.0, 1.0])
    monkeypatch.setattr("ballonet_host_coord.host_memory.time.perf_counter", lambda: next(ticks))
    looked(memory, PID, RAM_KIB)
    for second in range(1, 20):
        clock.now_s = 100.0 + second
        proc.qemu(100 * MIB + second * 20 * MIB, 30 * MIB)
        assert looked(memory, PID, RAM_KIB) == Residency(100 * MIB + second * 20 * MIB, 30 * MIB, clock.now_s)


def test_guest_is_never_larger_than_its_ram(memory: ProcHostMemory, proc: Proc) -> None:
    """Movement beyond the RAM is QEMU's own."""
    proc.qemu(RAM_KIB - 5, 30 * MIB)
    looked(memory, PID, RAM_KIB)
    proc.qemu(RAM_KIB - 5, 31 * MIB, told_by_smaps=False)
    assert looked(memory, PID, RAM_KIB) == Residency(RAM_KIB, 31 * MIB - 5, 100.0)


def test_another_process_of_the_same_number_starts_afresh(memory: ProcHostMemory, proc: Proc) -> None:
    """What was learnt of a process that has ended is not applied to the next one with its number."""
    looked(memory, PID, RAM_KIB)
    proc.qemu(101 * MIB, 35 * MIB, began_ticks=888)
    assert looked(memory, PID, RAM_KIB) == Residency(101 * MIB, 35 * MIB, 100.0)


def test_before_a_look_all_counts_as_the_guests(memory: ProcHostMemory, proc: Proc) -> None:
    """Nobody waits for smaps: what is not split yet is booked rather too high than too low."""
    assert memory.residency(PID, RAM_KIB) == Residency(130 * MIB, 0, 100.0)
    assert looked(memory, PID, RAM_KIB) == Residency(100 * MIB, 30 * MIB, 100.0)


def test_a_slow_look_does_not_hold_the_loop(memory: ProcHostMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process's smaps is read, other tasks run and other readings are answered."""
    reading, go_on = threading.Event(), threading.Event()

    def slow(text: str, original=host_memory.parse_smaps):
        reading.set()
        assert go_on.wait(10)
        return original(text)

    monkeypatch.setattr(host_memory, "parse_smaps", slow)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.look, PID, RAM_KIB)
            await trio.to_thread.run_sync(reading.wait)
            assert memory.residency(PID, RAM_KIB) == Residency(130 * MIB, 0, 100.0)
            go_on.set()
        assert memory.residency(PID, RAM_KIB) == Residency(100 * MIB, 30 * MIB, 100.0)

    trio.run(main)


def test_a_look_that_does_not_come_back_stops_nobody_else(
    memory: ProcHostMemory, proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds its own memory's lock for long is left alone, and read again when that reading has ended (I7)."""
    go_on, begun, clock = threading.Event(), threading.Event(), trio.testing.MockClock()
    other = PID + 1
    for file in ("status", "stat", "smaps"):
        proc.write(f"{other}/{file}", (proc.root / f"{PID}/{file}").read_text())

    def stuck(path: str, original=host_memory._read):
        if path.endswith(f"{PID}/smaps"):
            begun.set()
            assert go_on.wait(10)
        return original(path)

    monkeypatch.setattr(host_memory, "_read", stuck)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.look, PID, RAM_KIB)
            await trio.to_thread.run_sync(begun.wait)
            clock.jump(LOOK_WAITS_S)
        begun.clear()
        await memory.look(PID, RAM_KIB)
        assert not begun.is_set()
        await memory.look(other, RAM_KIB)
        assert memory.residency(other, RAM_KIB) == Residency(100 * MIB, 30 * MIB, 100.0)
        go_on.set()
        while PID in memory._reading:
            await trio.to_thread.run_sync(lambda: None)
        await memory.look(PID, RAM_KIB)
        assert memory.residency(PID, RAM_KIB) == Residency(100 * MIB, 30 * MIB, 100.0)

    trio.run(main, clock=clock)


def test_smaps_that_may_not_be_read_hides_nothing(memory: ProcHostMemory, proc: Proc, caplog) -> None:
    """Neither root nor QEMU's user: all that the process holds counts as the guest's, and that is said once."""
    (proc.root / f"{PID}/smaps").unlink()
    for _ in range(2):
        assert looked(memory, PID, RAM_KIB) == Residency(130 * MIB, 0, 100.0)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("missing", ["status", "stat"])
def test_process_that_ends_or_hides_is_unknown(memory: ProcHostMemory, proc: Proc, missing: str) -> None:
    """A process that is gone, or whose files may not be read, has no residency; that is no error."""
    (proc.root / f"{PID}/{missing}").unlink()
    assert looked(memory, PID, RAM_KIB) is None
    assert looked(memory, 1 << 30, RAM_KIB) is None


def test_process_too_small_for_the_guest_is_not_its_qemu(memory: ProcHostMemory) -> None:
    """Whoever opened the socket for QEMU is not taken for QEMU."""
    assert looked(memory, PID, RAM_KIB * 4) is None


def test_process_is_alive_while_it_has_memory(memory: ProcHostMemory, proc: Proc) -> None:
    """A zombie, a process that is gone, and another one with its number are not the process that was seen."""
    assert memory.is_alive(PID)
    looked(memory, PID, RAM_KIB)
    assert memory.is_alive(PID)
    proc.qemu(1, 1, began_ticks=888)
    assert not memory.is_alive(PID)
    proc.qemu(1, 1)
    assert memory.is_alive(PID)
    proc.write(f"{PID}/status", "Name:\tqemu\nState:\tZ (zombie)\n")
    assert not memory.is_alive(PID)
    assert not memory.is_alive(PID + 1)
