"""The table itself: complete, free of collisions, within the limits that it states."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    Drops,
    MemoryReport,
    Message,
    PsiReport,
    Record,
    Report,
    VmReport,
)
from ballonet_protocol._codec import encode_message
from ballonet_protocol._framing import MAX_WIRE_BYTES, encode_frame
from ballonet_protocol._messages import REQ, RSP
from ballonet_protocol._records import BIN, INT, MAX_ITEMS, MAX_TEXT, TEXT, TEXTS
from ballonet_protocol.testing import load_vectors

# Each costs every guest between a quarter of a megabyte and five. `json` stands for what only the tests need.
DEAR = {
    "argparse", "asyncio", "contextlib", "dataclasses", "importlib.metadata", "importlib.resources", "inspect",
    "json", "logging", "pathlib", "random", "re", "select", "selectors", "socket", "ssl", "tempfile",
    "threading", "tomllib", "traceback", "typing", "typing_extensions",
}  # fmt: skip


def _all_records() -> list[type[Record]]:
    nested = [f.record for kind in MESSAGE_TYPES.values() for f in kind.FIELDS if f.record is not None]
    return [*MESSAGE_TYPES.values(), *nested]


def test_sixteen_messages_as_in_the_golden_frames() -> None:
    """The golden frames show each message at least once, with the table's code, sender and flags."""
    vectors = load_vectors("frames")["frames"]
    assert len(MESSAGE_TYPES) == 16
    assert {vector["code"] for vector in vectors} == set(MESSAGE_TYPES)
    for vector in vectors:
        message_type = MESSAGE_TYPES[vector["code"]]
        assert vector["type"] == message_type.TYPE_NAME
        assert vector["header"]["flags"] == message_type.FLAGS
        assert (AGENT if vector["dir"] == "A>H" else COORDINATOR) in message_type.SENDERS


@pytest.mark.parametrize("record_type", _all_records(), ids=lambda kind: kind.__name__)
def test_fields_are_well_formed(record_type: type[Record]) -> None:
    """Keys are short lower-case words, each once; records fit into a map; bounds are in order; names carry units."""
    keys = [field.key for field in record_type.FIELDS]
    assert len(set(keys)) == len(keys) <= MAX_ITEMS
    units = {"B": "_bytes", "ms": "_ms", "us": "_us", "1/10000": "_permyriad", "B/s": "_bytes_per_s"}
    for field in record_type.FIELDS:
        assert re.fullmatch("[a-z][a-z0-9_]{0,15}", field.key)
        assert 0 <= field.low <= field.high
        if field.kind in (TEXT, TEXTS, BIN):
            assert field.high <= MAX_TEXT
        if field.unit in units:
            assert field.attribute.endswith(units[field.unit])


@pytest.mark.parametrize("message_type", MESSAGE_TYPES.values(), ids=lambda kind: kind.TYPE_NAME)
def test_answers_name_what_they_answer(message_type: type[Message]) -> None:
    """Exactly the messages with the RSP flag have `re`, and none is a request and an answer at once."""
    keys = {field.key for field in message_type.FIELDS}
    assert bool(message_type.FLAGS & RSP) == ("re" in keys)
    assert message_type.FLAGS != REQ | RSP


def test_depth_of_the_table() -> None:
    """A record in a record holds no third: with an array that is the depth 3 of 4 allowed ones."""
    for message_type in MESSAGE_TYPES.values():
        for field in message_type.FIELDS:
            if field.record is not None:
                assert all(inner.kind == INT for inner in field.record.FIELDS)


def test_largest_report_fits_the_least_frame_limit() -> None:
    """The smallest `lim.frame` a peer may state, 1024, takes the largest REPORT there can be."""
    def full(record_type: type[Record]) -> Record:
        return record_type(**{field.attribute: field.high for field in record_type.FIELDS})

    report = Report(
        **{field.attribute: field.high for field in Report.FIELDS if field.record is None},
        memory=full(MemoryReport),
        psi=full(PsiReport),
        vm=full(VmReport),
        drops=full(Drops),
    )
    wire = encode_frame(Report.TYPE_CODE, 0, 2**32 - 1, 2**64 - 1, encode_message(report))
    assert len(wire) <= 1024 < MAX_WIRE_BYTES


def test_import_is_cheap() -> None:
    """Importing the library loads msgpack and a few small modules of the standard library, none that costs memory."""
    script = "import sys, ballonet_protocol; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "ballonet_protocol._connection" in loaded
    assert loaded.isdisjoint(DEAR)
