"""What a coordinator has learned of a guest over minutes is there for the next one."""

from __future__ import annotations

import trio

from ballonet_host_coord.model import Domain
from ballonet_host_coord.ports import PortError

MIB = 1024


def test_a_restart_takes_nothing_from_a_guest_that_it_would_have_kept(play):
    """What alpha held before counts as before, though the coordinator that saw it is gone, killed or not: without a
    clean stop the last minute's word is there."""

    async def scenario(stage):
        await stage.until_up()
        stage.work("alpha", 700)
        await trio.sleep(70)
        stage.work("alpha", 0)
        await trio.sleep(10)

        def held_kib():
            return stage.house.coordinator.snapshot.guests[0].demand.held_kib

        for killed in (True, False):
            before_kib = held_kib()
            if killed:
                stage.house.coordinator._keep_learned = lambda: None
            else:
                stage.house.state.delete("learned")  # what is there then was written by the clean stop
            await stage.replace_coordinator(away_s=5)
            await trio.sleep(10)
            assert before_kib / 2 < held_kib() <= 1024 * MIB
            assert held_kib() > 1.5 * stage.house.coordinator.snapshot.guests[0].demand.demand_kib

    play(scenario)


def test_a_disk_that_is_full_is_said_once_and_serves_on(play, caplog):
    """Nothing is kept then, and nothing ends for it."""

    async def scenario(stage):
        def full(key, value):
            raise PortError("state: database or disk is full")

        stage.house.state.put = full
        await trio.sleep(200)
        await stage.until_up()

    play(scenario)
    assert caplog.text.count("will not outlive a restart") == 1


def test_what_was_learned_of_a_domain_waits_for_libvirt(play):
    """While the domains are not listed it is written down again, by the age that it has, and not forgotten."""

    async def scenario(stage):
        stage.house.discovery.tell([Domain("alpha", "uuid of alpha", 1024 * MIB, 512 * MIB, (("minimum", "256M"),))])
        await trio.sleep(130)
        ((name, _, at_unix_s, *_),) = stage.house.state.get("learned")
        stage.house.discovery.away = PortError("libvirt does not answer")
        await stage.replace_coordinator(away_s=1)
        await trio.sleep(130)
        ((kept, _, kept_at_unix_s, *_),) = stage.house.state.get("learned")
        assert kept == name == "alpha"
        assert kept_at_unix_s < at_unix_s + 65

    play(scenario, discovered=True)
