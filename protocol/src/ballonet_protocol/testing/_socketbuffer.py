"""How much one direction of a Unix stream socket holds, by the accounting of Linux.

The kernel takes a piece while what it holds is *charged* below the limit, and charges for each piece the memory behind
it, not its bytes: 16 bytes cost 768, 4096 cost 4864. It says "writable again" only below a quarter of the limit. That
is why the measured capacities of a port are uneven, and why a host that reads one frame at a time does not let the
next one through at once. (net/unix/af_unix.c, net/core/skbuff.c; the figures of _measured.py are reached exactly.)
"""

from __future__ import annotations

from collections import deque

#: net.core.wmem_default.
LIMIT_BYTES = 212_992
_PAGE_BYTES = 4096
#: sizeof(struct sk_buff) and sizeof(struct skb_shared_info), aligned to cache lines.
_HEAD_BYTES, _SHARED_BYTES = 256, 320
#: What is kept beside the head in one page; more goes into pages of its own.
_LINEAR_BYTES = _PAGE_BYTES - _SHARED_BYTES
#: Pages of one piece: 32 KiB.
_PAGED_BYTES = 8 * _PAGE_BYTES


class SocketBuffer:
    """Bytes under way in one direction. `limit_bytes` is the sender's SO_SNDBUF."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._charged_bytes = 0
        self._pieces: deque[tuple[bytes, int]] = deque()

    def __len__(self) -> int:
        return sum(len(data) for data, _ in self._pieces)

    @property
    def writable(self) -> bool:
        """What poll says to the sender."""
        return self._charged_bytes * 4 <= self._limit_bytes

    def put(self, data: bytes) -> int:
        """How many of these bytes were taken; 0 where there is no room."""
        taken = 0
        while taken < len(data) and self._charged_bytes < self._limit_bytes:
            piece = data[taken : taken + _LINEAR_BYTES + _PAGED_BYTES]
            cost_bytes = charge_bytes(len(piece))
            self._pieces.append((piece, cost_bytes))
            self._charged_bytes += cost_bytes
            taken += len(piece)
        return taken

    def take(self, most: int) -> bytes:
        """The next bytes, across the borders of pieces. A piece is paid back when its last byte has gone."""
        taken = b""
        while self._pieces and len(taken) < most:
            data, cost_bytes = self._pieces.popleft()
            room = most - len(taken)
            taken += data[:room]
            if len(data) > room:
                self._pieces.appendleft((data[room:], cost_bytes))
            else:
                self._charged_bytes -= cost_bytes
        return taken


def charge_bytes(size: int) -> int:
    """What the kernel charges for one piece of `size` bytes (its truesize)."""
    paged = min(size, _in_pages(max(0, size - _LINEAR_BYTES)))
    slab = 512
    while slab < size - paged + _SHARED_BYTES:
        slab *= 2
    return _HEAD_BYTES + slab + _in_pages(paged)


def _in_pages(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES
