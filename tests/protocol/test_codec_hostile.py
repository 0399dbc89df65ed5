"""Payloads made to hurt: declared lengths, tables that fill, keys that are none."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import pytest

from ballonet_protocol import ErrorCode, Ping, RemoteProtocolError
from ballonet_protocol._codec import decode_message


def test_a_long_printable_bin_is_refused() -> None:
    """Under a key that we do not know, a bin of 129 bytes is too long, printable or not; so is a text."""
    for head in (b"\xc4\x81", b"\xd9\x81"):
        with pytest.raises(RemoteProtocolError) as raised:
            decode_message(Ping, 1, b"\x82\xa1t\x05\xa1u" + head + b"x" * 129)
        assert raised.value.code is ErrorCode.BAD_MESSAGE


@pytest.mark.fault(15)
def test_unique_keys_leave_nothing_behind() -> None:
    """400,000 keys that were never seen before fill no table: what decoding took is given back."""

    def decode(start: int) -> None:
        for base in range(start, start + 200_000, 50):
            keys = b"".join(b"\xa7k%06x\x01" % (base + offset) for offset in range(50))
            assert decode_message(Ping, 1, b"\xde\x00\x33\xa1t\x05" + keys) == Ping(token=5)

    decode(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        decode(200_000)
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_a_key_that_cannot_be_looked_up() -> None:
    """msgpack without its C extension lets a map be a key: BAD_MESSAGE as any other key that is no text."""
    code = (
        "from ballonet_protocol import Ping, RemoteProtocolError\n"
        "import msgpack, ballonet_protocol._codec as codec\n"
        "assert 'fallback' in msgpack.unpackb.__module__, msgpack.unpackb.__module__\n"
        "for payload in (b'\\x81\\x81\\xa1a\\x01\\x05', b'\\x82\\xa1t\\x05\\x80\\x01'):\n"
        "    try:\n"
        "        codec.decode_message(Ping, 1, payload)\n"
        "    except RemoteProtocolError as error:\n"
        "        assert error.code == 2, error\n"
        "    else:\n"
        "        raise AssertionError(payload)\n"
        "assert codec.decode_message(Ping, 1, b'\\x81\\xa1t\\x05') == Ping(token=5)\n"
    )
    environment = {**os.environ, "MSGPACK_PUREPYTHON": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
