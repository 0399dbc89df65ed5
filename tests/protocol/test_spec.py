"""SPEC.md says what the library does: its tables, states and dumps are the code's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ballonet_protocol
from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    Drops,
    Limits,
    MemoryReport,
    Message,
    PsiReport,
    Record,
    State,
    VmReport,
    limits,
)
from ballonet_protocol._enums import IntEnum
from ballonet_protocol._framing import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, MAX_WIRE_BYTES
from ballonet_protocol._messages import CAPABILITIES, EVENTS, REQ, RSP
from ballonet_protocol._records import BIN, INT, MAX_INT, RANGE, TEXT, TEXTS, Field
from ballonet_protocol._state import RECEIVES, SENDS
from ballonet_protocol.testing import load_vectors

MAPS = {Limits: "Limits", MemoryReport: "Memory", PsiReport: "Psi", VmReport: "Vm", Drops: "Drops"}
DIRECTIONS = {frozenset((AGENT,)): "A>H", frozenset((COORDINATOR,)): "H>A", frozenset((AGENT, COORDINATOR)): "both"}
ENUMS = {
    name: kind
    for name, kind in vars(ballonet_protocol).items()
    if isinstance(kind, type) and issubclass(kind, IntEnum)
}


@pytest.fixture(scope="module")
def spec(workspace: Path) -> str:
    return (workspace / "protocol" / "SPEC.md").read_text()


def _rows(text: str) -> list[list[str]]:
    """The cells of the first table in `text`, without its head."""
    found = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, text[:80]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def _section(spec: str, heading: str) -> str:
    """What stands below a heading, up to the next one. An N in it is any number."""
    pattern = re.escape(heading).replace(r"6\.N", r"6\.\d+").replace(r"7\.N", r"7\.\d+")
    found = re.search(f"^{pattern}\n((?:[^#\n].*\n|\n)*)", spec, re.MULTILINE)
    assert found, f"no section {heading}"
    return found[1]


def _as_written(field: Field) -> list[str]:
    kinds = {
        BIN: f"bin {field.low}",
        TEXT: f"str {field.high}",
        TEXTS: f"[str {field.high}]",
        RANGE: "[int, int]",
    }
    kind = MAPS[field.record] if field.record else kinds.get(field.kind, field.kind)  # type: ignore[index]
    bounds = ""
    if field.kind == INT and (field.low, field.high) != (0, MAX_INT):
        bounds = f">= {field.low}" if field.high == MAX_INT else f"{field.low}..{field.high}"
    return [field.key, kind, field.unit, bounds, "yes" if field.mandatory else ""]


def _check_fields(record_type: type[Record], section: str) -> None:
    rows = _rows(section)
    assert [row[:5] for row in rows] == [_as_written(field) for field in record_type.FIELDS]
    for row, field in zip(rows, record_type.FIELDS):
        assert row[5], f"{row[0]} has no meaning"
        named = row[5].rpartition(": ")[2]
        assert ENUMS.get(named) is field.choices


@pytest.mark.parametrize("message_type", MESSAGE_TYPES.values(), ids=lambda kind: kind.TYPE_NAME)
def test_messages(spec: str, message_type: type[Message]) -> None:
    """Each message stands there with its code, direction, flags and fields, in wire order."""
    flags = {0: "", REQ: ", REQ", RSP: ", RSP"}[message_type.FLAGS]
    ends = f"({message_type.TYPE_CODE:02x}, {DIRECTIONS[message_type.SENDERS]}{flags})"
    _check_fields(message_type, _section(spec, f"### 6.N {message_type.TYPE_NAME} {ends}"))


def test_no_other_messages(spec: str) -> None:
    """The text describes sixteen messages and five maps, and nothing that the library does not know."""
    headings = re.findall(r"^### [67]\.\d+ (\w+)", spec, re.MULTILINE)
    assert sorted(headings) == sorted([kind.TYPE_NAME for kind in MESSAGE_TYPES.values()] + list(MAPS.values()))


@pytest.mark.parametrize("record_type", MAPS, ids=MAPS.get)
def test_maps(spec: str, record_type: type[Record]) -> None:
    """Each map inside a message stands there with its fields."""
    _check_fields(record_type, _section(spec, f"### 7.N {MAPS[record_type]}"))


def test_numbers_with_names(spec: str) -> None:
    """Every enum stands there with all its values, and no other does."""
    rows = _rows(_section(spec, "## 8. Numbers with names"))
    assert dict(rows) == {
        name: ", ".join(f"{member.value} {member.name.lower()}" for member in kind) for name, kind in ENUMS.items()
    }
    assert all(f"`{event}`" in spec for event in EVENTS)


def test_states(spec: str) -> None:
    """The table of states is that of the library."""
    rows = _rows(_section(spec, "### 5.6 States"))
    by_name = {kind.TYPE_NAME: kind for kind in MESSAGE_TYPES.values()}
    assert len(rows) == len(SENDS)
    for role_name, state_name, sends, takes in rows:
        key = ({"agent": AGENT, "coordinator": COORDINATOR}[role_name], State[state_name])
        assert {by_name[name] for name in sends.split()} == SENDS[key]
        assert {by_name[name] for name in takes.split()} == RECEIVES[key]


def test_frame_limits(spec: str) -> None:
    """The limits of a frame are the library's."""
    limits = [int(row[1]) for row in _rows(_section(spec, "### 3.2 Sizes"))]
    assert limits == [MAX_WIRE_BYTES, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES]


