"""What is judged of a guest: each finding comes of its fact, and goes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ballonet_host_coord.finding import Level
from ballonet_host_coord.guest_check import GuestSight, SocketSight, guest_findings

from .builders import GIB, MIB

WELL = GuestSight(
    "web", ram_kib=GIB, minimum_kib=256 * MIB, maximum_kib=GIB, has_balloon=True, deflate_on_oom=True,
    free_page_reporting=True, statistics_period_s=1, has_port=True, agent_live=True, swap_kib=GIB,
    channel=SocketSight("/run/web", owner_uid=7, heard=True), qemu_uid=7,
)  # fmt: skip


def test_a_good_guest_can_be_managed() -> None:
    """Nothing else is said of a guest that is well."""
    assert [(found.level, found.text) for found in guest_findings([WELL])] == [(Level.OK, "can be managed")]


@pytest.mark.parametrize(
    ("name", "level", "changes"),
    [
        ("balloon", Level.PROBLEM, {"has_balloon": False}),
        ("deflate-on-oom", Level.PROBLEM, {"deflate_on_oom": False}),
        ("deflate-on-oom", Level.HINT, {"deflate_on_oom": False, "may_shrink_without_deflate_on_oom": True}),
        ("free-page-reporting", Level.HINT, {"free_page_reporting": False}),
        ("statistics", Level.HINT, {"statistics_period_s": 0, "agent_live": None}),
        ("agent", Level.HINT, {"has_port": False}),
        ("agent", Level.HINT, {"agent_live": False}),
        ("swap", Level.HINT, {"swap_kib": 0}),
        ("minimum", Level.HINT, {"minimum_kib": 64 * MIB}),
        ("maximum", Level.HINT, {"maximum_kib": 2 * GIB}),
        ("settings", Level.HINT, {"notes": ("weight=x: must be a number",)}),
        ("channel", Level.PROBLEM, {"channel": SocketSight("/run/web", "No such file or directory")}),
        ("channel", Level.HINT, {"channel": SocketSight("/run/web", owner_uid=7, heard=False)}),
        ("channel", Level.HINT, {"channel": SocketSight("/run/web", owner_uid=8, heard=True)}),
        ("channel", Level.HINT, {"channel": SocketSight("/run/web", owner_uid=7, denied=True)}),
        ("guest", Level.PROBLEM, {"error": "domain web: it has no <memory>"}),
    ],
)
def test_each_fault_is_named(name: str, level: Level, changes: dict[str, Any]) -> None:
    """One fault of a guest makes one finding, of that guest."""
    (found,) = [found for found in guest_findings([replace(WELL, **changes)]) if found.level is not Level.OK]
    assert (found.name, found.guest, found.level) == (name, "web", level)


@pytest.mark.parametrize(
    ("by_libvirt", "said"), [(True, "ballonet adopt web"), (False, "name=org.ballonet.agent.0")]
)
def test_a_missing_channel_is_mended_where_the_guest_is(by_libvirt: bool, said: str) -> None:
    """A domain gets its channel from `adopt`, another guest from QEMU's command line."""
    (found,) = guest_findings([replace(WELL, has_port=False, by_libvirt=by_libvirt)])
    assert said in found.mend


def test_a_pinned_guest_is_information() -> None:
    """Hugepages, VFIO and the like are left alone: told as they are, and nothing is asked of that guest."""
    (found,) = guest_findings([replace(WELL, pins=("it uses hugepages",), deflate_on_oom=False)])
    assert (found.level, found.text) == (Level.OK, "left alone: it uses hugepages")


def test_a_guest_that_does_not_run_has_no_socket() -> None:
    """A missing socket is a fault of a running guest alone; a stale one is told."""
    absent = replace(WELL, runs=False, channel=SocketSight("/run/web", "No such file or directory"))
    assert [found.level for found in guest_findings([absent])] == [Level.OK]
    stale = replace(absent, channel=None, monitor=SocketSight("/run/web.qmp", heard=False))
    assert ["stale" in found.text for found in guest_findings([stale])] == [True]


def test_one_socket_of_two_guests_is_a_problem() -> None:
    """Two domains with one path: the second is named, with the first."""
    problems = [found for found in guest_findings([WELL, replace(WELL, name="db")]) if found.level is Level.PROBLEM]
    assert [(found.guest, "channel of web" in found.text) for found in problems] == [("db", True)]


def test_a_strange_name_stays_in_its_line() -> None:
    """A name with a line end and 200 letters cannot break the table."""
    (found,) = guest_findings([replace(WELL, name="x\n" * 100)])
    assert found.guest.isprintable()
    assert len(found.guest) <= 120


def test_a_name_that_is_to_be_typed_is_quoted_and_whole() -> None:
    """A command that mends names the guest as a shell takes it, however long it is: nothing of it is run."""
    name = "$(touch x); " + "n" * 200
    (found,) = [f for f in guest_findings([replace(WELL, name=name, by_libvirt=True, has_port=False)]) if f.mend]
    assert found.mend == f"ballonet adopt '{name}'"
