"""loop.py: what the port may cost, on virtual processor time; test_hostile_host.py has real floods."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.cadence import ARMINGS_BURST, ARMINGS_PER_S, REST_LONGEST_S, WORK_RATIO
from ballonet_protocol import BalloonAck, Deflate, Demand, Ping, Pong, SetPolicy

from .rig import Rig, ScriptedPort


class DearPort(ScriptedPort):
    """A port of which each read costs processor time."""

    def __init__(self, rig: Rig, cost_s: float) -> None:
        super().__init__()
        self.rig, self.cost_s = rig, cost_s

    def read(self) -> bytes | None:
        data = super().read()
        self.rig.work_s += self.cost_s if data else 0.0
        return data


@pytest.fixture
def flooded(served: Rig) -> Rig:
    """The port has cost more processor time than its burst and rests, with more to read."""
    dear = DearPort(served, 0.01)
    dear.__dict__.update({**served.port.__dict__, "rig": served, "cost_s": 0.01})
    served.port = served.loop._port = dear
    served.port.reads = [b"\0" * 4096] * 300
    served.port.nudge()
    served.loop.turn(0)
    return served


def test_dear_port_is_left_unread(flooded: Rig) -> None:
    """Beyond the budget nothing is read until the rest is over, new bytes wake nobody, and the wait is as long."""
    left = len(flooded.port.reads)
    assert 300 - left in (6, 7)  # 60 ms at 10 ms each
    assert 0.1 <= flooded.loop._wait_s(flooded.clock()) <= REST_LONGEST_S
    flooded.port.nudge()
    assert flooded.loop._epoll.poll(0) == []
    flooded.loop.turn(0)
    assert len(flooded.port.reads) == left
    flooded.clock.seconds += REST_LONGEST_S
    flooded.loop.turn(0)
    assert 1 <= left - len(flooded.port.reads) <= 3


def test_dear_port_costs_its_part_in_the_long_run(flooded: Rig) -> None:
    """Over a minute the port costs the budget's part of the time and no more, and is read all the while."""
    before_s, left = flooded.work_s, len(flooded.port.reads)
    end_s = flooded.clock.seconds + 60.0
    while flooded.clock.seconds < end_s:
        flooded.clock.seconds += flooded.loop._wait_s(flooded.clock()) + 0.001
        flooded.loop.turn(0)
    assert WORK_RATIO * 60 * 0.9 <= flooded.work_s - before_s <= WORK_RATIO * 60 * 1.1
    assert len(flooded.port.reads) < left


def test_no_rest_is_long(served: Rig) -> None:
    """A read that cost a second, as in a guest that thrashes, makes the agent deaf for half of one at most."""
    served.port.reads = [served.host.send(Ping(token=1))]
    served.work_s += 1.0
    served.port.nudge()
    served.loop.turn(0)
    assert 0.0 < served.loop._wait_s(served.clock()) <= REST_LONGEST_S
    served.port.reads += [served.host.send(Ping(token=2))]
    served.clock.seconds += REST_LONGEST_S
    served.loop.turn(0)
    assert [message.token for message in served.heard() if isinstance(message, Pong)] == [1, 2]


def test_pressure_is_told_while_the_port_rests(flooded: Rig) -> None:
    """A port that is left unread keeps no DEMAND waiting: it leaves in the turn of its trigger."""
    flooded.heard()
    flooded.triggers.fire("full")
    flooded.loop.turn(5)
    assert isinstance(flooded.heard()[0], Demand)


def test_policies_do_not_keep_the_triggers_from_firing(served: Rig) -> None:
    """A flood of thresholds arms a few times; the newest is in force a little later, when something else is done."""
    for gen in range(1, 21):
        served.port.reads.append(served.host.send(SetPolicy(gen=gen, psi_some_permyriad=900 + gen)))
    served.port.nudge()
    served.loop.turn(0)
    served.loop.turn(0)
    assert len(served.triggers.armed) == ARMINGS_BURST
    served.clock.seconds += 1 / ARMINGS_PER_S
    served.port.reads = [served.host.send(Ping(token=1))]
    served.port.nudge()
    served.loop.turn(0)
    assert len(served.triggers.armed) == ARMINGS_BURST + 1
    assert served.triggers.armed[-1] == (920 * 50, 10_000)


def test_a_conversation_is_never_slowed(served: Rig) -> None:
    """What an honest coordinator sends at once is answered in the turns that it takes to read, without a rest."""
    messages = [SetPolicy(gen=1, psi_some_permyriad=900)]
    messages += [Deflate(gen=gen, target_bytes=1 << 30, ttl_ms=30_000) for gen in range(1, 9)]
    served.work_s += 0.05  # what all that costs on a slow machine
    served.port.reads = [served.host.send(message) for message in messages]
    served.port.nudge()
    served.loop.turn(0)
    heard = served.heard()
    assert sum(isinstance(message, BalloonAck) for message in heard) == 8
    assert served.loop._rest_end_s is None


def test_port_lost_during_a_rest_does_not_spin(flooded: Rig) -> None:
    """A port that is unplugged while it is left unread is searched for like any other: the loop waits."""
    assert flooded.loop._rest_end_s is not None
    flooded.port.open_error = OSError(19, "No such device")
    flooded.loop._lose_port("No such device")
    for _ in range(5):
        flooded.clock.seconds += REST_LONGEST_S
        flooded.loop.turn(0)
        assert flooded.loop._wait_s(flooded.clock()) > 0.1
