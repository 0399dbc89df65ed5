"""What is lost while the main job runs: agents, monitors, machines, the coordinator itself (I7), and boots (I1)."""

from __future__ import annotations

import pytest
import trio

from ballonet_host_coord.model import LinkState, RunState, SetTarget, VmEventKind
from ballonet_host_coord.simulated.machine import Character

MIB = 1024


def shrinks_of(stage, name, since_s):
    """Targets below what the guest had when they were set, as (time, target)."""
    return [(at_s, kib) for at_s, kib, actual_kib in targets_of(stage, name, since_s) if kib < actual_kib]


def grants_of(stage, name, since_s):
    """Targets above what the guest had when they were set, as (time, target)."""
    return [(at_s, kib) for at_s, kib, actual_kib in targets_of(stage, name, since_s) if kib > actual_kib]


def targets_of(stage, name, since_s):
    """What was set, beside what the guest had then."""
    found = []
    for at_s, order in stage.watch.commands_of(name, SetTarget):
        if at_s >= since_s:
            snapshot = next(snapshot for snapshot, _ in stage.watch.turns if snapshot.now_s == at_s)
            guest = next(guest for guest in snapshot.guests if guest.name == name)
            found.append((at_s, order.target_kib, guest.vm.actual_kib))
    return found


def test_a_hanging_monitor_delays_nobody(play):
    """While beta's monitor hangs, alpha's demand is met as fast as ever, and beta stays booked as it was."""

    async def scenario(stage):
        await stage.until_up()
        stage.house.vms["beta"].hung = True
        await trio.sleep(15)
        snapshot, _ = stage.watch.turns[-1]
        assert snapshot.guests[1].vm.run_state is RunState.UNREACHABLE
        assert snapshot.guests[1].booking.assigned_kib >= stage.house.machines["beta"].resident_kib
        stage.work("alpha", 700)
        stage.took_s = await stage.until(lambda: stage.has_touched("alpha"), within_s=10)
        stage.house.vms["beta"].hung = False
        await trio.sleep(10)
        assert stage.watch.turns[-1][0].guests[1].vm.run_state is RunState.RUNNING

    stage = play(scenario)
    assert stage.watch.exceeded_kib <= 0
    assert stage.took_s < 6


def test_a_hanging_monitor_does_not_hide_residency(play):
    """What a guest takes back behind a monitor that hangs is booked from what the host's kernel says (I8)."""

    async def scenario(stage):
        await stage.until_up()
        stage.house.vms["beta"].hung = True
        await trio.sleep(8)
        stage.house.machines["beta"].work(700 * MIB, trio.current_time())
        await trio.sleep(20)
        snapshot, _ = stage.watch.turns[-1]
        stage.booked_kib = snapshot.guests[1].booking.assigned_kib

    stage = play(scenario)
    assert stage.booked_kib >= stage.house.machines["beta"].resident_kib > 600 * MIB


