"""The conversation with the coordinator: asking for a session, keeping it, noticing that nobody listens.

    port opened -> HELLO_REQ, again with back-off --HELLO--> open
    open --no host frame for 10 s, or 32 frames unanswered--> orphan: silent, HELLO_REQ each 15 s, 64 frames in all
    orphan --any frame of the session--> open; after a sleep only a HELLO stops the asking
    open --BYE--> asks again with back-off

A virtio port tells little about its other end: hosts change without an end of file, a paused guest writes into a void,
and a suspend with a full ring wedges the port for good. So the port's events only say when to ask; whether a
coordinator listens is decided by its frames, and an agent that hears none falls silent long before the ring of 128
slots is full.
"""

from __future__ import annotations

from ballonet_guest_agent.actions import Instant, Log, Write
from ballonet_guest_agent.cadence import Backoff, Budget, FrameBudget
from ballonet_protocol import (
    AGENT,
    Bye,
    ByeWhy,
    Connection,
    Demand,
    ErrorCode,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    HelloReqWhy,
    LocalProtocolError,
    Message,
    Ping,
    Pong,
    RemoteProtocolError,
    State,
)
from ballonet_protocol.limits import (
    DEAD_S,
    DEMANDS_PER_S,
    ERROR_EVERY_S,
    ERRORS_IN_A_ROW,
    HELLO_FIRST_S,
    INFLIGHT_MOST,
    PARTIAL_S,
    RESYNC_EVERY_S,
    SILENT_AFTER,
    UNANSWERED_MOST,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.actions import Action, Identity

MAJOR, MINOR = 1, 0
#: BOOTTIME runs ahead of MONOTONIC by the time asleep; less than this is the granularity of reading two clocks.
ASLEEP_S = 0.5
NEVER_S = float("inf")
#: What a flood of the coordinator's makes the agent say leaves room for what matters: an answer and a REPORT to each of
#: the requests that may wait for one. Those in turn leave a second's DEMANDs, and one PONG a second goes in any case.
DISPENSABLE = (Pong, Event, ErrorMessage)
RESERVED_FRAMES = 2 * INFLIGHT_MOST


class Session:
    """Owns the connection. Actions pile up in `out`, in order; the agent hands them to the shell."""

    def __init__(self, identity: Identity) -> None:
        self.connection = Connection(AGENT)
        self.out: list[Action] = []
        self.dead_s = DEAD_S
        self.asleep = False
        self._identity = identity
        self._budget = FrameBudget()
        self._pong_budget = Budget(1, 1)
        self._backoff = Backoff(identity.boot_id[-1])
        self._port_open = False
        self._open = False
        self._ever_open = False
        self._orphan = False
        self._lost = False
        self._heard_s = -NEVER_S
        self._unanswered = 0
        self._hello_due_s = NEVER_S
        self._hello_why = HelloReqWhy.START
        self._last_hello_req_s = self._last_error_s = -NEVER_S
        self._errors_in_a_row = 0
        self._half_since_s: float | None = None
        self._asleep_s: float | None = None

    @property
    def live(self) -> bool:
        """Is there a coordinator that hears us?"""
        return self._port_open and self._open and not self._orphan

    def take_loss(self) -> bool:
        """True once after the coordinator was lost: what it agreed on with us is over."""
        lost, self._lost = self._lost, False
        return lost

    # ---- what the port does ------------------------------------------------------------------------------------

    def connected(self, now: Instant) -> None:
        """The port has a host. Whether it is the one of before, its frames will say."""
        if self._port_open:
            return
        self._port_open = True
        self._orphan = self._open
        self._unanswered = 0
        self.connection.discard_partial()
        self.ask(HelloReqWhy.RESYNC if self._ever_open else HelloReqWhy.START, now)

    def disconnected(self) -> None:
        """The port has no host. The session may go on when one comes back."""
        self._port_open = False
        self._lost = True
        self._hello_due_s = NEVER_S

    def look_at_clock(self, now: Instant) -> None:
        """Before every input: did the guest sleep, did the coordinator fall silent?"""
        asleep_s = now.boottime_s - now.monotonic_s
        if self._asleep_s is not None and asleep_s > self._asleep_s + ASLEEP_S:
            self.log(5, f"woke up after {asleep_s - self._asleep_s:.0f} s of sleep")
            self.asleep = self._lost = True
            self.send_event("resume", now)
            if self._port_open:
                self.ask(HelloReqWhy.RESUMED, now)
        # Whoever reads two clocks may be held up between them; loop.py reads so that this shows as too little sleep.
        self._asleep_s = asleep_s if self._asleep_s is None else max(self._asleep_s, asleep_s)
        if self.live and (now.monotonic_s >= self._heard_s + self.dead_s or self._unanswered >= UNANSWERED_MOST):
            self._orphan = self._lost = True
            self._backoff.rest()
            self._hello_why = HelloReqWhy.RESYNC
            self._hello_due_s = now.monotonic_s + self._backoff.next_s()
            self.log(4, "coordinator silent: reports stop until it is heard again")

    def tick(self, now: Instant) -> None:
        """Ask for a session when it is time; let go of half a frame that lost its end."""
        if self._half_since_s is not None and now.monotonic_s >= self._half_since_s + PARTIAL_S:
            self._half_since_s = None
            self.connection.discard_partial()
        if self._port_open and now.monotonic_s >= self._hello_due_s:
            self._send_hello_req(now)

    def deadline_s(self, now: Instant) -> float:
        """Seconds until `tick` or `look_at_clock` has something to do; infinite when only an input can change it."""
        due_s = self._hello_due_s if self._port_open else NEVER_S
        if self._half_since_s is not None:
            due_s = min(due_s, self._half_since_s + PARTIAL_S)
        if self.live:
            due_s = min(due_s, self._heard_s + self.dead_s)
        return due_s - now.monotonic_s

    # ---- messages in -------------------------------------------------------------------------------------------

    def next_message(self, now: Instant) -> Message | None:
        """The next message that concerns the guest's memory: HELLO, INFLATE, DEFLATE, SET_POLICY. None: no more."""
        while True:
            try:
                message = self.connection.next_message()
            except RemoteProtocolError as error:
                self._half_since_s = None
                self._refuse(error, now)
                continue
            if message is None:
                break
            self._half_since_s = None  # a half that waits now has begun behind this frame
            self._heard(message, now)
            if self._concerns_guest(message, now):
                return message
        if not self.connection.has_partial:
            self._half_since_s = None
        elif self._half_since_s is None:
            self._half_since_s = now.monotonic_s
        pause_over = now.monotonic_s >= self._last_hello_req_s + RESYNC_EVERY_S
        if self.connection.take_unknown_session() and self._port_open and pause_over:
            self.ask(HelloReqWhy.UNKNOWN_SESSION, now)
        return None

    def _heard(self, message: Message, now: Instant) -> None:
        self._errors_in_a_row = 0
        if _is_outside_sessions(message):
            return  # anybody may have said it, whenever
        self._unanswered = 0
        self._heard_s = now.monotonic_s
        if self._open and self._orphan:
            self._orphan = False
            if not self.asleep:
                self._hello_due_s = NEVER_S

    def _concerns_guest(self, message: Message, now: Instant) -> bool:
        if isinstance(message, Hello):
            self._open = False
            self._lost = True
            return True
        if not self._open:
            return False
        if isinstance(message, Ping):
            self.send(Pong(re=message.seq, token=message.token, boottime_ms=milliseconds(now)), now)
        elif isinstance(message, Bye):
            self.log(5, f"coordinator left (why {message.why})")
            self._close(now)
        elif isinstance(message, ErrorMessage):
            self.log(4, f"coordinator reports error {message.code} for frame {message.re}")
            if message.code == ErrorCode.UNKNOWN_SESSION:
                self.ask(HelloReqWhy.UNKNOWN_SESSION, now)
        else:
            return True
        return False

    def _refuse(self, error: RemoteProtocolError, now: Instant) -> None:
        if self.connection.state is State.HELLO_RECEIVED:
            self._decline(error, now)
            return
        # A line with an echo brings our own frames back; that is no reason to leave.
        if error.code != ErrorCode.NOT_PERMITTED:
            self._errors_in_a_row += 1
        if now.monotonic_s >= self._last_error_s + ERROR_EVERY_S:
            self._last_error_s = now.monotonic_s
            self.send(error.as_message(), now)
            self.log(4, f"bad frame from the coordinator: {error}")
        if self._open and self._errors_in_a_row >= ERRORS_IN_A_ROW:
            self._errors_in_a_row = 0
            self.send(Bye(why=ByeWhy.PROTOCOL), now)
            self._close(now)

    def _decline(self, error: RemoteProtocolError, now: Instant) -> None:
        """A HELLO that offers no version of ours has ended the session before it and begins none."""
        self.log(4, f"no session: {error}")
        self.send(error.as_message(fatal=True), now)
        self.send(Bye(why=ByeWhy.PROTOCOL), now)
        self._close(now)

    # ---- session -----------------------------------------------------------------------------------------------

    def ask(self, why: HelloReqWhy, now: Instant) -> None:
        """HELLO_REQ at once, or a second after the last one; then with back-off until a HELLO comes."""
        self._hello_why = why
        self._backoff.reset()
        self._hello_due_s = max(now.monotonic_s, self._last_hello_req_s + RESYNC_EVERY_S)
        if now.monotonic_s >= self._hello_due_s:
            self._send_hello_req(now)

    def _send_hello_req(self, now: Instant) -> None:
        self._last_hello_req_s = now.monotonic_s
        if self._unanswered >= SILENT_AFTER:
            self._hello_due_s = NEVER_S  # a frame, or an edge of the port, says that asking makes sense again
            return
        self._hello_due_s = now.monotonic_s + self._backoff.next_s()
        self.send(HelloReq(why=self._hello_why, implementation=self._identity.implementation), now)

    def welcome(self, acknowledgement: HelloAck, now: Instant) -> bool:
        """Answer a HELLO: from here on there is a session. False, and none, when the answer could not leave."""
        if not self.send(acknowledgement, now):
            self._close(now)
            return False
        self._open = self._ever_open = True
        self._orphan = self.asleep = False
        self._hello_due_s = NEVER_S
        return True

    def turn_away(self, now: Instant) -> None:
        """A HELLO that is not answered, because there were too many: ask for another in a second."""
        self._close(now)

    def _close(self, now: Instant) -> None:
        self._open = False
        self._lost = True
        self._hello_why = HelloReqWhy.RESYNC
        self._backoff.reset()
        self._hello_due_s = now.monotonic_s + HELLO_FIRST_S

    def stop(self, now: Instant) -> None:
        """The agent stops: say so to whoever listens."""
        if self.live:
            self.send(Bye(why=ByeWhy.STOP), now)
        self._open = self._port_open = False

    # ---- out ---------------------------------------------------------------------------------------------------

    def send(self, message: Message, now: Instant) -> bool:
        """Add the message's frame to `out`. False when the frame budget is spent or the message cannot be sent."""
        if not self._budget.take(now.monotonic_s, self._reserve(message, now)):
            return False
        try:
            frame = self.connection.send(message)
        except LocalProtocolError as error:
            self.log(3, f"not sent: {error}")
            return False
        self.out.append(Write(frame))
        self._unanswered += 1
        return True

    def _reserve(self, message: Message, now: Instant) -> int:
        """How many frames must be left for others when this one leaves."""
        if isinstance(message, Demand) or (isinstance(message, Pong) and self._pong_budget.take(now.monotonic_s)):
            return 0
        return RESERVED_FRAMES if isinstance(message, DISPENSABLE) else DEMANDS_PER_S

    def send_event(self, event: str, now: Instant) -> None:
        """An EVENT, where the coordinator wants them."""
        if self.live and "events" in self.connection.capabilities:
            self.send(Event(event=event, boottime_ms=milliseconds(now)), now)

    def log(self, level: int, text: str) -> None:
        """A line for the operator; `level` as in `Log`."""
        self.out.append(Log(level, text))


def _is_outside_sessions(message: Message) -> bool:
    """Was it said in session 0? An ERROR is where it names no frame, and always with this code."""
    if not isinstance(message, ErrorMessage):
        return False
    return message.re is None or message.code == ErrorCode.UNKNOWN_SESSION


def milliseconds(now: Instant) -> int:
    """CLOCK_BOOTTIME as the wire has it."""
    return int(now.boottime_s * 1000)
