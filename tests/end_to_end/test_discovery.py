"""Guests that nobody named: they come with their machines, have what the rules say, and go with their memory."""

from __future__ import annotations

import pytest
import trio

from ballonet_host_coord.model import Domain, LinkState, SetTarget
from ballonet_host_coord.ports import PortError

MIB = 1024
ALPHA = Domain("alpha", "uuid of alpha", 1024 * MIB, 512 * MIB, (("minimum", "256M"),))
BETA = Domain("beta", "uuid of beta", 1024 * MIB, 512 * MIB, (("minimum", "256M"), ("weight", "many")))


def names(stage):
    return [guest.name for guest in stage.watch.turns[-1][0].guests]


def test_machines_that_appear_are_served(play):
    """From nothing: two machines appear, are settled at their startup size, heard, and one gets what it needs."""

    async def scenario(stage):
        await trio.sleep(3)
        assert names(stage) == []
        stage.house.discovery.tell([ALPHA])
        await stage.until(lambda: names(stage) == ["alpha"], within_s=5)
        stage.house.discovery.tell([ALPHA, BETA])
        await stage.until_up()
        assert names(stage) == ["alpha", "beta"]
        assert all(guest.agent.link is LinkState.LIVE for guest in stage.watch.turns[-1][0].guests)
        stage.work("alpha", 700)
        await stage.until(lambda: stage.has_touched("alpha"), within_s=10)

    stage = play(scenario, discovered=True)
    assert stage.watch.exceeded_kib <= 0
    assert stage.watch.commands_of("alpha", SetTarget)
    (alpha, beta) = stage.watch.turns[-1][0].guests
    assert (alpha.settings.minimum_kib, beta.settings.weight) == (256 * MIB, 5000)
    assert "metadata weight" in stage.house.coordinator.guests["beta"].record.said


def test_a_machine_that_leaves_stays_booked_until_its_memory_is_gone(play):
    """No longer listed but still there, it is in the books; once its process is gone it is no guest any more (I1)."""

    async def scenario(stage):
        stage.house.discovery.tell([ALPHA, BETA])
        await stage.until_up()
        stage.house.discovery.tell([ALPHA])
        await trio.sleep(10)
        assert names(stage) == ["alpha", "beta"]
        assert stage.watch.turns[-1][0].guests[1].booking.booked_kib > 256 * MIB
        stage.house.vms["beta"].die()
        await stage.until(lambda: names(stage) == ["alpha"], within_s=10)
        assert stage.house.coordinator.ledger.target_kib("beta") is None

    stage = play(scenario, discovered=True)
    assert stage.watch.exceeded_kib <= 0


def test_metadata_changes_while_it_runs(play):
    """A domain's metadata is live: the next decision goes by the new bounds."""

    async def scenario(stage):
        stage.house.discovery.tell([ALPHA, BETA])
        await stage.until_up()
        changed = Domain("alpha", "uuid of alpha", 1024 * MIB, 512 * MIB, (("minimum", "900M"),))
        stage.house.discovery.tell([changed, BETA])
        await stage.until(lambda: stage.watch.turns[-1][0].guests[0].vm.actual_kib >= 900 * MIB, within_s=10)

    stage = play(scenario, discovered=True)
    assert stage.watch.exceeded_kib <= 0


def test_metadata_that_turns_to_nonsense(play):
    """It is said in the guest's line and changes nothing else; an operator may look at the guest's settings, and set
    others, all the same. Another domain of that name has no such past."""

    async def scenario(stage):
        def tell(uuid, *policy):
            stage.house.discovery.tell([Domain("alpha", uuid, 1024 * MIB, 512 * MIB, policy)])

        async def settings(**values):
            return (await stage.house.coordinator.handle("set", {"guest": "alpha", "values": values}))["settings"]

        tell("one", ("minimum", "300M"), ("weight", "7000"))
        await trio.sleep(2)
        tell("one", ("minimum", "lots"))
        await trio.sleep(2)
        told = await settings()
        assert (told["minimum"], told["weight"]) == (300 * MIB, 5000)
        assert (await settings(weight="8000"))["weight"] == 8000
        with pytest.raises(ValueError, match=r"^minimum 2 GiB does not fit"):
            await settings(minimum="2G")
        (guest,) = (await stage.house.coordinator.handle("status", {}))["guests"]
        assert '"300M" is in force as before' in guest["why"]
        tell("two", ("minimum", "lots"))
        await trio.sleep(2)
        assert (await settings())["minimum"] == 512 * MIB

    play(scenario, discovered=True)


def test_a_name_that_the_settings_have_already_is_not_taken_twice(play):
    """A domain that is called like a guest with a socket does not replace it; the guest's line says so."""

    async def scenario(stage):
        stage.house.coordinator.guests.named(stage.house.settings.guests[:1])
        stage.house.discovery.tell([ALPHA, BETA])
        await stage.until_up()
        assert names(stage) == ["alpha", "beta"]
        assert "libvirt domain has this name too" in stage.house.coordinator.guests["alpha"].record.said

    play(scenario, discovered=True)


def test_domains_are_attended_to_while_libvirt_is_away(play):
    """A restart of its service takes no guest from us; that the list cannot be had is in the status."""

    async def scenario(stage):
        stage.house.discovery.tell([ALPHA, BETA])
        await stage.until_up()
        stage.house.discovery.away = PortError("libvirt does not answer")
        stage.house.discovery.tell([])
        await trio.sleep(10)
        assert names(stage) == ["alpha", "beta"]
        status = await stage.house.coordinator.handle("status", {})
        assert status["host"]["discovery_fault"] == "libvirt does not answer"
        stage.house.discovery.away = None
        stage.house.discovery.tell([ALPHA, BETA])
        await trio.sleep(10)
        assert (await stage.house.coordinator.handle("status", {}))["host"]["discovery_fault"] == ""
        assert stage.house.discovery.forgotten == []

    play(scenario, discovered=True)
