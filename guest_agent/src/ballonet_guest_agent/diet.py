"""Keeps the daemon small: msgpack without its Python half, and memory given back once everything is loaded.

Two steps of the daemon's own process, in this order; neither changes what the agent does, and where one cannot be
taken (another msgpack, a kernel without smaps) the agent is as it was, only larger. DESIGN.md has the figures.

    lean_msgpack    before the protocol's library is imported
    give_back       after all imports, before the first wait
"""

from __future__ import annotations

import os
import sys

from ballonet_guest_agent.libc import drop_pages, trim_heap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable


def lean_msgpack() -> bool:
    """Load msgpack's C half alone, as a module `msgpack` with `packb` and `unpackb`. False: nothing was done.

    The Python half names two extension types, and for them it loads collections and datetime, 0.35 MB and 0.3 MB. On
    our wire an extension is refused, whatever its class is (SPEC.md). So the C half finds two empty classes in place of
    those, and Python's `_datetime`, which has all that it asks of `datetime`. The stand-ins are gone from
    `sys.modules` before this returns; `msgpack` itself stays. In a process that has loaded msgpack already nothing is
    done.
    """
    if "msgpack" in sys.modules or "MSGPACK_PUREPYTHON" in os.environ:
        return False
    before = set(sys.modules)
    loaded = False
    try:
        loaded = _load_c_half()
    except Exception:  # noqa: BLE001  # whatever another version of msgpack may want, it gets when it is imported whole
        loaded = False
    for name in set(sys.modules) - before:
        is_ours = name in ("datetime", "msgpack.ext") or (not loaded and name.partition(".")[0] == "msgpack")
        if is_ours:
            del sys.modules[name]
    return loaded


def _load_c_half() -> bool:
    import _datetime  # type: ignore[import-not-found]

    spec = None
    for finder in sys.meta_path:
        spec = finder.find_spec("msgpack", None)
        if spec is not None:
            break
    if spec is None or spec.submodule_search_locations is None:
        return False
    module = type(sys)
    package, extensions = module("msgpack"), module("msgpack.ext")
    package.__spec__, package.__path__ = spec, spec.submodule_search_locations
    extensions.ExtType = type("ExtType", (), {})  # type: ignore[attr-defined]
    extensions.Timestamp = type("Timestamp", (), {})  # type: ignore[attr-defined]
    sys.modules["msgpack"], sys.modules["msgpack.ext"] = package, extensions
    sys.modules.setdefault("datetime", _datetime)
    packer = __import__("msgpack._cmsgpack", fromlist=["Packer"])
    package.packb = lambda value, **options: packer.Packer(**options).pack(value)  # type: ignore[attr-defined]
    package.unpackb = packer.unpackb  # type: ignore[attr-defined]
    return True


def give_back(rehearse: Callable[[], object]) -> None:
    """Return what only starting needed: to the kernel, before the rest is locked.

    `rehearse` does once what the agent will do in need. Programs and libraries are read from the disk again where they
    are needed; the rehearsal is when that happens, so that a guest that thrashes later finds those pages in memory.
    """
    # The import system keeps a listing of each folder that it has searched. Now, so that what follows uses the room.
    sys.path_importer_cache.clear()
    for start, end in droppable(_lines("/proc/self/smaps")):
        drop_pages(start, end - start)
    rehearse()
    trim_heap()


def droppable(smaps: Iterable[str]) -> list[tuple[int, int]]:
    """Start and end of the mappings that are nothing but a file's own pages: dropping these loses nothing.

    A mapping that may be written to is never among them, nor one that holds a page of the process's own, in memory or
    swapped out: the dynamic linker has written to some of what is read-only now, and dropping would lose that.
    """
    found: list[tuple[int, int]] = []
    candidate: tuple[int, int] | None = None
    clean: set[str] = set()
    for line in smaps:
        words = line.split()
        if not words:
            continue
        if not words[0].endswith(":"):
            if candidate is not None and clean == {"Anonymous:", "Swap:"}:
                found.append(candidate)
            candidate, clean = None, set()
            if len(words) > 5 and words[5].startswith("/") and "w" not in words[1]:
                start, _, end = words[0].partition("-")
                candidate = (int(start, 16), int(end, 16))
        elif words[0] in ("Anonymous:", "Swap:") and words[1] == "0":
            clean.add(words[0])
    if candidate is not None and clean == {"Anonymous:", "Swap:"}:
        found.append(candidate)
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
