"""A host that wants harm: the real daemon under floods, and the core against any command."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet_protocol import (
    COORDINATOR,
    AckStatus,
    BalloonAck,
    Connection,
    Deflate,
    Demand,
    ErrorMessage,
    Hello,
    HelloAck,
    Inflate,
    Message,
    MoveStatus,
    Ping,
    Pong,
    SetPolicy,
    State,
)
from ballonet_protocol._framing import MAX_PAYLOAD_BYTES, encode_frame
from ballonet_protocol._messages import REQ

from .conftest import Stage
from .test_daemon import Daemon

#: What the issue allows of one core, on the long run.
MOST_CPU_RATIO = 0.05
#: The burst of the budget is spent before the long run begins: floods that work little above the ratio take 4 s for it.
WARM_UP_S, MEASURED_S = 4.0, 3.0
PING_EACH_S = 0.5
LINE_BYTES, REPEATED_BYTES = 1 << 18, 1 << 16
OURS = 1 << 40
"""Tokens of the ordinary PINGs; a flood's are smaller."""


def raw(host: Connection, type_code: int, number: int, payload: bytes, flags: int = 0) -> bytes:
    """A frame of the session that the library would not send. Uses a number beyond the library's own."""
    return encode_frame(type_code, flags, (1 << 20) + number, host.session, payload)


#: The dearest to read: each of its zeros is a step of the decoding. Of no session, which the agent sees afterwards.
LARGEST = encode_frame(0xC0, 0, 1, 2**64 - 1, bytes(MAX_PAYLOAD_BYTES))


def hello(number: int) -> Hello:
    return Hello(major_range=(1, 1), minor=0, nonce=number.to_bytes(16, "big"), capabilities=())


NOISE = random.Random(1).randbytes(1000)


def inflate(number: int, target_bytes: int = 1) -> Inflate:
    return Inflate(gen=number, target_bytes=target_bytes, ttl_ms=30_000)


def policy(number: int) -> SetPolicy:
    return SetPolicy(gen=number, psi_some_permyriad=100 + number % 2, floor_bytes=2**53 - 1)


@dataclass(frozen=True)
class Kind:
    """A flood. `rate` None: as much as the line takes. `polite`: its session goes on, and PINGs are sent in it."""

    make: Callable[[Connection, int], bytes]
    rate: float | None
    polite: bool = True


KINDS = {
    "inflate, new gens": Kind(lambda host, number: host.send(inflate(number)), 1000),
    "inflate, agreed to": Kind(lambda host, number: host.send(inflate(number, 900 << 20)), 1000),
    "inflate, one gen": Kind(lambda host, _: host.send(inflate(1)), 1000),
    "inflate, endless": Kind(lambda host, number: host.send(inflate(number)), None, polite=False),
    "policy": Kind(lambda host, number: host.send(policy(number)), 1000),
    "ping": Kind(lambda host, number: host.send(Ping(token=number)), 1000),
    "ping, endless": Kind(lambda host, number: host.send(Ping(token=number)), None, polite=False),
    "hello": Kind(lambda host, number: host.open_session(1000 + number, hello(number)), 1000, polite=False),
    "target 0, ttl 0": Kind(
        lambda host, n: raw(host, Inflate.TYPE_CODE, n, msgpack.packb({"gen": n, "target": 0, "ttl_ms": 0}), REQ),
        1000,
        polite=False,
    ),
    "noise, 1 MB a second": Kind(lambda *_: NOISE, 1000),
    "noise, endless": Kind(lambda *_: NOISE, None, polite=False),
    "a frame without end": Kind(lambda *_: b"\xff" * 4096, None, polite=False),
    "largest frames": Kind(lambda *_: LARGEST, None, polite=False),
}  # fmt: skip


