"""How often an attendant looks, and what it does to its guest when the service stops."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ballonet_host_coord.attendant import POLL_EVERY_S, POLL_MOVING_S, Attendant, poll_moving_s
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import StopPolicy

from .builders import make_settings, make_vm


class Vm:
    """Keeps the targets that are set."""

    def __init__(self) -> None:
        self.targets: list[int] = []

    async def connect(self) -> None: ...

    async def set_target(self, target_kib: int) -> None:
        self.targets.append(target_kib)

    async def aclose(self) -> None: ...


class Session:
    def renewed(self, ram_kib: int, now_s: float) -> None: ...


@pytest.mark.parametrize(("hands_off", "given_back"), [("", True), ("it uses hugepages", False)])
def test_deflating_on_stop_leaves_alone_what_is_left_alone(hands_off: str, given_back: bool) -> None:
    """Every running guest gets its memory back, but one that may not be moved."""
    vm: Any = Vm()
    session: Any = Session()
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm = make_vm(hands_off=hands_off)
    coordinator: Any = None
    trio.run(Attendant(record, vm, coordinator).stop, StopPolicy.DEFLATE, False)
    assert bool(vm.targets) is given_back


def test_moving_guests_are_read_often_while_they_are_few() -> None:
    """Four times a second; where hundreds move together, no more often in all than can be answered, and never less
    often than a guest at rest."""
    assert poll_moving_s(1) == poll_moving_s(50) == POLL_MOVING_S
    assert 100 / poll_moving_s(100) == 200
    assert poll_moving_s(5000) == POLL_EVERY_S
