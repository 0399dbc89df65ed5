"""report.py: bytes on the wire, unknown stays unknown, and what cannot be moved."""

from __future__ import annotations

from pathlib import Path

from ballonet_guest_agent.report import memory_report, psi_report, unmovable_kib, vm_report
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.zram import Zram

FIXTURES = Path(__file__).parent / "fixtures"
MIB = 1024


def read(kernel: str) -> Sample:
    folder = FIXTURES / kernel
    psi = folder / "pressure_memory"
    return Sample.from_texts(
        (folder / "meminfo").read_text(),
        (folder / "vmstat").read_text(),
        psi.read_text() if psi.exists() else None,
        False,
    )


def test_report_in_bytes() -> None:
    """KiB become bytes, pages stay pages, and the total is with the balloon empty."""
    sample = read("linux-6.1")
    memory = memory_report(sample)
    assert memory is not None
    assert memory.balloon_bytes == (131072 - 26112) * 4096
    assert memory.total_bytes == 2005444 * 1024 + memory.balloon_bytes
    assert memory.committed_bytes == 884340 * 1024
    assert vm_report(sample).swap_out_pages == 12288


def test_old_kernel() -> None:
    """What a 4.4 kernel does not count is left out, not zero."""
    sample = read("linux-4.4")
    assert psi_report(sample) is None
    assert vm_report(sample).refaults_anon is None
    assert vm_report(sample).oom_kills is None


def test_no_report_without_the_mandatory_fields() -> None:
    """Half a meminfo makes no report."""
    assert memory_report(Sample.from_texts("MemTotal: 5 kB\n", "", None, None)) is None


def test_unmovable(make_guest) -> None:
    """Anonymous memory counts as far as the swap has no room for it; without numbers the floor guards alone."""
    guest = make_guest()
    guest.anon_kib = 600 * MIB
    guest.swap_free_kib = 100 * MIB
    assert unmovable_kib(guest.sample(), guest.ram_kib) == (64 + 500 + 8) * MIB
    guest.swap_free_kib = 1000 * MIB
    assert unmovable_kib(guest.sample(), guest.ram_kib) == (64 + 8) * MIB
    assert unmovable_kib(Sample.from_texts("MemTotal: 5 kB\n", "", None, None), guest.ram_kib) == 0


def test_what_has_no_line_of_its_own(make_guest) -> None:
    """Memory in use that is neither cache nor anonymous cannot be moved, whatever the kernel calls it."""
    guest = make_guest(4096 * MIB)
    guest.used_kib, guest.anon_kib = 3300 * MIB, 150 * MIB
    guest.swap_total_kib = guest.swap_free_kib = 0
    assert unmovable_kib(guest.sample(), guest.ram_kib) == (64 + 3300) * MIB
    guest.swap_free_kib = 1024 * MIB
    assert unmovable_kib(guest.sample(), guest.ram_kib) == (64 + 3150) * MIB
    guest.inflate(500 * MIB)
    assert unmovable_kib(guest.sample(), guest.ram_kib) == (64 + 3150) * MIB


def test_locked_memory_does_not_go_to_swap(make_guest) -> None:
    """Of 600 MiB, 400 locked, 200 can go to a swap that has room for all."""
    guest = make_guest()
    guest.anon_kib = guest.used_kib = 600 * MIB
    guest.swap_free_kib = 1000 * MIB
    free = unmovable_kib(guest.sample(), guest.ram_kib)
    guest.unevictable_kib = 400 * MIB
    assert unmovable_kib(guest.sample(), guest.ram_kib) == free + 400 * MIB


def test_zram_is_no_free_room(make_guest) -> None:
    """Of 600 MiB that would go to zram a part stays; without zram all of it leaves, and the rest is between the two."""
    guest = make_guest()
    guest.anon_kib = guest.used_kib = 600 * MIB
    guest.swap_total_kib = guest.swap_free_kib = 1000 * MIB
    on_disk = unmovable_kib(guest.sample(), guest.ram_kib)
    guest.zram = Zram(1000 * MIB, 0, 0)
    assert unmovable_kib(guest.sample(), guest.ram_kib) == on_disk + 300 * MIB
    guest.zram = Zram(200 * MIB, 0, 0)
    assert unmovable_kib(guest.sample(), guest.ram_kib) == on_disk + 100 * MIB


def test_zram_is_counted_once(make_guest) -> None:
    """What zram holds is in use already and comes neither twice nor on top where the kernel has MemAvailable."""
    guest = make_guest()
    guest.swap_total_kib, guest.swap_free_kib = 400 * MIB, 0
    guest.used_kib, guest.anon_kib = 500 * MIB, 300 * MIB
    plain = unmovable_kib(guest.sample(), guest.ram_kib)
    guest.zram = Zram(400 * MIB, 400 * MIB, 150 * MIB)
    assert unmovable_kib(guest.sample(), guest.ram_kib) == plain == (64 + 500) * MIB


def test_zram_where_nothing_is_said_of_available_memory() -> None:
    """Without MemAvailable what zram holds is added, as it is in none of the lines."""
    meminfo = "MemTotal: 1000000 kB\nAnonPages: 1000 kB\nSUnreclaim: 500 kB\n"
    plain = Sample.from_texts(meminfo, "", None, True)
    with_zram = Sample.from_texts(meminfo, "", None, True, zram=Zram(9000, 9000, 3000))
    assert unmovable_kib(plain, 1_000_000) == 1500
    assert unmovable_kib(with_zram, 1_000_000) == 4500
