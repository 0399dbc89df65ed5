"""One end of the wire: bytes in, messages out, messages in, bytes out.

    connection.receive_data(data)
    while (message := connection.next_message()) is not None:
        ...
    write(connection.send(Ping(token=1)))

What arrives goes through one order of questions: is the frame whole; is it of this wire version; is it of our
session; does our peer say such things; is its number new; does it carry a critical flag that we do not know; do we know
its type; does our state expect it; does its payload hold. The first no decides. Dropped and counted without a word:
damaged, overlong, stale, repeated and unexpected frames. Raised as RemoteProtocolError, for the caller to answer with
an ERROR: whatever a peer of our own session got wrong.
"""

from __future__ import annotations

from ._codec import decode_message, encode_message
from ._errors import LocalProtocolError, RemoteProtocolError
from ._framing import MAX_WIRE_BYTES, VERSION, FrameReader, encode_frame
from ._messages import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    REQ,
    RSP,
    Bye,
    Drops,
    ErrorCode,
    ErrorMessage,
    Hello,
    HelloAck,
    HelloReq,
    Limits,
    Message,
    Role,
)
from ._records import MAX_INT
from ._state import OUTSIDE_SESSIONS, RECEIVED, RECEIVES, SENDS, SENT, TRANSITIONS, State

MAX_SEQ = 2**32 - 1
MAX_SESSION = 2**64 - 1
CRITICAL_FLAGS = 0xFF00  # a receiver that does not know one of these may not act on the frame; version 1 has none


