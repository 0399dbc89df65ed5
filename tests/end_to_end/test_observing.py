"""A service that observes first, as the settings say, then serves, and may be sent back to observing at any time."""

from __future__ import annotations

from dataclasses import replace

import trio

from ballonet_host_coord.model import Enforce, SetTarget, StartVm

MIB = 1024


def with_observe(settings, observe):
    return replace(settings, host=replace(settings.host, observe=observe))


def turn_to(stage, observe):
    coordinator = stage.house.coordinator
    coordinator.reload(with_observe(coordinator.settings, observe))


def test_what_waits_starts_with_its_startup_target_when_observing_ends(play, settings):
    """Nothing is set while it observes, whatever is decided; at the reload machines that wait get their startup
    target first and run then, and memory follows the need."""

    async def scenario(stage):
        await trio.sleep(30)
        assert stage.watch.commands == []
        assert all(vm.targets == [] for vm in stage.house.vms.values())
        assert stage.house.coordinator.snapshot.observe
        turn_to(stage, False)
        await stage.until_up()
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)

    stage = play(scenario, with_observe(settings(), True))
    for name, vm in stage.house.vms.items():
        (started_s, _), *_ = stage.watch.commands_of(name, StartVm)
        assert vm.targets[0] == (vm.targets[0][0], 512 * MIB)
        assert vm.targets[0][0] <= started_s
    assert stage.watch.exceeded_kib <= 0


def test_a_machine_that_ran_while_it_was_observed_is_not_shrunk_blindly(play, settings):
    """It is taken as one that was found running: no startup target, and no standstill that nobody waited for."""

    async def scenario(stage):
        await trio.sleep(2)
        for machine in stage.house.machines.values():
            machine.start()
        await trio.sleep(60)
        stage.sizes = {name: machine.size_kib for name, machine in stage.house.machines.items()}
        turn_to(stage, False)
        stage.began_s = trio.current_time()
        await trio.sleep(120)

    stage = play(scenario, with_observe(settings(4096 * MIB), True))
    assert not [order for _, order in stage.watch.commands if isinstance(order, SetTarget) and "startup" in order.why]
    assert not any(guest.uncooperative for snapshot, _ in stage.watch.turns for guest in snapshot.guests)


def test_from_the_moment_it_observes_nothing_is_sent(play, settings):
    """A service that is in the midst of moving memory leaves everything as it is: no target, no word to an agent, no
    limit that nobody would raise; and at the next reload it serves as before."""

    async def scenario(stage):
        await stage.until_up()
        coordinator = stage.house.coordinator
        await stage.until(lambda: len(stage.house.limits.limits) == 2, within_s=60)
        stage.work("alpha", 700)
        await stage.until(lambda: coordinator.ledger.is_moving("alpha"), within_s=10)
        turn_to(stage, True)
        stage.sent = [list(vm.targets) for vm in stage.house.vms.values()]
        ordered = len(stage.watch.commands)
        await trio.sleep(60)
        assert [vm.targets for vm in stage.house.vms.values()] == stage.sent
        assert len(stage.watch.commands) == ordered
        assert stage.house.limits.limits == {}
        assert not coordinator.ledger.is_moving("alpha")
        assert not any(guest.uncooperative for guest in coordinator.snapshot.guests)
        turn_to(stage, False)
        stage.work("alpha", 0)
        stage.work("beta", 700)
        await stage.until(lambda: stage.has_touched("beta"), within_s=20)

    stage = play(scenario, settings(enforce=Enforce.CGROUP))
    assert stage.watch.exceeded_kib <= 0


def test_what_was_ordered_and_not_carried_out_is_not_sent_after_all(play, settings):
    """A monitor that hangs keeps orders waiting; a reload that ends moving ends them, too. A machine that boots later
    gets no startup target."""

    async def scenario(stage):
        await stage.until_up()
        attendant = stage.house.coordinator.guests["alpha"]
        attendant._execute = lambda command: trio.sleep(20)
        stage.work("alpha", 700)
        await stage.until(lambda: bool(attendant._orders), within_s=10)
        turn_to(stage, True)
        assert attendant._orders == []
        stage.sent = len(stage.house.vms["beta"].targets)
        stage.house.vms["beta"].reset()
        await trio.sleep(60)
        assert len(stage.house.vms["beta"].targets) == stage.sent

    play(scenario, settings())


def test_the_command_lines_word_stands_above_the_settings(play, settings):
    """What was started with --observe observes until it ends, whatever a reload says."""

    async def scenario(stage):
        await trio.sleep(5)
        turn_to(stage, False)
        await trio.sleep(20)
        assert stage.house.coordinator.observe

    stage = play(scenario, settings(), observe=True)
    assert stage.watch.commands == []
