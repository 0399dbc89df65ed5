"""A budget that nobody set follows who else holds the host's memory: slowly, and without a step for nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio

from ballonet_host_coord.model import SetTarget
from ballonet_host_coord.ports import PortError

MIB = 1024
RESERVE_KIB = 2368 * MIB
"""Of 4 GiB: so the budget is 1728 MiB while the host's processes stay within it."""


@pytest.fixture
def automatic(settings):
    """The two guests, and no budget in the settings."""
    usual = settings()
    return replace(usual, host=replace(usual.host, budget_kib=None, reserve_kib=RESERVE_KIB))


async def told(stage):
    return (await stage.house.coordinator.handle("status", {}))["host"]


def test_other_processes_lower_the_budget_and_guests_give(play, automatic):
    """What is beyond the reserve comes off after some seconds, guests shrink to fit, and status says what it was."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=30)
        assert (await told(stage))["budget_kib"] == 1728 * MIB
        stage.house.host_memory.others_kib = 2600 * MIB
        await stage.until(lambda: stage.watch.turns[-1][1].budget_kib < 1728 * MIB, within_s=20)
        await stage.until(lambda: stage.watch.turns[-1][1].overdrawn_kib == 0, within_s=60)
        host = await told(stage)
        assert host["budget_kib"] == host["budget_parts"]["total_kib"] - 2816 * MIB
        assert host["budget_why"] == "budget 1280 = MemTotal 4096 - reserve 2368 - others 448 (MiB)"
        stage.house.host_memory.others_kib = 0
        await stage.until(lambda: stage.watch.turns[-1][1].budget_kib == 1728 * MIB, within_s=80)

    assert play(scenario, automatic).watch.deepened_kib <= 0


def test_processes_that_come_and_go_move_no_guest(play, automatic):
    """I6: a host that breathes costs no command."""

    async def scenario(stage):
        noise = random.Random(1)
        stage.house.host_memory.others_kib = 2150 * MIB
        await stage.until_up()
        await trio.sleep(120)
        commands = len(stage.watch.commands)
        budgets = set()
        for _ in range(120):
            stage.house.host_memory.others_kib = 2150 * MIB + noise.randrange(-60, 60) * MIB
            await trio.sleep(1)
            budgets.add(stage.watch.turns[-1][1].budget_kib)
        assert len(budgets) == 1
        assert len(stage.watch.commands) == commands

    lower = replace(automatic, host=replace(automatic.host, reserve_kib=2048 * MIB))
    play(scenario, lower)


def test_nothing_is_granted_before_it_is_known_who_else_is_here(play, automatic):
    """Until the first survey there is no room, and no excess either; a host that cannot be surveyed has its reserve."""
    asked = trio.Event()

    def slow(house):
        async def survey(managed):
            asked.set()
            await trio.sleep(60)
            raise PortError("nothing to be seen")

        house.host_memory.survey = survey

    async def scenario(stage):
        await asked.wait()
        await trio.sleep(50)
        assert stage.watch.turns[-1][1].budget_kib == stage.watch.turns[-1][1].booked_kib
        assert stage.watch.exceeded_kib <= 0
        assert not any(machine.is_up for machine in stage.house.machines.values())
        await stage.until(lambda: all(machine.is_up for machine in stage.house.machines.values()), within_s=90)
        assert (await told(stage))["budget_kib"] == 1728 * MIB

    stage = play(scenario, automatic, prepare=slow)
    assert stage.watch.deepened_kib <= 0
    assert stage.watch.commands_of("alpha", SetTarget)


def test_a_machine_that_starts_anew_is_ours_within_seconds(play, automatic):
    """Its process is another: until the next survey it would count with the others, so that one is taken at once."""

    async def scenario(stage):
        await stage.until_up()
        seen = []
        usual = stage.house.host_memory.survey

        async def survey(managed):
            seen.append(frozenset(managed))
            return await usual(managed)

        stage.house.host_memory.survey = survey
        await stage.until(lambda: bool(seen), within_s=6)
        stage.house.machines["alpha"].qemu_pid = 4711
        await stage.until(lambda: any(4711 in managed for managed in seen), within_s=3)

    play(scenario, automatic)