@dataclass
class Flood:
    """One daemon and its hostile host."""

    kind: Kind
    daemon: Daemon
    proc: Path
    client: socket.socket
    host: Connection = field(default_factory=lambda: Connection(COORDINATOR))
    heard: list[Message] = field(default_factory=list)
    sent: int = 0
    pings: int = 0
    waiting: bytes = b""
    endless: bytes = b""
    ratio: float = 0.0
    counted: tuple[float, float] | None = None

    def open(self, session: int) -> None:
        """A session, as an honest host opens it: with a HELLO each second until one is answered."""
        self.host = Connection(COORDINATOR)
        opened = len([message for message in self.heard if isinstance(message, HelloAck)])
        while self.host.state is not State.ACTIVE:
            session += 1
            self.client.settimeout(20.0)  # behind whatever waits on the line
            self.client.sendall(self.waiting + b"\0" + self.host.open_session(session, hello(session)))
            self.waiting = b""
            while self.host.state is not State.ACTIVE and select.select([self.client], [], [], 1.0)[0]:
                self.host.receive_data(self.client.recv(65536))
                self.take()
        assert len([message for message in self.heard if isinstance(message, HelloAck)]) == opened + 1
        self.client.setblocking(False)

    def take(self) -> None:
        while (message := self.host.next_message()) is not None:
            self.heard.append(message)

    def step(self, elapsed_s: float) -> None:
        """Send what is due by now, and read what came."""
        if self.kind.polite and elapsed_s >= self.pings * PING_EACH_S:
            self.pings += 1
            self.waiting += self.host.send(Ping(token=OURS + self.pings))
        while self.sent < elapsed_s * (self.kind.rate or 0) and len(self.waiting) < LINE_BYTES:
            self.sent += 1
            self.waiting += self.kind.make(self.host, self.sent)
        try:
            while self.waiting:
                self.waiting = self.waiting[self.client.send(self.waiting) :]
        except BlockingIOError:
            pass
        try:
            while data := self.client.recv(65536):
                self.host.receive_data(data)
                self.take()
        except BlockingIOError:
            pass

    def pour(self, stop: threading.Event) -> None:
        """Send the same bytes over and over, as fast as the line takes them. In a thread of its own."""
        rest = b""
        while not stop.is_set():
            if select.select([], [self.client], [], 0.1)[1]:
                rest = rest or self.endless
                taken = self.client.send(rest)
                rest = rest[taken:]
                self.sent += 1

    def count(self) -> None:
        """The daemon's processor time since the last call, as a ratio of the time on the clock."""
        work_s = int(Path(f"/proc/{self.daemon.process.pid}/schedstat").read_text().split()[0]) / 1e9
        now_s = time.monotonic()
        if self.counted is not None:
            self.ratio = (work_s - self.counted[0]) / (now_s - self.counted[1])
        self.counted = work_s, now_s

    def starve(self) -> None:
        """The guest is short of memory from now on, and its OOM killer has worked."""
        overwrite(self.proc / "meminfo", b"MemAvailable:", b" 1 kB")
        overwrite(self.proc / "vmstat", b"oom_kill ", b"9")


def overwrite(path: Path, name: bytes, value: bytes) -> None:
    """Change a line in place, so that a reader finds the old or the new one."""
    text = path.read_bytes()
    begin = text.index(b"\n" + name) + 1 + len(name)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(value.rjust(text.index(b"\n", begin) - begin))


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flood]]:
    """All floods at once, each on a daemon of its own: for seconds the hosts do what they can."""
    floods: dict[str, Flood] = {}
    try:
        for number, (name, kind) in enumerate(KINDS.items()):
            floods[name] = begin(kind, tmp_path_factory.mktemp(f"flood{number}"))
        run_all(list(floods.values()))
        yield floods
    finally:
        for flood in floods.values():
            flood.client.close()
            flood.daemon.stop()


def begin(kind: Kind, folder: Path) -> Flood:
    flood = Flood(kind, Daemon(folder, more="settling_s = 0\n"), folder / "proc", socket.socket(socket.AF_UNIX))
    flood.client.connect(str(flood.daemon.path))
    flood.open(1)
    while kind.rate is None and len(flood.endless) < REPEATED_BYTES:
        flood.endless += kind.make(flood.host, len(flood.endless) + 1)
    return flood


def run_all(floods: list[Flood]) -> None:
    stop = threading.Event()
    pourers = [threading.Thread(target=flood.pour, args=(stop,)) for flood in floods if flood.endless]
    for pourer in pourers:
        pourer.start()
    try:
        take_turns(floods)
    finally:
        stop.set()
        for pourer in pourers:
            pourer.join()


