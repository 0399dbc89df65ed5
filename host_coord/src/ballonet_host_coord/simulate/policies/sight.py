"""What a peer that has no agent in the guest can see of a simulated machine, and of the host. Pure.

Choices to be stated with every result:

- The host is the budget; every assigned page counts as used (`promised_kib` also counts what is still on its way).
- A guest's free memory is what is left of `assigned` after its programs and the page cache it would like to have.
- A guest that needs more than it has swaps: it shows no free memory, and its *apparent* use stops at `assigned`.
- No data set holds committed memory; peers that ask for it get what the machine says it uses.
"""

from __future__ import annotations

from collections.abc import Iterable

from ballonet_host_coord.simulate.vm import Vm

# A balloon closer than this to its target has arrived: one 4 KiB page.
ARRIVED_KIB = 4.0


def apparent_used_kib(vm: Vm) -> float:
    """What the guest's own counters show without its page cache: swapped memory has left them."""
    return min(float(vm.shows_kib), vm.assigned_kib)


def free_kib(vm: Vm) -> float:
    """Unused memory in the guest, page cache not counted as free; 0 in a guest that swaps."""
    return max(0.0, vm.assigned_kib - vm.shows_kib - (vm.cached_kib or 0))


def assigned_kib(vms: Iterable[Vm]) -> float:
    """What the host has handed out."""
    return sum([vm.assigned_kib for vm in vms])


def promised_kib(vms: Iterable[Vm]) -> float:
    """What the host has handed out or must still hand out: a balloon on its way counts at its larger end."""
    return sum([vm.assigned_kib if vm.assigned_kib > vm.target_kib else vm.target_kib for vm in vms])


def all_arrived(vms: Iterable[Vm]) -> bool:
    """True if no balloon is on its way."""
    return all(-ARRIVED_KIB <= vm.assigned_kib - vm.target_kib <= ARRIVED_KIB for vm in vms)


def within_limits(vm: Vm, size_kib: float) -> int:
    return int(max(vm.minimum_kib, min(size_kib, vm.maximum_kib)))
