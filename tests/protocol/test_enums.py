"""_enums.py: named values behave like the standard library's where anybody looks."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import subprocess
import sys
import types

import msgpack
import pytest

import ballonet_protocol
from ballonet_protocol import _enums

OURS = [
    kind for kind in vars(ballonet_protocol).values() if isinstance(kind, type) and isinstance(kind, type(_enums.Enum))
]


def namesake(kind: type) -> type:
    """The same class, made by the standard library."""
    base = enum.IntEnum if issubclass(kind, int) else enum.Enum
    return types.new_class(kind.__name__, (base,), {}, lambda body: [body.__setitem__(m.name, m.value) for m in kind])


def seen(kind: type) -> list[object]:
    """Everything that a user of a named value can ask."""
    facts: list[object] = [len(kind), list(kind.__members__)]
    for member in kind:
        facts += [member.name, member.value, repr(member), isinstance(member, kind), type(member.value)]
        facts += [kind(member.value) is member, kind[member.name] is member, getattr(kind, member.name) is member]
        facts += [member == member.value, member in kind, copy.deepcopy(member) is member, len({member, member})]
        facts += [f"{member}" if isinstance(member, int) else str(member), bool(member)]
    return facts


def error_of(call) -> tuple[type, str]:
    with pytest.raises((ValueError, KeyError)) as caught:
        call()
    return caught.type, str(caught.value)


@pytest.mark.parametrize("kind", OURS)
def test_they_behave_like_their_namesakes(kind):
    """Names, values, order, look-up, printing, identity and what is no member: all as the standard library has it."""
    assert len(kind) > 1
    assert seen(kind) == seen(namesake(kind))
    assert error_of(lambda: kind(99)) == error_of(lambda: namesake(kind)(99))
    assert error_of(lambda: kind["NOBODY"]) == error_of(lambda: namesake(kind)["NOBODY"])


@pytest.mark.parametrize("kind", OURS)
def test_copies_are_the_member_itself(kind):
    """A pickle and a copy are the same constant, so that `is` works after them."""
    for member in kind:
        assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301
        assert copy.copy(member) is member


def test_numbers_are_written_as_numbers():
    """json and msgpack see the number."""
    severity = ballonet_protocol.Severity.STARVING
    assert json.dumps([severity]) == "[3]"
    assert msgpack.unpackb(msgpack.packb(severity)) == 3


def test_the_library_does_without_enum():
    """Importing the protocol loads none of what `enum` would bring into every guest."""
    code = (
        "import sys, types; msgpack = types.ModuleType('msgpack'); msgpack.packb = msgpack.unpackb = None\n"
        "sys.modules['msgpack'] = msgpack; sys.path[:0] = sys.argv[1:]; import ballonet_protocol\n"
        "print(sorted({'enum', 'functools', 'collections', 'typing', 'dataclasses'} & set(sys.modules)))"
    )
    path = [str(folder) for folder in sys.path if folder]
    result = subprocess.run([sys.executable, "-S", "-c", code, *path], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
