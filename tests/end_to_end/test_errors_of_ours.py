"""An error that nobody foresaw, in the tasks of one guest: the others are served on."""

from __future__ import annotations

import logging

import pytest
import trio

from ballonet_host_coord.attendant import FAULT_RETRY_S
from ballonet_host_coord.model import RunState

MIB = 1024


async def raises(*arguments):
    await trio.lowlevel.checkpoint()
    raise ValueError("nobody foresaw this")


def break_facts(stage):
    stage.house.vms["beta"].facts = raises


def break_channel(stage):
    stage.house.coordinator.guests["beta"]._reports._session.tick = lambda now_s: 1 // 0


def break_connecting(stage):
    stage.house.vms["beta"].connect = raises
    stage.house.vms["beta"].facts = raises


def break_leaving(stage):
    stage.house.vms["beta"].aclose = raises
    stage.house.vms["beta"].facts = raises


def break_everything(stage):
    """Even what is done when its hypervisor is away."""
    break_leaving(stage)
    stage.house.coordinator.guests["beta"]._lost = lambda error: 1 // 0


@pytest.mark.parametrize("damage", [break_facts, break_channel, break_connecting, break_leaving, break_everything])
def test_an_error_in_one_guests_tasks_costs_that_guest_alone(play, damage, caplog):
    """It stays in the books, is shown as unreachable with the error, which is logged with its traceback, not each time;
    it is served again when the error is over, and memory follows the need of the others meanwhile."""

    async def scenario(stage):
        await stage.until_up()
        damage(stage)
        await trio.sleep(3 * FAULT_RETRY_S)
        record = stage.house.coordinator.guests["beta"].record
        if damage is not break_channel:  # that one recovers with each new session
            assert record.vm.run_state is RunState.UNREACHABLE
            assert "an error in ballonet" in record.said
        booked = {guest.name: guest.booking.booked_kib for guest in stage.house.coordinator.snapshot.guests}
        assert booked["beta"] > 256 * MIB
        stage.work("alpha", 600)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=20)
        for name in ("facts", "connect", "aclose"):
            vars(stage.house.vms["beta"]).pop(name, None)
        vars(stage.house.coordinator.guests["beta"]).pop("_lost", None)
        vars(record.session).pop("tick", None)
        await stage.until(lambda: record.vm.run_state is RunState.RUNNING, within_s=2 * FAULT_RETRY_S)

    with caplog.at_level(logging.ERROR, "ballonet"):
        stage = play(scenario)
    said = [entry for entry in caplog.records if "an error in ballonet" in entry.getMessage()]
    assert len(said) == (2 if damage is break_everything else 1)
    assert all(entry.exc_info for entry in said)
    assert stage.watch.exceeded_kib <= 0


def test_an_error_while_a_guest_is_left_does_not_keep_the_others_from_being_left(play):
    """Each guest's connection is closed when the service ends, one that cannot be closed beside the others."""
    closed = []

    async def scenario(stage):
        await stage.until_up()

        async def aclose():
            closed.append("alpha")

        stage.house.vms["alpha"].aclose = aclose
        stage.house.vms["beta"].aclose = raises

    play(scenario)
    assert "alpha" in closed


def test_the_connection_is_begun_anew_after_an_error(play):
    """One that was left in the midst of a word would give the next answer to the wrong question, for ever."""

    async def scenario(stage):
        await stage.until_up()
        vm = stage.house.vms["beta"]

        async def aclose():
            del vm.facts

        vm.facts, vm.aclose = raises, aclose
        record = stage.house.coordinator.guests["beta"].record
        await stage.until(lambda: record.vm.run_state is RunState.UNREACHABLE, within_s=5)
        await stage.until(lambda: record.vm.run_state is RunState.RUNNING, within_s=2 * FAULT_RETRY_S)
        del vm.aclose

    play(scenario)
