"""Every policy that can be simulated: its name, how to make one, what it is and what stands behind it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ballonet_host_coord.simulate.vm import Policy
from ballonet_host_coord.slider import DEFAULT_SLIDER

from .ballonet import Ballonet
from .hyperv import HyperV
from .mom import LIBVIRT, VDSM, Mom
from .proxmox import Proxmox
from .qmemman import Qmemman
from .selfballoon import Selfballoon
from .simple import Follower, GiveAll, Lazy, Oracle, Static
from .squeezed import Squeezed
from .virtui import Virtui

OURS = "ballonet"
_OURSELVES = "the coordinator's own decision and ledger, in virtual time"
_REFERENCE = "a plain rule, measured against here and nowhere else"
_GOLDEN = "decision checked against 300 recorded runs of the original; clock and surroundings from a description"
_PROSE = "from a description of the source, not checked against the original"


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy. `make` gives a new instance, good for one run."""

    make: Callable[[], Policy]
    what: str
    evidence: str


# Ours, then the references, then the peers.
POLICIES: Mapping[str, Entry] = {
    OURS: Entry(Ballonet, "ballonet, 1 s and at once for a guest that is short", _OURSELVES),
    "static": Entry(Static, "fixed shares of the budget, by provisioned memory", _REFERENCE),
    "oracle": Entry(Oracle, "knows each step as it happens and moves memory at once: a bound, no policy", _REFERENCE),
    "follower": Entry(Follower, "each second after a change: demand + 20 %, scaled down alike when short", _REFERENCE),
    "give-all": Entry(GiveAll, "the follower, then all that is left, in proportion", _REFERENCE),
    "lazy": Entry(Lazy, "the follower, but surplus is taken back only when another machine is short", _REFERENCE),
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


def takes_slider(name: str) -> bool:
    """Whether the slider means anything to it; a run of any other is the same at every place."""
    return name == OURS


def make(name: str, slider: int = DEFAULT_SLIDER, headroom_kib: int | None = None) -> Policy:
    """A new policy; slider and headroom are ours alone. LookupError with the known names for an unknown one."""
    if name not in POLICIES:
        raise LookupError(f"no policy {name!r}; there are: {', '.join(POLICIES)}")
    return Ballonet(slider, headroom_kib) if name == OURS else POLICIES[name].make()
