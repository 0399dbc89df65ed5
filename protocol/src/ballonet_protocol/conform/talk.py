"""A conversation with a peer: says right and wrong frames in order, and finds what comes back.

A case says what it has to say, and then a PING: what has not come before the PONG will not come. So "is not answered"
costs no waiting. ERRORs are scarce, one per second, so a frame that may cause one waits until the peer may send it.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable

from ballonet_protocol import MAX_WIRE_BYTES, MESSAGE_TYPES, Bye, ErrorMessage, Message, Ping, Pong
from ballonet_protocol._codec import encode_message
from ballonet_protocol._messages import RSP
from ballonet_protocol.limits import ERROR_EVERY_S, FRAMES_BURST, FRAMES_PER_S

from .table import Failed, check
from .watching import Seen
from .wire import Ear, Frame, body, enclose, pack

if TYPE_CHECKING:
    from ballonet_protocol import Role

    from .lines import Line

#: An answer that SPEC.md wants at once or within ACK_WITHIN_S comes within this, on a busy machine too.
PATIENCE_S = 2.0
#: What a peer may still have in its queue when it says something of its own accord.
MARGIN_S = 0.25
#: Frames that a peer has left to say before a case begins: it must never have to keep silent for its rate.
ROOM_FRAMES = 24
#: The longest case lasts half a minute, and a peer may say 20 frames a second.
FRAMES_MOST = 2000


class LineEnded(Failed):
    """The peer has closed the line."""


class Flooded(LineEnded):
    """The peer says more than anybody can want to hear."""


class TimeIsUp(Failed):
    """The case took longer than a case may."""


class Talk:
    """What both roles have in common."""

    peer: Role

    def __init__(self, line: Line, say: Callable[[str], None] = lambda _text: None) -> None:
        self.line = line
        self.say_aloud = say
        self.seen = Seen(self.peer)
        self.case_ends_s = float("inf")
        self.inbox: list[Frame] = []
        self.sent: list[bytes] = []
        self.came: list[Frame] = []
        self.session = 0
        self.seq = 0
        self._ear = Ear()
        self._tokens = itertools.count(secrets.randbelow(1 << 20))
        self._error_s = float("-inf")
        self._ours = _Bucket(line.now_s())
        self._theirs = _Bucket(line.now_s())

    # --- time and bytes ----------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        """The line's clock."""
        return self.line.now_s()

    def pump(self, until_s: float) -> bool:
        """Wait for bytes until then; False when the time is up."""
        if self.now_s() >= self.case_ends_s:
            raise TimeIsUp("an end of this case in time", "none")
        data = self.line.receive(min(until_s, self.case_ends_s))
        if data is None:
            return self.now_s() < until_s
        if not data:
            raise LineEnded("an open line", "its end")
        for frame in self._ear.feed(data, self.now_s()):
            self._theirs.take(frame.at_s)
            if frame.type_code == ErrorMessage.TYPE_CODE:
                self._error_s = frame.at_s
            self.seen.frame(frame)
            self.came.append(frame)
            self.inbox.append(frame)
        if len(self.came) > FRAMES_MOST:
            raise Flooded(f"at most {FRAMES_MOST} frames in one case", "more")
        return True

    def wait_until(self, then_s: float) -> None:
        """Listen until then."""
        while self.now_s() < then_s:
            self.pump(then_s)

    def listen(self, seconds: float) -> list[Frame]:
        """What comes in so many seconds, and what had come before."""
        self.wait_until(self.now_s() + seconds)
        return self.take()

    def take(self) -> list[Frame]:
        """What has come and was not waited for."""
        frames, self.inbox = self.inbox, []
        return frames

    def write(self, *wires: bytes) -> None:
        """Bytes, whatever they are, within the rate that a side may have."""
        for wire in wires:
            self.wait_until(self._ours.ready_s(self.now_s(), 1))
            self._ours.take(self.now_s())
            self.sent.append(wire)
            self.line.send(wire)

    def begin_case(self, timeout_s: float) -> None:
        """Forget the case before; let the peer gather what it may say."""
        self.case_ends_s = float("inf")
        self.wait_until(self._theirs.ready_s(self.now_s(), ROOM_FRAMES))
        self.case_ends_s = self.now_s() + timeout_s
        self.sent, self.came, self.inbox = [], [], []

    def calm(self) -> None:
        """Wait until the peer may send an ERROR again."""
        self.wait_until(self._error_s + ERROR_EVERY_S + 0.05)

    # --- saying ------------------------------------------------------------------------------------------------------

    def frame(
        self,
        kind: type[Message] | int,
        payload: object,
        *,
        flags: int | None = None,
        seq: int | None = None,
        session: int | None = None,
        version: int = 1,
    ) -> bytes:
        """A frame of any kind, with a map or bytes for payload; the next number and the running session by default."""
        return enclose(self.body(kind, payload, flags=flags, seq=seq, session=session, version=version))

    def body(
        self,
        kind: type[Message] | int,
        payload: object,
        *,
        flags: int | None = None,
        seq: int | None = None,
        session: int | None = None,
        version: int = 1,
    ) -> bytes:
        """The same before COBS."""
        code = kind if isinstance(kind, int) else kind.TYPE_CODE
        if flags is None:
            flags = MESSAGE_TYPES[code].FLAGS
            if code == ErrorMessage.TYPE_CODE and isinstance(payload, dict) and "re" not in payload:
                flags &= ~RSP
        if isinstance(payload, Message):
            payload = encode_message(payload)
        elif not isinstance(payload, bytes):
            payload = pack(payload)
        if seq is None:
            self.seq += 1
            seq = self.seq
        assert isinstance(payload, bytes)
        session = self.session if session is None else session
        return body(code, payload, flags=flags, seq=seq, session=session, version=version)

    def say(self, message: Message, flags: int | None = None) -> int:
        """A right message of the running session. Its seq."""
        self.write(self.frame(type(message), message, flags=flags))
        return self.seq

    def token(self) -> int:
        """A number for a PING that no other has."""
        return next(self._tokens)

    def ping(self, more: dict[str, object] | None = None, flags: int | None = None) -> int:
        """A PING, with keys of our own. Its token."""
        token = self.token()
        self.write(self.frame(Ping, {"t": token, **(more or {})}, flags=flags))
        return token

    # --- hearing -----------------------------------------------------------------------------------------------------

    def find(
        self,
        kind: type[Message],
        expected: str,
        *,
        within_s: float = PATIENCE_S,
        where: Callable[[Message], object] = lambda _message: True,
    ) -> Frame:
        """The next frame of that kind; the others stay in the inbox. Raises Failed when none comes in time."""
        end_s = self.now_s() + within_s
        looked = 0
        while True:
            for place in range(looked, len(self.inbox)):
                frame = self.inbox[place]
                if isinstance(frame.message, kind) and where(frame.message):
                    del self.inbox[place]
                    return frame
            looked = len(self.inbox)
            if self.now_s() >= end_s:
                raise Failed(expected, _listed(self.inbox), self.inbox[-1] if self.inbox else None)
            self.pump(end_s)

    def pong(self, token: int, expected: str, within_s: float = PATIENCE_S) -> Frame:
        """The PONG to a PING."""
        return self.find(Pong, expected, within_s=within_s, where=lambda m: isinstance(m, Pong) and m.token == token)

    def fence(self, expected: str = "a PONG to the PING behind it") -> list[Frame]:
        """PING, and wait for the PONG: all that came before it is the answer to what was said before."""
        self.pong(self.ping(), expected)
        return self.take()

    def unanswered(self, *wires: bytes, tokens: Iterable[int] = (), what: str = "no answer") -> list[Frame]:
        """Say something that must have no answer: no ERROR, no PONG to these tokens; the next PING is answered."""
        self.calm()
        self.take()
        self.write(*wires)
        frames = self.fence()
        for frame in frames:
            check(not isinstance(frame.message, ErrorMessage), what, frame, frame)
            pong = frame.message
            if isinstance(pong, Pong):
                check(pong.token not in tuple(tokens), what, frame, frame)
        return frames

    def refused(
        self,
        wire: bytes,
        code: int,
        re: int | None,
        what: str,
        *,
        fence: bool = True,
    ) -> Frame:
        """Say something that is answered by one ERROR with this code and `re`, and has no other effect."""
        self.calm()
        self.take()
        self.write(wire)
        frame = self.find(ErrorMessage, f"ERROR {code} to {what}")
        error = frame.message
        assert isinstance(error, ErrorMessage)
        check(error.code == code, f"ERROR {code} to {what}", frame, frame)
        check(error.re == re, f"ERROR {code} with re {'absent' if re is None else re} to {what}", frame, frame)
        if fence:
            for other in self.fence():
                check(not isinstance(other.message, (ErrorMessage, Pong)), f"one ERROR {code} to {what}", other, other)
        return frame

    # --- what each role has in its own way ---------------------------------------------------------------------------

    def fresh(self) -> None:
        """A session in which nothing has been said."""
        raise NotImplementedError

    def active(self) -> None:
        """Any session that is open on both sides."""
        raise NotImplementedError

    def run_ahead(self) -> Frame:
        """A PING or PONG of the peer's whose number is greater than any of ours."""
        raise NotImplementedError

    def converse(self) -> None:
        """A bit of everything, for the rules that watch."""
        self.fresh()
        self.fence()
        self.calm()
        self.write(self.frame(Ping, {}))
        self.find(ErrorMessage, "an ERROR to a PING without t")

    def leave(self, why: int = 0) -> None:
        """BYE: the session is over for us."""
        self.say(Bye(why=why))

    def reopen_line(self) -> None:
        """Close the line and open it again; what was half heard is gone."""
        self.line.reconnect()
        self._ear = Ear()
        self.seen.line_reopened()
        self.inbox = []

    def max_frame_bytes(self) -> int:
        """The longest frame that the peer takes."""
        return MAX_WIRE_BYTES


class _Bucket:
    """The frames that a side may send, as section 11 counts them."""

    def __init__(self, now_s: float) -> None:
        self._tokens: float = FRAMES_BURST
        self._at_s = now_s

    def take(self, now_s: float) -> None:
        self._refill(now_s)
        self._tokens -= 1

    def ready_s(self, now_s: float, wanted: int) -> float:
        """When there are so many tokens."""
        self._refill(now_s)
        return now_s if self._tokens >= wanted else now_s + (wanted - self._tokens) / FRAMES_PER_S + 0.001

    def _refill(self, now_s: float) -> None:
        self._tokens = min(FRAMES_BURST, self._tokens + max(0.0, now_s - self._at_s) * FRAMES_PER_S)
        self._at_s = now_s


def _listed(frames: list[Frame]) -> str:
    if not frames:
        return "nothing"
    names = [frame.name if not frame.flaw else f"{frame.name} ({frame.flaw})" for frame in frames]
    return f"only {', '.join(names[-8:])}"
