"""The fake virtio port: everything that was measured, and what a table cannot say."""

from __future__ import annotations

import errno
import itertools
import select
from collections.abc import Iterator

import pytest

from ballonet_protocol.testing import MEASURED, POLLHUP, POLLIN, POLLOUT, FakeHost, FakeVport, observe


@pytest.fixture
def vport() -> Iterator[FakeVport]:
    vport = FakeVport()
    yield vport
    vport.release()


@pytest.mark.parametrize(("situation", "steps"), MEASURED, ids=[situation for situation, _ in MEASURED])
def test_shows_what_a_real_port_showed(vport: FakeVport, situation: str, steps) -> None:
    """Step by step the fake shows what was measured on a real port in that situation."""
    seen = observe(vport, steps)
    assert len(seen) == len(steps)
    for step, observed in zip(steps, seen):
        assert observed == step[3], f"{situation}: {step}"


# Measured in the same way, too many to keep for the real port: a size of writes, and how much of them goes in.
@pytest.mark.parametrize(
    ("size", "total"), [(16, 6496), (1024, 226_304), (2048, 362_496), (3000, 531_000), (8192, 1_245_184)]
)
def test_capacity(vport: FakeVport, size: int, total: int) -> None:
    """The ring counts writes and the socket counts the kernel's pages: every size has a capacity of its own."""
    assert fill(vport, vport.open(), vport.connect(), size) == total


def fill(vport: FakeVport, fd: int, _host: FakeHost, size: int) -> int:
    total = 0
    try:
        while True:
            total += vport.write(fd, bytes(size))
    except BlockingIOError:
        return total


def test_capacity_follows_the_hosts_socket() -> None:
    """With another SO_SNDBUF the socket takes more or less and the ring what it always takes."""
    for socket_bytes, pieces in ((4096, 1), (425_984, 88)):
        vport = FakeVport(socket_bytes)
        assert fill(vport, vport.open(), vport.connect(), 4096) == (128 + pieces) * 4096
        vport.release()


def test_bytes_arrive_in_order_and_whole_however_they_are_cut(vport: FakeVport) -> None:
    """What one end writes is what the other reads, in both directions, through full rings and short calls."""
    fd, host = vport.open(), vport.connect()
    sent = bytes(itertools.islice(itertools.cycle(range(251)), 1_500_000))
    for put, take in (
        (host.send, lambda: vport.read(fd, 1000)),
        (lambda data: vport.write(fd, data), lambda: host.recv(7777)),
    ):
        offset, received = 0, b""
        while len(received) < len(sent):
            try:
                offset += put(sent[offset : offset + 50_000]) if offset < len(sent) else 0
            except BlockingIOError:
                received += take()
            if offset == len(sent):
                received += take()
        assert received == sent


def test_a_small_read_by_the_host_makes_no_room(vport: FakeVport) -> None:
    """A throttled port goes on when three quarters of the host's socket are free, not before."""
    fd, host = vport.open(), vport.connect()
    fill(vport, fd, host, 4096)
    host.recv(30 * 4096)
    assert vport.poll(fd) == 0
    host.recv(14 * 4096)
    assert vport.poll(fd) == POLLOUT


def test_quick_reconnects_look_like_none(vport: FakeVport) -> None:
    """Twenty hosts that come and go between two looks are one edge, and their bytes are one stream."""
    fd = vport.open()
    for number in range(20):
        host = vport.connect()
        host.send(b"%d," % number)
        if number < 19:
            host.close()
    assert vport.edge(fd) == POLLIN | POLLOUT
    assert vport.edge(fd) == 0
    assert b"".join(vport.read(fd, 4096) for _ in range(20)) == b"".join(b"%d," % number for number in range(20))
    with pytest.raises(BlockingIOError):
        vport.read(fd, 4096)


def test_planned_faults(vport: FakeVport) -> None:
    """Writes fail as planned, in that order and for once, and only where the port would have taken them."""
    fd = vport.open()
    vport.fail_writes(errno.ENOMEM, 0, errno.EINTR)
    with pytest.raises(BlockingIOError):
        vport.write(fd, b"x")
    host = vport.connect()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        vport.write(fd, b"x")
    assert vport.write(fd, b"x") == 0
    with pytest.raises(InterruptedError):
        vport.write(fd, b"x")
    assert vport.write(fd, b"y") == 1
    assert host.recv() == b"y"


def test_ring_worn_out_by_hosts_that_leave(vport: FakeVport) -> None:
    """After 128 hosts that left a stuck port no slot is left: no room, and 0 bytes taken when plugged in anew."""
    fd = vport.open()
    for _ in range(128):
        host = vport.connect()
        fill(vport, fd, host, 32_768)
        host.close()
    vport.connect()
    assert vport.poll(fd) == 0
    vport.unplug()
    vport.plug()
    fd = vport.open()
    assert vport.poll(fd) == POLLOUT
    assert vport.write(fd, b"x") == 0
    vport.reset()
    assert vport.write(vport.open(), b"x") == 1


