"""The cgroup's limit in a whole host: raised before a grant, lowered after a shrink, and gone when it must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from ballonet_host_coord.model import Enforce, SetTarget
from ballonet_host_coord.ports import PortError

MIB = 1024
OVERHEAD_KIB = 64 * MIB
ALPHA, BETA = "alpha", "beta"


@pytest.fixture
def enforced(settings):
    return settings(enforce=Enforce.CGROUP)


class Held:
    """Looks at each target as it reaches the hypervisor: was there room for it?"""

    def __init__(self, stage):
        self.limits = stage.house.limits.limits
        self.grants = 0
        self.writes = []
        for name, vm in stage.house.vms.items():
            self._look_at(name, vm)
        usual = stage.house.limits.set

        async def write(pid, folder, limit_kib):
            await usual(pid, folder, limit_kib)
            self.writes.append((trio.current_time(), folder, limit_kib))

        stage.house.limits.set = write

    def _look_at(self, name, vm):
        usual = vm.set_target

        async def set_target(target_kib):
            if name in self.limits:
                assert self.limits[name] >= target_kib + OVERHEAD_KIB
                self.grants += target_kib > vm.machine.device_actual_kib
            await usual(target_kib)

        vm.set_target = set_target


async def squeezed(stage, name=ALPHA):
    """Up, idle, and limited to less than it may have."""
    await stage.until_up()
    await stage.until(lambda: stage.house.limits.limits.get(name, 9999 * MIB) < 700 * MIB, within_s=60)


async def status_of(stage, name=ALPHA):
    guests = (await stage.house.coordinator.handle("status", {}))["guests"]
    return next(guest for guest in guests if guest["name"] == name)


def test_the_limit_is_raised_before_each_grant_and_lowered_after_each_shrink(play, enforced):
    """Whatever alpha and beta need in turn, no target meets a limit below it, and limits follow them down."""

    async def scenario(stage):
        held = Held(stage)
        await squeezed(stage)
        for name, wanted_mib in ((ALPHA, 800), (BETA, 800), (ALPHA, 700), (BETA, 300)):
            other = BETA if name == ALPHA else ALPHA
            stage.work(other, 150)
            stage.work(name, wanted_mib)
            await stage.until(lambda name=name: stage.has_touched(name), within_s=60)
            limit_kib = stage.house.limits.limits[name]
            assert limit_kib >= stage.house.machines[name].device_actual_kib + OVERHEAD_KIB
            await stage.until(lambda other=other: stage.house.limits.limits[other] < 800 * MIB, within_s=300)
        assert held.grants >= 3
        assert (await status_of(stage))["limit_kib"] is not None
        await trio.sleep(60)
        writes, commands = len(held.writes), len(stage.watch.commands)
        await trio.sleep(60)
        # A move under way before may still bring one, and none is written without a move.
        assert len(held.writes) - writes <= len(stage.watch.commands) - commands + 2

    assert play(scenario, enforced).watch.deepened_kib <= 0


def test_it_is_off_unless_said(play):
    """Nobody's cgroup is touched without the setting."""

    async def scenario(stage):
        held = Held(stage)
        await stage.until_up()
        await trio.sleep(30)
        assert held.writes == []
        assert (await status_of(stage))["limit_kib"] is None

    play(scenario)


@pytest.mark.parametrize("how", ["release", "pause", "off", "reset", "die", "stop"])
def test_it_goes_when_it_must(play, enforced, how):
    """With a release, a pause, the setting, a new boot, its machine, and with a clean stop."""

    async def scenario(stage):
        await squeezed(stage)
        coordinator = stage.house.coordinator
        if how in ("release", "pause"):
            await coordinator.handle(how, {"guest": ALPHA})
        elif how == "off":
            await coordinator.handle("set", {"guest": ALPHA, "values": {"enforce": "off"}})
        elif how == "reset":
            stage.house.vms[ALPHA].reset()
        elif how == "die":
            stage.house.vms[ALPHA].die()
        else:
            stage._scope.cancel()
        await stage.until(lambda: ALPHA not in stage.house.limits.limits, within_s=5)
        await trio.sleep(1.5)
        if how != "stop":
            assert BETA in stage.house.limits.limits
            assert (await status_of(stage))["limit_kib"] is None
        else:
            assert stage.house.limits.limits == {}

    play(scenario, enforced)


def test_what_a_dead_coordinator_left_starves_nobody(play, enforced):
    """The next one takes it away before it does anything else, for a guest that it does not even know, too."""

    async def scenario(stage):
        await squeezed(stage)
        left = dict(stage.house.limits.limits)
        kept = stage.house.state.get("limited")
        await stage.replace_coordinator(away_s=0)
        # A killed one leaves its limits, and its word of them; the other leaves one with a guest that has gone.
        stage._scope.cancel()
        await trio.sleep(0)
        stage.house.limits.limits.update(left, gone=5)
        stage.house.state.put("limited", {**kept, "gone": "gone"})
        held = Held(stage)
        await stage.replace_coordinator(away_s=0)
        assert {(folder, limit_kib) for _, folder, limit_kib in held.writes} == {
            (ALPHA, None), (BETA, None), ("gone", None),
        }  # fmt: skip
        assert stage.house.limits.limits == {}
        assert stage.house.state.get("limited") == {}
        await squeezed(stage)
        assert set(stage.house.state.get("limited")) == {ALPHA, BETA}

    play(scenario, enforced)


def test_a_limit_of_somebody_elses_is_left_as_it_is(play, enforced):
    """An operator's own memory.high is no leftover: it stays, and status says why there is none of ours."""

    async def scenario(stage):
        stage.house.limits.limits[ALPHA] = 2048 * MIB
        await squeezed(stage, BETA)
        assert stage.house.limits.limits[ALPHA] == 2048 * MIB
        assert "alpha has a limit of 2048 MiB that is not ours: left as it is" in (await status_of(stage))["why"]
        stage.house.limits.limits[BETA] = 1500 * MIB
        await trio.sleep(20)
        assert stage.house.limits.limits[BETA] == 1500 * MIB
        assert "not ours" in (await status_of(stage, BETA))["why"]
        del stage.house.limits.limits[BETA]
        await squeezed(stage, BETA)
        assert "not ours" not in (await status_of(stage, BETA))["why"]

    play(scenario, enforced)


def test_a_limit_that_cannot_be_raised_keeps_no_guest_from_its_memory(play, enforced):
    """The grant goes on, and status says what is wrong."""

    async def scenario(stage):
        await squeezed(stage)

        async def refuse(pid, folder, limit_kib):
            raise PortError("memory.high cannot be written: Read-only file system")

        usual, stage.house.limits.set = stage.house.limits.set, refuse
        stage.work(ALPHA, 800)
        await stage.until(lambda: stage.has_touched(ALPHA), within_s=60)
        assert "Read-only file system" in (await status_of(stage))["why"]
        assert stage.watch.commands_of(ALPHA, SetTarget)
        stage.house.limits.set = usual
        await stage.until(lambda: stage.house.limits.limits[ALPHA] > 800 * MIB, within_s=15)
        assert "Read-only" not in (await status_of(stage))["why"]

    play(scenario, enforced)


def test_observing_limits_nobody(play, enforced):
    """What decides and moves nothing writes nothing."""

    async def scenario(stage):
        held = Held(stage)
        await trio.sleep(60)
        assert held.writes == []

    play(scenario, replace(enforced), observe=True)
