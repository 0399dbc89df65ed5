"""The workload of a real guest as an actor, with a guest that may hang, die or lose its holder. No QEMU here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from ballonet_host_coord.demo.lines import JsonLines
from ballonet_host_coord.demo.machine import Guest, MachineError, Monitor
from ballonet_host_coord.demo.play import BUDGET_KIB, RAM_KIB
from ballonet_host_coord.demo.real import ANSWER_WITHIN_S, PAGE_MARGIN_KIB, RealActor, settings_for

MIB = 1024
ACTUAL_KIB = 512 * MIB
COUNTERS = {
    # As measured with deflate-on-oom: MemTotal counts the balloon, MemAvailable does not.
    "meminfo": {"MemTotal": 980 * MIB, "MemAvailable": 380 * MIB},
    "vmstat": {"oom_kill": 2},
    "psi": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n",
}


class FakeGuest:
    """Both ends of a machine that talk JSON lines. `answers` by command; None: it hangs; "gone": QEMU ends."""

    def __init__(self, **answers) -> None:
        self.asked: list[dict] = []
        self.answers = {
            "counters": COUNTERS,
            "hold": {"usable_s": 1.25, "held_kib": 1},
            "query-balloon": {"return": {"actual": ACTUAL_KIB * 1024}},
            **answers,
        }

    async def serve(self, stream: trio.StapledStream) -> None:
        held = b""
        async for data in stream:
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                self.asked.append(request)
                answer = self.answers[request.get("do") or request["execute"]]
                if answer == "gone":
                    await stream.aclose()
                    return
                if answer is not None:
                    await stream.send_all(json.dumps(answer | {"id": request["id"]}).encode() + b"\n")


def act(fake: FakeGuest, scenario):
    """What `scenario(actor)` returns or raises, and the virtual seconds that it took."""

    async def main():
        async with trio.open_nursery() as nursery:
            peers = []
            for _ in range(2):
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(fake.serve, theirs)
                peers.append(JsonLines(ours))
            machine = SimpleNamespace(
                name="alpha",
                spec=SimpleNamespace(ram_kib=RAM_KIB),
                monitor=Monitor(peers[0]),
                last_words=lambda: "alpha: Kernel panic",
            )
            began_s = trio.current_time()
            result: object
            try:
                result = await scenario(RealActor(machine, Guest(peers[1])))
            except MachineError as error:
                result = error
            took_s = trio.current_time() - began_s
            nursery.cancel_scope.cancel()
        return result, took_s

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def test_a_step_is_timed_by_the_guest():
    """The seconds are the guest's own, and the guest is told how long it may try."""
    fake = FakeGuest()
    assert act(fake, lambda actor: actor.hold(200 * MIB, 60))[0] == 1.25
    assert (fake.asked[0]["mib"], fake.asked[0]["give_up_s"]) == (200, 60)


@pytest.mark.parametrize(
    "answer", [{"usable_s": None, "held_kib": 1}, {"held_kib": 0, "died": True}], ids=["too late", "holder killed"]
)
def test_a_step_without_a_time_is_not_met(answer):
    """Given up in the guest or killed there: an unmet step, and no error of ours."""
    assert act(FakeGuest(hold=answer), lambda actor: actor.hold(200 * MIB, 60))[0] is None


def test_a_guest_that_hangs_does_not_hang_the_demo():
    """A step has an end on the host, too, and it comes after the guest's."""
    result, took_s = act(FakeGuest(hold=None), lambda actor: actor.hold(200 * MIB, 60))
    assert (result, took_s) == (None, 60 + ANSWER_WITHIN_S)


QUESTIONS = {
    "hold": lambda actor: actor.hold(200 * MIB, 60),
    "counters": lambda actor: actor.stall_us(),
    "query-balloon": lambda actor: actor.actual_kib(),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_guest_that_goes_away_is_named_with_its_last_words(question):
    """QEMU's end in the middle of the play is a sentence with what the console said."""
    result, _ = act(FakeGuest(**{question: "gone"}), QUESTIONS[question])
    assert isinstance(result, MachineError)
    assert "alpha: Kernel panic" in str(result)


@pytest.mark.parametrize("question", ["counters", "query-balloon"])
def test_a_question_without_an_answer_is_an_error(question):
    """Where a number is missing there can be no verdict."""
    result, took_s = act(FakeGuest(**{question: None}), QUESTIONS[question])
    assert isinstance(result, MachineError)
    assert took_s == ANSWER_WITHIN_S


def test_numbers_are_read_from_the_guests_own_counters():
    """psi_some's total, kills, and the need: what is in use when idle, the kernel's reserve, the step, a margin."""

    async def scenario(actor):
        return await actor.stall_us(), await actor.oom_kills(), await actor.need_kib(200 * MIB)

    used_kib = 980 * MIB - (RAM_KIB - ACTUAL_KIB) - 380 * MIB
    reserve_kib = RAM_KIB - 980 * MIB
    need_kib = used_kib + reserve_kib + 200 * MIB + PAGE_MARGIN_KIB
    assert act(FakeGuest(), scenario)[0] == (1234, 2, need_kib)


def test_a_guest_without_psi_has_no_stalls():
    """A kernel that counts no stalls is no error."""
    assert act(FakeGuest(counters=COUNTERS | {"psi": None}), lambda actor: actor.stall_us())[0] == 0


def test_the_settings_are_such_as_an_operator_may_write():
    """The budget holds one guest at its most beside the other's start, and is less than both at their most."""
    settings = settings_for(Path("/run/vm"))
    most_kib = sum(guest.maximum_kib + guest.overhead_kib for guest in settings.guests)
    guest = settings.guests[0]
    assert guest.startup_kib + guest.maximum_kib + 2 * guest.overhead_kib <= BUDGET_KIB < most_kib
    assert len({path for guest in settings.guests for path in (guest.qmp_path, guest.channel_path)}) == 4