def test_a_monitor_that_hangs_from_the_start_hides_no_memory(play):
    """A new coordinator gives nothing away beside a busy guest whose monitor does not answer it yet (I1, I8)."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("beta", 800)
        await stage.until(lambda: stage.has_touched("beta"), within_s=10)
        await trio.sleep(5)
        stage.house.vms["beta"].hung = True
        await stage.replace_coordinator(away_s=1)
        stage.mark_s = trio.current_time()
        stage.work("alpha", 850)
        await trio.sleep(4)
        assert stage.watch.turns[-1][0].guests[1].unseen
        await trio.sleep(10)
        snapshot, _ = stage.watch.turns[-1]
        assert snapshot.guests[1].vm.run_state is RunState.UNREACHABLE
        assert snapshot.guests[1].booking.assigned_kib == 1024 * MIB
        assert "beta does not answer" in stage.watch.turns[-1][1].overdrawn_cause
        beside_kib = (1728 - 2 * 64 - 1024) * MIB
        assert all(kib <= beside_kib for _, kib in grants_of(stage, "alpha", stage.mark_s))
        stage.house.vms["beta"].hung = False
        await trio.sleep(10)
        assert stage.watch.turns[-1][0].guests[1].vm.run_state is RunState.RUNNING

    play(scenario)


def test_nothing_is_started_beside_a_machine_that_nobody_has_seen(play, settings):
    """At the first start, too: alpha waits until what beta holds is known, and fits beside it."""

    async def scenario(stage):
        await stage.until_up()
        stage.house.vms["alpha"].die()
        await trio.sleep(5)
        stage.house.vms["beta"].hung = True
        await stage.replace_coordinator(away_s=1)
        machine = stage.house.machines["alpha"]
        machine.run_state, machine.ended, stage.house.vms["alpha"].dead = RunState.PRELAUNCH, False, False
        await trio.sleep(30)
        assert machine.run_state is RunState.PRELAUNCH

    play(scenario, settings=settings(budget_kib=1800 * MIB))


def test_an_order_from_before_a_loss_is_not_carried_out_afterwards(play):
    """What was decided on facts that are gone is decided anew when the monitor answers again."""

    async def scenario(stage):
        await stage.until_up()
        vm = stage.house.vms["alpha"]
        vm.hung = True
        await trio.sleep(15)
        stage.house.coordinator.guests["alpha"].order(SetTarget("alpha", 301 * MIB, "old"))
        vm.hung = False
        await trio.sleep(10)
        assert 301 * MIB not in [target_kib for _, target_kib in vm.targets]

    play(scenario)


def test_a_process_that_cannot_be_told_counts_as_alive(play):
    """Only a monitor that nobody listens at ends what an unknown process holds."""

    async def scenario(stage):
        await stage.until_up()
        coordinator = stage.house.coordinator
        assert coordinator.is_alive(None, nobody_listens=False)
        assert not coordinator.is_alive(None, nobody_listens=True)
        assert coordinator.is_alive(stage.house.machines["alpha"].qemu_pid, nobody_listens=True)

    play(scenario)


@pytest.mark.parametrize(
    "kind",
    [VmEventKind.RESUMED, VmEventKind.MIGRATION, VmEventKind.CHANNEL_OPEN, VmEventKind.CHANNEL_CLOSED],
)
def test_an_event_that_may_mean_another_agent_begins_a_session(play, kind):
    """What was said before holds no longer: the agent is greeted anew at once."""

    async def scenario(stage):
        await stage.until_up()
        session = stage.watch.turns[-1][0].guests[0].agent.session
        assert session
        stage.house.vms["alpha"].tell(kind)
        await stage.until(lambda: stage.watch.turns[-1][0].guests[0].agent.session not in (0, session), within_s=5)

    play(scenario)


def test_a_dead_machine_frees_its_memory(play):
    """A killed QEMU is noticed at once and what it held can be given away."""

    async def scenario(stage):
        await stage.until_up()
        stage.house.vms["beta"].die()
        await trio.sleep(3)
        snapshot, _ = stage.watch.turns[-1]
        assert snapshot.guests[1].booking.booked_kib == 0
        stage.work("alpha", 850)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)

    play(scenario)


@pytest.mark.fault(47)
def test_a_silent_agent_means_hold(play):
    """From the moment an agent says nothing, its guest is not shrunk for a minute; then statistics judge, gently."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 600)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)
        stage.house.agents["alpha"].silent = True
        stage.silent_s = trio.current_time()
        await trio.sleep(5)
        stage.work("alpha", 0)
        stage.work("beta", 800)
        await trio.sleep(50)
        stage.held_until_s = trio.current_time()
        await trio.sleep(60)

    stage = play(scenario)
    shrinks = shrinks_of(stage, "alpha", stage.silent_s + 3)
    assert shrinks
    assert all(at_s >= stage.held_until_s for at_s, _ in shrinks)
    assert stage.watch.deepened_kib <= 0


def test_a_guest_without_agent_or_statistics_is_left_alone(play):
    """Nothing is known of it, so nothing is done to it."""

    async def scenario(stage):
        await trio.sleep(150)
        stage.mark_s = trio.current_time()
        stage.work("beta", 800)
        await trio.sleep(60)

    stage = play(scenario, characters={"alpha": Character(has_agent=False, has_statistics=False)})
    assert shrinks_of(stage, "alpha", stage.mark_s) == []


def test_a_restarted_coordinator_waits_for_fresh_reports(play):
    """It changes nothing before it has heard a guest, then answers the shortage that it finds first."""

    async def scenario(stage):
        await stage.until_up()
        stage.restarted_s = trio.current_time() + 3
        stage.work("alpha", 850)
        await stage.replace_coordinator(away_s=3)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)

    stage = play(scenario)
    after = [(at_s, order) for at_s, order in stage.watch.commands if at_s >= stage.restarted_s]
    first_report_s = min(
        snapshot.guests[0].report.arrived_s
        for snapshot, _ in stage.watch.turns
        if snapshot.now_s >= stage.restarted_s and snapshot.guests[0].report is not None
    )
    assert after
    assert all(at_s >= first_report_s for at_s, _ in after)
    assert after[0][1].guest == "alpha"


def test_a_squeezed_guest_that_is_reset_is_booked_with_its_claim(play):
    """From the reset until this boot's driver has answered, the whole RAM is booked, whatever the device says."""

    async def scenario(stage):
        await stage.until_up()
        await trio.sleep(120)
        machine = stage.house.machines["alpha"]
        assert machine.device_actual_kib < 600 * MIB
        stage.house.vms["alpha"].reset()
        await trio.sleep(2)
        snapshot, _ = stage.watch.turns[-1]
        assert snapshot.guests[0].booking.claimed
        assert snapshot.guests[0].booking.assigned_kib == 1024 * MIB
        assert machine.target_kib == 512 * MIB
        await stage.until(lambda: not stage.watch.turns[-1][0].guests[0].booking.claimed, within_s=40)
        await trio.sleep(3)
        assert stage.watch.turns[-1][0].guests[0].booking.assigned_kib <= 520 * MIB
        assert stage.watch.turns[-1][1].overdrawn_kib == 0

    play(scenario)


