"""Every policy that can be simulated: its name, how to make one, what it is and what stands behind it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ballonet_host_coord.simulate.vm import Policy

from .hyperv import HyperV
from .mom import LIBVIRT, VDSM, Mom
from .proxmox import Proxmox
from .qmemman import Qmemman
from .selfballoon import Selfballoon
from .squeezed import Squeezed
from .virtui import Virtui

_GOLDEN = "decision checked against 300 recorded runs of the original; clock and surroundings from a description"
_PROSE = "from a description of the source, not checked against the original"


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy. `make` gives a new instance, good for one run."""

    make: Callable[[], Policy]
    what: str
    evidence: str


# The references (static, oracle, follower, give-all, lazy: simple.py) stand before the peers, one line each.
POLICIES: Mapping[str, Entry] = {
    "proxmox": Entry(
        lambda: Proxmox("proxmox"), "Proxmox VE, 10 s: 100 MiB steps by shares, host held at 80 %", _GOLDEN
    ),
    "proxmox-full": Entry(
        lambda: Proxmox("proxmox-full", target_percent=100), "proxmox with its host target at the whole budget", _GOLDEN
    ),
    "mom-libvirt": Entry(
        lambda: Mom("mom-libvirt", LIBVIRT), "oVirt MOM's own rules, 10 s: free memory, averaged over 50 s", _GOLDEN
    ),
    "mom-libvirt-full": Entry(
        lambda: Mom("mom-libvirt-full", LIBVIRT, full=True), "mom-libvirt without its host reserve of 20 %", _GOLDEN
    ),
    "mom-vdsm": Entry(
        lambda: Mom("mom-vdsm", VDSM), "oVirt MOM under vdsm, 15 s: free memory, averaged over 150 s", _GOLDEN
    ),
    "mom-vdsm-full": Entry(
        lambda: Mom("mom-vdsm-full", VDSM, full=True), "mom-vdsm without its host reserve of 20 %", _GOLDEN
    ),
    "squeezed": Entry(Squeezed, "XAPI squeezed, 10 s: the same fraction of its range for all, need ignored", _PROSE),
    "qmemman": Entry(Qmemman, "Qubes qmemman, on change: 1.3 times the use, the rest in proportion", _GOLDEN),
    "hyperv": Entry(
        HyperV,
        "Hyper-V Dynamic Memory, 1 s: demand, then 20 % buffer, by weight (variant: passes by weight)",
        "reconstruction of a closed product from its documentation, order of service inferred",
    ),
    "selfballoon": Entry(Selfballoon, "Xen selfballooning, 5 s: each guest to its committed memory + 10 %", _PROSE),
    "virtui": Entry(Virtui, "virtui, 2 s on data 5 s old: +30 % when 65 % full, -10 % when 55 % full", _PROSE),
}


def make(name: str) -> Policy:
    """A new policy. LookupError with the known names for any other."""
    if name not in POLICIES:
        raise LookupError(f"no policy {name!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[name].make()
