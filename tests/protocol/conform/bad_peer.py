"""Peers that are as good as SPEC.md wants them, but for the faults that they are given by name.

What both roles have in common is here: frames, numbers, errors, PING. Time is an argument: with `StillLine` between
it and the kit, a peer lives in a time that passes only where the kit waits, so that a whole run takes no time.
"""

from __future__ import annotations

from typing import Any

from msgpack import packb, unpackb

from ballonet_protocol import (
    AGENT,
    MESSAGE_TYPES,
    Bye,
    ErrorMessage,
    Hello,
    HelloReq,
    Message,
    Ping,
    Pong,
    RemoteProtocolError,
    Role,
)
from ballonet_protocol._codec import decode_message, encode_message
from ballonet_protocol._framing import FrameReader
from ballonet_protocol._messages import REQ, RSP
from ballonet_protocol._state import RECEIVES, State
from ballonet_protocol.conform.wire import body, enclose

NEVER_S = float("inf")


class StillLine:
    """A line on which waiting takes no time: the clock jumps to what happens next."""

    can_reconnect = True

    def __init__(self, peer: BadPeer) -> None:
        self.peer = peer
        self._now_s = 1000.0
        peer.connected(self._now_s)

    def now_s(self) -> float:
        return self._now_s

    def send(self, data: bytes) -> None:
        self.peer.receive(data, self._now_s)

    def receive(self, until_s: float) -> bytes | None:
        while not self.peer.out:
            if self._now_s >= until_s:
                return None
            due_s = max(self.peer.due_s(), self._now_s + 0.0001)
            self._now_s = min(until_s, due_s)
            if due_s <= until_s:
                self.peer.tick(self._now_s)
        data, self.peer.out = bytes(self.peer.out), bytearray()
        return data

    def reconnect(self) -> None:
        self.peer.out.clear()
        self._now_s += 0.5
        self.peer.connected(self._now_s)

    def close(self) -> None:
        self.peer.out.clear()