class Connection:
    """The wire as seen from one end, without I/O, clock or random numbers.

    Public attributes, all to be read only:
    state         State of the session
    session       its number, 0 while there is none
    capabilities  what both ends can do, frozenset of str; empty until the session is ACTIVE
    minor         the minor version both ends speak
    last_seq_sent number of the last frame sent in this session (or outside sessions, for HELLO_REQ)
    stale_frames, repeated_frames, unexpected_frames   frames dropped, since the connection began
    """

    def __init__(self, our_role: Role) -> None:
        self.our_role = our_role
        self.peer_role = COORDINATOR if our_role is AGENT else AGENT
        self.state = State.IDLE
        self.session = 0
        self.capabilities: frozenset[str] = frozenset()
        self.minor = 0
        self.last_seq_sent = 0
        self.stale_frames = 0
        self.repeated_frames = 0
        self.unexpected_frames = 0
        self._reader = FrameReader()
        self._missing_frames = 0
        self._hello: Hello | None = None
        self._hello_seq = 0
        self._seq_received = 0
        self._seq_in_session = 0
        self._seq_outside = 0
        self._peer_frame_bytes = MAX_WIRE_BYTES
        self._unknown_session = False

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Takes bytes from the peer, in any portions; b"" is harmless.

        Keeps at most one partial frame beyond what the caller has not read yet. Raises LocalProtocolError when more
        than 256 KiB wait unread.
        """
        self._reader.feed(data)

    def next_message(self) -> Message | None:
        """The next message, or None when more bytes are needed.

        Raises RemoteProtocolError for one frame that was wrong; it is gone, and the next call goes on behind it.
        """
        while (frame := self._reader.next_frame()) is not None:
            message = self._receive_frame(*frame)
            if message is not None:
                return message
        return None

    def take_unknown_session(self) -> bool:
        """True, once, when frames of a foreign session were dropped since the last call.

        An agent answers with HELLO_REQ (UNKNOWN_SESSION), a coordinator with a new session, each at most once a second.
        """
        seen, self._unknown_session = self._unknown_session, False
        return seen

    @property
    def has_partial(self) -> bool:
        """True while the first part of a frame waits for its rest; one older than 2 s is to be discarded."""
        return self._reader.has_partial

    def discard_partial(self) -> None:
        """Gives up the frame that has begun and not ended; counted as damaged."""
        self._reader.discard_partial()

    @property
    def drops(self) -> Drops:
        """Frames lost on the way to us since the connection began: damaged, overlong, missing between two that came.

        The counts stop at what a REPORT can carry: a peer that opens sessions and skips to their last number gets
        `gap` past that with two million of them.
        """
        counts = (self._reader.crc, self._reader.over, self._missing_frames)
        crc, over, gap = (min(count, MAX_INT) for count in counts)
        return Drops(crc=crc, over=over, gap=gap)

    def _receive_frame(
        self, version: int, type_code: int, flags: int, seq: int, session: int, untrusted_payload: bytes
    ) -> Message | None:
        if version != VERSION:
            raise RemoteProtocolError(ErrorCode.UNSUPPORTED_VERSION, None, f"frame version {version}, not {VERSION}")
        message_type = MESSAGE_TYPES.get(type_code)
        opens_session = message_type is Hello and self.our_role is AGENT
        outside = session == 0 and message_type in OUTSIDE_SESSIONS
        in_session = session != 0 and (session == self.session or opens_session)
        if not in_session and not outside:
            self.stale_frames += 1
            self._unknown_session = self._unknown_session or self.state is not State.CLOSED
            return None
        if message_type is not None and in_session and self.peer_role not in message_type.SENDERS:
            raise RemoteProtocolError(ErrorCode.NOT_PERMITTED, seq, f"{message_type.TYPE_NAME} is not yours to send")
        if not opens_session and not outside and not self._is_new(seq):
            return None
        if flags & CRITICAL_FLAGS:
            if message_type is ErrorMessage:
                self.unexpected_frames += 1
                return None
            raise RemoteProtocolError(ErrorCode.UNSUPPORTED_CRITICAL, seq, f"flags {flags & CRITICAL_FLAGS:#x}")
        if message_type is None:
            if flags & REQ:
                raise RemoteProtocolError(ErrorCode.UNSUPPORTED_TYPE, seq, f"message type {type_code:#x}")
            return None
        if message_type not in RECEIVES[self.our_role, self.state] or (message_type is HelloReq and not outside):
            self.unexpected_frames += 1
            return None
        message = self._decode(message_type, seq, untrusted_payload)
        if message is None or not self._admits(message, session):
            return None
        self.state = TRANSITIONS.get((self.our_role, self.state, RECEIVED, message_type), self.state)
        if message_type is Bye:
            self.session = 0
        return message

    def _is_new(self, seq: int) -> bool:
        if seq <= self._seq_received:
            self.repeated_frames += 1
            return False
        self._missing_frames += seq - self._seq_received - 1
        self._seq_received = seq
        return True

    def _decode(self, message_type: type[Message], seq: int, untrusted_payload: bytes) -> Message | None:
        try:
            return decode_message(message_type, seq, untrusted_payload)
        except RemoteProtocolError:
            if message_type is not ErrorMessage:  # an ERROR is never answered, not even a bad one
                raise
            self.unexpected_frames += 1
            return None

    def _admits(self, message: Message, session: int) -> bool:
        """What HELLO and HELLO_ACK must have beyond their table. Takes over what they agree on."""
        if isinstance(message, Hello):
            self._begin(session, message, message.seq)
            self._heed(message.limits)
            low, high = message.major_range
            if not low <= VERSION <= high:
                self.state = State.HELLO_RECEIVED
                self._hello = None  # there is no answer but ERROR and BYE
                raise RemoteProtocolError(
                    ErrorCode.UNSUPPORTED_VERSION, message.seq, f"major {VERSION} is not in {low}..{high}"
                )
        elif isinstance(message, HelloAck):
            hello = self._hello
            if hello is None or message.nonce != hello.nonce or message.re != self._hello_seq:
                self.unexpected_frames += 1
                return False
            if message.major != VERSION:
                raise RemoteProtocolError(
                    ErrorCode.UNSUPPORTED_VERSION, message.seq, f"major {message.major} was not offered"
                )
            self._heed(message.limits)
            self._agree(hello, message)
        return True

    # --- sending -----------------------------------------------------------------------------------------------------

    def open_session(self, session: int, hello: Hello) -> bytes:
        """The HELLO of a new session, as bytes. COORDINATOR only; ends the session before.

        `session` is a fresh random number of 1..2^64-1 and `hello.nonce` 16 random bytes: the caller draws them. Raises
        LocalProtocolError for a wrong role, the number of the running session, or a HELLO that cannot be sent.
        """
        if self.our_role is not COORDINATOR:
            raise LocalProtocolError("only the coordinator opens sessions")
        if not 0 < session <= MAX_SESSION or session == self.session:
            raise LocalProtocolError("a session needs a new number of 1..2^64-1")
        low, high = hello.major_range
        if not low <= VERSION <= high:
            raise LocalProtocolError(f"this library speaks major {VERSION}")
        frame = encode_frame(Hello.TYPE_CODE, REQ, 1, session, encode_message(hello))
        self._begin(session, hello, 0)
        self._seq_in_session = self.last_seq_sent = self._hello_seq = 1
        self.state = TRANSITIONS[self.our_role, self.state, SENT, Hello]
        return frame

    def send(self, message: Message) -> bytes:
        """One whole frame with `message`, to be written in one piece. `last_seq_sent` is its number afterwards.

        Raises LocalProtocolError, changing nothing, when this role may not send it, the state forbids it, a value is
        out of bounds, the frame is longer than the peer takes, or the session's numbers are used up.
        """
        message_type = type(message)
        if message_type is Hello:
            raise LocalProtocolError("a HELLO begins a session: open_session")
        if message_type not in SENDS[self.our_role, self.state]:
            raise LocalProtocolError(f"no {message_type.__name__} from the {self.our_role.value} in {self.state.name}")
        if isinstance(message, HelloAck):
            self._check_answer(message)
        session = 0 if self._goes_outside(message) else self.session
        seq = (self._seq_in_session if session else self._seq_outside) + 1
        if seq > MAX_SEQ:
            raise LocalProtocolError("the session's numbers are used up: a new HELLO is due")
        flags = message_type.FLAGS
        if isinstance(message, ErrorMessage) and message.re is None:
            flags &= ~RSP
        frame = encode_frame(message_type.TYPE_CODE, flags, seq, session, encode_message(message))
        if len(frame) > self._peer_frame_bytes:
            raise LocalProtocolError(f"the peer takes {self._peer_frame_bytes} bytes, the frame has {len(frame)}")
        if session:
            self._seq_in_session = seq
        else:
            self._seq_outside = seq
        self.last_seq_sent = seq
        if isinstance(message, HelloAck) and self._hello is not None:
            self._agree(self._hello, message)
        self.state = TRANSITIONS.get((self.our_role, self.state, SENT, message_type), self.state)
        if message_type is Bye:
            self.session = 0
        return frame

    def _goes_outside(self, message: Message) -> bool:
        if isinstance(message, ErrorMessage):
            return self.session == 0 or message.code == ErrorCode.UNKNOWN_SESSION
        return isinstance(message, HelloReq)

    def _check_answer(self, ack: HelloAck) -> None:
        hello = self._hello
        if hello is None or (ack.nonce, ack.re, ack.major) != (hello.nonce, self._hello_seq, VERSION):
            raise LocalProtocolError(f"HELLO_ACK repeats the HELLO's nonce, names its seq and chooses major {VERSION}")

    # --- both --------------------------------------------------------------------------------------------------------

    def _begin(self, session: int, hello: Hello, seq_received: int) -> None:
        """A new session: nothing of the one before holds any more.

        The numbers go on when a coordinator repeats its HELLO in the session that it opened: counted from 1 again, our
        frames would look repeated to it.
        """
        if session != self.session:
            self._seq_received = 0
            self._seq_in_session = 0
        self.session = session
        self.capabilities = frozenset()
        self.minor = 0
        self.last_seq_sent = 0
        self._hello = hello
        self._hello_seq = seq_received
        self._seq_received = max(self._seq_received, seq_received)
        self._peer_frame_bytes = MAX_WIRE_BYTES
        self._unknown_session = False

    def _heed(self, limits: Limits | None) -> None:
        if limits is not None and limits.frame_bytes is not None:
            self._peer_frame_bytes = limits.frame_bytes

    def _agree(self, hello: Hello, ack: HelloAck) -> None:
        self.capabilities = frozenset(hello.capabilities) & frozenset(ack.capabilities)
        self.minor = min(hello.minor, ack.minor)
