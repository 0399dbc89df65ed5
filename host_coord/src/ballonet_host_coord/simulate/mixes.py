"""The catalogue of generated demand: name -> what it is, a host to try it on, and the function that makes it. Pure.

Their parameters come from public measurements and were fixed before any policy was scored on them (each module names
its sources). A machine with a number is the same one in a mix of any size: a mix of n machines begins every larger
one of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import mix_desktops, mix_farm, mix_servers
from .course import DAY_S, Course


@dataclass(frozen=True, slots=True)
class Mix:
    """One entry. `host_kib`: what the host has for machines, where density is measured."""

    what: str
    host_kib: int
    make: Callable[[int, int, float], list[Course]]

    def __call__(self, vm_count: int, seed: int, duration_s: float = DAY_S) -> list[Course]:
        """`vm_count` machines, all deterministic from `seed`. Raises ValueError for a count or a duration below 1."""
        if vm_count < 1 or duration_s < 1:
            raise ValueError("a mix has at least one machine and lasts at least a second")
        return self.make(vm_count, seed, duration_s)


MIXES = {
    "desktops-storm": Mix(
        "office desktops, everybody logs in within the same minute", mix_desktops.HOST_KIB, mix_desktops.storm
    ),
    "desktops-staggered": Mix(
        "the same desktops, people come over three hours", mix_desktops.HOST_KIB, mix_desktops.staggered
    ),
    "servers": Mix(
        "web by day, batch by night, databases and idle machines", mix_servers.HOST_KIB, mix_servers.servers
    ),
    "build-farm": Mix(
        "16 GiB guests that compile and link, each at its own times", mix_farm.HOST_KIB, mix_farm.build_farm
    ),
}
