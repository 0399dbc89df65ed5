"""The main job on virtual time: one budget smaller than the sum, memory that follows the need."""

from __future__ import annotations

from dataclasses import replace

import trio

from ballonet_host_coord.model import RunState, SetTarget, StartVm, StopPolicy, TellDeflate
from ballonet_host_coord.ports import PortError

MIB = 1024


def test_memory_follows_the_need(play):
    """What alpha used and left is beta's when beta needs it; neither starves and the books never exceed the budget."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)
        await trio.sleep(5)
        stage.work("alpha", 0)
        stage.work("beta", 700)
        await stage.until(lambda: stage.has_touched("beta"), within_s=15)

    stage = play(scenario)
    assert stage.watch.exceeded_kib <= 0
    assert all(machine.oom_kills == 0 for machine in stage.house.machines.values())
    assert sum(machine.size_kib for machine in stage.house.machines.values()) < 2 * 1024 * MIB


def test_guests_boot_one_after_the_other_when_only_one_claim_fits(play):
    """The second machine waits before its first instruction until the first has shown its startup size."""

    async def scenario(stage):
        await stage.until_up()

    stage = play(scenario)
    (alpha_s, _), (beta_s, _) = (stage.watch.commands_of(name, StartVm)[0] for name in ("alpha", "beta"))
    at_beta = next(snapshot for snapshot, _ in stage.watch.turns if snapshot.now_s >= beta_s)
    assert beta_s > alpha_s
    assert not at_beta.guests[0].booking.claimed
    assert stage.watch.exceeded_kib <= 0


def test_startup_target_is_set_before_the_first_instruction(play):
    """A machine never runs an instruction before its balloon's target is the startup size."""

    async def scenario(stage):
        await stage.until(lambda: stage.house.machines["alpha"].run_state is RunState.RUNNING, within_s=10)
        assert stage.house.machines["alpha"].target_kib == 512 * MIB

    play(scenario)


def test_demand_is_answered_without_waiting_for_the_tick(play):
    """From the guest's stall to the balloon command passes less than a tenth of the deciding period."""

    async def scenario(stage):
        await stage.until_up()
        machine = stage.house.machines["alpha"]
        before = len(stage.watch.commands_of("alpha", SetTarget))
        pressed_s = []
        press = machine.on_press
        machine.on_press = lambda: (pressed_s.append(trio.current_time()), press())
        stage.work("alpha", 900)
        await stage.until(lambda: bool(pressed_s), within_s=10)
        await stage.until(lambda: len(stage.watch.commands_of("alpha", SetTarget)) > before, within_s=5)
        stage.first_grant_s = stage.watch.commands_of("alpha", SetTarget)[before][0]
        stage.pressed_s = pressed_s[0]

    stage = play(scenario)
    assert stage.first_grant_s - stage.pressed_s < 0.1


def test_constant_guests_are_left_in_peace(play):
    """When nothing changes no command is sent: the last minute of an idle host is silent (I6)."""

    async def scenario(stage):
        await stage.until_up()
        await trio.sleep(400)
        stage.quiet_from_s = trio.current_time()
        await trio.sleep(60)

    stage = play(scenario)
    assert [command for at_s, command in stage.watch.commands if at_s >= stage.quiet_from_s] == []


def test_observe_decides_and_moves_nothing(play):
    """With --observe every decision is taken and no machine gets a target, a start or a word."""

    async def scenario(stage):
        await trio.sleep(5)
        for machine in stage.house.machines.values():
            machine.start()
        await trio.sleep(60)

    stage = play(scenario, observe=True)
    assert stage.watch.commands == []
    assert all(vm.targets == [] for vm in stage.house.vms.values())
    assert all(decision.guests[0].why for _, decision in stage.watch.turns)


def test_release_gives_everything_back_within_the_budget(play):
    """`release` lifts a guest to its whole RAM and keeps it there, and survives a restart of the coordinator."""

    async def scenario(stage):
        await stage.until_up()
        answer = await stage.house.coordinator.handle("release", {"guest": "alpha"})
        assert answer["guests"][0]["missing_kib"] == 0
        await stage.until(lambda: stage.house.machines["alpha"].size_kib == 1024 * MIB, within_s=10)
        await stage.replace_coordinator(away_s=5)
        await trio.sleep(200)
        assert stage.house.machines["alpha"].size_kib == 1024 * MIB

    stage = play(scenario)
    assert stage.watch.exceeded_kib <= 0


