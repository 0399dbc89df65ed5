"""What QEMU's command line says of its guest's memory: why nothing may move it, and how much is in huge pages. Pure.

One function for all who ask: `ballonet check`, the QMP port (the process's arguments), and the libvirt port (what
`<qemu:commandline>` adds, since the rest is in the XML). Anybody may read a command line, and it disturbs nobody; what
is plugged later is not in it.

Source: QEMU's qemu-options.hx. Options come with one hyphen or two, their values as `key=value,...` or as JSON.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

HUGEPAGES = "it uses hugepages"
LOCKED = "its memory is locked"
VFIO = "it has a device of the host's (VFIO), which pins its memory"
ONE_NODE = "its memory is bound to one NUMA node"

MOST_KIB = 1 << 53
DEFAULT_RAM_KIB = 128 * 1024
"""QEMU's, for a machine whose command line has no `-m`, or none that is understood."""
_SUFFIXES = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


@dataclass(frozen=True, slots=True)
class Arguments:
    """What QEMU's command line says of its memory."""

    free_page_reporting: bool | None = None
    pins: tuple[str, ...] = ()
    """Why its memory is not to be moved."""
    has_balloon: bool = False
    """One that QEMU began with; a plugged one is not in the arguments."""
    hugepages_kib: int = 0
    """How much of its RAM is certainly in huge pages."""
    ram_kib: int = DEFAULT_RAM_KIB
    """What `-m` gives the machine at its start."""


NOTHING = Arguments()
"""Of a command line that cannot be read."""


def read_arguments(untrusted: Sequence[str], hugetlbfs: Sequence[str] | None = None) -> Arguments:
    """What the arguments say. `hugetlbfs`: where QEMU sees such file systems mounted.

    Where that is not known, a path with "huge" in it is reason enough to leave the guest alone, and none to book it
    with less.
    """
    reporting: bool | None = None
    has_balloon = False
    pins: list[str] = []
    boot_kib = in_path_kib = 0
    huge: dict[str, int] = {}
    """Memory backends in huge pages, and their sizes."""
    backends: list[tuple[str, str]] = []
    """... and why they cannot be moved."""
    used: set[str] = set()
    """Those that are guest RAM: not what guests share (ivshmem), say."""
    for option, value in _options(untrusted):
        said = _said(value)
        kind = str(said.get("driver") or said.get("qom-type") or said.get("") or "")
        if option == "-device":
            if kind.startswith("virtio-balloon"):
                has_balloon, reporting = True, _is_on(said.get("free-page-reporting"))
            elif kind.startswith("vfio-"):
                pins.append(VFIO)
            elif kind.startswith(("pc-dimm", "virtio-mem")):
                used.add(str(said.get("memdev", "")))
        elif option in ("-machine", "-M"):
            used.add(str(said.get("memory-backend", "")))
        elif option == "-numa":
            used.add(str(said.get("memdev", "")))
        elif option == "-m":
            boot_kib = _size_kib(said.get("size", said.get("")), "m")
        elif (option == "-overcommit" and _is_on(said.get("mem-lock"), "on-fault")) or (
            option == "-realtime" and _is_on(said.get("mlock"))
        ):
            pins.append(LOCKED)
        elif option == "-mem-path":
            if _is_huge(value, hugetlbfs):
                pins.append(HUGEPAGES)
                in_path_kib = MOST_KIB if hugetlbfs is not None else 0
        elif option == "-object" and kind.startswith("memory-backend"):
            in_memfd = _is_on(said.get("hugetlb"))
            if in_memfd or _is_huge(str(said.get("mem-path", "")), hugetlbfs):
                backends.append((str(said.get("id", "")), HUGEPAGES))
                if in_memfd or hugetlbfs is not None:
                    huge[str(said.get("id", ""))] = _size_kib(said.get("size"), "b")
            if said.get("policy") == "bind" and _one_node(said.get("host-nodes")):
                backends.append((str(said.get("id", "")), ONE_NODE))
    pins[:0] = [why for name, why in backends if name in used or not used - {""}]
    hugepages_kib = min(boot_kib, in_path_kib) + sum(kib for name, kib in huge.items() if name in used - {""})
    ram_kib = boot_kib or DEFAULT_RAM_KIB
    return Arguments(reporting, tuple(dict.fromkeys(pins)), has_balloon, min(hugepages_kib, MOST_KIB), ram_kib)


def _options(untrusted: Sequence[str]) -> Iterator[tuple[str, str]]:
    for option, value in itertools.pairwise(untrusted):
        yield option.removeprefix("-") if option.startswith("--") else option, value


def _said(untrusted_text: str) -> dict[str, Any]:
    """The option's keys; the first word without a key, its kind, stands under ""."""
    if untrusted_text.startswith("{"):
        try:
            value = json.loads(untrusted_text)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}
    said: dict[str, Any] = {}
    for number, part in enumerate(untrusted_text.split(",")):
        key, equals, value = part.partition("=")
        said["" if number == 0 and not equals else key] = value if equals else key
    return said


def _is_on(value: object, *others: str) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in ("on", "true", "yes", *others))


def _one_node(nodes: object) -> bool:
    if isinstance(nodes, list):
        return len(nodes) == 1
    return isinstance(nodes, int) or (isinstance(nodes, str) and nodes.isdecimal())


def _is_huge(path: str, hugetlbfs: Sequence[str] | None) -> bool:
    if hugetlbfs is None:
        return "huge" in path
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in hugetlbfs)


def _size_kib(untrusted: object, unit: str) -> int:
    """A size as QEMU takes it, without a suffix in `unit`; 0 for what is none, so that no huge pages are believed."""
    if type(untrusted) is int:
        text = str(untrusted)
    elif isinstance(untrusted, str):
        text = untrusted.strip().lower()
    else:
        return 0
    suffix = text[-1:] if text[-1:] in _SUFFIXES else ""
    digits = text.removesuffix(suffix)
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20:
        return 0
    return min(MOST_KIB, (int(digits) << _SUFFIXES[suffix or unit]) // 1024)
