"""What is judged of the host: each finding comes of its fact, and goes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ballonet_host_coord.finding import Finding, Level
from ballonet_host_coord.host_check import Caller, HostSight, PathSight, Service, host_findings, sum_or_none
from ballonet_host_coord.model import BudgetParts, Enforce, GuestRules, HostFacts, HostSettings, Settings

from .builders import GIB, MIB, make_settings

MEMORY = HostFacts(total_kib=16 * GIB, available_kib=14 * GIB)
WELL = HostSight(memory=MEMORY, huge_pages="madvise", max_ptes_none=0)
SETTINGS = Settings(HostSettings(budget_kib=8 * GIB), (make_settings(),))
LIBVIRT = replace(SETTINGS, libvirt_uri="qemu:///system")
USER = Caller(1000, "ann", ("kvm",))
DENIED = PathSight("state", "/s/state", "/s may not be written", denied=True)


def judged(sight: HostSight, settings: Settings = SETTINGS, resident_kib: int | None = None) -> list[Finding]:
    return [found for found in host_findings(settings, sight, resident_kib) if found.level is not Level.OK]


def test_a_good_host_has_nothing_to_mend() -> None:
    """Nothing but what is well is said of a host that is."""
    assert judged(WELL, resident_kib=GIB) == []


@pytest.mark.parametrize(
    ("name", "level", "changes", "said"),
    [
        ("khugepaged", Level.HINT, {"max_ptes_none": 511}, "511 of 512"),
        ("psi", Level.HINT, {"psi_error": "Operation not supported"}, "not supported"),
        ("swap", Level.HINT, {"swap_total_kib": GIB, "swap_free_kib": 512 * MIB}, "512 MiB of 1 GiB"),
        ("overcommit", Level.HINT, {"overcommit": 2, "commit_limit_kib": 8 * GIB, "committed_kib": GIB}, "7 GiB"),
        ("overcommit", Level.PROBLEM, {"overcommit": 2, "commit_limit_kib": 512 * MIB}, "CommitLimit is 512 MiB"),
        ("budget", Level.PROBLEM, {"hugetlb_kib": 10 * GIB}, "hugepages of 10 GiB"),
        ("budget", Level.HINT, {"hugetlb_kib": 15 * GIB // 2}, "less the reserve"),
        ("budget", Level.HINT, {"memory": None}, "cannot be read"),
        ("cgroup", Level.HINT, {"memory": replace(MEMORY, cgroup_limit_kib=4 * GIB)}, "this command runs in"),
        (
            "cgroup",
            Level.PROBLEM,
            {"memory": replace(MEMORY, cgroup_limit_kib=4 * GIB), "memory_of_service": True},
            "the coordinator's cgroup",
        ),
        ("state", Level.PROBLEM, {"paths": (DENIED,)}, "/s may not be written"),
        ("control_group", Level.PROBLEM, {"control_group_missing": True}, "no group"),
        ("control_group", Level.HINT, {"control_socket_group": "root"}, "is of the group root"),
        ("service", Level.HINT, {"service": Service(error="permission denied", denied=True)}, "denied"),
    ],
)
def test_each_fault_is_named(name: str, level: Level, changes: dict[str, Any], said: str) -> None:
    """One fault of the host makes one finding, with its numbers and how to mend it."""
    (found,) = judged(replace(WELL, **changes))
    assert (found.name, found.level, said in found.text) == (name, level, True), found
    assert found.mend


def test_khugepaged_without_huge_pages_refills_nothing() -> None:
    """Where transparent huge pages are off, the default is no fault."""
    assert judged(replace(WELL, max_ptes_none=511, huge_pages="never")) == []


def test_the_line_to_set_is_said() -> None:
    """The mend of khugepaged is a line that can be pasted."""
    (found,) = judged(replace(WELL, max_ptes_none=511))
    assert found.mend.splitlines()[0] == "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"


def test_a_budget_that_is_not_there_is_told() -> None:
    """What guests hold and what the host has left must come to the budget; unknown residency is not guessed."""
    short = replace(WELL, memory=replace(MEMORY, available_kib=3 * GIB))
    (found,) = judged(short, resident_kib=4 * GIB)
    assert (found.name, "1 GiB of it are not there" in found.text) == ("available", True)
    assert judged(short, resident_kib=5 * GIB) == []
    assert judged(short, resident_kib=None) == []


def test_what_a_user_may_not_see_is_unsure() -> None:
    """A path that is shut to a user may be open to the service: not judged. The running service has it already."""
    (found,) = judged(replace(WELL, caller=USER, paths=(DENIED,)))
    assert (found.level, found.unjudged) == (Level.HINT, True)
    assert judged(replace(WELL, caller=USER, paths=(DENIED,), service=Service(answers=True))) == []


def test_libvirt_must_answer_where_it_is_named() -> None:
    """No answer is a problem, a closed door is unsure, and without [libvirt] neither is looked at."""
    silent = replace(WELL, libvirt_error="libvirt does not answer within 5 s")
    assert judged(silent) == []
    assert [found.level for found in judged(silent, LIBVIRT)] == [Level.PROBLEM]
    assert [found.unjudged for found in judged(replace(silent, libvirt_denied=True), LIBVIRT)] == [True]
    assert judged(replace(WELL, libvirt_domains=3), LIBVIRT) == []


def test_a_sum_with_an_unknown_is_unknown() -> None:
    """One guest that could not be seen makes what all hold unknown."""
    assert (sum_or_none([1, 2]), sum_or_none([1, None]), sum_or_none([])) == (3, None, 0)


def test_a_budget_that_nobody_set_is_told_as_the_running_service_has_counted_it() -> None:
    """With who else holds memory, by the settings as they stand in the files now."""
    automatic = replace(SETTINGS, host=HostSettings(reserve_kib=2 * GIB))
    parts = BudgetParts("MemTotal", 16 * GIB, 0, GIB, 4 * GIB)
    (told,) = [
        found for found in host_findings(automatic, replace(WELL, parts=parts), None) if found.name == "budget"
    ]
    assert (told.level, told.text) == (
        Level.OK, "12 GiB of the host's 16 GiB: budget 12288 = MemTotal 16384 - reserve 2048 - others 2048 (MiB)",
    )  # fmt: skip


@pytest.mark.parametrize("swap_kib", [0, GIB])
@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, guests=(make_settings(enforce=Enforce.CGROUP),)),
        replace(SETTINGS, rules=GuestRules(defaults=(("enforce", Enforce.CGROUP),))),
        replace(SETTINGS, rules=GuestRules(sections=(("db*", (("enforce", Enforce.CGROUP),)),))),
    ],
    ids=["a guest", "defaults", "a pattern"],
)
def test_guests_that_are_held_to_their_size_want_swap(settings: Settings, swap_kib: int) -> None:
    """Without swap on the host a limit can only slow a guest down."""
    found = judged(replace(WELL, swap_total_kib=swap_kib, swap_free_kib=swap_kib), settings)
    assert [one.name for one in found] == ([] if swap_kib else ["enforce"])
