"""The coordinator's side of one agent's channel: bytes and `now` in, bytes, reports and wishes out. Pure.

The conversation has three layers, each with its own clock:

* **opening**: HELLO until an agent answers, 1 s x 1.5 to 15 s with jitter. A HELLO is also sent when the agent asks for
  one, when it speaks in a foreign session (each at most once a second), when the machine was reset and when the agent
  fell silent. The session's number and nonce are random and come in through `Randomness`: a restored guest
  repeats its own random numbers, the host does not.
* **living**: a PING when we have sent nothing for `HEARTBEAT_S`; after `DEAD_S` without a valid frame the agent counts
  as unresponsive and a new session is opened. Consent ends with it.
* **asking**: INFLATE and DEFLATE are resent with the same `gen` and a new seq, three tries a second apart. Silence to
  an INFLATE means no consent; a DEFLATE is a grant and stands without an answer.

Everything that the agent says is a claim. It is validated frame by frame by the protocol package, turned into
`UsageReport` and `Wish` here, and bounded: `read_delay_s` holds back a flooding guest by not reading (the channel's own
back-pressure, lossless), and output that nobody takes is bounded by `QUEUE_BYTES`.
"""

from __future__ import annotations

from typing import Protocol

from ballonet_protocol import (
    COORDINATOR,
    MAX_WIRE_BYTES,
    AckStatus,
    BalloonAck,
    Bye,
    ByeWhy,
    Connection,
    Deflate,
    Demand,
    ErrorCode,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    LocalProtocolError,
    Message,
    Ping,
    Pong,
    RemoteProtocolError,
    Report,
)
from ballonet_protocol.limits import (
    ACK_WITHIN_S,
    DEAD_S,
    ERROR_EVERY_S,
    ERRORS_IN_A_ROW,
    FRAMES_BURST,
    FRAMES_PER_S,
    HEARTBEAT_S,
    HELLO_FIRST_S,
    HELLO_GROWTH,
    HELLO_LONGEST_S,
    INFLIGHT_MOST,
    LEASE_MS,
    PARTIAL_S,
    QUEUE_BYTES,
    REPORT_MS,
    RESYNC_EVERY_S,
    TRIES,
)

from .model import AgentFacts, Consent, LinkState, UsageReport, Wish
from .usage import KIB, usage_report

MAJOR_RANGE = (1, 1)
MINOR = 0
CAPABILITIES = ("psi", "refault", "events")

NOBODY = "no agent answers: not installed, not started, or another client holds the channel"
NOBODY_AFTER_WAIT_S = 3.0

TOKEN_BYTES = 4096
"""Bytes cost frames too: noise without an end is no frame at all."""


class Randomness(Protocol):
    """Where session numbers come from; tests hand in a counter."""

    def session_id(self) -> int:
        """1..2**64-1."""

    def nonce(self) -> bytes:
        """16 bytes."""

    def jitter(self) -> float:
        """0.8..1.2"""


class _Request:
    __slots__ = ("gen", "message", "sent_s", "seqs", "tries")

    def __init__(self, gen: int, message: Inflate | Deflate) -> None:
        self.gen = gen
        self.message = message
        self.tries = 0
        self.sent_s = 0.0
        self.seqs: set[int] = set()