def test_release_of_all_says_what_is_missing(play):
    """`release --all` never overdraws by itself: what does not fit is named."""

    async def scenario(stage):
        await stage.until_up()
        answer = await stage.house.coordinator.handle("release", {"all": True})
        assert sum(guest["missing_kib"] for guest in answer["guests"]) > 0
        await trio.sleep(10)

    stage = play(scenario)
    assert stage.watch.exceeded_kib <= 0


def test_release_acts_even_where_it_cannot_be_saved(play):
    """A full disk does not keep a guest from its memory; that the release will not last is said."""

    async def scenario(stage):
        await stage.until_up()
        coordinator = stage.house.coordinator
        coordinator._choices._state = FullDisk()
        answer = await coordinator.handle("release", {"guest": "alpha"})
        assert "no space" in answer["not_saved"]
        await stage.until(lambda: stage.house.machines["alpha"].size_kib == 1024 * MIB, within_s=10)
        assert "no space" in (await coordinator.handle("resume", {"guest": "alpha"}))["not_saved"]
        await trio.sleep(1)
        assert not stage.watch.turns[-1][0].guests[0].released

    play(scenario)


class FullDisk:
    """A state store that keeps nothing."""

    def put(self, key, value):
        raise PortError("no space")

    def delete(self, key):
        raise PortError("no space")

    def change(self, values):
        raise PortError("no space")


def test_an_overdraft_that_is_forced_is_named_and_raises_an_alarm(play, caplog):
    """The operator's own act is told as the cause; after a minute it is an error in the journal, and in the status."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("beta", 800)
        await stage.until(lambda: stage.has_touched("beta"), within_s=10)
        await trio.sleep(5)
        await stage.house.coordinator.handle("release", {"guest": "alpha", "force": True})
        await trio.sleep(50)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        await trio.sleep(20)
        host = (await stage.house.coordinator.handle("status", {}))["host"]
        assert host["overdrawn_cause"].startswith("alpha was released beyond the budget by the operator")
        assert host["alarm"].startswith("overdrawn for 7")

    play(scenario)
    assert [record.getMessage()[:14] for record in caplog.records if record.levelname == "ERROR"] == ["overdrawn for "]


def test_every_guest_is_deflated_on_stop_though_one_hangs(play, settings):
    """stop_policy deflate gives each guest its memory back within its time, whoever does not answer."""

    async def scenario(stage):
        await stage.until_up()
        await trio.sleep(60)
        stage.house.vms["alpha"].hung = True
        assert stage.house.machines["beta"].target_kib < 1024 * MIB
        await stage.replace_coordinator(away_s=8)
        assert stage.house.machines["beta"].target_kib == 1024 * MIB

    deflating = settings()
    deflating = replace(deflating, host=replace(deflating.host, stop_policy=StopPolicy.DEFLATE))
    play(scenario, settings=deflating)


def test_no_machine_starts_without_its_startup_target(play):
    """A target that the hypervisor does not take is tried again, and the start waits for it."""

    async def scenario(stage):
        vm = stage.house.vms["alpha"]
        await stage.until(lambda: stage.house.machines["alpha"].run_state is RunState.RUNNING, within_s=20)
        assert vm.targets[0][1] == 512 * MIB
        assert vm.refused == 0

    play(scenario, prepare=lambda house: setattr(house.vms["alpha"], "refused", 2))


def test_a_grant_is_told_to_the_agent(play):
    """Every grant to a guest with a live agent goes with a DEFLATE of the same size."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)

    stage = play(scenario)
    told = {order.target_kib for _, order in stage.watch.commands_of("alpha", TellDeflate)}
    assert told
    assert told <= {order.target_kib for _, order in stage.watch.commands_of("alpha", SetTarget)}


def test_a_guest_is_booked_from_the_moment_it_is_seen(play):
    """Before its hypervisor has answered the books hold nothing for a guest; afterwards they never hold nothing."""

    async def scenario(stage):
        await stage.until_up()

    stage = play(scenario)
    first, _ = stage.watch.turns[0]
    assert [(guest.vm.run_state, guest.booking.booked_kib) for guest in first.guests] == [(RunState.ABSENT, 0)] * 2
    for snapshot, decision in stage.watch.turns:
        assert decision.booked_kib == sum(guest.booking.booked_kib for guest in snapshot.guests)
        for guest in snapshot.guests:
            assert (guest.booking.booked_kib == 0) == (guest.vm.run_state is RunState.ABSENT)
