"""What is worth a command, and how large a step is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ballonet_host_coord.model import AgentFacts, LinkState
from ballonet_host_coord.pace import (
    SCARCE_LEAST_KIB,
    STEP_LEAST_KIB,
    STEP_MOST_KIB,
    WORTHWHILE_LEAST_KIB,
    grant_least_kib,
    step_kib,
    worthwhile_kib,
)

from .builders import GIB, MIB, make_guest, make_report


@pytest.mark.parametrize(
    ("actual_kib", "least_kib"), [(256 * MIB, WORTHWHILE_LEAST_KIB), (64 * GIB, 64 * GIB * 3 // 100)]
)
def test_small_moves_are_small_for_their_guest(actual_kib: int, least_kib: int) -> None:
    """16 MiB, or 3 % where that is more (I6)."""
    assert worthwhile_kib(make_guest(actual_kib=actual_kib)) == least_kib


def test_what_somebody_lacks_is_worth_a_command() -> None:
    """4 MiB are, to a guest below its demand or in a hurry; to any other they are not."""
    assert grant_least_kib(make_guest(demand_kib=600 * MIB), urgent=False, missing_kib=GIB) == SCARCE_LEAST_KIB
    assert grant_least_kib(make_guest(demand_kib=400 * MIB), urgent=True, missing_kib=GIB) == SCARCE_LEAST_KIB
    assert grant_least_kib(make_guest(demand_kib=400 * MIB), urgent=False, missing_kib=GIB) > WORTHWHILE_LEAST_KIB


@pytest.mark.parametrize(("missing_mib", "least_mib"), [(20, 16), (100, 50), (600, 300), (8192, 512)])
def test_what_is_for_buffers_waits_for_half_of_it(missing_mib: int, least_mib: int) -> None:
    """It comes piece by piece as others give; not each piece is a command."""
    guest = make_guest(demand_kib=400 * MIB)
    assert grant_least_kib(guest, urgent=False, missing_kib=missing_mib * MIB) == least_mib * MIB


@pytest.mark.parametrize(
    ("actual_mib", "available_mib", "step_mib"),
    [(256, 0, 64), (4096, 0, 512), (4096, 2048, 1024), (16384, 16384, 1024)],
)
def test_a_step_is_an_eighth_or_half_of_what_is_available(actual_mib: int, available_mib: int, step_mib: int) -> None:
    """Never less than is worth the trouble, never more than a second of a balloon's way."""
    report = make_report(available_kib=available_mib * MIB)
    assert step_kib(make_guest(actual_kib=actual_mib * MIB, report=report)) == step_mib * MIB
    assert STEP_LEAST_KIB <= step_mib * MIB <= STEP_MOST_KIB


def test_without_an_agent_steps_are_half() -> None:
    """I3: nobody watches such a guest."""
    guest = make_guest(actual_kib=4096 * MIB, report=make_report(available_kib=0))
    assert step_kib(replace(guest, agent=AgentFacts(LinkState.NONE))) == 256 * MIB