def take_turns(floods: list[Flood]) -> None:
    begun_s = time.monotonic()
    phases: list[tuple[float, Callable[[Flood], None]]] = [
        (WARM_UP_S, Flood.count),
        (WARM_UP_S + 0.5, Flood.starve),
        (WARM_UP_S + MEASURED_S, Flood.count),
    ]
    while phases:
        elapsed_s = time.monotonic() - begun_s
        for flood in floods:
            flood.step(elapsed_s)
        if elapsed_s >= phases[0][0]:
            _, act = phases.pop(0)
            for flood in floods:
                act(flood)
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_flood_costs_less_than_a_twentieth_of_a_core(floods: dict[str, Flood], name: str) -> None:
    """Whatever a host sends and however fast, the agent takes at most 5 % of a core for it."""
    assert floods[name].sent >= (1000 if KINDS[name].rate else 5)
    assert 0 < floods[name].ratio <= MOST_CPU_RATIO


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.polite])
def test_ordinary_traffic_goes_on_beside_a_flood(floods: dict[str, Flood], name: str) -> None:
    """At a thousand frames a second the PINGs between them are answered, and a guest that runs short says so."""
    tokens = [message.token for message in floods[name].heard if isinstance(message, Pong)]
    # A flood of PINGs takes the answers itself: no one PING of it is more ordinary than another.
    assert any(token > OURS or name == "ping" for token in tokens)
    assert any(isinstance(message, Demand) for message in floods[name].heard)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_flood_ends_and_the_next_session_is_served(floods: dict[str, Flood], name: str) -> None:
    """When the flood is over and what waits on the line is read, a HELLO is answered as ever."""
    floods[name].open(2**60)
    assert floods[name].daemon.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inflate, new gens", "inflate, agreed to", "inflate, one gen"])
def test_no_flood_gets_below_the_floor(floods: dict[str, Flood], name: str) -> None:
    """Of thousands of INFLATEs none is agreed to below the floor that the agent named in its HELLO_ACK."""
    heard = floods[name].heard
    floor_bytes = max(message.floor_bytes for message in heard if isinstance(message, HelloAck))
    agreed = [m for m in heard if isinstance(m, BalloonAck) and m.status in (AckStatus.ACCEPTED, AckStatus.CLAMPED)]
    assert floor_bytes > 64 << 20
    assert agreed
    assert all(ack.effective_bytes >= floor_bytes for ack in agreed)


SIZES = st.sampled_from([0, 1, 4096, 64 << 20, 200 << 20, 1 << 30, 2 << 30, 2**53 - 1])
TTLS = st.sampled_from([0, 1, 5_000, 30_000, 2**53 - 1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Inflate.TYPE_CODE, Deflate.TYPE_CODE, SetPolicy.TYPE_CODE]),
            st.integers(0, 3),
            SIZES,
            TTLS,
            st.none() | SIZES,
        ),
        max_size=12,
    )
)
def test_no_command_gets_below_the_floor(commands: list[tuple[int, int, int, int, int | None]]) -> None:
    """Whatever targets, leases, floors and policies a host names, allowed or not: no consent is below the own floor."""
    stage = Stage()
    opening = stage.open()
    own_bytes = max(message.floor_bytes for message in opening if isinstance(message, HelloAck))
    for number, (type_code, gen, size, ttl_ms, floor) in enumerate(commands, 1):
        fields = {"gen": gen, "target": size, "ttl_ms": ttl_ms} if type_code != SetPolicy.TYPE_CODE else {"gen": gen}
        payload = msgpack.packb(fields if floor is None else {**fields, "floor": floor})
        heard = stage.receive(raw(stage.host, type_code, number, payload, REQ))
        consent = stage.agent.consent
        if consent.live and consent.inflating:
            assert consent.effective_bytes >= own_bytes
        for ack in (message for message in heard if isinstance(message, BalloonAck) and type_code == Inflate.TYPE_CODE):
            assert ack.status not in (AckStatus.ACCEPTED, AckStatus.CLAMPED) or ack.effective_bytes >= own_bytes
        stage.monotonic_s += 1.0


def test_a_lease_of_nothing_is_refused() -> None:
    """An INFLATE with ttl 0 is no INFLATE: an ERROR comes back and nothing was agreed to."""
    stage = Stage()
    stage.open()
    payload = msgpack.packb({"gen": 1, "target": 700 << 20, "ttl_ms": 0})
    heard = stage.receive(raw(stage.host, Inflate.TYPE_CODE, 1, payload, REQ))
    assert [type(message) for message in heard] == [ErrorMessage]
    assert stage.agent.consent.state is None


def test_a_target_beyond_the_total_changes_nothing() -> None:
    """An INFLATE to more than there is may be agreed to, and the guest keeps what it has: INFLATE enlarges nobody."""
    stage = Stage()
    stage.open()
    before_kib = stage.guest.size_kib
    (ack, *_) = stage.inflate(8 * before_kib)
    assert isinstance(ack, BalloonAck)
    assert ack.effective_bytes >= before_kib * 1024
    assert stage.agent.consent.state in (None, (1, MoveStatus.REACHED))
