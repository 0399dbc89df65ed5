"""The size below which the guest refuses to go, from its own size: piecewise linear.

| guest memory up to, MiB | floor, MiB           | at the lower end | at the upper end |
|-------------------------|----------------------|------------------|------------------|
| 128                     | 8 + memory/2         | 8                | 72               |
| 512                     | 40 + memory/4        | 72               | 168              |
| 2048                    | 104 + memory/8       | 168              | 360              |
| 8192                    | 232 + memory/16      | 360              | 744              |
| more                    | 488 + memory/32      | 744              |                  |

The break points are those of Hyper-V's Linux guests, where they have held for ten years: a small guest needs half of
itself to stay up, a large one a small part. They say what the kernel's managed memory (MemTotal) must keep. What the
kernel took before it counted (its text, the page array of the *maximum* size) is not in MemTotal and comes on top, so
that the floor is on the hypervisor's scale: nominal RAM less balloon.
"""

from __future__ import annotations

_MIB = 1024  # KiB

#: (up to KiB, constant KiB, divisor), lines of the table above.
FLOOR_TABLE = (
    (128 * _MIB, 8 * _MIB, 2),
    (512 * _MIB, 40 * _MIB, 4),
    (2048 * _MIB, 104 * _MIB, 8),
    (8192 * _MIB, 232 * _MIB, 16),
    (None, 488 * _MIB, 32),
)


def computed_floor_kib(total_kib: int, ram_kib: int) -> int:
    """Floor for a guest whose kernel manages `total_kib` (balloon empty) of `ram_kib` nominal RAM; at most the RAM."""
    reserve_kib = max(0, ram_kib - total_kib)
    for up_to_kib, constant_kib, divisor in FLOOR_TABLE:
        if up_to_kib is None or total_kib < up_to_kib:
            return min(ram_kib, reserve_kib + constant_kib + total_kib // divisor)
    raise AssertionError("the last line of the table has no upper end")
