"""The C library calls that Python's cheap modules lack: memory's own, and a datagram to the service manager.

They go through the C half of ctypes (50 KB of private memory). Its Python half costs 0.2 MB more and makes an
executable page, which a hardened service may not; `socket` costs 1.0 MB and even `_socket` 0.2 MB.
"""

from __future__ import annotations

import os
import sys

_RTLD_NOW = 2
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MADV_DONTNEED = 4
_AF_UNIX, _SOCK_DGRAM, _SOCK_NONBLOCK, _SOCK_CLOEXEC = 1, 2, 0o4000, 0o2000000
#: sun_path with its final zero.
_LONGEST_PATH = 108


class Unavailable(Exception):
    """This Python cannot call the C library; carries the reason."""


def _call(name: str, *arguments: object) -> int:
    try:
        import _ctypes

        program = _ctypes.dlopen(None, _RTLD_NOW)  # type: ignore[arg-type]
        return int(_ctypes.call_function(_ctypes.dlsym(program, name), arguments))
    except (ImportError, AttributeError, OSError, TypeError, MemoryError) as error:
        raise Unavailable(str(error)) from error


def lock_memory() -> str | None:
    """Lock all pages, now and later, as they are touched. None when it worked, else the reason.

    A guest that thrashes must not page out the one process that asks for help. MCL_ONFAULT locks what has been touched
    and nothing more, so the agent does not grow.
    """
    try:
        result = _call("mlockall", _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    except Unavailable as unavailable:
        return str(unavailable)
    return None if result == 0 else "not permitted (needs CAP_IPC_LOCK or a larger LimitMEMLOCK)"


def trim_heap() -> None:
    """Return to the kernel what the C library holds for later: whole free pages, wherever they are."""
    try:
        _call("malloc_trim", 0)
    except Unavailable:  # not glibc
        return


def drop_pages(start: int, size_bytes: int) -> bool:
    """Forget the pages of a mapping; the next access reads them from its file. True when it was done.

    Only for mappings without pages of the process's own, whose contents would be lost.
    """
    try:
        import _ctypes

        # An address does not fit the C int that a bare Python int becomes.
        wide = type("c_ulong", (_ctypes._SimpleCData,), {"_type_": "L"})
        return _call("madvise", wide(start), wide(size_bytes), _MADV_DONTNEED) == 0
    except (ImportError, Unavailable):
        return False


def send_datagram(path: bytes, data: bytes) -> bool:
    """One datagram to a Unix socket; a path that begins with a zero is abstract. True when it was sent."""
    if len(path) >= _LONGEST_PATH:
        return False
    address = _AF_UNIX.to_bytes(2, sys.byteorder) + path
    if not path.startswith(b"\0"):
        address += b"\0"
    try:
        fd = _call("socket", _AF_UNIX, _SOCK_DGRAM | _SOCK_NONBLOCK | _SOCK_CLOEXEC, 0)
        if fd < 0:
            return False
        try:
            return _call("sendto", fd, data, len(data), 0, address, len(address)) == len(data)
        finally:
            os.close(fd)
    except Unavailable:
        return False