def test_an_overdraft_by_a_reset_is_named_and_ends(play, settings):
    """A reset may overdraw: no grant is made until it is over, and status says whose act it was."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("beta", 800)
        await stage.until(lambda: stage.has_touched("beta"), within_s=10)
        await trio.sleep(3)
        stage.house.vms["alpha"].reset()
        await trio.sleep(2)
        _, decision = stage.watch.turns[-1]
        assert decision.overdrawn_kib > 0
        assert "alpha" in decision.overdrawn_cause
        stage.overdrawn_from_s = trio.current_time()
        await stage.until(lambda: stage.watch.turns[-1][1].overdrawn_kib == 0, within_s=45)
        stage.overdrawn_to_s = trio.current_time()

    stage = play(scenario, settings=settings(budget_kib=1800 * MIB))
    for at_s, order in stage.watch.commands:
        if stage.overdrawn_from_s <= at_s < stage.overdrawn_to_s - 1 and isinstance(order, SetTarget):
            snapshot = next(snapshot for snapshot, _ in stage.watch.turns if snapshot.now_s == at_s)
            guest = next(guest for guest in snapshot.guests if guest.name == order.guest)
            assert order.target_kib <= max(guest.booking.assigned_kib, 512 * MIB)


def test_a_guest_that_takes_memory_back_is_not_fought(play):
    """With nobody to ask, the guest helps itself; its new size becomes its target and counts as demand."""

    async def scenario(stage):
        await stage.until_up()
        await trio.sleep(60)
        stage.house.agents["alpha"].silent = True
        stage.mark_s = trio.current_time()
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=30)
        await trio.sleep(3)

    stage = play(scenario)
    machine = stage.house.machines["alpha"]
    assert machine.size_kib >= 800 * MIB
    assert shrinks_of(stage, "alpha", stage.mark_s) == []
    assert stage.watch.turns[-1][0].guests[0].booking.assigned_kib >= machine.size_kib


def test_a_stuck_balloon_does_not_starve_the_others(play):
    """Its memory counts as gone after 5 s; the other guest gets what else there is."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 600)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)
        await trio.sleep(3)
        stage.house.machines["alpha"].character.stuck = True
        stage.work("alpha", 0)
        await stage.until(lambda: stage.watch.turns[-1][0].guests[0].stuck_since_s is not None, within_s=150)
        await stage.until(lambda: "not followed" in stage.watch.turns[-1][1].guests[0].why, within_s=60)
        stage.work("beta", 400)
        await stage.until(lambda: stage.has_touched("beta"), within_s=10)

    stage = play(scenario, characters={"alpha": Character()})
    assert stage.watch.exceeded_kib <= 0


def test_a_machine_that_never_starts_costs_nobody_anything(play):
    """beta's QEMU is not there at all; alpha is served as if alone."""

    async def scenario(stage):
        stage.house.vms["beta"].dead = True
        await stage.until(lambda: stage.house.machines["alpha"].is_up, within_s=40)
        await trio.sleep(35)
        stage.work("alpha", 850)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)
        snapshot, decision = stage.watch.turns[-1]
        assert snapshot.guests[1].booking.booked_kib == 0
        assert decision.guests[1].why.startswith("not running")

    play(scenario)


def test_deflate_on_oom_off_is_never_shrunk(play):
    """Where a shrink would make allocations fail without a sign, the guest is only grown."""

    async def scenario(stage):
        await stage.until_up()
        stage.mark_s = trio.current_time()
        stage.work("beta", 850)
        await trio.sleep(120)
        assert "deflate-on-oom is off" in stage.watch.turns[-1][1].guests[0].why

    stage = play(scenario, characters={"alpha": Character(deflate_on_oom=False)})
    assert shrinks_of(stage, "alpha", stage.mark_s) == []


def test_an_agent_that_comes_back_is_heard_again(play):
    """After the agent's silence ends the link is live within seconds and reports count again."""

    async def scenario(stage):
        await stage.until_up()
        stage.house.agents["alpha"].silent = True
        await trio.sleep(30)
        assert stage.watch.turns[-1][0].guests[0].agent.link is not LinkState.LIVE
        stage.house.agents["alpha"].silent = False
        await stage.until(lambda: stage.watch.turns[-1][0].guests[0].agent.link is LinkState.LIVE, within_s=20)

    play(scenario)
