"""How often an attendant looks, what it does to its guest when the service stops, and with a target that was lost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord.attendant import AGAIN_S, POLL_EVERY_S, POLL_MOVING_S, Attendant, poll_moving_s
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import OOM_WHY, SOON, SetTarget, StopPolicy, Wish
from ballonet_host_coord.ports import PortError

from .builders import MIB, make_settings, make_vm


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


@pytest.mark.parametrize(
    ("hands_off", "paused", "yielded", "given_back"),
    [
        ("", False, "", True),
        ("it uses hugepages", False, "", False),
        ("", True, "", False),
        ("", False, "another mover set it", False),
    ],
)
def test_deflating_on_stop_leaves_alone_what_is_left_alone(
    hands_off: str, paused: bool, yielded: str, given_back: bool
) -> None:
    """Every running guest gets its memory back, but one that may not be moved, is paused, or another's."""
    vm: Any = Vm()
    session: Any = Session()
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm = make_vm(hands_off=hands_off)
    record.paused, record.yielded = paused, yielded
    coordinator: Any = None
    trio.run(Attendant(record, vm, coordinator).stop, StopPolicy.DEFLATE, False)
    assert bool(vm.targets) is given_back


def test_an_error_of_ours_at_one_guests_stop_is_that_guests(caplog: pytest.LogCaptureFixture) -> None:
    """The others are deflated all the same, so it does not leave `stop`; the journal has it."""

    async def broken(target_kib: int) -> None:
        raise ValueError("nobody foresaw this")

    vm: Any = Vm()
    vm.set_target = broken
    session: Any = Session()
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm = make_vm()
    coordinator: Any = None
    trio.run(Attendant(record, vm, coordinator).stop, StopPolicy.DEFLATE, False)
    assert "nobody foresaw this" in caplog.text


class Coordinator:
    """Time, a ledger with one target, and nobody to wake."""

    def __init__(self, target_kib: int) -> None:
        self.now_s = 1000.0
        self.ledger: Any = self
        self._target_kib = target_kib

    def now(self) -> float:
        return self.now_s

    def target_kib(self, name: str) -> int:
        return self._target_kib

    def target_failed(self, name: str) -> None: ...

    def is_moving(self, name: str) -> bool:
        return False

    moving = 0
    woken = 0

    def wake(self, urgent: bool = False) -> None:
        self.woken += 1


def test_a_smaller_target_that_was_lost_is_set_once_more() -> None:
    """Memory that a larger one still promises is nobody else's: it must not stay so."""
    vm: Any = Vm()
    session: Any = Session()
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm = make_vm()
    coordinator: Any = Coordinator(600 * MIB)
    attendant = Attendant(record, vm, coordinator)
    assert attendant._once_more(coordinator.now()) is None
    for target_kib in (900 * MIB, 600 * MIB):
        attendant.order(SetTarget(record.name, target_kib, ""))
    assert attendant._once_more(coordinator.now()) is None  # it waits in the queue
    vm.set_target = refuse
    trio.run(attendant._execute, attendant._orders.pop())
    again = attendant._once_more(coordinator.now())
    assert again is not None
    assert again.target_kib == 600 * MIB
    assert attendant._once_more(coordinator.now() + AGAIN_S / 2) is None
    record.paused = True
    assert attendant._once_more(coordinator.now() + AGAIN_S) is None
    record.paused = False
    del vm.set_target
    trio.run(attendant._execute, attendant._once_more(coordinator.now() + AGAIN_S))
    assert attendant._once_more(coordinator.now() + 3 * AGAIN_S) is None


async def refuse(target_kib: int) -> None:
    raise PortError("cannot acquire state change lock")


def test_moving_guests_are_read_often_while_they_are_few() -> None:
    """Four times a second; where hundreds move together, no more often in all than can be answered, and never less
    often than a guest at rest."""
    assert poll_moving_s(1) == poll_moving_s(50) == POLL_MOVING_S
    assert 100 / poll_moving_s(100) == 200
    assert poll_moving_s(5000) == POLL_EVERY_S


def test_a_word_of_a_move_is_followed_by_a_reading_at_once() -> None:
    """Also where it comes in the midst of one: the need in it, if it is one, waits for that alone."""

    async def main() -> None:
        session: Any = Session()
        record = GuestRecord(make_settings(), session, Ledger())
        coordinator: Any = Coordinator(600 * MIB)
        vm: Any = Vm()
        attendant: Any = Attendant(record, vm, coordinator)

        async def read() -> None:
            began_s = trio.current_time()
            await trio.sleep(0.1)
            record.vm_read(make_vm(read_s=began_s), None, trio.current_time())

        attendant._read_vm = read
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attendant._poll)
            await trio.sleep(POLL_EVERY_S * 2 + 0.15)
            attendant.wished(Wish(900 * MIB, OOM_WHY, SOON, trio.current_time()))
            assert record.waits_for_size
            woken = coordinator.woken
            await trio.sleep(0.2)
            assert not record.waits_for_size
            assert coordinator.woken > woken
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