def test_lost_slots_come_back_with_the_device(vport: FakeVport) -> None:
    """A throttled port that is unplugged loses a slot too, which plugging in does not bring back; a suspension does."""
    fd, host = vport.open(), vport.connect()
    fill(vport, fd, host, 4096)
    vport.unplug()
    vport.plug()
    host.recv_all()
    fd = vport.open()
    assert fill(vport, fd, host, 4096) == 171 * 4096
    host.recv_all()
    vport.suspend()
    vport.wake()
    assert fill(vport, fd, host, 4096) == 172 * 4096


def test_no_edge_for_the_host_after_a_black_hole(vport: FakeVport) -> None:
    """QEMU believes in the host that left the paused VM, so the next one is not announced to the guest."""
    fd, host = vport.open(), vport.connect()
    assert vport.edge(fd) == POLLOUT
    vport.pause()
    host.close()
    vport.resume()
    vport.connect()
    assert vport.edge(fd) == 0


def test_next_client_starts_in_the_middle_of_a_frame(vport: FakeVport) -> None:
    """A frame written in two parts, and another host between them: the next host begins with the second part."""
    fd = vport.open()
    vport.connect().close()
    host = vport.connect()
    assert vport.write(fd, b"first half,") == 11
    host.close()
    following = vport.connect()
    assert vport.write(fd, b"second half") == 11
    assert following.recv_all() == b"second half"


def test_guest_reset(vport: FakeVport) -> None:
    """The host stays connected and notices nothing; what it sends meanwhile is the new agent's first input."""
    old = vport.open()
    host = vport.connect()
    host.send(b"for the old one")
    vport.write(old, b"last words")
    vport.reset()
    with pytest.raises(OSError, match="Bad file descriptor"):
        vport.read(old, 1)
    assert host.send(b"stale") == 5
    new = vport.open()
    assert vport.poll(new) == POLLIN | POLLOUT
    assert vport.read(new, 4096) == b"stale"
    assert host.recv_all() == b"last words"


def test_suspended(vport: FakeVport) -> None:
    """Unread input is dropped at the suspension, what a host sends meanwhile comes after it, with an edge."""
    fd, host = vport.open(), vport.connect()
    host.send(b"before")
    assert vport.edge(fd) != 0
    vport.suspend()
    host.send(b"during")
    assert (vport.edge(fd), vport.poll(fd)) == (0, POLLIN | POLLHUP)
    vport.wake()
    assert vport.edge(fd) == POLLIN | POLLOUT
    assert vport.read(fd, 4096) == b"during"


def test_unplugged_for_a_while(vport: FakeVport) -> None:
    """Hosts may come and go while the port is unplugged: it comes back as the socket then is."""
    vport.connect().close()
    vport.connect()
    old = vport.open()
    vport.unplug()
    assert vport.poll(old) == POLLHUP
    with pytest.raises(FileNotFoundError):
        vport.open()
    vport.plug()
    new = vport.open()
    assert (vport.poll(new), vport.poll(old)) == (POLLOUT, POLLHUP)
    with pytest.raises(OSError, match="No such device"):
        vport.write(old, b"x")
    vport.close(old)
    assert vport.write(new, b"x") == 1


def test_descriptor_wakes_a_real_epoll(vport: FakeVport) -> None:
    """An edge-triggered epoll on the descriptor returns once for the registration and once after each edge."""
    fd = vport.open()
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

        def woken() -> bool:
            return epoll.poll(0) != []

        assert [woken(), woken()] == [True, False]
        host = vport.connect()
        assert [woken(), woken()] == [True, False]
        for _ in range(2):
            host.send(b"ab")
            assert [woken(), woken()] == [True, False]
        vport.read(fd, 4096)
        assert not woken()
        vport.write(fd, b"x")
        assert [woken(), woken()] == [True, False]
        vport.suspend()
        host.close()
        vport.wake()
        assert not woken()
        vport.unplug()
        assert [woken(), woken()] == [True, False]


def test_edges_that_nobody_waits_for_cost_nothing(vport: FakeVport) -> None:
    """More edges than a pipe holds bytes do not block, and are one for who comes late."""
    fd, host = vport.open(), vport.connect()
    for _ in range(66_000):
        host.send(b"x")
        vport.read(fd, 1)
    assert (vport.edge(fd), vport.edge(fd)) == (POLLOUT, 0)


def test_a_closed_end_is_closed(vport: FakeVport) -> None:
    """Either end refuses everything after its close, and the descriptors are given back."""
    fd, host = vport.open(), vport.connect()
    vport.close(fd)
    host.close()
    for call in (
        lambda: vport.read(fd, 1),
        lambda: vport.write(fd, b"x"),
        lambda: vport.poll(fd),
        lambda: vport.close(fd),
        lambda: host.send(b"x"),
        host.recv,
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
