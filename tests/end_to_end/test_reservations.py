"""Room for a machine before it starts: all or nothing, by weight, for a limited time, and never beyond the budget."""

from __future__ import annotations

import pytest
import trio

from ballonet_host_coord.control import NoRoom
from ballonet_host_coord.model import Domain, SetTarget
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.reservations import free_kib
from ballonet_host_coord.simulated.machine import Character

MIB = 1024
EVERYBODY = [Domain(name, name, 1024 * MIB, 512 * MIB, (("minimum", "256M"),)) for name in ("alpha", "beta")]


async def reserve(stage, size, name="gamma", **more):
    return await stage.house.coordinator.handle("reserve", {"guest": name, "size": size, **more})


async def state_of(stage, name="gamma"):
    return (await stage.house.coordinator.handle("reservation", {"guest": name}))["state"]


async def until_held(stage, name="gamma", within_s=30.0):
    with trio.fail_after(within_s):
        while await state_of(stage, name) == "pending":
            await trio.sleep(0.1)
    return await state_of(stage, name)


def never_overdrawn(stage):
    assert stage.watch.exceeded_kib <= 0
    assert stage.watch.deepened_kib <= 0


def test_idle_guests_make_room(play):
    """Guests that need little give what a start needs, and none of it is granted to another meanwhile: a guest that
    needs more has only what it takes back by itself."""

    async def scenario(stage):
        await stage.until_up()
        await reserve(stage, "900M", hold_s=60)
        assert await until_held(stage) == "held"
        snapshot, _ = stage.watch.turns[-1]
        assert free_kib(snapshot) >= 900 * MIB
        stage.work("alpha", 800)
        await trio.sleep(20)
        assert await state_of(stage) == "held"
        await trio.sleep(50)
        assert await state_of(stage) == "none"
        await stage.until(lambda: stage.has_touched("alpha"), within_s=20)

    stage = play(scenario)
    never_overdrawn(stage)
    turns = {snapshot.now_s: snapshot for snapshot, _ in stage.watch.turns}
    grants = []
    for at_s, order in stage.watch.commands_of("alpha", SetTarget):
        snapshot = turns[at_s]
        if snapshot.host.reserved_kib and order.target_kib > snapshot.guests[0].booking.assigned_kib:
            grants.append(order.target_kib - snapshot.guests[0].booking.assigned_kib)
            assert grants[-1] <= snapshot.host.budget_kib - snapshot.booked_kib - snapshot.host.reserved_kib
    assert grants


def test_more_than_can_be_freed_is_refused_with_the_numbers(play):
    """At once, in one sentence, and without a step taken for it."""

    async def scenario(stage):
        await stage.until_up()
        await trio.sleep(30)
        commands = len(stage.watch.commands)
        said = r"1536 MiB for gamma: at most \d+ MiB can be freed for weight 5000; budget 1728"
        with pytest.raises(NoRoom, match=said):
            await reserve(stage, "1536M")
        await trio.sleep(5)
        assert len(stage.watch.commands) == commands
        assert await state_of(stage) == "none"

    never_overdrawn(play(scenario))


def test_what_cannot_be_freed_in_time_is_given_back(play):
    """A guest that does not follow keeps the room from being made: after the timeout nothing is held, not a part."""

    async def scenario(stage):
        await stage.until_up()
        await reserve(stage, "740M", timeout_s=10)
        assert await until_held(stage) == "none"

    stuck = Character(hidden_floor_kib=500 * MIB)
    never_overdrawn(play(scenario, characters={"alpha": stuck, "beta": stuck}))


def test_the_machine_that_comes_takes_its_room(play):
    """Once it is there it is booked itself, and its reservation ends."""

    async def scenario(stage):
        stage.house.discovery.tell([Domain("alpha", "uuid of alpha", 1024 * MIB, 512 * MIB, (("minimum", "256M"),))])
        await stage.until(lambda: stage.house.machines["alpha"].uptime_s > 35, within_s=90)
        await reserve(stage, "1088M", name="beta", hold_s=600)
        assert await until_held(stage, "beta") == "held"
        stage.house.discovery.tell(EVERYBODY)
        await trio.sleep(5)
        assert await state_of(stage, "beta") == "none"
        assert [guest.name for guest in stage.watch.turns[-1][0].guests] == ["alpha", "beta"]

    never_overdrawn(play(scenario, discovered=True))


def test_what_is_held_outlives_the_coordinator(play):
    """Killed and started again it keeps the room for as long as was left, and no longer."""

    async def scenario(stage):
        await stage.until_up()
        await reserve(stage, "700M", hold_s=300)
        assert await until_held(stage) == "held"
        await stage.replace_coordinator(away_s=1)
        await stage.until(lambda: len(stage.watch.turns[-1][0].guests) == 2, within_s=5)
        assert await state_of(stage) == "held"
        snapshot, _ = stage.watch.turns[-1]
        assert snapshot.host.reserved_kib == 700 * MIB
        await stage.house.coordinator.handle("unreserve", {"guest": "gamma"})
        await stage.replace_coordinator(away_s=1)
        assert await state_of(stage) == "none"

    never_overdrawn(play(scenario))


def test_nothing_is_promised_before_the_domains_are_known(play):
    """Started anew while libvirt does not answer: two domains hold the host, so nothing is held for a third, though it
    is the only one that the coordinator has heard of; once they are listed it is refused."""

    async def scenario(stage):
        stage.house.discovery.tell(EVERYBODY)
        await stage.until_up()
        for name in ("alpha", "beta"):
            stage.work(name, 500)
        await trio.sleep(30)
        with pytest.raises(NoRoom):
            await reserve(stage, "1100M")
        stage.house.discovery.away = PortError("libvirt does not answer")
        await stage.replace_coordinator(away_s=1)
        assert (await reserve(stage, "1100M", timeout_s=60))["state"] == "pending"
        await trio.sleep(20)
        assert await state_of(stage) == "pending"
        stage.house.discovery.away = None
        await stage.until(lambda: len(stage.watch.turns[-1][0].guests) == 2, within_s=10)
        assert await until_held(stage, within_s=50) == "none"

    never_overdrawn(play(scenario, discovered=True))


def test_a_libvirt_that_is_down_stops_nobody_for_ever(play):
    """What its domains may hold is known from their processes: beside their whole RAM there is room for others."""

    async def scenario(stage):
        stage.house.discovery.tell(EVERYBODY)
        await stage.until_up()
        stage.house.discovery.away = PortError("libvirt does not answer")
        await stage.replace_coordinator(away_s=1)
        await reserve(stage, "600M", timeout_s=10)
        assert await until_held(stage) == "none"
        stage.house.vms["beta"].die()
        await reserve(stage, "500M", timeout_s=10)
        assert await until_held(stage) == "held"

    never_overdrawn(play(scenario, discovered=True))


def test_starts_at_once_are_served_in_order(play):
    """Three machines that ask together are held one after the other, as far as there is room; the last is refused."""

    async def scenario(stage):
        await stage.until_up()
        for name in ("one", "two"):
            await reserve(stage, "400M", name=name, timeout_s=60)
        with pytest.raises(NoRoom, match="800 MiB reserved for others"):
            await reserve(stage, "600M", name="three")
        assert await until_held(stage, "one") == "held"
        assert await until_held(stage, "two") == "held"

    never_overdrawn(play(scenario))


def test_who_boots_with_less_keeps_nobody_from_waiting(play):
    """Machines that will have less than their boot claims are not refused for others' claims, and wait for them."""

    async def scenario(stage):
        await stage.until_up()
        for name in ("one", "two", "three"):
            await reserve(stage, "400M", name=name, timeout_s=60, settled="100M", hold_s=20)
        states = []
        for name in ("one", "two", "three"):
            states.append(await until_held(stage, name, within_s=60))
        assert states == ["held"] * 3

    never_overdrawn(play(scenario))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"size": "much"}, "size, settled or weight: allowed is a size"),
        ({"size": "1G", "weight": 0}, "size, settled or weight: allowed is a whole number"),
        ({"size": "1G", "timeout_s": -1}, "timeout_s = -1: allowed is a number of seconds up to 600"),
        ({"size": "1G", "hold_s": "long"}, "hold_s = 'long'"),
        ({"size": "1G", "name": ""}, "allowed is the machine's name"),
        ({"size": "1G", "name": "alpha"}, "alpha is there already, and booked"),
    ],
)
def test_misused(play, more, said):
    """What is asked for wrongly is refused in words."""

    async def scenario(stage):
        await stage.until_up()
        with pytest.raises(ValueError, match=said):
            await reserve(stage, **more)

    play(scenario)
