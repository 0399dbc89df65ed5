"""Puts the situations of _measured.py to a fake port."""

from __future__ import annotations

import errno

from ._vport import FakeHost, FakeVport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable

    Step = tuple[str, str, Any, Any]


def observe(vport: FakeVport, steps: Iterable[Step]) -> list[Any]:
    """Play the steps of a situation on a fresh fake; what each of them showed. Closes the port in the end."""
    player = _Player(vport)
    try:
        return [player.play(who, verb, argument) for who, verb, argument, _ in steps]
    finally:
        vport.release()


class _Player:
    def __init__(self, vport: FakeVport) -> None:
        self._vport = vport
        self._fd = -1
        self._hosts: dict[str, FakeHost] = {}

    def play(self, who: str, verb: str, argument: Any) -> Any:
        try:
            if who == "vm":
                return getattr(self._vport, verb)()
            if who == "guest":
                return self._guest(verb, argument)
            return self._host(who, verb, argument)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def _guest(self, verb: str, argument: Any) -> Any:
        vport, fd = self._vport, self._fd
        if verb == "open":
            self._fd = vport.open()
            return "open"
        if verb == "write":
            return vport.write(fd, bytes(argument))
        if verb == "fill":
            return _fill(lambda: vport.write(fd, bytes(argument)))
        if verb == "reads":
            return self._reads()
        return getattr(vport, verb)(fd, *([] if argument is None else [argument]))

    def _reads(self) -> list[Any]:
        sizes: list[Any] = []
        try:
            while not sizes or sizes[-1]:
                sizes.append(len(self._vport.read(self._fd, 65536)))
        except OSError as error:
            sizes.append(errno.errorcode[error.errno or 0])
        return sizes

    def _host(self, who: str, verb: str, argument: Any) -> Any:
        if verb == "connect":
            self._hosts[who] = self._vport.connect()
            return None
        host = self._hosts[who]
        if verb == "leave":
            return host.close()
        if verb == "send":
            return host.send(argument)
        if verb == "fill":
            return _fill(lambda: host.send(bytes(argument)))
        return len(host.recv_all())


def _fill(put: Callable[[], int]) -> int:
    total = 0
    try:
        while True:
            total += put()
    except BlockingIOError:
        return total
