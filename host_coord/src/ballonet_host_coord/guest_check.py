"""What is wrong with each guest for being managed, and how to mend each: facts in, findings out. Pure.

The facts come from guest_look.py: of libvirt's XML, of QEMU's monitor or the running coordinator's snapshot, and of
QEMU's command line (qemu_arguments.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .finding import Finding, Level, shown
from .plain_text import shell_word
from .settings_values import exact

BOOTS_WITH_KIB = 131072
"""128 MiB: a Linux guest whose balloon leaves less does not get through its boot, or into its swap at once."""
PINNED = "left alone: "


@dataclass(frozen=True, slots=True)
class SocketSight:
    """A guest's socket as a file; nobody connected to it."""

    path: str
    error: str = ""
    """Why it is none: it is missing, or something else."""
    owner_uid: int | None = None
    heard: bool | None = None
    """Whether a process listens there (/proc/net/unix); None where that does not say."""
    denied: bool = False
    """The caller may not connect to it."""


@dataclass(frozen=True, slots=True)
class GuestSight:
    """What `guest_look` saw of one guest. None: not known. Texts are untrusted."""

    name: str
    by_libvirt: bool = False
    runs: bool | None = True
    error: str = ""
    """Why it could not be looked at."""
    unjudged: bool = False
    """The error is that the caller could not see, not that the guest is at fault."""
    notes: tuple[str, ...] = ()
    """What of its settings could not be taken as it was given."""
    ram_kib: int | None = None
    minimum_kib: int | None = None
    maximum_kib: int | None = None
    may_shrink_without_deflate_on_oom: bool = False
    has_balloon: bool | None = None
    deflate_on_oom: bool | None = None
    free_page_reporting: bool | None = None
    statistics_period_s: int | None = None
    has_port: bool | None = None
    """Whether the machine has a port with the agent's name."""
    agent_live: bool | None = None
    """Whether its agent answers the coordinator, or has the port open."""
    agent_detail: str = ""
    swap_kib: int | None = None
    pins: tuple[str, ...] = ()
    """Why its memory is not to be moved."""
    channel: SocketSight | None = None
    monitor: SocketSight | None = None
    qemu_uid: int | None = None
    resident_kib: int | None = None


def guest_findings(guests: Sequence[GuestSight]) -> list[Finding]:
    found = []
    for guest in guests:
        found += _guest(guest)
    return found + list(_shared_sockets(guests))


def _guest(guest: GuestSight) -> list[Finding]:
    if guest.error:
        level = Level.HINT if guest.unjudged else Level.PROBLEM
        mend = "run `ballonet check` as root, or ask while `ballonet serve` runs" if guest.unjudged else ""
        return [_finding(guest, "guest", level, shown(guest.error), mend, guest.unjudged)]
    found = [_finding(guest, "settings", Level.HINT, note, "mend that value") for note in guest.notes]
    found += [*_sizes(guest), *_sockets(guest)]
    if guest.runs is False:
        return found or [_finding(guest, "guest", Level.OK, "does not run; what it boots with cannot be judged")]
    if guest.pins:
        found += [_finding(guest, "pinned", Level.OK, PINNED + shown("; ".join(guest.pins)))]
        return found
    found += [*_balloon(guest), *_agent(guest), *_swap(guest)]
    if all(finding.level is Level.OK for finding in found):
        found.append(_finding(guest, "guest", Level.OK, "can be managed"))
    return found


def _finding(
    guest: GuestSight, name: str, level: Level, text: str, mend: str = "", unjudged: bool = False
) -> Finding:  # fmt: skip
    return Finding(name, level, text, mend, guest=shown(guest.name), unjudged=unjudged)


def _sizes(guest: GuestSight) -> Iterable[Finding]:
    if guest.minimum_kib is not None and 0 < guest.minimum_kib < BOOTS_WITH_KIB:
        text = f"its minimum, {exact(guest.minimum_kib)}, is less than a Linux guest boots with"
        mend = f"minimum: at least {exact(BOOTS_WITH_KIB)}; the agent's floor does not hold before the agent runs"
        yield _finding(guest, "minimum", Level.HINT, text, mend)
    if guest.ram_kib and guest.maximum_kib is not None and guest.maximum_kib > guest.ram_kib:
        text = f"its maximum, {exact(guest.maximum_kib)}, is more than its RAM, {exact(guest.ram_kib)}"
        mend = "a balloon gives no more than the RAM: a larger -m (libvirt: <memory>), or a smaller maximum"
        yield _finding(guest, "maximum", Level.HINT, text, mend)


