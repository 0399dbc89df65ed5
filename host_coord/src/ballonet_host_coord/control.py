"""The control socket: how commands for people reach the running coordinator. One JSON object per line, both ways.

    -> {"op": "release", "guest": "web", "force": true}
    <- {"ok": true, "result": {...}}     or     {"ok": false, "error": "no guest 'wbe'; known: web, db"}

Whoever may open the socket may do everything, so its mode is 0660 and the operator chooses the group. Clients are
people's commands: few, short and local. What they may cost is bounded by the limits below.

Under systemd the socket is systemd's (activation.py): it is there before the service and while that is started again,
and whoever asks then waits. Without it the service makes its own.
"""

from __future__ import annotations

import errno
import grp
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import trio

from .activation import is_at, name_of

log = logging.getLogger(__name__)

MOST_CLIENTS = 32
MOST_REQUEST_BYTES = 65536
"""Requests name a guest and an option or two."""
MOST_REPLY_BYTES = 16 << 20
"""A status has about 1 KiB per guest, a snapshot 2."""
IDLE_TIMEOUT_S = 60.0
"""A client that says nothing, or does not read, for so long gives its place to another."""
ANSWER_TIMEOUT_S = 30.0
"""A service that is just started answers in one or two; one that stands still is ended by its watchdog in this time."""
ATTEMPTS = 4
AGAIN_AFTER_S = 0.5
"""A coordinator that ends takes its clients with it. systemd lets go of those that waited, too, some milliseconds
later, and holds whoever comes then for the next one."""

Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Takes "op" and the request's other members. Raises LookupError, ValueError with a text for the operator."""


class ControlError(Exception):
    """The socket cannot be served; or the coordinator refused a request, in its own words."""


class NoRoom(ControlError, ValueError):
    """The coordinator understood, and has no room for what was asked. Handlers raise it, and `request` does again."""


class Unreachable(ControlError):
    """No coordinator answers at the socket."""


# --- the coordinator's side -----------------------------------------------------------------------------


