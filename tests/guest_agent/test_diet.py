"""diet.py: the daemon does without what it does not need, and does the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ballonet_guest_agent.diet import droppable, lean_msgpack

PATH = [folder for folder in sys.path if folder]

#: What a mapping's lines look like; of the many lines of each only these two are read.
SMAPS = """\
00400000-0041f000 r--p 00000000 fe:00 1234                               /usr/bin/python3.11
Rss:                 124 kB
Anonymous:             0 kB
Swap:                  0 kB
0041f000-006be000 r-xp 0001f000 fe:00 1234                               /usr/bin/python3.11
Rss:                2684 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
00a2c000-00a2d000 r--p 0062b000 fe:00 1234                               /usr/bin/python3.11
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  0 kB
00a2d000-00b75000 rw-p 0062c000 fe:00 1234                               /usr/bin/python3.11
Rss:                1276 kB
Anonymous:             0 kB
Swap:                  0 kB
02000000-02100000 r--p 00000000 00:00 0                                  [heap]
Anonymous:             0 kB
Swap:                  0 kB
00b80000-00b84000 r--p 0062b000 fe:00 1235                               /usr/lib/libc.so.6
Rss:                   0 kB
Anonymous:             0 kB
Swap:                 16 kB
7f0000000000-7f0000100000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
"""


def child(code: str, *folders: str, **environment: str) -> str:
    """What a new interpreter without `site` prints, with our packages on its path."""
    start = f"import sys; sys.path[:0] = {[*folders, *PATH]!r}\n"
    result = subprocess.run(
        [sys.executable, "-S", "-c", start + code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


SAME = """
from ballonet_guest_agent.diet import lean_msgpack
lean = lean_msgpack()
left = sorted({"datetime", "msgpack.ext", "collections", "functools"} & set(sys.modules))
import msgpack
value = {"text": "a", "bin": b"b", "number": 2**53 - 1, "list": [1, 2], "yes": True}
packed = msgpack.packb(value, use_bin_type=True)
print(lean, left, packed.hex(), msgpack.unpackb(packed, raw=False) == value)
"""


def test_half_of_msgpack_writes_the_same() -> None:
    """The C half alone is there, writes what the whole msgpack writes, and leaves no stand-in behind."""
    import msgpack

    value = {"text": "a", "bin": b"b", "number": 2**53 - 1, "list": [1, 2], "yes": True}
    assert child(SAME) == f"True [] {msgpack.packb(value, use_bin_type=True).hex()} True\n"


def test_extensions_are_still_refused() -> None:
    """A payload with an extension, a time stamp or nil in it is a bad message, as with the whole msgpack."""
    code = """
from ballonet_guest_agent.diet import lean_msgpack
assert lean_msgpack()
from ballonet_protocol import RemoteProtocolError, Ping
from ballonet_protocol._codec import decode_message
for inside in (b"\\xd4\\x05\\x00", b"\\xd6\\xff\\x00\\x00\\x00\\x01", b"\\xc0", b"\\xc7\\x00\\x07"):
    for start in (b"\\x81\\xa1t", b"\\x82\\xa1t\\x07\\xa1x"):
        try:
            decode_message(Ping, 1, start + inside)
        except RemoteProtocolError as error:
            print(error.code.name)
print(decode_message(Ping, 1, b"\\x81\\xa1t\\x07").token)
"""
    assert child(code).split() == ["BAD_MESSAGE"] * 8 + ["7"]


def test_whole_msgpack_where_there_is_no_half(tmp_path: Path) -> None:
    """A msgpack of Python alone, none at all, and one that its operator asked for in Python, are left as they are."""
    package = tmp_path / "msgpack"
    package.mkdir()
    (package / "__init__.py").write_text("from .ext import packb\n")
    (package / "ext.py").write_text("def packb(value):\n    return 'in Python'\n")
    code = "from ballonet_guest_agent.diet import lean_msgpack\nlean = lean_msgpack()\n"
    clean = "print(lean, sorted(name for name in sys.modules if name.split('.')[0] in ('msgpack', 'datetime')))\n"
    assert child(code + clean + "import msgpack; print(msgpack.packb(1))", str(tmp_path)) == "False []\nin Python\n"
    assert (
        child(code.replace("lean =", "sys.path = sys.path[1:]; lean =") + clean, MSGPACK_PUREPYTHON="1") == "False []\n"
    )
    (package / "_cmsgpack.py").write_text("raise RuntimeError('not this time')\n")
    assert child(code + clean + "import msgpack; print(msgpack.packb(1))", str(tmp_path)) == "False []\nin Python\n"


def test_a_process_that_has_msgpack_keeps_it() -> None:
    """Where msgpack is loaded already, nothing is taken from those who use it."""
    import msgpack

    before = set(sys.modules)
    assert lean_msgpack() is False
    assert sys.modules["msgpack"] is msgpack
    assert set(sys.modules) == before


def test_only_a_files_own_pages_are_dropped() -> None:
    """Not what may be written, not what the dynamic linker has written to, not what comes from no file."""
    assert droppable(SMAPS.splitlines()) == [(0x400000, 0x41F000), (0x41F000, 0x6BE000)]
    assert droppable([]) == []


def test_memory_is_given_back() -> None:
    """Resident memory falls by what nobody uses, the rehearsal runs after that, and the process goes on."""
    code = """
from ballonet_guest_agent.diet import give_back
def rss():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss"))
import json, decimal, re
held = [bytes(1000) for _ in range(3000)]
kept = held[::300]
del held
before, seen = rss(), []
sys.path_importer_cache["/a/folder"] = None
give_back(lambda: seen.append(rss()))
dropped = seen[0]
listed = "/a/folder" in sys.path_importer_cache
print(dropped < before - 500, listed, rss() < dropped - 1000, json.loads("[1]"), len(kept))
"""
    assert child(code) == "True False True [1] 10\n"


def test_without_smaps_nothing_is_dropped() -> None:
    """A kernel that does not show its mappings costs memory, not the agent."""
    code = """
import ballonet_guest_agent.diet as diet
diet._lines = lambda path, lines=diet._lines: lines(path + ".not.there")
diet.give_back(lambda: print("rehearsed"))
"""
    assert child(code) == "rehearsed\n"
