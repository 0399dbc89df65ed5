"""kernels.py: what the table promises holds on recordings of each kernel generation, and in the manual."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_guest_agent.kernels import DIFFERENCES, Difference, differences_on, first_kernel, markdown
from ballonet_guest_agent.psi import PRESENT
from ballonet_guest_agent.report import memory_report, psi_report, unmovable_kib, vm_report
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.want import present_kib, want_kib
from ballonet_guest_agent.zram import parse_swaps, zram_of
from ballonet_protocol import Report
from ballonet_protocol._codec import decode_message, encode_message

KERNELS = Path(__file__).parent / "kernels"
GENERATIONS = ["5.4", "5.10", "5.15", "6.1", "6.12"]
OTHERS = {"4.4": "linux-4.4", "6.18": "linux-6.18"}
MANUAL = Path(__file__).parents[2] / "guest_agent/SENSORS.md"
RAM_KIB = 256 * 1024


def texts(generation: str) -> dict[str, str]:
    """What a folder has, {file: text}."""
    folder = KERNELS / generation if generation in GENERATIONS else KERNELS.parent / "fixtures" / OTHERS[generation]
    return {path.name: path.read_text() for path in folder.iterdir()}


def read(generation: str) -> Sample:
    files = texts(generation)
    sizes = parse_swaps(files["swaps"])
    zram = zram_of(sizes, [files["mm_stat"] for _ in sizes])
    return Sample.from_texts(files["meminfo"], files["vmstat"], files["pressure_memory"], True, zram=zram)


def version(generation: str) -> tuple[int, int]:
    major, minor = generation.split(".")
    return int(major), int(minor)


def numbers(text: str) -> dict[str, int]:
    """Names and numbers of meminfo or vmstat, read otherwise than the agent does."""
    return {words[0].rstrip(":"): int(words[1]) for words in map(str.split, text.splitlines())}


def has_line(row: Difference, generation: str) -> bool:
    """Is this row's line in its file? A * stands for a zone, and throttling is none."""
    text = texts(generation).get(row.file.replace("/", "_"), "")
    names = {line.replace(":", " ").split()[0] for line in text.splitlines()}
    if row.line.endswith("*"):
        return any(name.startswith(row.line[:-1]) and not name.endswith("_throttle") for name in names)
    return row.line in names


@pytest.mark.parametrize("generation", [*GENERATIONS, *OTHERS])
def test_the_table_holds(generation: str) -> None:
    """A line is there on exactly the kernels that the table names."""
    there = differences_on(version(generation))
    for row in DIFFERENCES:
        assert has_line(row, generation) == (row in there), row


@pytest.mark.parametrize("generation", GENERATIONS)
def test_everything_promised_is_a_number(generation: str) -> None:
    """Each sensor is known on each kernel, those apart that the table says it lacks: they are unknown, not zero."""
    sample, there = read(generation), differences_on(version(generation))
    assert sample.psi is not None
    lacks = {(row.file, row.sensor) for row in DIFFERENCES} - {(row.file, row.sensor) for row in there}
    for file, record in (("meminfo", sample.memory), ("vmstat", sample.vm), ("pressure/memory", sample.psi)):
        unknown = {(file, name) for name in record._fields if getattr(record, name) is None}
        assert unknown == {lack for lack in lacks if lack[0] == file}
    assert sample.psi_state == PRESENT