class AgentSession:
    """One conversation after another with one guest's agent."""

    def __init__(self, randomness: Randomness, report_ms: int = REPORT_MS) -> None:
        self._random = randomness
        self._report_ms = report_ms
        self._connection = Connection(COORDINATOR)
        self._attached = False
        self._link = LinkState.NONE
        self._out = bytearray()
        self._ram_bytes: int | None = None
        self._hello_next_s = 0.0
        self._hello_wait_s = HELLO_FIRST_S
        self._hello_sent_s = float("-inf")
        self._hello_owed = False
        self._heard_s = float("-inf")
        self._live_since_s = 0.0
        self._spoke_s = 0.0
        self._partial_since_s: float | None = None
        self._error_sent_s = float("-inf")
        self._errors_in_a_row = 0
        self._tokens: float = FRAMES_BURST
        self._tokens_s = 0.0
        self._request: _Request | None = None
        self._consent: Consent | None = None
        self._failed_gen = 0
        self._hello_ack: HelloAck | None = None
        self._last_boottime_ms = -1
        self._detail = "no channel yet"
        self.reports: list[UsageReport] = []
        """Arrived since the caller last took them; the caller clears it."""
        self.wishes: list[Wish] = []

    # --- facts -------------------------------------------------------------------------------------------

    def facts(self) -> AgentFacts:
        ack = self._hello_ack
        return AgentFacts(
            link=self._link,
            session=self._connection.session if self._link is LinkState.LIVE else 0,
            live_since_s=self._live_since_s,
            boot_id=ack.boot_id if ack else None,
            implementation=f"{ack.implementation} {ack.implementation_version}" if ack else "",
            capabilities=tuple(sorted(self._connection.capabilities)) if self._link is LinkState.LIVE else (),
            consent=self._consent,
            failed_gen=self._failed_gen,
            report_ms=self._report_ms,
            detail=self._detail,
        )

    @property
    def has_output(self) -> bool:
        """Whether `take_output` has something to write."""
        return bool(self._out)

    def take_output(self) -> bytes:
        data, self._out = bytes(self._out), bytearray()
        return data

    def deadline_s(self) -> float:
        """When `tick` wants to be called next. Each moment is the very sum that `tick` compares with."""
        if not self._attached:
            return float("inf")
        moments = [self._hello_next_s]
        if self._link is LinkState.LIVE:
            moments = [self._spoke_s + HEARTBEAT_S, self._heard_s + DEAD_S]
        if self._hello_owed:
            moments.append(self._hello_sent_s + RESYNC_EVERY_S)
        if self._request is not None:
            moments.append(self._request.sent_s + ACK_WITHIN_S)
        if self._partial_since_s is not None:
            moments.append(self._partial_since_s + PARTIAL_S)
        return min(moments)

    def read_delay_s(self, now_s: float) -> float:
        """How long to leave the guest's bytes where they are; 0 for not at all."""
        self._tokens = min(FRAMES_BURST, self._tokens + (now_s - self._tokens_s) * FRAMES_PER_S)
        self._tokens_s = now_s
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / FRAMES_PER_S

    @property
    def heard_s(self) -> float:
        """When the last valid frame arrived, by the host's clock; negative infinity before any."""
        return self._heard_s

    # --- what happens to the channel ---------------------------------------------------------------------

    def attached(self, ram_kib: int, now_s: float) -> None:
        """The channel's stream is open. Whoever is there hears a HELLO."""
        self._connection = Connection(COORDINATOR)
        self._attached = True
        self._ram_bytes = ram_kib * KIB
        self._out.clear()
        self._tokens, self._tokens_s = FRAMES_BURST, now_s
        self._hello_wait_s = HELLO_FIRST_S
        self._open(now_s, "waiting for the agent")

    def detached(self, detail: str) -> None:
        """The stream is closed or could not be opened."""
        self._attached = False
        self._out.clear()
        self._drop_session(LinkState.NONE if self._hello_ack is None else LinkState.UNRESPONSIVE, detail)

    def renewed(self, ram_kib: int, now_s: float) -> None:
        """The machine was reset, resumed, migrated or restored: nothing that was said before holds."""
        self._hello_ack = None
        if self._attached:
            self._ram_bytes = ram_kib * KIB
            self._hello_wait_s = HELLO_FIRST_S
            self._open(now_s, "waiting for the agent of this boot")
        else:
            self._drop_session(LinkState.NONE, self._detail)

    def begin_anew(self, report_ms: int, now_s: float) -> None:
        """What was asked is off, and from now on the agent is to report in this period: its next session says so."""
        self._report_ms = report_ms
        if self._attached:
            self._hello_wait_s = HELLO_FIRST_S
            link = LinkState.OPENING if self._link is LinkState.LIVE else self._link
            self._open(now_s, self._detail or "the settings have changed", link)

    def received(self, untrusted_data: bytes, now_s: float) -> None:
        """Take the guest's bytes. Nothing that is in them raises."""
        frames = -self._dropped_frames()
        self._connection.receive_data(untrusted_data)
        while True:
            try:
                message = self._connection.next_message()
            except RemoteProtocolError as exc:
                frames += 1
                self._complain(exc, now_s)
                continue
            if message is None:
                break
            frames += 1
            self._heard_s = now_s
            self._errors_in_a_row = 0
            self._take(message, now_s)
        self._tokens -= max(frames + self._dropped_frames(), len(untrusted_data) / TOKEN_BYTES)
        if self._connection.take_unknown_session():
            self._hello_soon(now_s)
        if not self._connection.has_partial:
            self._partial_since_s = None
        elif self._partial_since_s is None:
            self._partial_since_s = now_s

    def tick(self, now_s: float) -> None:
        """Do what is due at `now_s`."""
        if not self._attached:
            return
        if self._partial_since_s is not None and now_s >= self._partial_since_s + PARTIAL_S:
            self._connection.discard_partial()
            self._partial_since_s = None
        if self._hello_owed:
            self._hello_soon(now_s)
        if self._link is LinkState.LIVE:
            if now_s >= self._heard_s + DEAD_S:
                self._hello_wait_s = HELLO_FIRST_S
                self._open(now_s, f"agent silent for {now_s - self._heard_s:.0f} s", LinkState.UNRESPONSIVE)
                return
            self._resend(now_s)
            if now_s >= self._spoke_s + HEARTBEAT_S:
                self._send(Ping(token=int(now_s * 1000)), now_s)
        elif now_s >= self._hello_next_s:
            self._open(now_s, self._detail if self._hello_wait_s < NOBODY_AFTER_WAIT_S else NOBODY, self._link)

    # --- what we want to say -----------------------------------------------------------------------------

    def ask_inflate(self, gen: int, target_kib: int, floor_kib: int, rate_kib_per_s: int, now_s: float) -> None:
        """Ask for consent. The answer appears as `facts().consent` with this `gen`, silence as `failed_gen`."""
        self._consent = None
        self._ask(
            gen,
            Inflate(
                gen=gen,
                target_bytes=target_kib * KIB,
                ttl_ms=LEASE_MS,
                floor_bytes=floor_kib * KIB,
                rate_bytes_per_s=rate_kib_per_s * KIB,
            ),
            now_s,
        )

    def tell_deflate(self, gen: int, target_kib: int, now_s: float) -> None:
        """Announce a grant. It ends a consent, since its `gen` is newer."""
        self._consent = None
        self._ask(gen, Deflate(gen=gen, target_bytes=target_kib * KIB, ttl_ms=LEASE_MS), now_s)

    def goodbye(self, now_s: float) -> None:
        """A clean stop of the coordinator."""
        if self._link is LinkState.LIVE:
            self._send(Bye(why=ByeWhy.STOP), now_s)

    # --- inside ------------------------------------------------------------------------------------------

    def _dropped_frames(self) -> int:
        """Frames that cost their parsing and came to nothing: damaged, overlong, stale, repeated, unexpected."""
        connection, drops = self._connection, self._connection.drops
        dropped = connection.stale_frames + connection.repeated_frames + connection.unexpected_frames
        return dropped + (drops.crc or 0) + (drops.over or 0)

    def _open(self, now_s: float, detail: str, link: LinkState = LinkState.OPENING) -> None:
        self._drop_session(link, detail)
        hello = Hello(
            major_range=MAJOR_RANGE,
            minor=MINOR,
            nonce=self._random.nonce(),
            capabilities=CAPABILITIES,
            ram_bytes=self._ram_bytes,
            limits=Limits(
                frame_bytes=MAX_WIRE_BYTES,
                inflight=INFLIGHT_MOST,
                heartbeat_ms=int(HEARTBEAT_S * 1000),
                dead_ms=int(DEAD_S * 1000),
                report_ms=self._report_ms,
            ),
        )
        self._queue(self._connection.open_session(self._random.session_id(), hello), now_s)
        self._hello_sent_s = now_s
        self._hello_next_s = now_s + self._hello_wait_s * self._random.jitter()
        self._hello_wait_s = min(HELLO_LONGEST_S, self._hello_wait_s * HELLO_GROWTH)

    def _drop_session(self, link: LinkState, detail: str) -> None:
        self._link = link
        self._detail = detail
        self._hello_owed = False
        self._request = None
        self._consent = None
        self._last_boottime_ms = -1

    def _hello_soon(self, now_s: float) -> None:
        """Answer a request for a session, at most once a second; a live agent that forgot us keeps its rank."""
        if now_s >= self._hello_sent_s + RESYNC_EVERY_S:
            self._hello_wait_s = HELLO_FIRST_S
            self._open(now_s, "agent asked for a session")

    def _take(self, message: Message, now_s: float) -> None:
        if isinstance(message, HelloReq):
            self._hello_owed = True  # until a HELLO goes out, or the last one is answered after all
            self._hello_soon(now_s)
        elif isinstance(message, HelloAck):
            self._hello_ack = message
            self._link = LinkState.LIVE
            self._live_since_s = now_s
            self._hello_owed = False
            self._detail = ""
            self._failed_gen = 0
        elif isinstance(message, Report):
            self._take_report(message, now_s)
        elif isinstance(message, Demand):
            self._consent = None
            self.wishes.append(
                Wish(message.want_bytes // KIB, message.why, message.severity, arrived_s=now_s, gen=message.gen)
            )
        elif isinstance(message, BalloonAck):
            self._take_ack(message, now_s)
        elif isinstance(message, Ping):
            self._send(Pong(re=message.seq, token=message.token), now_s)
        elif isinstance(message, Bye):
            self._drop_session(LinkState.OPENING, f"agent left (reason {message.why})")
            self._hello_wait_s = HELLO_FIRST_S
            self._hello_next_s = now_s + HELLO_FIRST_S

    def _take_report(self, message: Report, now_s: float) -> None:
        if message.boottime_ms <= self._last_boottime_ms:
            return  # a report that does not advance the guest's clock is a repetition, and fresh for nobody
        self._last_boottime_ms = message.boottime_ms
        ack = self._hello_ack
        page_kib = (ack.page_bytes if ack else 4096) / KIB
        self.reports.append(usage_report(message, page_kib, now_s))

    def _take_ack(self, message: BalloonAck, now_s: float) -> None:
        request = self._request
        if request is None or message.re not in request.seqs or message.gen != request.gen:
            return
        self._request = None
        if isinstance(request.message, Deflate) or message.effective_bytes is None:
            return
        self._consent = Consent(
            gen=message.gen,
            effective_kib=max(message.effective_bytes, request.message.target_bytes) // KIB,
            refused=message.status in (AckStatus.REFUSED, AckStatus.STALE),
            why=message.why,
            answered_s=now_s,
            expires_s=request.sent_s + LEASE_MS / 1000,
        )

    def _ask(self, gen: int, message: Inflate | Deflate, now_s: float) -> None:
        if self._link is not LinkState.LIVE:
            self._failed_gen = gen
            return
        self._request = _Request(gen, message)
        self._try(self._request, now_s)

    def _try(self, request: _Request, now_s: float) -> None:
        request.tries += 1
        request.sent_s = now_s
        if self._send(request.message, now_s):
            request.seqs.add(self._connection.last_seq_sent)

    def _resend(self, now_s: float) -> None:
        request = self._request
        if request is None or now_s < request.sent_s + ACK_WITHIN_S:
            return
        if request.tries >= TRIES:
            self._request = None
            self._failed_gen = request.gen
            self._detail = f"no answer to request {request.gen} in {TRIES} tries"
        else:
            self._try(request, now_s)

    def _complain(self, error: RemoteProtocolError, now_s: float) -> None:
        """Tell the agent, at most once a second; leave when there is no common version or no common language."""
        no_version = error.code == ErrorCode.UNSUPPORTED_VERSION and error.re is not None
        if error.code != ErrorCode.NOT_PERMITTED:  # a line that echoes brings our own frames back
            self._errors_in_a_row += 1
        if no_version or now_s >= self._error_sent_s + ERROR_EVERY_S:
            self._error_sent_s = now_s
            self._send(error.as_message(fatal=no_version), now_s)
        if no_version:
            self._leave(f"no common version: {error.detail}", now_s)
        elif self._errors_in_a_row >= ERRORS_IN_A_ROW:
            self._leave(f"{ERRORS_IN_A_ROW} bad frames in a row, the last: {error.detail}", now_s)

    def _leave(self, detail: str, now_s: float) -> None:
        """BYE, and patience: what is wrong with this agent is not mended in a second."""
        self._errors_in_a_row = 0
        self._send(Bye(why=ByeWhy.PROTOCOL), now_s)
        self._drop_session(LinkState.OPENING, detail)
        self._hello_wait_s = HELLO_LONGEST_S
        self._hello_next_s = now_s + HELLO_LONGEST_S * self._random.jitter()

    def _send(self, message: Message, now_s: float) -> bool:
        self._spoke_s = now_s  # an attempt counts: a deadline that stays in the past would make the caller spin
        try:
            return self._queue(self._connection.send(message), now_s)
        except LocalProtocolError:
            return False  # a session that has just ended: what it wanted to say is no longer true

    def _queue(self, frame: bytes, now_s: float) -> bool:
        """Refuse what a guest that never reads would pile up; requests are tried again, pings are not missed."""
        self._spoke_s = now_s
        if len(self._out) + len(frame) > QUEUE_BYTES:
            return False
        self._out += frame
        return True