async def serve_control(
    path: str,
    handler: Handler,
    *,
    group: str | None = None,
    passed: Sequence[socket.socket] = (),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests at `path` until cancelled; "started" means that clients are let in. Raises ControlError.

    What systemd `passed` is served as well, and where that is at `path` no socket is made: path, mode and group are
    systemd's then, and stay when this ends.
    """
    with ExitStack() as opened:
        listening = [opened.enter_context(trio.socket.from_stdlib_socket(each)) for each in passed]
        inode = None
        if any(is_at(each, path) for each in passed):
            _look_at_systemds(path, group)
        else:
            for each in passed:
                log.warning(
                    "systemd listens at %s, [host] control is %s: both are served. Say the same in ListenStream= of "
                    "ballonet.socket (systemctl edit)",
                    name_of(each),
                    path,
                )
            await _make_way(path)
            listening.append(opened.enter_context(_listen(path, group)))
            inode = os.stat(path).st_ino
        clients: list[trio.SocketStream] = []

        async def converse(stream: trio.SocketStream) -> None:
            clients.append(stream)
            try:
                async with stream:
                    if len(clients) > MOST_CLIENTS:
                        await _reply(stream, _refusal(f"{MOST_CLIENTS} clients are served already; try again"))
                    else:
                        await _serve_client(stream, handler)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass
            finally:
                clients.remove(stream)

        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, converse, [trio.SocketListener(each) for each in listening])
                task_status.started()
        finally:
            if inode is not None:
                _remove(path, inode)


def _look_at_systemds(path: str, group: str | None) -> None:
    """Say what about systemd's socket is not as an operator may believe."""
    try:
        group_id = os.stat(path).st_gid
    except OSError as error:
        way_out = "systemctl restart ballonet.socket"
        log.error("%s: systemd listens, and nobody gets in: %s; %s", path, error.strerror, way_out)
        return
    wanted_id = -1
    with suppress(KeyError):
        wanted_id = grp.getgrnam(group).gr_gid if group is not None else group_id
    if wanted_id != group_id:
        log.warning(
            "control_group = %s is not used: systemd makes %s; say SocketGroup=%s in ballonet.socket (systemctl edit)",
            group,
            path,
            group,
        )


async def _make_way(path: str) -> None:
    """Make the directory, and remove a socket that its coordinator left behind."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path}: is there already and is no socket")
    try:
        await (await trio.open_unix_socket(path)).aclose()
    except ConnectionRefusedError:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from error
    else:
        systemd = "or systemd listens for it (systemctl stop ballonet.socket)"
        raise ControlError(f"{path}: another coordinator answers there, {systemd}")


def _listen(path: str, group: str | None) -> trio.socket.SocketType:
    """A listening socket with its mode and group, which nobody could connect to before it had them."""
    try:
        group_id = grp.getgrnam(group).gr_gid if group is not None else -1
    except KeyError as error:
        raise ControlError(f"control_group: there is no group {group!r} on this host") from error
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(0o117)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        if group_id >= 0:
            _give_to_group(path, group_id, group)
        listening.listen(MOST_CLIENTS)
    except OSError as error:
        listening.close()
        raise ControlError(f"{path}: {error.strerror}") from error
    return trio.socket.from_stdlib_socket(listening)


def _give_to_group(path: str, group_id: int, group: str | None) -> None:
    """Raises OSError. Who may not (under the unit, which has no CAP_CHOWN) serves its own group: that is no reason not
    to serve."""
    try:
        os.chown(path, -1, group_id)
    except PermissionError:
        log.warning(
            "control_group = %s is not used: this service may not give %s away; under systemd say ListenStream=%s and "
            "SocketGroup=%s in ballonet.socket (systemctl edit)",
            group,
            path,
            path,
            group,
        )


def _remove(path: str, inode: int) -> None:
    """Remove our socket, and not one that somebody put there since."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning("%s: cannot be removed: %s", path, error.strerror)


async def _serve_client(stream: trio.SocketStream, handler: Handler) -> None:
    lines = _Lines(stream, MOST_REQUEST_BYTES)
    while True:
        with trio.fail_after(IDLE_TIMEOUT_S):
            try:
                line = await lines.next_line()
            except ValueError as error:
                await _reply(stream, _refusal(str(error)))
                return
        if line is None:
            return
        await _reply(stream, await _answer(line, handler))


async def _answer(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return _refusal("a request is one JSON object in one line")
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        return _refusal('a request is one JSON object with a text "op"')
    operation = request.pop("op")
    try:
        return {"ok": True, "result": await handler(operation, request)}
    except NoRoom as error:
        return {**_refusal(str(error)), "no_room": True}
    except (LookupError, ValueError) as error:
        return _refusal(str(error.args[0]) if error.args else type(error).__name__)
    except Exception:
        log.exception("the request %r failed", operation)
        return _refusal("internal error; the coordinator's log has more")


async def _reply(stream: trio.SocketStream, reply: dict[str, Any]) -> None:
    with trio.fail_after(IDLE_TIMEOUT_S):
        await stream.send_all(json.dumps(reply, separators=(",", ":")).encode() + b"\n")


def _refusal(text: str) -> dict[str, Any]:
    return {"ok": False, "error": text}


class _Lines:
    """Lines of a stream, of bounded length."""

    def __init__(self, stream: trio.SocketStream, most_bytes: int) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self._buffer = bytearray()

    async def next_line(self) -> bytes | None:
        """The next line, None at the end of the stream. Raises ValueError for a line that is too long."""
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            searched = len(self._buffer)
            if (searched if end < 0 else end) > self._most_bytes:
                raise ValueError(f"a line has at most {self._most_bytes} bytes")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            data = await self._stream.receive_some(65536)
            if not data:
                return None
            self._buffer += data


# --- the command's side ---------------------------------------------------------------------------------


async def request(path: str, operation: str, arguments: dict[str, Any] | None = None) -> Any:
    """The coordinator's result. Raises Unreachable, or NoRoom or another ControlError with its refusal.

    Where a coordinator ends without an answer the next one is asked: no operation does harm by being done twice.
    """
    data = json.dumps({"op": operation, **(arguments or {})}).encode() + b"\n"
    line: bytes | None = None
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            for attempt in range(ATTEMPTS):
                if attempt:
                    await trio.sleep(AGAIN_AFTER_S)
                line = await _ask_once(path, data)
                if line is not None:
                    break
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Unreachable(f"no coordinator runs at {path}; start it with `ballonet serve`") from error
    except PermissionError as error:
        raise Unreachable(f"{path}: permission denied; be root, or in the socket's group (ballonet)") from error
    except OSError as error:
        raise Unreachable(f"{path}: {error}") from error
    except trio.TooSlowError as error:
        raise Unreachable(f"{path}: the coordinator did not answer within {ANSWER_TIMEOUT_S:g} s") from error
    if line is None:
        why = "each time the coordinator ended without an answer, or no coordinator answers there"
        raise Unreachable(f"{path}: {why}; see systemctl status ballonet.service")
    try:
        reply = json.loads(line)
        answered = bool(reply["ok"])
        content = reply["result"] if answered else str(reply["error"])
        ended = not answered and bool(reply.get("ended"))
    except (ValueError, TypeError, KeyError) as error:
        raise Unreachable(f"{path}: what answers there is no coordinator") from error
    if ended:
        raise Unreachable(content)
    if not answered:
        raise NoRoom(content) if reply.get("no_room") is True else ControlError(content)
    return content


async def _ask_once(path: str, data: bytes) -> bytes | None:
    """The answer's line; None where the connection ends before there is one. Raises OSError."""
    async with await trio.open_unix_socket(path) as stream:
        # Who turns clients away does not wait to hear what they want: the answer may be there all the same.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        try:
            return await _Lines(stream, MOST_REPLY_BYTES).next_line()
        except trio.BrokenResourceError:
            return None
