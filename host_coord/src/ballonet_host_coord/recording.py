"""The format of a recording: turns in, bytes out, and back from bytes of which some may be lost. Pure.

A file is a header line and frames, appended. A frame is

    magic (4)   turn (u32)   length (u32)   CRC-32 (u32)   payload (length)          big-endian

with the CRC over the twelve bytes before it and the payload. A *key* frame begins a block: its payload is a whole turn.
The *delta* frames after it hold what changed since the turn before (`delta.py`), for a minute. The payloads of a
block are one raw deflate stream of JSON texts, flushed at the end of each frame: a frame needs those before it in its
block, so the names that each turn repeats cost next to nothing, and no other block.

Turns count up within one run of a writer. Who reads passes over what is not whole to the next key frame and says how
much that was: a cut tail costs the frame that was being written, a broken frame the rest of its minute. Nothing
in a file makes the reader raise. Every value of JSON survives; floats are written so that they return exactly.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .delta import apply, difference

VERSION = 1
HEADER = b"ballonet recording %d\n" % VERSION
KEY_MAGIC, DELTA_MAGIC = b"\xb1KEY", b"\xb1DLT"
FRAME = struct.Struct(">4sIII")
CHECKED = struct.Struct(">4sII")

KEY_EVERY_S = 60.0
"""What a broken frame costs at most. Half of it makes the file of 20 guests 3 to 6 % larger, twice 1 to 3 % smaller."""
MOST_PAYLOAD_BYTES = 16 << 20
"""A snapshot has 2 KiB per guest before it is compressed; a length above this is no length."""
MOST_TEXT_BYTES = 64 << 20
LEVEL = 6
"""zlib's; 9 saves 4 % and takes half again as long, 1 adds a quarter."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded value."""

    kind: str
    now_s: float
    """On the clock of whoever was recorded, from an arbitrary start."""
    unix_s: float
    value: Any
    """JSON types. A "turn" has "snapshot" and "decision"."""


class Encoder:
    """Turns into frames. A frame that was not written whole must be followed by `restart`."""

    def __init__(self, run: int) -> None:
        """`run` tells this writer from others that append to the same file, e.g. its beginning in milliseconds."""
        self._run = run
        self._turn = 0
        self._before: dict[str, Any] | None = None
        self._key_s = 0.0
        self._deflate = zlib.compressobj()

    def frame(self, entry: Entry) -> bytes:
        """Raises ValueError for what is no JSON (a NaN)."""
        plain = {"kind": entry.kind, "now_s": entry.now_s, "unix_s": entry.unix_s, "value": entry.value}
        is_key = self._before is None or not 0 <= entry.now_s - self._key_s < KEY_EVERY_S
        content = {"run": self._run, **plain} if is_key else difference(self._before, plain)
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        if is_key:
            self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
            self._key_s = entry.now_s
        payload = self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._before = plain
        self._turn += 1
        magic = KEY_MAGIC if is_key else DELTA_MAGIC
        return FRAME.pack(magic, self._turn, len(payload), checksum(magic, self._turn, payload)) + payload

    def restart(self) -> None:
        """The next frame depends on none before it."""
        self._before = None


class Reading:
    """The entries of `data` in their order, once; the counts are whole when the iteration has ended."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = bytes(data)
        self.turns = 0
        self.lost_bytes = 0
        self.lost_turns = 0
        """Known to be missing between two that are there; of a cut tail nobody knows how many it had."""
        self._run: Any = None
        self._turn = 0

    def __iter__(self) -> Iterator[Entry]:
        position = len(HEADER) if self._data.startswith(HEADER) else 0
        block: _Block | None = None
        while position < len(self._data):
            frame = self._frame_at(position)
            plain = None
            if frame is not None:
                magic, turn, payload = frame
                if magic == KEY_MAGIC:
                    block = _Block()
                if block is not None and (magic == KEY_MAGIC or turn == self._turn + 1):
                    plain = block.next(payload)
            if frame is None or plain is None:
                block = None
                after = self._data.find(KEY_MAGIC, position + 1)
                after = len(self._data) if after < 0 else after
                self.lost_bytes += after - position
                position = after
                continue
            position += FRAME.size + len(payload)
            run = plain.get("run", self._run)
            if run == self._run:
                self.lost_turns += max(0, turn - self._turn - 1)
            self._run, self._turn = run, turn
            self.turns += 1
            yield Entry(plain["kind"], plain["now_s"], plain["unix_s"], plain["value"])

    @property
    def lost(self) -> str:
        """For people: what is missing; empty for nothing."""
        if not self.lost_bytes:
            return ""
        turns = f" with at least {self.lost_turns} turns" if self.lost_turns else ""
        return f"{self.lost_bytes} bytes{turns} are damaged and were passed over"

    def _frame_at(self, position: int) -> tuple[bytes, int, bytes] | None:
        """Magic, turn and payload of the frame that begins there and is whole."""
        begins = position + FRAME.size
        if begins > len(self._data):
            return None
        magic, turn, length, crc = FRAME.unpack_from(self._data, position)
        if magic not in (KEY_MAGIC, DELTA_MAGIC) or length > min(MOST_PAYLOAD_BYTES, len(self._data) - begins):
            return None
        payload = self._data[begins : begins + length]
        return (magic, turn, payload) if crc == checksum(magic, turn, payload) else None


class _Block:
    """A key frame and what follows it."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._before: Any = None

    def next(self, payload: bytes) -> dict[str, Any] | None:
        """The next turn with the members of an `Entry`, None where the payload holds none."""
        try:
            text = self._inflate.decompress(payload, MOST_TEXT_BYTES)
            content = json.loads(text)
            plain = content if self._before is None else apply(self._before, content)
        except (zlib.error, ValueError, RecursionError):
            return None
        if not (isinstance(plain, dict) and isinstance(plain.get("kind"), str) and "value" in plain):
            return None
        if not all(type(plain.get(name)) in (int, float) for name in ("now_s", "unix_s")):
            return None
        self._before = plain
        return plain


def is_recording(beginning: bytes) -> bool:
    """Whether a file that begins so may be appended to: ours, cut within its header, or with its beginning cut off."""
    return beginning.startswith(HEADER) or HEADER.startswith(beginning) or KEY_MAGIC in beginning


def other_version(beginning: bytes) -> str:
    """The version of a recording that this ballonet does not read; empty for ours and for what is no recording.
    Another version has another magic: a broken digit in the header hides no frames."""
    line, newline, _ = beginning[:64].partition(b"\n")
    name = HEADER.rpartition(b" ")[0] + b" "
    foreign = newline and line.startswith(name) and line + newline != HEADER and KEY_MAGIC not in beginning
    return line[len(name) :].decode("ascii", "replace") if foreign else ""


def checksum(magic: bytes, turn: int, payload: bytes) -> int:
    """What stands in a frame's header."""
    return zlib.crc32(payload, zlib.crc32(CHECKED.pack(magic, turn, len(payload))))
