"""A loop on a clock that only moves when told, with a port, /proc and PSI triggers that do what a test says."""

from __future__ import annotations

import socket

from ballonet_guest_agent.actions import Identity, Instant
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.loop import Loop
from ballonet_protocol import COORDINATOR, Connection, Hello, Message


class Clock:
    """Time that only moves when told. Long after boot, so that nothing settles."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> Instant:
        return Instant(self.seconds, self.seconds)


class FakeTriggers:
    """PSI triggers that a test can fire: urgent data on a TCP socket raises EPOLLPRI as the kernel does."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self._pulls = {kind: socket.create_connection(listener.getsockname()) for kind in ("some", "full")}
        self._ends = [listener.accept()[0] for _ in self._pulls]
        listener.close()
        self.fds = self._armed_fds()
        self.armed: list[tuple[int, int]] = []
        self.reason: str | None = None

    def fire(self, kind: str) -> None:
        self._pulls[kind].send(b"!", socket.MSG_OOB)

    def arm(self, some_us: int, full_us: int) -> str | None:
        self.armed.append((some_us, full_us))
        self.fds = {} if self.reason else self._armed_fds()
        return self.reason

    def _armed_fds(self) -> dict[int, str]:
        return {end.fileno(): kind for end, kind in zip(self._ends, self._pulls)}

    def close(self) -> None:
        self.fds = {}

    def release(self) -> None:
        for end in [*self._ends, *self._pulls.values()]:
            end.close()


class FakeProcfs:
    """/proc as the simulated guest has it."""

    def __init__(self, guest) -> None:
        self.guest = guest
        self.samples = 0

    def sample(self):
        self.samples += 1
        return self.guest.sample()


class ScriptedPort:
    """A port that does what the test says: `reads` are handed out in order, `room` is what a write takes."""

    name, hint = "scripted", "ask the test"

    def __init__(self) -> None:
        self.reads: list[object] = []
        self.room = 1 << 20
        self.written = b""
        self.tried = self.opened = self.closed = 0
        self.open_error: OSError | None = None
        self.write_error: OSError | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        self.tried += 1
        if self.open_error is not None:
            raise self.open_error
        self.opened += 1
        self._ends = socket.socketpair()

    def fileno(self) -> int:
        return -1 if self._ends is None else self._ends[0].fileno()

    def listener_fileno(self) -> int:
        return -1

    def accept(self) -> None:
        raise AssertionError("there is no listener")

    def nudge(self) -> None:
        """Raise an edge."""
        assert self._ends is not None
        self._ends[1].send(b"!")

    def read(self) -> bytes | None:
        if not self.reads:
            return None
        result = self.reads.pop(0)
        if isinstance(result, OSError):
            raise result
        return result  # type: ignore[return-value]

    def write(self, data: bytes) -> int:
        if self.write_error is not None:
            raise self.write_error
        taken = min(self.room, len(data))
        self.room -= taken
        self.written += data[:taken]
        return taken

    def host_left(self) -> None:
        return

    def close(self) -> None:
        if self._ends is not None:
            self.closed += 1
            for end in self._ends:
                end.close()
            self._ends = None


class Rig:
    """A loop with everything around it faked but the waiting."""

    def __init__(self, guest, port) -> None:
        self.clock = Clock()
        self.triggers = FakeTriggers()
        self.procfs = FakeProcfs(guest)
        self.port = port
        self.said: list[str] = []
        self.work_s = 0.0
        self.agent = Agent(AgentSettings(), Identity(bytes(16), has_psi_trigger=True))
        self.loop = Loop(
            self.agent,
            port,
            self.procfs,  # type: ignore[arg-type]
            self.triggers,  # type: ignore[arg-type]
            self.clock,
            lambda _level, text: self.said.append(text),
            lambda: self.work_s,
        )
        self.host = Connection(COORDINATOR)
        self._read = 0

    def hello(self) -> bytes:
        return self.host.open_session(
            7, Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=("psi",), ram_bytes=1 << 30)
        )

    def heard(self) -> list[Message]:
        """What a scripted port has been given since the last call."""
        self.host.receive_data(self.port.written[self._read :])
        self._read = len(self.port.written)
        return take(self.host)

    def release(self) -> None:
        self.loop.close()
        self.triggers.release()


def take(host: Connection) -> list[Message]:
    messages = []
    while (message := host.next_message()) is not None:
        messages.append(message)
    return messages
