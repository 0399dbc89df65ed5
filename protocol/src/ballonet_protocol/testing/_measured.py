"""What a real virtio port showed, as one table of situations.

The table is run against FakeVport in the unit tests and against a port of a real guest in the tests with QEMU; whoever
writes an agent for another kernel can put it to that kernel's port. Measured on Linux 6.1.192 in the guest, QEMU 7.2,
Linux 6.18 on the host with net.core.wmem_default 212992 (which decides the capacities, see _socketbuffer.py).

A situation is a name and steps; a step is (who, verb, argument, observation). Each begins with the port plugged in and
closed, the VM running and no host. Their order matters to a real port: a slot that its ring has lost is lost until the
device is reset, which a suspension does, so nothing behind a loss and before a suspension measures a capacity.

    guest  open             "open" or an errno's name; again while it is open: a second process
           poll, edge       flags now, or as the next edge-triggered wait shows them (0: no edge)
           read N           bytes or an errno's name
           reads N          sizes of reads of 64 KiB until N bytes and no more came; then 0 or an errno's name
           write N          bytes taken, or an errno's name
           fill N           bytes taken in writes of N until no more go in
           close
    host   connect, leave; `other` is a second client
           send BYTES       bytes taken
           fill N           bytes taken in sends of N until no more go in
           recv N           bytes that came, N being expected
    vm     pause, resume, suspend, wake, unplug, plug
"""

from __future__ import annotations

from ._vport import POLLHUP, POLLIN, POLLOUT, RING_SLOTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._observe import Step

ALONE, SILENT, DATA = POLLIN | POLLHUP, POLLOUT, POLLIN | POLLOUT

_OPEN: Step = ("guest", "open", None, "open")
_CONNECT: Step = ("host", "connect", None, None)
_LEAVE: Step = ("host", "leave", None, None)
_SERVED: tuple[Step, ...] = (_OPEN, _CONNECT, ("guest", "poll", None, SILENT))


def _capacity(size: int, total: int) -> tuple[Step, ...]:
    """A host that does not read: 128 slots and what the socket holds; it reads, and there is room again."""
    return (
        *_SERVED,
        ("guest", "fill", size, total),
        ("guest", "poll", None, 0),
        ("guest", "write", 1, "EAGAIN"),
        ("host", "recv", total, total),
        ("guest", "poll", None, SILENT),
    )


