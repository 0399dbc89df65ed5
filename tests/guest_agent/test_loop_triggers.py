"""loop.py: PSI triggers that cannot be armed, get lost, and come back."""

from __future__ import annotations

import time

import pytest

from ballonet_guest_agent.loop import REARM_S, read_clocks
from ballonet_protocol import Demand, SetPolicy

from .rig import Rig


def policy(served: Rig, some_permyriad: int, gen: int) -> None:
    served.port.reads = [served.host.send(SetPolicy(gen=gen, psi_some_permyriad=some_permyriad))]
    served.port.nudge()
    served.loop.turn(0)


def test_lost_triggers_come_back(served: Rig) -> None:
    """What stood in the way is over: within a minute they are armed again as the policy has it, and that is said."""
    served.triggers.reason = "Too many open files"
    policy(served, 900, gen=1)
    assert not served.agent.watch.has_psi_trigger
    served.triggers.reason = None
    served.clock.seconds += REARM_S - 1
    served.loop.turn(0)
    assert len(served.triggers.armed) == 1
    served.clock.seconds += 1
    served.loop.turn(0)
    assert served.triggers.armed[1:] == [(45_000, 10_000)]
    assert served.agent.watch.has_psi_trigger
    assert "armed" in served.said[-1]


def test_armed_again_triggers_are_heard(served: Rig) -> None:
    """A trigger that came back makes a DEMAND as the first one did."""
    served.triggers.reason = "Cannot allocate memory"
    policy(served, 900, gen=1)
    served.triggers.reason = None
    policy(served, 800, gen=2)
    assert served.agent.watch.has_psi_trigger
    served.heard()
    served.triggers.fire("full")
    served.loop.turn(5)
    assert [type(message) for message in served.heard()][:1] == [Demand]


def test_refused_for_good(rig: Rig) -> None:
    """Without the right they are tried once a minute, which is not said again, and the counter goes on being read."""
    rig.loop._lose_triggers("Invalid argument")
    rig.triggers.reason = "Invalid argument"
    said = len(rig.said)
    for _ in range(600):
        rig.clock.seconds += 1
        rig.loop.turn(0)
    assert len(rig.triggers.armed) == 600 // REARM_S
    assert [text for text in rig.said[said:] if "PSI" in text] == []
    assert not rig.agent.watch.has_psi_trigger


def test_the_retry_wakes_nobody(rig: Rig) -> None:
    """A guest without triggers sleeps as long as one with them."""
    with_triggers = rig.loop._wait_s(rig.clock())
    rig.loop._lose_triggers("Invalid argument")
    assert rig.loop._wait_s(rig.clock()) == with_triggers


def test_held_up_between_two_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is held up while it reads the clocks does not seem to have slept: BOOTTIME is not ahead."""
    passed_s = iter(range(0, 100, 3))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(passed_s)))
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: float(next(passed_s)))
    now = read_clocks()
    assert now.boottime_s <= now.monotonic_s
