"""A guest that resides above its balloon's size: since when, and in words what it may be. Pure.

Two things do that, and the books cannot tell them apart: khugepaged on the host makes a huge page where a balloon has
left holes (measured: 256 MiB grew from 21 to 254 MiB in 160 s), and a balloon lies, so that a guest uses what it said
it had given. Either way the memory is the guest's as the host's kernel sees it, and booked (booking.py).
"""

from __future__ import annotations

from .booking import refilled_kib
from .model import GuestSnapshot, Residency, RunState, VmFacts

LASTS_S = 10.0
"""Residency follows `actual` within a fraction of a second; what lasts is no reading taken in the middle of a move."""

MAY_BE = {
    True: "khugepaged fills its balloon again (max_ptes_none of the host), or the balloon lies",
    False: "khugepaged refills nothing on this host, so its balloon lies, or QEMU cannot give memory back",
    None: "khugepaged fills its balloon again, or the balloon lies",
}


def above_since_s(
    since_s: float | None, vm: VmFacts, residency: Residency | None, answered: bool, now_s: float
) -> float | None:
    """Since when it has resided above `actual` without a break; None where it does not, or nobody can tell."""
    if vm.run_state is not RunState.RUNNING or residency is None or not answered:
        return None
    if not refilled_kib(vm, residency.resident_kib):
        return None
    return now_s if since_s is None else since_s


def is_flagged(guest: GuestSnapshot, now_s: float) -> bool:
    return guest.above_since_s is not None and now_s - guest.above_since_s >= LASTS_S


def in_words(guest: GuestSnapshot, refills: bool | None, now_s: float) -> str:
    """For its line in `status`; empty where it is not flagged. `refills`: khugepaged may fill balloons again."""
    if not is_flagged(guest, now_s) or guest.residency is None or guest.above_since_s is None:
        return ""
    resident_kib, actual_kib = guest.residency.resident_kib, guest.vm.actual_kib
    return (
        f"resides in {resident_kib // 1024} MiB, {(resident_kib - actual_kib) // 1024} above its balloon's size, for "
        f"{now_s - guest.above_since_s:.0f} s, and is booked with it: {MAY_BE[refills]}"
    )
