"""Frames written by hand for the vectors: struct, zlib and msgpack's format bytes, and nothing of our library.

A vector made by the encoder that it is to judge would repeat that encoder's faults. So this file knows the wire from
the specification alone, and the tests hold it against the golden frames.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

SESSION = 0x1122334455667788
OTHER_SESSION = 0x0102030405060708
NONCE = bytes(range(16))
BOOT = bytes(range(64, 80))
GIB = 1 << 30
MIB = 1 << 20
REQ, RSP = 1, 2

# name -> type code, flags, who takes it, in which state
TYPES = {
    "HELLO_REQ": (0x01, 0, "coordinator", "IDLE"),
    "HELLO": (0x02, REQ, "agent", "IDLE"),
    "HELLO_ACK": (0x03, RSP, "coordinator", "HELLO_SENT"),
    "PING": (0x04, REQ, "agent", "ACTIVE"),
    "PONG": (0x05, RSP, "agent", "ACTIVE"),
    "BYE": (0x06, 0, "agent", "ACTIVE"),
    "ERROR": (0x07, RSP, "agent", "ACTIVE"),
    "REPORT": (0x10, 0, "coordinator", "ACTIVE"),
    "DEMAND": (0x11, 0, "coordinator", "ACTIVE"),
    "INFLATE": (0x20, REQ, "agent", "ACTIVE"),
    "DEFLATE": (0x21, REQ, "agent", "ACTIVE"),
    "BALLOON_ACK": (0x22, RSP, "coordinator", "ACTIVE"),
    "BALLOON_STATUS": (0x23, 0, "coordinator", "ACTIVE"),
    "SET_POLICY": (0x24, REQ, "agent", "ACTIVE"),
    "POLICY_ACK": (0x25, RSP, "coordinator", "ACTIVE"),
    "EVENT": (0x30, 0, "coordinator", "ACTIVE"),
}
MEMORY = {"total": 4120412160, "free": 1, "avail": 2, "committed": 3}
# The mandatory fields of each message, with values that hold.
LEAST: dict[str, dict[str, Any]] = {
    "HELLO_REQ": {"why": 0, "impl": "agent"},
    "HELLO": {"maj": [1, 1], "min": 0, "nonce": NONCE, "caps": ["psi", "refault"]},
    "HELLO_ACK": {
        "re": 1, "nonce": NONCE, "maj": 1, "min": 0, "caps": ["psi"], "impl": "agent", "implv": "1", "boot": BOOT,
        "bt": 5, "page": 4096, "total": 4120412160, "floor": GIB, "lim": {}, "gen": 0, "st": 1,
    },
    "PING": {"t": 0},
    "PONG": {"re": 1, "t": 0},
    "BYE": {"why": 0},
    "ERROR": {"code": 2, "fatal": False},
    "REPORT": {"bt": 5, "mem": MEMORY},
    "DEMAND": {"bt": 5, "want": 2 * GIB, "why": 1, "sev": 2},
    "INFLATE": {"gen": 1, "target": GIB, "ttl_ms": 30000},
    "DEFLATE": {"gen": 1, "target": 4 * GIB, "ttl_ms": 30000},
    "BALLOON_ACK": {"re": 1, "gen": 1, "st": 0, "why": 0},
    "BALLOON_STATUS": {"gen": 1, "st": 1, "cur": GIB, "bt": 5},
    "SET_POLICY": {"gen": 1},
    "POLICY_ACK": {"re": 1, "gen": 1, "st": 0},
    "EVENT": {"ev": "resume", "bt": 5},
}  # fmt: skip


def cobs(data: bytes) -> bytes:
    """Consistent Overhead Byte Stuffing, byte for byte as its paper tells it."""
    out, run = bytearray(), bytearray()
    for position, byte in enumerate(data):
        if byte:
            run.append(byte)
        if not byte or len(run) == 254:
            out += bytes([len(run) + 1]) + run
            run.clear()
            if byte and position == len(data) - 1:
                return bytes(out)
    return bytes(out + bytes([len(run) + 1]) + run)


def uncobs(encoded: bytes) -> bytes:
    """The opposite. Raises ValueError for what is no COBS."""
    out, position = bytearray(), 0
    while position < len(encoded):
        length = encoded[position]
        run = encoded[position + 1 : position + length]
        if not length or len(run) != length - 1 or 0 in run:
            raise ValueError("no COBS")
        out += run
        position += length
        if length < 255 and position < len(encoded):
            out.append(0)
    return bytes(out)


def pack(value: Any) -> bytes:
    """msgpack of the wire's kinds of value, in the shortest form. dict and list in the order in which they are."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        for least, format_byte, layout in ((1 << 32, 0xCF, ">Q"), (1 << 16, 0xCE, ">I"), (256, 0xCD, ">H")):
            if value >= least:
                return bytes([format_byte]) + struct.pack(layout, value)
        return bytes([value]) if value < 128 else bytes([0xCC, value])
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else bytes([0xD9, len(text)])) + text
    if isinstance(value, bytes):
        return bytes([0xC4, len(value)]) + value
    items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    short, long = (0x80, 0xDE) if isinstance(value, dict) else (0x90, 0xDC)
    head = bytes([short | len(value)]) if len(value) < 16 else bytes([long]) + struct.pack(">H", len(value))
    return head + b"".join(pack(item) for item in items)


def body(
    code: int, payload: bytes, flags: int = 0, seq: int = 2, session: int = SESSION, version: int = 1, crc_xor: int = 0
) -> bytes:
    """header(16) payload crc(4)."""
    checked = struct.pack(">BBHIQ", version, code, flags, seq, session) + payload
    return checked + struct.pack(">I", zlib.crc32(checked) ^ crc_xor)


def wire(whole_body: bytes) -> bytes:
    return b"\0" + cobs(whole_body) + b"\0"


def frame(name: str, payload: Any = None, **header: int) -> bytes:
    """A frame of a type of the table; `payload` is a dict, or raw bytes; without one the mandatory fields alone."""
    code, flags, _, _ = TYPES[name]
    data = payload if isinstance(payload, bytes) else pack(LEAST[name] if payload is None else payload)
    values = {"flags": flags, "session": 0 if name == "HELLO_REQ" else SESSION, **header}
    if name in ("HELLO", "HELLO_ACK", "HELLO_REQ"):
        values.setdefault("seq", 1)
    return wire(body(code, data, **values))


def plain(value: Any) -> Any:
    """A payload as the vectors write it: bytes as {"bin": hex}."""
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def unplain(value: Any) -> Any:
    """The opposite of `plain`."""
    if isinstance(value, dict):
        if value.keys() == {"bin"}:
            return bytes.fromhex(value["bin"])
        return {key: unplain(item) for key, item in value.items()}
    return [unplain(item) for item in value] if isinstance(value, list) else value


def entries(vectors: list[dict[str, Any]]) -> str:
    """A list of vectors as JSON: a key per line, and a line per step."""
    blocks = []
    for vector in vectors:
        lines = []
        for key, value in vector.items():
            text = json.dumps(value)
            if key == "steps":
                text = "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in value) + "\n   ]"
            lines.append(f"   {json.dumps(key)}: {text}")
        blocks.append("  {\n" + ",\n".join(lines) + "\n  }")
    return "[\n" + ",\n".join(blocks) + "\n ]"
