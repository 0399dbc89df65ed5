"""What the books hold against each guest: invariant I1's arithmetic, and when a boot may be believed.

A guest is booked at the most that it can have before anybody could stop it::

    booked = max(actual, target in flight + refilled, resident) + QEMU's overhead

Where the host's kernel refilled a balloon, `resident` is above `actual`, and what the guest is given may be other
pages than those that reside already: this *refilled* part counts beside a target in flight, up to the RAM.

`actual` is the guest's claim, `resident` is the host kernel's word, and a target that was set counts from the
moment of setting. From QEMU's start, a reset or an incoming migration until *this boot's* driver has answered, the
balloon device still tells what the last boot said (measured: 512 MiB for 16 s while the guest had 2048), so
the guest is booked with its boot claim: its whole RAM, of a virtio-mem device what is plugged or requested.

Two kinds of evidence show that the driver of this boot has answered:

* the agent reported from this boot, and the balloon that its kernel counts fits what the device says: both sides
  name the same bag;
* without an agent that counts: balloon statistics of this boot, `STATISTICS_NEEDED` times. One is not enough, as the
  driver queues its first statistics before it begins to inflate.

What of its RAM is in huge pages a guest has already, whatever its balloon says, and no budget has them in it: such a
guest is booked with no more than the rest of its RAM, with what resides in ordinary memory where that is more, and
with QEMU's overhead.

A VM that waits before its first instruction cannot touch memory: it is booked at what is resident, and the
coordinator starts it only when its whole claim fits.

A process that lives and never told what it has (its monitor hangs, has another client, shows no balloon) is booked
with its maximum, or with what it resides in where that is more.
"""

from __future__ import annotations

from .model import (
    Booking,
    GuestSettings,
    GuestSnapshot,
    HostSettings,
    Migration,
    Residency,
    RunState,
    UsageReport,
    VmFacts,
)

HEADROOM_LEAST_KIB = 65536
HEADROOM_PARTS = 256
"""What guests ask for at once comes within 64 MiB on a small host (a report's worth of a busy guest), and grows with
how many there are. Half a second of one balloon's way is 1 GiB; more of it lay idle in the simulator, where surplus in
guests is there at once (DESIGN.md, section 4)."""

STATISTICS_NEEDED = 3
"""With a polling interval of 1 s the balloon has had two seconds to begin, and `actual` moves with each chunk."""

BALLOON_TOLERANCE_KIB = 32768
"""Guest and device are read up to a second apart while the balloon moves; a bag of the last boot is off by far more,
or the boot's target is so near to RAM that the difference is worth no more than this."""

READ_APART_KIB = 16384
"""`actual` is read some milliseconds before `resident`, in which a balloon deflates by 1.5 GiB/s: less than this above
`actual` is no refilled balloon."""


def headroom_kib(settings: HostSettings, budget_kib: int) -> int:
    """What is kept free for urgent asks: as set, or a small part of the budget."""
    if settings.headroom_kib is not None:
        return settings.headroom_kib
    return max(HEADROOM_LEAST_KIB, budget_kib // HEADROOM_PARTS)


def boot_answered(vm: VmFacts, report: UsageReport | None) -> bool:
    """Whether this boot's balloon driver has shown itself, so that `actual` is a claim of this boot."""
    if vm.run_state is RunState.PRELAUNCH or vm.migration is Migration.INCOMING:
        return False
    if report is not None and report.balloon_kib is not None and report.arrived_s >= vm.boot_began_s:
        away_kib = abs(report.balloon_kib - vm.balloon_kib)
        if away_kib <= BALLOON_TOLERANCE_KIB:
            return True
    return vm.statistics_count >= STATISTICS_NEEDED


def book(
    settings: GuestSettings,
    vm: VmFacts,
    residency: Residency | None,
    target_in_flight_kib: int | None,
    answered: bool,
    started: bool = False,
) -> Booking:
    """Book one guest.

    `answered`: this boot's driver has been seen (it stays seen until the next boot). `started`: the machine was
    told to run its first instruction, so it counts as running whatever the last facts say.
    """
    if vm.run_state in (RunState.ABSENT, RunState.SHUTDOWN):
        held = residency.resident_kib if residency else 0
        overhead = residency.overhead_kib if residency else 0
        return Booking(assigned_kib=held, overhead_kib=overhead, claimed=False)
    overhead_kib = settings.overhead_kib
    resident_kib = 0
    if residency is not None:
        overhead_kib = max(overhead_kib, residency.overhead_kib)
        resident_kib = residency.resident_kib
    if vm.run_state is RunState.PRELAUNCH and not started:
        return Booking(assigned_kib=resident_kib, overhead_kib=overhead_kib, claimed=False)
    if not vm.ram_kib:
        return Booking(max(settings.maximum_kib, resident_kib), overhead_kib, claimed=True)
    assigned_kib = _held_kib(vm, resident_kib, target_in_flight_kib or 0)
    if not answered:
        assigned_kib = max(assigned_kib, vm.claim_kib)
    return Booking(assigned_kib=assigned_kib, overhead_kib=overhead_kib, claimed=not answered)


def booked_at_kib(guest: GuestSnapshot, target_kib: int) -> int:
    """What the books hold against the guest (overhead apart) when this target is set now."""
    if guest.booking.claimed:
        return max(guest.booking.assigned_kib, target_kib)
    return _held_kib(guest.vm, _resident_kib(guest), target_kib)


def affordable_kib(guest: GuestSnapshot, room_kib: int) -> int:
    """The largest target that adds no more than `room_kib` to what the guest is booked with."""
    most_kib = guest.booking.assigned_kib + max(0, room_kib)
    if most_kib >= guest.vm.ram_kib:
        return most_kib
    return most_kib - refilled_kib(guest.vm, _resident_kib(guest))


def _held_kib(vm: VmFacts, resident_kib: int, target_kib: int) -> int:
    in_flight_kib = target_kib
    if target_kib > vm.actual_kib:
        in_flight_kib = max(target_kib, min(vm.ram_kib, target_kib + refilled_kib(vm, resident_kib)))
    held_kib = max(vm.actual_kib, in_flight_kib)
    if vm.hugepages_kib:
        held_kib = min(held_kib, vm.ordinary_kib)
    return max(held_kib, resident_kib)


def refilled_kib(vm: VmFacts, resident_kib: int) -> int:
    """What resides above `actual`; 0 for no more than two readings differ by."""
    above_kib = resident_kib - vm.actual_kib
    return above_kib if above_kib > READ_APART_KIB else 0


def _resident_kib(guest: GuestSnapshot) -> int:
    return guest.residency.resident_kib if guest.residency else 0