def test_times_and_limits(spec: str) -> None:
    """Every limit stands there with its value, and none that the library does not have."""
    written = {}
    for _, value, name in _rows(_section(spec, "## 11. Times and limits")):
        number, _, unit = value.partition(" ")
        written[name] = float(number) / (100 if unit == "%" else 1)
        ending = {"s": "_S", "ms": "_MS", "%": "_RATIO", "per second": "_PER_S", "bytes": "_BYTES"}.get(unit)
        assert ending is None or name.endswith(ending)
    assert written == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_capabilities(spec: str) -> None:
    """Every capability that ours know stands there, and no other."""
    names = [row[0].strip("`") for row in _rows(_section(spec, "### 12.4 Capabilities"))]
    assert names == list(CAPABILITIES)


def test_sections_count_from_one(spec: str) -> None:
    """Sections and their parts are numbered without gaps, so that a case of the conformance kit names one place."""
    chapters = [int(number) for number in re.findall(r"^## (\d+)\. ", spec, re.MULTILINE)]
    assert chapters == list(range(1, len(chapters) + 1))
    parts = [(int(a), int(b)) for a, b in re.findall(r"^### (\d+)\.(\d+) ", spec, re.MULTILINE)]
    for chapter in chapters:
        numbers = [part for above, part in parts if above == chapter]
        assert numbers == list(range(1, len(numbers) + 1))
    assert [above for above, _ in parts] == sorted(above for above, _ in parts)


def test_links_to_sections(spec: str) -> None:
    """Where the text names a section, there is one."""
    headings = set(re.findall(r"^###? (\d+(?:\.\d+)?)", spec, re.MULTILINE))
    prose = re.sub(r"^#.*\n|^\|.*\n|^header .*\n", "", spec, flags=re.MULTILINE)
    named = set(re.findall(r"section (\d+(?:\.\d+)?)", prose))
    for listed in re.findall(r"\((\d+\.\d+(?:, \d+\.\d+)*)\)", prose):
        named.update(listed.split(", "))
    assert len(named) > 8
    assert named <= headings


def test_dumps_are_golden_frames(spec: str) -> None:
    """Every hex dump is, byte for byte, a golden frame."""
    golden = {bytes.fromhex(vector["wire"]) for vector in load_vectors("frames")["frames"]}
    dumps = re.findall(r"```\n((?:[0-9a-f]{4}  [0-9a-f ]+\n)+)```", spec)
    assert len(dumps) == 3
    for dump in dumps:
        assert bytes.fromhex("".join(line[6:] for line in dump.splitlines())) in golden
