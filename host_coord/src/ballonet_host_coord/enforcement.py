"""What the host's kernel should let one QEMU hold, where the settings say `enforce = "cgroup"`: facts in, a limit out.
Pure.

A balloon is a request: a guest that lies, or khugepaged, may hold more. `memory.high` of the cgroup that holds this
QEMU and nothing else makes the kernel take pages from it (into swap) above that, and slow it down where it cannot. So
a limit must never be in the way of what was promised::

    limit = max(actual, target in force) + QEMU's overhead + margin

What resides is not in it: that is what is enforced. Nor is there a limit while nobody knows what the guest may have
(boot, migration, no word of the machine), where the operator gave it everything, or where it is left alone.

Upwards at once, before the balloon's command; downwards when a shrink has arrived, and only a step below what is held
now, since writing a limit takes as long as the kernel needs to come below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Enforce, GuestSnapshot, RunState
from .move import ARRIVED_KIB

MARGIN_LEAST_KIB, MARGIN_PARTS = 65536, 16
"""A sixteenth, at least 64 MiB: page tables, QEMU's disk cache, and what a guest takes back by itself in a second."""
ROUND_KIB = 4096
LOWER_LEAST_KIB = 32768
"""A limit that is less than this too high stays."""
STEP_KIB = 32768
"""How far below what is held now a limit goes at once: the kernel is done with that in a moment."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The memory cgroup of one QEMU, as it is."""

    folder: str
    version: int
    limit_kib: int | None
    """None: no limit."""
    used_kib: int


def needed_kib(guest: GuestSnapshot, target_kib: int = 0) -> int | None:
    """The least limit that is not in the guest's way, with `target_kib` about to be set. None: no limit may be."""
    vm = guest.vm
    if guest.settings.enforce is not Enforce.CGROUP or guest.unseen or guest.booking.claimed:
        return None
    if guest.released or guest.forced or guest.hands_off or vm.hands_off:
        return None
    if vm.run_state not in (RunState.RUNNING, RunState.PAUSED, RunState.UNREACHABLE) or not vm.ram_kib:
        return None
    promised_kib = max(vm.actual_kib, guest.hypervisor_target_kib or 0, target_kib)
    margin_kib = max(MARGIN_LEAST_KIB, promised_kib // MARGIN_PARTS)
    limit_kib = promised_kib + guest.booking.overhead_kib + margin_kib
    return -(-limit_kib // ROUND_KIB) * ROUND_KIB


def next_limit_kib(guest: GuestSnapshot, cell: Cell) -> int | None:
    """The limit that should be in force now; the one that is, where it may stay."""
    needed = needed_kib(guest)
    if needed is None:
        return None
    if cell.limit_kib is not None and needed > cell.limit_kib:
        return needed
    target_kib = guest.hypervisor_target_kib
    arrived = target_kib is None or guest.vm.actual_kib <= target_kib + ARRIVED_KIB
    if not arrived or guest.vm.run_state is RunState.UNREACHABLE:
        return cell.limit_kib
    gentle_kib = max(needed, (cell.used_kib - STEP_KIB) // ROUND_KIB * ROUND_KIB)
    if cell.limit_kib is None:
        return gentle_kib
    if cell.limit_kib - needed < LOWER_LEAST_KIB:
        return cell.limit_kib
    return min(cell.limit_kib, gentle_kib)