class BadPeer:
    """What an agent and a coordinator share."""

    role: Role

    def __init__(self, *faults: str) -> None:
        self.faults = frozenset(faults)
        self.out = bytearray()
        self.now_s = 0.0
        self.state = State.IDLE
        self.session = 0
        self.sent_seq = self.heard_seq = self.outside_seq = 0
        self.spoke_s = self.heard_s = 0.0
        self.foreign_s = self.error_s = -NEVER_S
        self.in_a_row = 0
        self.own: list[tuple[int, int, int, bytes]] = []
        self.outside_heard = 0
        self._later: list[tuple[float, Message]] = []
        self._half_s = NEVER_S
        self._reader = FrameReader()

    def has(self, fault: str) -> bool:
        return fault in self.faults

    # --- the line ------------------------------------------------------------------------------------------------

    def connected(self, now_s: float) -> None:
        self.now_s = now_s
        self._reader = FrameReader()

    def receive(self, data: bytes, now_s: float) -> None:
        self.now_s = now_s
        before, over = self._reader.crc, self._reader.over
        cut = self.has("loses the frame behind a cut") and self._reader.has_partial
        if self.has("one frame per read"):
            self._reader = FrameReader()
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            if not cut:
                self._take(*frame)
            cut = False
            if self.has("one frame per read"):
                break
        if self.has("answers damage") and self._reader.crc > before:
            self.bad(2, None)
        if self.has("answers overlong frames") and self._reader.over > over:
            self.bad(2, None)
        if self.has("answers zeros") and bytes(500) in data:
            self.bad(2, None)
        if not self._reader.has_partial:
            self._half_s = NEVER_S
        elif self._half_s == NEVER_S:
            self._half_s = now_s

    def due_s(self) -> float:
        half_s = NEVER_S if self.has("waits for half frames") else self._half_s + 2.0
        return min([half_s, *(then_s for then_s, _ in self._later)])

    def tick(self, now_s: float) -> None:
        self.now_s = now_s
        if now_s >= self._half_s + 2.0 and not self.has("waits for half frames"):
            self._half_s = NEVER_S
            self._reader.discard_partial()
        due = [message for then_s, message in self._later if then_s <= now_s]
        self._later = [(then_s, message) for then_s, message in self._later if then_s > now_s]
        for message in due:
            self.send(message)

    # --- frames in -----------------------------------------------------------------------------------------------

    def _take(self, version: int, code: int, flags: int, seq: int, session: int, payload: bytes) -> None:
        if version != 1 and not self.has("any wire version"):
            if code != ErrorMessage.TYPE_CODE:
                self.bad(4, None if not self.has("names what it cannot read") else seq)
            return
        kind = MESSAGE_TYPES.get(code)
        opens = kind is Hello and self.role is AGENT and session != 0
        outside = session == 0 and kind in (HelloReq, ErrorMessage)
        if not opens and not outside and (session == 0 or session != self.session):
            if self.has("answers strangers") and kind is Ping and session:
                self._pong_to_stranger(seq, payload)
            else:
                self.foreign()
            return
        if kind is not None and not outside and self.role in kind.SENDERS and len(kind.SENDERS) == 1:
            if self.has("counts the wrong direction"):
                self.heard_seq = max(self.heard_seq, seq)
            self.bad(11, seq)
            return
        if (code, seq, session, payload) in self.own and not self.has("hears echoes"):
            return
        if not opens and not outside:
            if seq <= self.heard_seq and not self.has("takes what is repeated"):
                return
            if self.heard_seq and seq > self.heard_seq + 1000 and self.has("takes no gaps"):
                return
            self.heard_seq = max(self.heard_seq, seq)
        if outside and self.has("checks numbers of session 0"):
            if seq <= self.outside_heard:
                return
            self.outside_heard = seq
        re = None if opens and not self.has("names a refused hello") else seq
        if flags & 0xFF00 and not self.has("takes critical flags"):
            if kind is not ErrorMessage or self.has("answers errors"):
                self.bad(6, re)
            return
        if flags & 0x00FC and self.has("fears low flags"):
            return
        if kind is None:
            if (flags & REQ and not self.has("silent to unknown requests")) or self.has("answers unknown statements"):
                self.bad(5, seq)
            return
        if kind not in RECEIVES[self.role, self.state]:
            if self.has("answers what is too early"):
                self.bad(2, seq)
            return
        if self.has("short numbers alone") and b"\xcf\0\0" in payload:
            self.bad(2, re)
            return
        try:
            message = decode_message(kind, seq, self._mended(payload))
        except RemoteProtocolError as error:
            if kind is not ErrorMessage or self.has("answers errors"):
                self.bad(int(error.code), re)
            return
        self.in_a_row = 0
        self.heard_s = self.now_s
        self._hear(message, session)

    def _pong_to_stranger(self, seq: int, payload: bytes) -> None:
        try:
            self._hear(decode_message(Ping, seq, payload), 0)
        except RemoteProtocolError as error:
            self.bad(int(error.code), seq)

    def _mended(self, payload: bytes) -> bytes:
        """What a receiver that is too kind makes of a payload."""
        try:
            values = unpackb(payload, strict_map_key=False)
        except ValueError:
            return payload
        if not isinstance(values, dict):
            return payload
        if self.has("takes a ping without t") and not values:
            return packb({"t": 0})
        if self.has("takes floats") and any(isinstance(value, float) for value in values.values()):
            return packb({key: 1 if isinstance(value, float) else value for key, value in values.items()})
        if self.has("last key wins"):
            return packb(values)
        if self.has("fears unknown keys") and "t" in values and values.keys() - {"t", "re", "bt"}:
            return b""
        return payload

    def _hear(self, message: Message, session: int) -> None:
        if isinstance(message, Ping):
            pong = Pong(re=message.seq, token=message.token, boottime_ms=self._pong_bt())
            if self.has("slow to answer"):
                self._later.append((self.now_s + 1.5, pong))
            else:
                self.send(pong)
                self._babble()
        elif isinstance(message, Bye):
            self._closed()
        elif isinstance(message, ErrorMessage):
            if self.has("answers errors"):
                self.bad(2, message.seq)
        elif not isinstance(message, Pong):
            self.hear(message, session)

    def _babble(self) -> None:
        """What nobody asked for."""
        if self.has("babbles"):
            self.out += b"\0\x05rub\0"
        if self.has("sends types of its own"):
            self.sent_seq += 1
            self.out += enclose(body(0x41, b"\x80", flags=0, seq=self.sent_seq, session=self.session))
        if self.has("pongs without t"):
            self.sent_seq += 1
            self.out += enclose(body(5, packb({"re": 1}), flags=RSP, seq=self.sent_seq, session=self.session))
        if self.has("floods") and not self._flooded:
            self._flooded = True
            for _ in range(80):
                self.send(Ping(token=3))

    _flooded = False

    def _pong_bt(self) -> int | None:
        return None

    def _closed(self) -> None:
        if not self.has("stays after bye"):
            self.session, self.state = 0, State.CLOSED

    def hear(self, message: Message, session: int) -> None:
        raise NotImplementedError

    def foreign(self) -> None:
        raise NotImplementedError

    # --- frames out ----------------------------------------------------------------------------------------------

    def send(self, message: Message, **more: Any) -> None:
        kind = type(message)
        outside = isinstance(message, HelloReq) or (
            isinstance(message, ErrorMessage) and (self.session == 0 or message.re is None)
        )
        if outside and not (self.has("names session in errors") and isinstance(message, ErrorMessage)):
            self.outside_seq += 1
            seq, session = self.outside_seq, 0
        else:
            self.sent_seq += 2 if self.has("counts by two") and self.sent_seq else 1
            seq, session = self.sent_seq, self.session
        flags = kind.FLAGS
        if isinstance(message, ErrorMessage) and message.re is None:
            flags &= ~RSP
        if isinstance(message, Pong) and self.has("pong without RSP"):
            flags = 0
        if isinstance(message, Pong) and self.has("sends critical flags"):
            flags |= 0x0100
        values = {**unpackb(encode_message(message)), **more}
        if self.has("keys as bin"):
            payload = packb({key.encode(): value for key, value in values.items()})
        elif self.has("text as bin"):
            payload = packb({key: _as_bin(value) for key, value in values.items()})
        else:
            payload = packb(values)
        if self.has("pads its frames") and not isinstance(message, HelloReq):
            payload = packb({**values, **{f"pad{n:02d}": "x" * 120 for n in range(12)}})
        if message.SENDERS == Ping.SENDERS:
            self.own = [*self.own[-7:], (kind.TYPE_CODE, seq, session, payload)]
        wire = enclose(body(kind.TYPE_CODE, payload, flags=flags, seq=seq, session=session))
        self.out += wire[1:] if self.has("one zero per frame") else wire
        self.spoke_s = self.now_s

    def bad(self, code: int, re: int | None) -> None:
        """A bad frame came."""
        if code != 11 or self.has("leaves for echoes"):
            self.in_a_row += 1
        if self.now_s >= self.error_s + 1.0 or self.has("any number of errors"):
            self.error_s = self.now_s
            self.send(ErrorMessage(re=re, code=12 if self.has("wrong code") else code, fatal=False))
        if self.in_a_row >= 16 and self.session and not self.has("endless patience"):
            self.leave()

    def leave(self) -> None:
        """BYE 5."""
        self.in_a_row = 0
        if self.session:
            self.send(Bye(why=5))
            if self.has("talks after bye"):
                self.send(Ping(token=1))
        self.session, self.state = 0, State.CLOSED


def _as_bin(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_bin(item) for item in value]
    return value.encode() if isinstance(value, str) else value