@pytest.mark.parametrize("generation", GENERATIONS)
def test_refaults_of_one_or_two_kinds(generation: str) -> None:
    """All refaults that the kernel counted are in the sample, once; a kernel with one counter counts files."""
    counted = numbers(texts(generation)["vmstat"])
    expected = counted["workingset_refault"] if generation == "5.4" else counted["workingset_refault_file"]
    vm = read(generation).vm
    assert vm.refaults_file == expected > 0
    assert vm.refaults_anon == counted.get("workingset_refault_anon")
    assert (vm.refaults_anon or 0) + expected == sum(n for name, n in counted.items() if "_refault" in name)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_zones_add_up(generation: str) -> None:
    """Allocation stalls are those of all zones that this kernel has."""
    counted = numbers(texts(generation)["vmstat"])
    assert read(generation).vm.alloc_stalls == sum(n for name, n in counted.items() if name.startswith("allocstall_"))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_recorded_under_pressure(generation: str) -> None:
    """The recordings are of guests that swapped, stalled, lost a process and had a balloon: no zeros to hide behind."""
    sample = read(generation)
    assert sample.psi is not None
    for record in (sample.vm, sample.psi):
        for name in record._fields:
            # Nobody in them went on using what had been evicted; fixtures/moves.json has guests that did.
            assert getattr(record, name) != 0 or name == "restored_pages", name
    memory = sample.memory
    assert memory.swap_total_kib is not None
    assert memory.swap_free_kib is not None
    assert 0 < memory.swap_free_kib < memory.swap_total_kib
    assert sample.balloon_kib


@pytest.mark.parametrize("generation", GENERATIONS)
def test_sizes_fit_into_memory(generation: str) -> None:
    """What cannot be the same page adds up to no more than there is, and what is wanted lies within the guest."""
    sample = read(generation)
    memory, balloon_kib, total_kib = sample.memory, sample.balloon_kib, sample.total_kib
    assert total_kib is not None
    assert balloon_kib is not None
    disjoint = (memory.free_kib, memory.anon_kib, memory.file_kib, memory.shmem_kib, memory.slab_unreclaimable_kib)
    assert sum(kib or 0 for kib in disjoint) + balloon_kib <= total_kib <= RAM_KIB
    assert (memory.available_kib or 0) <= total_kib - balloon_kib
    counted = numbers(texts(generation)["vmstat"])
    assert balloon_kib == 4 * (counted["balloon_inflate"] - counted["balloon_deflate"])
    present = present_kib(sample, RAM_KIB)
    assert present == RAM_KIB - balloon_kib
    assert 0 < unmovable_kib(sample, RAM_KIB) <= present
    assert 0 < want_kib(sample, RAM_KIB, 0, 0) <= RAM_KIB


@pytest.mark.parametrize("generation", GENERATIONS)
def test_report_goes_over_the_wire(generation: str) -> None:
    """A REPORT of each kernel's numbers comes back from the wire as it was."""
    sample = read(generation)
    memory = memory_report(sample)
    assert memory is not None
    report = Report(boottime_ms=1, memory=memory, psi=psi_report(sample), vm=vm_report(sample))
    back = decode_message(Report, report.seq, encode_message(report))
    assert (back.memory, back.psi, back.vm) == (report.memory, report.psi, report.vm)
    assert back.memory.committed_bytes == numbers(texts(generation)["meminfo"])["Committed_AS"] * 1024


def test_zram_holds_a_part() -> None:
    """The recording with zram: what it holds is less than what it stores, and free zram is no free room."""
    sample = read("6.1")
    zram = sample.zram
    assert zram.size_kib
    assert zram.stored_kib is not None
    assert zram.held_kib is not None
    assert 0 < zram.held_kib < zram.stored_kib <= zram.size_kib
    without = Sample(sample.memory, sample.vm, sample.psi, True)
    assert unmovable_kib(sample, RAM_KIB) >= unmovable_kib(without, RAM_KIB)
    used_kib = (sample.memory.swap_total_kib or 0) - (sample.memory.swap_free_kib or 0)
    assert zram.missing_kib(used_kib, used_kib) < used_kib


def test_first_kernel() -> None:
    """What a person is told is the oldest kernel with that sensor; nothing, where each kernel has it."""
    assert first_kernel("refaults_anon") == "5.9"
    assert first_kernel("refaults_file") is None
    assert first_kernel("balloon_kib") is None
    assert first_kernel("total_kib") is None


def test_the_manual_has_the_table() -> None:
    """SENSORS.md shows the table as it is."""
    assert markdown() in MANUAL.read_text()
