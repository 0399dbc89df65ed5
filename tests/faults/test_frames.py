"""Frames and payloads: what the library's own tests show for one layer, shown through the whole way in."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
from msgpack import packb

from ballonet_protocol import Connection, Deflate, ErrorMessage, Message, Ping, RemoteProtocolError
from ballonet_protocol._framing import MAX_ENCODED_BYTES, encode_frame
from ballonet_protocol.testing import SESSION, ConnectionPair, load_vectors

GOLDEN = {vector["id"]: bytes.fromhex(vector["wire"]) for vector in load_vectors("frames")["frames"]}


def received(connection: Connection, data: bytes) -> list[Message]:
    """What arrives of `data`; what is refused is left out."""
    connection.receive_data(data)
    messages = []
    while True:
        try:
            message = connection.next_message()
        except RemoteProtocolError:
            continue
        if message is None:
            return messages
        messages.append(message)


def standing() -> tuple[ConnectionPair, bytes]:
    """A session, and the next good frame of its coordinator, numbered high enough to come after any other."""
    pair = ConnectionPair()
    pair.open()
    return pair, encode_frame(Ping.TYPE_CODE, 1, 2**31, SESSION, packb({"t": 77}))


@pytest.mark.fault(3)
@pytest.mark.parametrize("name", GOLDEN)
def test_the_next_frame_arrives_behind_any_cut(name: str) -> None:
    """Every frame, either end of it lost at every byte: the session's next frame arrives in the same call, alone."""
    wire = GOLDEN[name]
    for place in range(len(wire) + 1):
        for part in (wire[:place], wire[place:]):
            if wire[1:-1] in part:
                continue  # nothing is lost but a zero
            pair, following = standing()
            for connection in (pair.agent, pair.coordinator):
                assert received(connection, part + following) == [Ping(token=77)]
                assert connection.drops.crc == bool(part.strip(b"\0"))


@pytest.mark.fault(5)
@pytest.mark.parametrize("chunk", [1, 4096, 65_536])
def test_endless_frame_in_a_standing_session(chunk: int) -> None:
    """4097 bytes, and a megabyte, that never end: bounded memory, one count, and the session's next frame arrives."""
    for length in (4097, 1_000_000 if chunk > 1 else 20_000):
        pair, following = standing()
        pieces = [b"\x07" * chunk] * (length // chunk) + [b"\x07" * (length % chunk)]
        tracemalloc.start()
        try:
            for piece in pieces:
                assert received(pair.agent, piece) == []
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * max(chunk, MAX_ENCODED_BYTES)
        assert received(pair.agent, following) == [Ping(token=77)]
        assert pair.agent.drops.over == 1


@pytest.mark.fault(6)
def test_a_command_inside_a_text_is_no_command() -> None:
    """A whole DEFLATE inside an ERROR's text or under an unknown key is never taken for one, wherever it is cut."""
    fake = encode_frame(Deflate.TYPE_CODE, 1, 9, SESSION, packb({"gen": 1, "target": 1, "ttl_ms": 30_000}))
    as_text = b"\xd9" + bytes([len(fake)]) + fake
    for kind, payload in (
        (ErrorMessage, b"\x83\xa4code\x02\xa5fatal\xc2\xa3msg" + as_text),
        (Ping, packb({"t": 1, "later": fake})),
        (Ping, packb({"t": 1}) + fake),
    ):
        outer = encode_frame(kind.TYPE_CODE, kind.FLAGS, 5, SESSION, payload)
        for place in range(len(outer)):
            for parts in ((outer[:place],), (outer[place:],), (outer[:place], outer[place:])):
                pair, following = standing()
                messages = [message for part in parts for message in received(pair.agent, part)]
                messages += received(pair.agent, following)
                assert not any(isinstance(message, Deflate) for message in messages)
                assert messages[-1] == Ping(token=77)


UNIQUE_KEYS = """
import gc, os
from msgpack import packb
from ballonet_protocol import Ping
from ballonet_protocol._framing import encode_frame
from ballonet_protocol.testing import SESSION, ConnectionPair

pair = ConnectionPair()
pair.open()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def feed(first, count, seq):
    for base in range(first, first + count, 60):
        keys = b"".join(b"\\xa7k%06x\\x01" % (base + offset) for offset in range(60))
        wire = encode_frame(Ping.TYPE_CODE, 1, seq, SESSION, b"\\xde\\x00\\x3d\\xa1t\\x05" + keys)
        pair.agent.receive_data(wire)
        assert pair.agent.next_message() == Ping(token=5)
        seq += 1
    return seq

seq = feed(0, 60_000, 10)
gc.collect()
before = resident()
feed(60_000, 400_020, seq)
gc.collect()
print(resident() - before)
"""


@pytest.mark.fault(15)
def test_unique_keys_leave_the_process_as_large_as_it_was() -> None:
    """400,000 keys never seen before, in frames of a session: the process's resident memory stays flat."""
    done = subprocess.run([sys.executable, "-c", UNIQUE_KEYS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 512 * 1024
