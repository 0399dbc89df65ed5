"""Domains that start, over `qemu:///system` with our hook in libvirtd: room is made first, never more than there is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.real_parts import cannot

from ballonet_host_coord.demo.image import build_image

from . import rig as rigs
from .serving import MIB, Served, booked_kib, never_overdrawn, of_guest, serving
from .system_rig import SystemRig, unable

TEN = [f"zehn{number}" for number in range(10)]
RAM_MIB, STARTUP_MIB, OVERHEAD_MIB = 192, 96, 64
BUDGET_MIB = 2100
"""All ten at their startup size with QEMU's part, and the headroom; seven boot claims, and not ten."""
HOLD_S = 4


@pytest.fixture(scope="module")
def rig() -> Iterator[SystemRig]:
    lacking = rigs.missing()
    if why := (f"needs {', '.join(lacking)}" if lacking else unable()):
        cannot(why)
    with rigs.running(build_image(lambda line: print(line, file=sys.stderr)), SystemRig) as rig:
        assert isinstance(rig, SystemRig)
        yield rig


@pytest.fixture(scope="module")
def operator(rig: SystemRig) -> Iterator[Any]:
    """Connected when the hook is in force, as after an installation and a restart of libvirtd."""
    import libvirt

    rig.install_hook(STRICT="yes", TIMEOUT="300s", LIMIT="310s")
    rig.stop_libvirtd()
    rig.start_libvirtd()
    connection = libvirt.open(rig.uri)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def served(rig: SystemRig, operator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = f'[defaults]\nminimum = "64M"\noverhead = "{OVERHEAD_MIB}M"'
    folder = tmp_path_factory.mktemp("served")
    with serving(rig, folder, settings, budget_mib=BUDGET_MIB, control=rig.control) as served:
        yield served
        never_overdrawn(served.turns())


def came_up(turns: list[dict[str, Any]], name: str) -> bool:
    """Its driver has answered, and its balloon has taken most of what is above the startup memory; the last of them may
    be given more before they have it all."""
    looks = [guest for guest in of_guest(turns, name) if not guest["unseen"]]
    sizes_kib = [guest["vm"]["actual_kib"] for guest in looks]
    return not looks[-1]["booking"]["claimed"] and min(sizes_kib) <= (STARTUP_MIB + (RAM_MIB - STARTUP_MIB) // 3) * MIB


def test_no_room_is_said_by_libvirt(served: Served, operator: Any, rig: SystemRig) -> None:
    """A domain for which there is no room does not start, and libvirt's error has our numbers."""
    import libvirt

    domain = operator.defineXML(rig.xml("riesig", memory_mib=4096))
    with pytest.raises(libvirt.libvirtError) as caught:
        domain.create()
    assert f"{4096 + 96} MiB for riesig: at most" in str(caught.value)
    assert f"budget {BUDGET_MIB} MiB" in str(caught.value)
    assert served.guests == {}
    assert served.ask("reservation", guest="riesig")["state"] == "none"
    domain.undefine()


def test_what_never_starts_gives_the_room_back(served: Served, operator: Any, rig: SystemRig) -> None:
    """Its start fails after the hook held room for it, and the hook gives that back; what is held for a domain that is
    never started is free again when its time has passed."""
    import libvirt

    before = served.ask("reservation", guest="nie")["free_kib"]
    xml = rig.xml("nie", memory_mib=512).replace("/vmlinuz</kernel>", "/no-such-file</kernel>")
    domain = operator.defineXML(xml)
    with pytest.raises(libvirt.libvirtError, match="no-such-file"):
        domain.create()
    assert served.ask("reservation", guest="nie")["state"] == "none"
    served.until(lambda guests: served.ask("reservation", guest="nie")["free_kib"] == before)
    assert "nie: 608 MiB are held for it" in served.journal
    domain.undefine()
    served.ask("reserve", guest="nie", size="512M", timeout_s=10, hold_s=HOLD_S)
    served.until(lambda guests: served.ask("reservation", guest="nie")["state"] == "held")
    served.until(lambda guests: served.ask("reservation", guest="nie")["state"] == "none", 3.0 * HOLD_S)
    assert served.ask("reservation", guest="nie")["free_kib"] == before


def test_ten_start_at_once(served: Served, operator: Any, rig: SystemRig) -> None:
    """As after a host's reboot: each waits in its hook until the boot claims before it have come back, all of them come
    up, and in no turn is more booked than the budget has."""
    import libvirt

    errors: list[str] = []
    startup = f"<currentMemory unit='MiB'>{STARTUP_MIB}</currentMemory>"
    for name in TEN:
        xml = rig.xml(name, memory_mib=RAM_MIB)
        operator.defineXML(xml.replace(f"<currentMemory unit='MiB'>{RAM_MIB}</currentMemory>", startup))

    def start(name: str) -> None:
        connection = libvirt.open(rig.uri)
        try:
            connection.lookupByName(name).create()
        except libvirt.libvirtError as error:
            errors.append(f"{name}: {error}")
        finally:
            connection.close()

    began = len(served.turns())
    threads = [threading.Thread(target=start, args=(name,)) for name in TEN]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    served.until(lambda guests: len(guests) == 10 and all(guest["state"] != "booting" for guest in guests.values()))
    turns = served.turns()[began:]
    for turn in turns:
        assert booked_kib(turn) <= turn["snapshot"]["host"]["budget_kib"]
    claimed = [sum(guest["booking"]["claimed"] for guest in turn["snapshot"]["guests"]) for turn in turns]
    assert 1 < max(claimed) < 10

    def all_up(_: Any) -> bool:
        turns = served.turns()[began:]
        return all(came_up(turns, name) for name in TEN)

    served.until(all_up)
