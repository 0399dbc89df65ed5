"""A simulated machine as an actor. The whole simulated play is in tests/end_to_end/test_demo.py."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ballonet_host_coord.demo.play import RAM_KIB
from ballonet_host_coord.demo.simulated import SimulatedActor
from ballonet_host_coord.simulated.machine import BOOT_S, SimulatedMachine

MIB = 1024


def act(scenario, size_kib=RAM_KIB):
    """What `scenario(actor)` returns, with a machine that has booted and shrunk to `size_kib`."""

    async def main():
        machine = SimulatedMachine("alpha", RAM_KIB, trio.current_time())
        machine.start()
        machine.target_kib = size_kib

        async def live() -> None:
            while True:
                machine.advance(trio.current_time())
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await trio.sleep(BOOT_S + 10)
            result = await scenario(SimulatedActor(machine))
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def test_a_step_takes_as_long_as_its_pages():
    """What there is room for is usable once it has been touched, and not before."""
    assert act(lambda actor: actor.hold(600 * MIB, 60)) == pytest.approx(1.0, abs=0.2)


def test_a_need_that_is_there_is_met_and_one_that_is_not_is_short():
    """What the actor says it needs for a step is what the machine must have: with less it is late."""

    async def need(actor):
        return await actor.need_kib(400 * MIB)

    need_kib = act(need)
    seconds = act(lambda actor: actor.hold(400 * MIB, 60), need_kib)
    assert seconds is not None
    late = act(lambda actor: actor.hold(400 * MIB, seconds + 0.2), need_kib - 200 * MIB)
    assert late is None


def test_numbers_are_the_machines():
    """Size, stalls and kills are read off the machine."""

    async def scenario(actor):
        before_us = await actor.stall_us()
        await actor.hold(500 * MIB, 1.0)
        return await actor.actual_kib(), before_us, await actor.stall_us(), await actor.oom_kills()

    actual_kib, before_us, after_us, kills = act(scenario, 400 * MIB)
    assert 400 * MIB <= actual_kib < 500 * MIB
    assert (before_us, kills) == (0, 0)
    assert after_us > 0
