"""One size for two devices: a target in, the balloon's target and virtio-mem's requested size out. Pure.

Above its port a guest has one size: what the balloon leaves of its boot memory, and what is plugged of its virtio-mem
device. `split` says which device moves::

    grow    first the balloon is deflated, then whole blocks are plugged
    shrink  first whole blocks are unplugged, then the balloon takes what is less than a block

No target makes one device grow and the other shrink, so whatever arrives first, and wherever it stops, the guest never
has more than it is booked with (I1). What is plugged is never exchanged for what is in the balloon: nothing oscillates.

A guest's kernel may refuse to unplug: a block holds what it cannot move. `Mover` notices that nothing comes for
`PATIENCE_S`, has the balloon take the rest, and requests what is plugged, so that the guest stops trying: its driver
would go on for ever, and a block that it gave later would be missing below the target. The next shrinks take from the
balloon at once; unplugging is tried again after a minute, and after twice as long each time that it is refused anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Hotplug, VmFacts

LEAST_KIB = 1024
"""What a balloon is told to leave at the least; QEMU takes no zero."""

PATIENCE_S = 2.0
"""A block comes in well under a second under emulation (m), and the ledger gives a move up after five without any."""

REFUSED_S = 60.0
REFUSED_MOST_S = 960.0

DEVICE_SIZES = ("max-size", "size", "requested-size", "block-size")
"""QEMU's names in query-memory-devices, bytes."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Both devices of one guest."""

    boot_kib: int
    left_kib: int
    """What the balloon leaves of the boot memory: the balloon device's own `actual`."""
    hotplug: Hotplug

    @property
    def size_kib(self) -> int:
        return self.left_kib + self.hotplug.plugged_kib


@dataclass(frozen=True, slots=True)
class Split:
    """What the two devices are told."""

    balloon_kib: int
    requested_kib: int

    @property
    def size_kib(self) -> int:
        return self.balloon_kib + self.requested_kib


def grown_kib(vm: VmFacts, target_kib: int) -> int:
    """The largest size up to `target_kib` that the guest can grow to: above its boot memory, whole blocks."""
    if vm.hotplug is None or target_kib <= vm.boot_kib:
        return target_kib
    return target_kib - (target_kib - vm.boot_kib) % vm.hotplug.block_kib


def split(target_kib: int, sizes: Sizes, kept_kib: int = 0) -> Split:
    """Divide a target. `kept_kib`: the plugged size that the guest refuses to go below.

    The sum is the target; less by less than a block where growing ends between blocks, or where there is no more.
    """
    plug = sizes.hotplug
    away_kib = sizes.size_kib - target_kib
    if away_kib < 0:
        balloon_kib = min(sizes.boot_kib, target_kib - plug.plugged_kib)
        more_kib = min(target_kib - plug.plugged_kib - balloon_kib, plug.most_kib - plug.plugged_kib)
        return Split(balloon_kib, plug.plugged_kib + more_kib - more_kib % plug.block_kib)
    blocks = min(away_kib, max(0, plug.plugged_kib - kept_kib)) // plug.block_kib
    requested_kib = plug.plugged_kib - blocks * plug.block_kib
    return Split(max(LEAST_KIB, target_kib - requested_kib), requested_kib)


class Mover:
    """What one guest is on its way to, and what it refused."""

    def __init__(self) -> None:
        self._boot = 0
        self._target_kib: int | None = None
        """Something is to be unplugged on the way to it."""
        self._requested_kib = 0
        self._plugged_kib = 0
        self._progress_s = 0.0
        self._kept_kib = 0
        self._kept_until_s = float("-inf")
        self._refused_s = 0.0

    def of_boot(self, boot: int) -> Mover:
        """Itself. Another boot means another kernel, which has refused nothing and is on its way to nothing."""
        if boot != self._boot:
            self._boot = boot
            self._target_kib = None
            self._kept_until_s = float("-inf")
            self._refused_s = 0.0
        return self

    def aim(self, target_kib: int, sizes: Sizes, now_s: float) -> Split:
        """A new target: what to tell both devices now."""
        kept_kib = self._kept_kib if now_s < self._kept_until_s else 0
        told = split(target_kib, sizes, kept_kib)
        self._target_kib = target_kib if told.requested_kib < sizes.hotplug.plugged_kib else None
        self._requested_kib = told.requested_kib
        self._plugged_kib, self._progress_s = sizes.hotplug.plugged_kib, now_s
        return told

    def follow(self, sizes: Sizes, now_s: float) -> Split | None:
        """Sizes as they are now. Something to tell both devices where the guest does not unplug what is requested."""
        if self._target_kib is None:
            return None
        plug = sizes.hotplug
        if plug.plugged_kib < self._plugged_kib:
            self._plugged_kib, self._progress_s = plug.plugged_kib, now_s
            self._refused_s = 0.0
        arrived = plug.plugged_kib <= self._requested_kib
        if arrived or plug.requested_kib != self._requested_kib:  # or somebody else has requested something
            self._target_kib = None
            return None
        if now_s - self._progress_s < PATIENCE_S:
            return None
        told = split(self._target_kib, sizes, plug.plugged_kib)
        self._target_kib = None
        self._kept_kib = plug.plugged_kib
        self._refused_s = min(REFUSED_MOST_S, max(REFUSED_S, 2 * self._refused_s))
        self._kept_until_s = now_s + self._refused_s
        return told


def hotplug_of(devices: object) -> Hotplug | None:
    """The virtio-mem devices in the answer to query-memory-devices, as if they were one; None for none, or for an
    answer that is none."""
    found = []
    for device in devices if isinstance(devices, list) else []:
        if not isinstance(device, dict) or device.get("type") != "virtio-mem":
            continue
        data = device.get("data")
        sizes = [data.get(key) for key in DEVICE_SIZES] if isinstance(data, dict) else [None]
        if not all(type(size) is int and size >= 0 for size in sizes):
            return None
        found.append([size // 1024 for size in sizes if size is not None])
    if not found:
        return None
    most_kib, plugged_kib, requested_kib = (sum(sizes[index] for sizes in found) for index in range(3))
    return Hotplug(most_kib, max(1, *(sizes[3] for sizes in found)), plugged_kib, requested_kib)