MEASURED: tuple[tuple[str, tuple[Step, ...]], ...] = (
    (
        "no host: end of file at once, a hang-up that stays, one edge, no room, one opener",
        (
            _OPEN,
            ("guest", "edge", None, ALONE),
            ("guest", "edge", None, 0),
            ("guest", "poll", None, ALONE),
            ("guest", "read", 100, b""),
            ("guest", "write", 10, "EAGAIN"),
            ("guest", "open", None, "EBUSY"),
        ),
    ),
    (
        "a host comes, is silent, leaves: an edge each",
        (
            _OPEN,
            ("guest", "edge", None, ALONE),
            _CONNECT,
            ("guest", "edge", None, SILENT),
            ("guest", "edge", None, 0),
            ("guest", "read", 100, "EAGAIN"),
            _LEAVE,
            ("guest", "edge", None, ALONE),
            ("guest", "read", 100, b""),
        ),
    ),
    (
        "data: an edge, and a read that takes a part leaves the rest without another",
        (
            *_SERVED,
            ("guest", "edge", None, SILENT),
            ("host", "send", b"abcdef", 6),
            ("guest", "edge", None, DATA),
            ("guest", "read", 3, b"abc"),
            ("guest", "edge", None, 0),
            ("guest", "poll", None, DATA),
            ("guest", "read", 100, b"def"),
            ("guest", "poll", None, SILENT),
            ("guest", "read", 1, "EAGAIN"),
        ),
    ),
    (
        "10000 bytes at once: one host buffer per read",
        (
            *_SERVED,
            ("host", "send", bytes(10_000), 10_000),
            ("guest", "reads", 10_000, [4096, 4096, 1808, "EAGAIN"]),
        ),
    ),
    (
        "a large write is cut at 32 KiB, an empty one takes nothing",
        (
            *_SERVED,
            ("guest", "write", 100_000, 32_768),
            ("host", "recv", 32_768, 32_768),
            ("guest", "write", 0, 0),
        ),
    ),
    (
        "a write that the host's socket has taken is an edge",
        (
            *_SERVED,
            ("guest", "edge", None, SILENT),
            ("guest", "write", 100, 100),
            ("guest", "edge", None, SILENT),
            ("host", "recv", 100, 100),
        ),
    ),
    ("capacity in writes of 4096 bytes", _capacity(4096, 704_512)),
    ("capacity in writes of 512 bytes", _capacity(512, 151_040)),
    ("capacity in writes of 32 KiB", _capacity(32_768, 4_423_680)),
    (
        "capacity towards the guest is the same, and not one byte is lost",
        (*_SERVED, ("host", "fill", 4096, 704_512), ("guest", "reads", 704_512, [4096] * 172 + ["EAGAIN"])),
    ),
    (
        "bytes of a host that left come before the end of file",
        (
            *_SERVED,
            ("host", "send", b"last", 4),
            ("guest", "poll", None, DATA),
            _LEAVE,
            ("guest", "poll", None, ALONE),
            ("guest", "reads", 4, [4, 0]),
        ),
    ),
    (
        "bytes of two hosts follow each other without an end of file",
        (
            *_SERVED,
            ("host", "send", b"one", 3),
            ("guest", "poll", None, DATA),
            _LEAVE,
            _CONNECT,
            ("host", "send", b"two", 3),
            ("guest", "reads", 6, [3, 3, "EAGAIN"]),
        ),
    ),
    (
        "a second client waits unseen; its bytes come when the first has left",
        (
            *_SERVED,
            ("other", "connect", None, None),
            ("other", "send", b"second", 6),
            ("host", "send", b"first", 5),
            ("guest", "read", 100, b"first"),
            ("guest", "read", 100, "EAGAIN"),
            _LEAVE,
            ("guest", "read", 100, b"second"),
        ),
    ),
    (
        "bytes of a client that came and went unseen are delivered after the first has left",
        (
            *_SERVED,
            ("other", "connect", None, None),
            ("other", "send", b"ghost", 5),
            ("other", "leave", None, None),
            _LEAVE,
            ("guest", "reads", 5, [5, 0]),
        ),
    ),
    (
        "closing throws the driver's input away; what the socket holds goes to the next opener",
        (
            *_SERVED,
            ("host", "send", b"before", 6),
            ("guest", "poll", None, DATA),
            ("guest", "close", None, None),
            ("host", "send", b"stale", 5),
            _OPEN,
            ("guest", "read", 100, b"stale"),
            ("guest", "read", 100, "EAGAIN"),
        ),
    ),
    (
        "what a host sent to a closed port is lost when it leaves",
        (
            _CONNECT,
            ("host", "send", b"lost", 4),
            _LEAVE,
            _OPEN,
            ("guest", "poll", None, ALONE),
            ("guest", "read", 100, b""),
        ),
    ),
    (
        "closing does not empty the ring towards the host",
        (
            *_SERVED,
            ("guest", "fill", 4096, 704_512),
            ("guest", "close", None, None),
            _OPEN,
            ("guest", "write", 1, "EAGAIN"),
            ("host", "recv", 704_512, 704_512),
            ("guest", "write", 1, 1),
            ("host", "recv", 1, 1),
        ),
    ),
    (
        "paused: what arrives meanwhile is merged",
        (
            *_SERVED,
            ("vm", "pause", None, None),
            ("host", "send", bytes(3000), 3000),
            ("host", "send", bytes(3000), 3000),
            ("vm", "resume", None, None),
            ("guest", "reads", 6000, [4096, 1904, "EAGAIN"]),
        ),
    ),
    (
        "paused, and another host afterwards: only new bytes tell",
        (
            *_SERVED,
            ("vm", "pause", None, None),
            ("host", "send", b"old", 3),
            _LEAVE,
            _CONNECT,
            ("host", "send", b"new", 3),
            ("vm", "resume", None, None),
            ("guest", "read", 100, b"new"),
            ("guest", "write", 7, 7),
            ("host", "recv", 7, 7),
        ),
    ),
    (
        "a host that leaves unread data behind: the next gets nothing of it, and the ring has lost a slot for good",
        (
            *_SERVED,
            ("guest", "fill", 4096, 704_512),
            _LEAVE,
            ("guest", "poll", None, ALONE),
            _CONNECT,
            ("guest", "write", 5, 5),
            ("host", "recv", 5, 5),
            ("guest", "fill", 4096, 700_416),
            ("host", "recv", 700_416, 700_416),
        ),
    ),
    (
        "suspended, and the host gone meanwhile: no edge tells",
        (
            *_SERVED,
            ("guest", "edge", None, SILENT),
            ("vm", "suspend", None, None),
            _LEAVE,
            ("vm", "wake", None, None),
            ("guest", "edge", None, 0),
            ("guest", "poll", None, ALONE),
            ("guest", "read", 100, b""),
        ),
    ),
    (
        "suspended with a full ring: no write ever succeeds again, until the port is plugged in anew",
        (
            *_SERVED,
            ("guest", "fill", 4096, 704_512),
            ("vm", "suspend", None, None),
            ("vm", "wake", None, None),
            ("host", "recv", 180_224, 180_224),
            ("guest", "write", 1, "EAGAIN"),
            ("guest", "close", None, None),
            _OPEN,
            ("guest", "write", 1, "EAGAIN"),
            _LEAVE,
            _CONNECT,
            ("guest", "write", 1, "EAGAIN"),
            ("vm", "unplug", None, None),
            ("guest", "close", None, None),
            ("vm", "plug", None, None),
            _OPEN,
            ("guest", "write", 1, 1),
            ("host", "recv", 1, 1),
        ),
    ),
    (
        "unplugged: the descriptor is dead and the name gone; the host stays and is there when it is plugged in again",
        (
            *_SERVED,
            ("guest", "edge", None, SILENT),
            ("vm", "unplug", None, None),
            ("guest", "edge", None, POLLHUP),
            ("guest", "poll", None, POLLHUP),
            ("guest", "read", 1, "ENODEV"),
            ("guest", "write", 1, "ENODEV"),
            ("guest", "open", None, "ENOENT"),
            ("guest", "close", None, None),
            ("vm", "plug", None, None),
            _OPEN,
            ("guest", "poll", None, SILENT),
            ("host", "send", b"after", 5),
            ("guest", "read", 100, b"after"),
        ),
    ),
    (
        "paused, and the host gone: writes succeed for a ring, and the next host hears nothing until it leaves",
        (
            *_SERVED,
            ("vm", "pause", None, None),
            _LEAVE,
            ("vm", "resume", None, None),
            ("guest", "poll", None, SILENT),
            ("guest", "read", 100, "EAGAIN"),
            ("guest", "fill", 512, RING_SLOTS * 512),
            _CONNECT,
            ("host", "send", b"hello", 5),
            ("guest", "read", 100, b"hello"),
            ("host", "recv", 0, 0),
            _LEAVE,
            ("guest", "poll", None, ALONE),
            _CONNECT,
            ("guest", "write", 4, 4),
            ("host", "recv", 4, 4),
        ),
    ),
)