def _balloon(guest: GuestSight) -> Iterable[Finding]:
    if guest.has_balloon is False:
        text = "it has no balloon device: nothing of its memory can be moved"
        mend = (
            "libvirt: <memballoon model='virtio' autodeflate='on' freePageReporting='on'/>; "
            "QEMU: -device virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on"
        )
        yield _finding(guest, "balloon", Level.PROBLEM, text, mend)
        return
    if guest.deflate_on_oom is False:
        text = "deflate-on-oom is off: a guest that is short gets an allocation refused, and no signal comes before"
        mend = "libvirt: autodeflate='on'; QEMU: deflate-on-oom=on at the balloon device; at its next start"
        if guest.may_shrink_without_deflate_on_oom:
            yield _finding(guest, "deflate-on-oom", Level.HINT, f"{text}; the settings allow to shrink it", mend)
        else:
            yield _finding(guest, "deflate-on-oom", Level.PROBLEM, f"{text}; so it is grown and never shrunk", mend)
    if guest.free_page_reporting is False:
        text = "free page reporting is off: what it frees stays with it, and the host's share is its highest ever"
        mend = "libvirt: freePageReporting='on'; QEMU: free-page-reporting=on at the balloon device; at its next start"
        yield _finding(guest, "free-page-reporting", Level.HINT, text, mend)
    if guest.statistics_period_s == 0 and not guest.agent_live:
        text = "nobody asks its balloon for statistics, so while no agent answers nothing is known of it"
        mend = f"virsh dommemstat --period 1 --live {shell_word(guest.name)}; a running coordinator sets it by itself"
        yield _finding(guest, "statistics", Level.HINT, text, mend)


def _agent(guest: GuestSight) -> Iterable[Finding]:
    if guest.has_port is False:
        text = "it has no channel for an agent: it is judged by its balloon's statistics alone, and slowly"
        mend = f"ballonet adopt {shell_word(guest.name)}" if guest.by_libvirt else _PORT
        yield _finding(guest, "agent", Level.HINT, text, mend)
    elif guest.agent_live is False:
        detail = f" ({shown(guest.agent_detail)})" if guest.agent_detail else ""
        text = f"no agent answers on its channel{detail}"
        yield _finding(guest, "agent", Level.HINT, text, "in the guest: ballonet-agent check")


_PORT = (
    "give QEMU -device virtio-serial-pci -chardev socket,id=ballonet,path=SOCKET,server=on,wait=off "
    "-device virtserialport,chardev=ballonet,name=org.ballonet.agent.0, and the settings channel = SOCKET"
)


def _swap(guest: GuestSight) -> Iterable[Finding]:
    if guest.swap_kib == 0:
        text = "it has no swap: when it is short, its page cache goes first and then the OOM killer comes"
        yield _finding(guest, "swap", Level.HINT, text, "a small swap in the guest; zram will do")


def _sockets(guest: GuestSight) -> Iterable[Finding]:
    for what, socket in (("qmp", guest.monitor), ("channel", guest.channel)):
        if socket is None or not socket.path:
            continue
        path = shown(socket.path)
        if socket.error:
            # A guest that does not run has none yet. A domain's channel libvirt opens where we cannot: with a tab in
            # the domain's name it writes another path into the XML than the one that it has made (m).
            if guest.runs and not guest.by_libvirt:
                mend = f"see that it is the path that QEMU was given, or mend `{what}`"
                yield _finding(guest, what, Level.PROBLEM, f"{path}: {socket.error}", mend)
        elif socket.heard is False and not (guest.runs and what == "qmp"):
            text = f"{path}: a stale socket file, nobody listens there"
            mend = "the guest's next start replaces it" if guest.runs is False else f"is `{what}` its path?"
            yield _finding(guest, what, Level.HINT, text, mend)
        elif socket.denied:
            text = f"{path}: belongs to user {socket.owner_uid}, and the caller may not connect"
            mend = "run `ballonet check` as root"
            yield _finding(guest, what, Level.HINT, text, mend, unjudged=True)
        elif None not in (socket.owner_uid, guest.qemu_uid) and socket.owner_uid != guest.qemu_uid:
            text = f"{path}: belongs to user {socket.owner_uid}, and the guest's QEMU runs as user {guest.qemu_uid}"
            mend = "see who made it; the coordinator believes what comes from there"
            yield _finding(guest, what, Level.HINT, text, mend)


def _shared_sockets(guests: Sequence[GuestSight]) -> Iterable[Finding]:
    """Of guests with sections the settings refuse it before; domains bring their paths by themselves."""
    used: dict[str, GuestSight] = {}
    for guest in guests:
        path = guest.channel.path if guest.channel is not None else ""
        first = used.setdefault(path, guest) if path else guest
        if first is not guest:
            text = f"{shown(path)} is the channel of {shown(first.name)}, too: one of them is heard as the other"
            yield _finding(guest, "channel", Level.PROBLEM, text, "give each guest a socket of its own")
