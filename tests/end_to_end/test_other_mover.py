"""Another mover (`virsh setmem`) is noticed, said and given way to until `ballonet resume`; nobody else is."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio

from ballonet_host_coord import other_mover

MIB = 1024


def yielded(stage):
    """Names of the guests that were ever left alone for another mover."""
    return {guest.name for snapshot, _ in stage.watch.turns for guest in snapshot.guests if guest.hands_off}


def set_by_hand(stage, name, size_mib):
    """As `virsh setmem` does: past the coordinator."""
    stage.house.machines[name].set_target(size_mib * MIB, trio.current_time())


async def calm(stage):
    """Both guests are up, idle, and moved by nobody."""
    await stage.until_up()
    await trio.sleep(120)


@pytest.mark.parametrize("size_mib", [300, 800])
def test_another_mover_is_given_way_to_until_resume(play, caplog, size_mib):
    """Smaller or larger: left alone there, over a restart too, booked with what it has, said once; then managed."""

    async def scenario(stage):
        stage.watch.another_moves = True
        await calm(stage)
        stage.work("alpha", 250)  # so that it does not rest at what it is set to
        await trio.sleep(60)
        before_kib = stage.house.machines["alpha"].size_kib
        assert abs(before_kib - size_mib * MIB) > 32 * MIB
        count = len(stage.house.vms["alpha"].targets)
        set_by_hand(stage, "alpha", size_mib)
        await stage.until(lambda: yielded(stage) == {"alpha"}, within_s=15)
        status = (await stage.house.coordinator.handle("status", {}))["guests"][0]
        size_kib = stage.house.machines["alpha"].size_kib
        assert status["state"] == "left alone"
        assert f"another mover set it to {size_kib // MIB} MiB at " in status["why"]
        assert "given way to until `ballonet resume alpha`" in status["why"]
        assert status["assigned_kib"] >= size_kib
        set_by_hand(stage, "alpha", size_mib + 50)
        await trio.sleep(30)
        await stage.replace_coordinator(away_s=5)
        await trio.sleep(60)
        assert stage.watch.turns[-1][0].guests[0].hands_off
        assert len(stage.house.vms["alpha"].targets) == count
        stage.work("alpha", 700)
        await stage.house.coordinator.handle("resume", {"guest": "alpha"})
        await stage.until(lambda: stage.has_touched("alpha"), within_s=15)
        await trio.sleep(5)
        assert len(stage.house.vms["alpha"].targets) > count

    with caplog.at_level(logging.WARNING, logger="ballonet"):
        stage = play(scenario)
    said = [record for record in caplog.records if "another mover set it" in record.getMessage()]
    assert len(said) == 1
    assert yielded(stage) == {"alpha"}
    assert stage.watch.deepened_kib <= 0


def plenty(settings):
    """Each guest has all that it can have."""
    chosen = settings(budget_kib=4096 * MIB)
    return replace(chosen, host=replace(chosen.host, slider=25))


def test_another_mover_is_given_way_to_where_no_target_was_ever_set(play, settings):
    """After a restart each guest is only found; on a host with plenty nobody moves it for as long as it lives."""

    async def scenario(stage):
        stage.watch.another_moves = True
        await calm(stage)
        await stage.replace_coordinator(away_s=5)
        count = len(stage.house.vms["alpha"].targets)
        await trio.sleep(15)
        assert stage.house.machines["alpha"].size_kib == 1024 * MIB
        set_by_hand(stage, "alpha", 600)
        await stage.until(lambda: yielded(stage) == {"alpha"}, within_s=10)
        await trio.sleep(60)
        assert stage.house.machines["alpha"].size_kib == 600 * MIB
        assert len(stage.house.vms["alpha"].targets) == count

    assert yielded(play(scenario, plenty(settings))) == {"alpha"}


@pytest.mark.parametrize("every_s", [1, 3])
def test_a_mover_that_never_lets_the_balloon_settle_is_given_way_to(play, every_s):
    """It begins in a shrink of ours and comes again before each of our steps has rested: a minute, and it is left."""

    async def scenario(stage):
        stage.watch.another_moves = True
        await calm(stage)
        stage.work("alpha", 700)
        await trio.sleep(60)
        stage.work("alpha", 0)
        targets = stage.house.vms["alpha"].targets
        count = len(targets)
        await stage.until(lambda: len(targets) > count, within_s=60)
        began_s = trio.current_time()
        while trio.current_time() < began_s + 60 and not yielded(stage):
            set_by_hand(stage, "alpha", 1024)
            await trio.sleep(every_s)
        assert yielded(stage) == {"alpha"}
        count = len(targets)
        await trio.sleep(30)
        assert len(targets) == count

    play(scenario)


def test_a_detection_that_is_off_is_caught(play, monkeypatch):
    """Without it the balloon is moved again: the other mover is fought."""

    async def scenario(stage):
        await calm(stage)
        set_by_hand(stage, "alpha", 900)
        count = len(stage.house.vms["alpha"].targets)
        await trio.sleep(60)
        assert len(stage.house.vms["alpha"].targets) > count

    monkeypatch.setattr(other_mover, "SETTLED_S", float("inf"))
    assert yielded(play(scenario)) == set()


def test_guests_that_help_themselves_and_resets_are_no_other_mover(play):
    """Demand after demand, agents that are silent meanwhile, a reset, a restart: nobody is ever left alone."""

    async def scenario(stage):
        await calm(stage)
        for round_ in range(4):
            stage.house.agents["alpha"].silent = round_ == 2
            for name, wanted_mib in (("alpha", 800), ("beta", 700), ("alpha", 0), ("beta", 100)):
                stage.work(name, wanted_mib)
                await trio.sleep(25)
        stage.house.agents["alpha"].silent = False
        stage.house.vms["alpha"].reset()
        await trio.sleep(120)
        stage.work("beta", 900)
        await stage.replace_coordinator(away_s=3)
        await trio.sleep(60)

    assert yielded(play(scenario)) == set()
