"""watch.py: how often to look, and what must not be hidden by looking twice."""

from __future__ import annotations

from ballonet_guest_agent.actions import Instant
from ballonet_guest_agent.watch import ANNOUNCEMENT_GRACE_S, Watch
from ballonet_protocol import DemandWhy, Severity

MIB = 1024


def at(seconds: float) -> Instant:
    return Instant(seconds, seconds)


def test_looks_once_a_second_and_four_times_after_harm(make_guest) -> None:
    """Quiet: each second at most; for three seconds after a harm: each 250 ms; a long report period changes nothing."""
    watch, guest = Watch(has_psi_trigger=True), make_guest()
    watch.observe(guest.sample(), at(10), guest.ram_kib, None)
    assert watch.due_s(60.0) == 11.0
    assert watch.due_s(0.25) == 10.25
    watch.note_harm(10.0)
    assert watch.due_s(60.0) == 10.25
    watch.observe(guest.sample(), at(13), guest.ram_kib, None)
    assert watch.due_s(60.0) == 14.0


def test_pressed_for_two_seconds() -> None:
    """A harm is remembered for two seconds."""
    watch = Watch(has_psi_trigger=True)
    assert not watch.pressed(5.0)
    watch.note_harm(5.0)
    assert watch.pressed(6.9)
    assert not watch.pressed(7.0)


def test_a_second_look_in_the_same_instant_hides_nothing(make_guest) -> None:
    """A kill between two samples is seen by the next one, though one more sample was taken in between."""
    watch, guest = Watch(has_psi_trigger=True), make_guest()
    watch.observe(guest.sample(), at(10), guest.ram_kib, None)
    guest.counters["oom_kill"] = 1
    watch.observe(guest.sample(), at(10.01), guest.ram_kib, None)
    assert not watch.oom_killed
    watch.observe(guest.sample(), at(10.3), guest.ram_kib, None)
    assert watch.oom_killed


def test_unannounced_move_gets_a_moment(make_guest) -> None:
    """The DEMAND waits for the DEFLATE that may still be on its way, and falls away when it comes."""
    for granted_kib in (None, 1024 * MIB):
        watch, guest = Watch(has_psi_trigger=True), make_guest()
        guest.inflate(500 * MIB)
        watch.observe(guest.sample(), at(10), guest.ram_kib, None)
        guest.deflate(100 * MIB)
        assert watch.observe(guest.sample(), at(11), guest.ram_kib, None) == []
        assert watch.due_s(1.0) == 11 + ANNOUNCEMENT_GRACE_S
        harms = watch.observe(guest.sample(), at(11.2), guest.ram_kib, granted_kib)
        assert watch.self_moved == (granted_kib is None)
        assert [(harm.why, harm.severity) for harm in harms] == (
            [(DemandWhy.OOM, Severity.SOON)] if granted_kib is None else []
        )


def test_forget_compares_with_nothing(make_guest) -> None:
    """What happened while nobody watched raises nothing."""
    watch, guest = Watch(has_psi_trigger=False), make_guest()
    watch.observe(guest.sample(), at(10), guest.ram_kib, None)
    watch.forget()
    guest.psi_full_us += 10**6
    guest.counters["oom_kill"] = 9
    assert watch.observe(guest.sample(), at(11), guest.ram_kib, None) == []
    assert not watch.oom_killed


def test_grace_ends_in_any_sample(make_guest) -> None:
    """The sample at the end of the grace judges the move, also an instant after another: it would be due for ever."""
    watch, guest = Watch(has_psi_trigger=True), make_guest()
    guest.inflate(500 * MIB)
    watch.observe(guest.sample(), at(10), guest.ram_kib, None)
    guest.deflate(100 * MIB)
    watch.observe(guest.sample(), at(11), guest.ram_kib, None)
    assert watch.observe(guest.sample(), at(11.18), guest.ram_kib, None) == []
    assert watch.due_s(1.0) == 11.2
    assert [harm.why for harm in watch.observe(guest.sample(), at(11.2), guest.ram_kib, None)] == [DemandWhy.OOM]
    assert not watch.compared
    assert watch.due_s(1.0) > 11.4
