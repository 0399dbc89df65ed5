"""The wire's cost per frame, beside what a bare msgpack and a bare json take for the same fields."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
from figures import Findings

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    Drops,
    Inflate,
    MemoryReport,
    Message,
    PsiReport,
    Report,
    Role,
    VmReport,
)
from ballonet_protocol.testing import ConnectionPair

NAME = "codec"
BATCH = 50
"""Calls between two readings of the clock: one call takes no longer than the clock."""


def full_report() -> Report:
    """A REPORT with every field of memory, stalls and counters, in sizes of a guest of 4 GiB."""
    sizes = {name: 3_000_000_000 + place * 4096 for place, name in enumerate(_names(MemoryReport))}
    shares = {"some_avg10_permyriad": 1234, "full_avg10_permyriad": 567, "some_us": 123_456_789, "full_us": 56_789_012}
    counters = {name: 10_000_000 + place for place, name in enumerate(_names(VmReport))}
    return Report(
        boottime_ms=86_400_000,
        memory=MemoryReport(**sizes),
        psi=PsiReport(**shares),
        vm=VmReport(**counters),
        want_bytes=2**31,
        floor_bytes=2**30,
        gen=7,
        status=1,
        drops=Drops(crc=1, over=1, gap=1),
    )


def inflate() -> Inflate:
    return Inflate(gen=8, target_bytes=2**31, ttl_ms=30_000, floor_bytes=2**30, rate_bytes_per_s=2**29)


def measure(findings: Findings, quick: bool) -> None:
    batches = 40 if quick else 400
    for label, message, role in (("REPORT", full_report(), AGENT), ("INFLATE", inflate(), COORDINATOR)):
        ours = _whole_path(message, role, batches)
        fields = _plain(message)
        packed, text = msgpack.packb(fields), json.dumps(fields).encode()
        found = {
            "encode to frame": ours[0],
            "frame to message": ours[1],
            "msgpack.packb": _timed(partial(msgpack.packb, fields), batches),
            "msgpack.unpackb": _timed(partial(msgpack.unpackb, packed), batches),
            "json.dumps": _timed(partial(json.dumps, fields), batches),
            "json.loads": _timed(partial(json.loads, text), batches),
        }
        figures = {name: findings.add(NAME, f"{label} {name}", "us", samples) for name, samples in found.items()}
        findings.ratio(
            NAME, f"{label} frame to message / unpackb", figures["frame to message"], figures["msgpack.unpackb"]
        )
        findings.ratio(
            NAME, f"{label} frame to message / json.loads", figures["frame to message"], figures["json.loads"]
        )
        for name, size in (("frame", ours[2]), ("msgpack", len(packed)), ("json", len(text))):
            findings.add(NAME, f"{label} as {name}", "bytes", [size])


def _whole_path(message: Message, role: Role, batches: int) -> tuple[list[float], list[float], int]:
    """Microseconds to turn a message into a frame, and a frame into a message: COBS, CRC, session and checks."""
    pair = ConnectionPair()
    pair.open()
    sender, receiver = (pair.agent, pair.coordinator) if role is AGENT else (pair.coordinator, pair.agent)
    sending, receiving, size = [], [], 0
    for _ in range(batches):
        began = time.perf_counter()
        frames = [sender.send(message) for _ in range(BATCH)]
        sent = time.perf_counter()
        for frame in frames:
            receiver.receive_data(frame)
            received = receiver.next_message()
        ended = time.perf_counter()
        assert received == message
        size = len(frames[-1])
        sending.append((sent - began) / BATCH * 1e6)
        receiving.append((ended - sent) / BATCH * 1e6)
    return sending, receiving, size


def _timed(call: Callable[[], Any], batches: int) -> list[float]:
    samples = []
    for _ in range(batches):
        began = time.perf_counter()
        for _ in range(BATCH):
            call()
        samples.append((time.perf_counter() - began) / BATCH * 1e6)
    return samples


def _names(record: type) -> list[str]:
    return [field.attribute for field in record.FIELDS]  # type: ignore[attr-defined]


def _plain(record: Any) -> dict[str, Any]:
    """The same fields under the same keys, for encoders that know nothing of messages."""
    plain = {}
    for field in record.FIELDS:
        value = getattr(record, field.attribute)
        if value is not None:
            plain[field.key] = _plain(value) if hasattr(value, "FIELDS") else value
    return plain
