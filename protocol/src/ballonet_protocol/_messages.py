"""The sixteen messages of the wire: who sends each, what it carries, in which unit. This file is the wire's one table.

Codec, validation, tests and the tables of SPEC.md follow from the class bodies below. A field is declared with its wire
key, its unit and its bounds; the order of the fields is their order on the wire. `*_bytes` are bytes, `*_ms`
milliseconds, `*_us` microseconds, `*_pages` pages of the guest, `*_permyriad` parts of 10,000. Counters run since the
guest's boot.

Sizes of a guest (`target`, `floor`, `safe`, `effective`, `current`, `want`) are all on the hypervisor's scale: nominal
memory minus balloon, which is what QMP's `balloon` sets and `query-balloon` answers.
"""

from __future__ import annotations

from ._enums import Enum, IntEnum
from ._records import Record, boolean, integer, nested, number_range, octets, text, texts
from .limits import LEASE_LEAST_MS, LEASE_MOST_MS, REPORT_LEAST_MS, REPORT_MOST_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

REQ = 0x0001  # the sender waits for an answer
RSP = 0x0002  # the message carries `re`, the seq of the request that it answers


class Role(Enum):
    """The two ends of the wire."""

    AGENT = "agent"
    COORDINATOR = "coordinator"


AGENT = Role.AGENT
COORDINATOR = Role.COORDINATOR
BOTH = frozenset(Role)


class HelloReqWhy(IntEnum):
    """Why an agent asks for a session."""

    START = 0
    UNKNOWN_SESSION = 1
    RESUMED = 2
    RESYNC = 3


class ByeWhy(IntEnum):
    """Why a side leaves."""

    STOP = 0
    RESTART = 1
    UPGRADE = 2
    SUSPEND = 3
    SHUTDOWN = 4
    PROTOCOL = 5


class ErrorCode(IntEnum):
    """What was wrong with a frame. 1 is reserved: a damaged frame is counted, never answered."""

    BAD_MESSAGE = 2
    UNKNOWN_SESSION = 3
    UNSUPPORTED_VERSION = 4
    UNSUPPORTED_TYPE = 5
    UNSUPPORTED_CRITICAL = 6
    OUT_OF_RANGE = 7
    STALE_GEN = 8
    BUSY = 9
    RATE_LIMITED = 10
    NOT_PERMITTED = 11
    INTERNAL = 12
    SHUTTING_DOWN = 13


class DemandWhy(IntEnum):
    """What showed the agent that the guest is short."""

    PSI = 1
    SWAP_IN = 2
    REFAULT = 3
    STALL = 4
    OOM = 5
    COMMIT = 6


class Severity(IntEnum):
    """How short a guest is."""

    SOON = 0
    SHORT = 1
    STALLING = 2
    STARVING = 3


class AckStatus(IntEnum):
    """An agent's answer to INFLATE or DEFLATE."""

    ACCEPTED = 0
    DUPLICATE = 1
    STALE = 2
    CLAMPED = 3
    REFUSED = 4


class AckWhy(IntEnum):
    """Why an agent clamped or refused."""

    NONE = 0
    FLOOR = 1
    PRESSURE = 2
    SETTLING = 3
    SUSPENDED = 4
    POLICY = 5
    ABOVE_RAM = 6


class MoveStatus(IntEnum):
    """How far the last INFLATE or DEFLATE got."""

    WORKING = 0
    REACHED = 1
    STALLED = 2
    GAVE_UP = 3
    EXPIRED = 4


class PolicyStatus(IntEnum):
    """An agent's answer to SET_POLICY."""

    APPLIED = 0
    DUPLICATE = 1
    STALE = 2
    CLAMPED = 3
    REFUSED = 4


class Message(Record):
    """Base of the sixteen. `seq` is the number of the frame that a message arrived in, 0 until it has travelled.

    `seq` is no part of the value: the same command sent twice is equal to itself.
    """

    seq: int = 0
    if TYPE_CHECKING:
        TYPE_CODE: ClassVar[int]
        TYPE_NAME: ClassVar[str]
        SENDERS: ClassVar[frozenset[Role]]
        FLAGS: ClassVar[int]

    def __init__(self, *, seq: int = 0, **values: object) -> None:
        super().__init__(**values)
        self.__dict__["seq"] = seq

    def __init_subclass__(cls, *, code: int, name: str, senders: Role | frozenset[Role], flags: int = 0) -> None:
        cls.TYPE_CODE = code
        cls.TYPE_NAME = name
        cls.SENDERS = senders if isinstance(senders, frozenset) else frozenset((senders,))
        cls.FLAGS = flags
        MESSAGE_TYPES[code] = cls


MESSAGE_TYPES: dict[int, type[Message]] = {}  # type code -> class, filled by the class statements below


class Limits(Record):
    """What the sender of a HELLO or HELLO_ACK takes and does. All optional."""

    frame_bytes: int | None = integer("frame", "B", low=1024, default=None)
    inflight: int | None = integer("inflight", low=1, default=None)
    heartbeat_ms: int | None = integer("hb_ms", "ms", default=None)
    dead_ms: int | None = integer("dead_ms", "ms", default=None)
    report_ms: int | None = integer("rep_ms", "ms", default=None)


class MemoryReport(Record):
    """The guest's /proc/meminfo, in bytes. `total_bytes` is with the balloon empty."""

    total_bytes: int = integer("total", "B")
    free_bytes: int = integer("free", "B")
    available_bytes: int = integer("avail", "B")
    committed_bytes: int = integer("committed", "B")
    commit_limit_bytes: int | None = integer("climit", "B", default=None)
    anon_bytes: int | None = integer("anon", "B", default=None)
    file_bytes: int | None = integer("file", "B", default=None)
    shmem_bytes: int | None = integer("shmem", "B", default=None)
    slab_unreclaimable_bytes: int | None = integer("slabu", "B", default=None)
    swap_total_bytes: int | None = integer("swap_t", "B", default=None)
    swap_free_bytes: int | None = integer("swap_f", "B", default=None)
    balloon_bytes: int | None = integer("balloon", "B", default=None)


class PsiReport(Record):
    """The guest's /proc/pressure/memory."""

    some_avg10_permyriad: int | None = integer("some10", "1/10000", high=10_000, default=None)
    full_avg10_permyriad: int | None = integer("full10", "1/10000", high=10_000, default=None)
    some_us: int | None = integer("some_us", "us", default=None)
    full_us: int | None = integer("full_us", "us", default=None)


class VmReport(Record):
    """Counters of the guest's /proc/vmstat, since its boot."""

    page_faults: int | None = integer("pgfault", "count", default=None)
    major_faults: int | None = integer("majflt", "count", default=None)
    refaults_anon: int | None = integer("refault_a", "pages", default=None)
    refaults_file: int | None = integer("refault_f", "pages", default=None)
    swap_in_pages: int | None = integer("pswpin", "pages", default=None)
    swap_out_pages: int | None = integer("pswpout", "pages", default=None)
    direct_scan_pages: int | None = integer("dscan", "pages", default=None)
    alloc_stalls: int | None = integer("stall", "count", default=None)
    oom_kills: int | None = integer("oom", "count", default=None)


class Drops(Record):
    """Frames that the sender of a REPORT did not get: damaged, too long, missing between two that came."""

    crc: int | None = integer("crc", "count", default=None)
    over: int | None = integer("over", "count", default=None)
    gap: int | None = integer("gap", "count", default=None)


class HelloReq(Message, code=0x01, name="HELLO_REQ", senders=AGENT):
    """Asks the coordinator for a session. Travels in session 0."""

    why: int = integer("why", choices=HelloReqWhy)
    implementation: str = text("impl")


class Hello(Message, code=0x02, name="HELLO", senders=COORDINATOR, flags=REQ):
    """Opens a session; ends the one before it. `ram_bytes` is the guest's nominal memory."""

    major_range: tuple[int, int] = number_range("maj")
    minor: int = integer("min")
    nonce: bytes = octets("nonce", 16)
    capabilities: tuple[str, ...] = texts("caps")
    vm_id: bytes | None = octets("vm", 16, default=None)
    ram_bytes: int | None = integer("ram", "B", default=None)
    limits: Limits | None = nested("lim", Limits, default=None)


class HelloAck(Message, code=0x03, name="HELLO_ACK", senders=AGENT, flags=RSP):
    """Completes the session.

    `gen` and `status` are the last move of the session before, 0 and REACHED when there was none.
    """

    re: int = integer("re")
    nonce: bytes = octets("nonce", 16)
    major: int = integer("maj")
    minor: int = integer("min")
    capabilities: tuple[str, ...] = texts("caps")
    implementation: str = text("impl")
    implementation_version: str = text("implv")
    boot_id: bytes = octets("boot", 16)
    boottime_ms: int = integer("bt", "ms")
    page_bytes: int = integer("page", "B", low=1)
    total_bytes: int = integer("total", "B")
    floor_bytes: int = integer("floor", "B")
    limits: Limits = nested("lim", Limits)
    gen: int = integer("gen")
    status: int = integer("st", choices=MoveStatus)


class Ping(Message, code=0x04, name="PING", senders=BOTH, flags=REQ):
    """Is the other side there? `token` comes back in the PONG."""

    token: int = integer("t")


class Pong(Message, code=0x05, name="PONG", senders=BOTH, flags=RSP):
    """The answer to a PING. Only an agent has a `boottime_ms`."""

    re: int = integer("re")
    token: int = integer("t")
    boottime_ms: int | None = integer("bt", "ms", default=None)


class Bye(Message, code=0x06, name="BYE", senders=BOTH):
    """Ends the session. Only a HELLO begins another."""

    why: int = integer("why", choices=ByeWhy)


class ErrorMessage(Message, code=0x07, name="ERROR", senders=BOTH, flags=RSP):
    """Says what was wrong with the frame `re`. An ERROR is never answered by an ERROR."""

    re: int | None = integer("re", default=None)
    code: int = integer("code", choices=ErrorCode)
    text: str | None = text("msg", high=128, default=None)
    fatal: bool = boolean("fatal")


class Report(Message, code=0x10, name="REPORT", senders=AGENT):
    """The state of the guest's memory. `gen` and `status` are the last INFLATE or DEFLATE heard and how far it got."""

    boottime_ms: int = integer("bt", "ms")
    memory: MemoryReport = nested("mem", MemoryReport)
    psi: PsiReport | None = nested("psi", PsiReport, default=None)
    vm: VmReport | None = nested("vm", VmReport, default=None)
    want_bytes: int | None = integer("want", "B", default=None)
    floor_bytes: int | None = integer("floor", "B", default=None)
    gen: int | None = integer("gen", default=None)
    status: int | None = integer("st", choices=MoveStatus, default=None)
    drops: Drops | None = nested("drop", Drops, default=None)


class Demand(Message, code=0x11, name="DEMAND", senders=AGENT):
    """The guest is short now and wants `want_bytes` in all. `gen` names the INFLATE that hurts. The last one wins."""

    boottime_ms: int = integer("bt", "ms")
    want_bytes: int = integer("want", "B")
    why: int = integer("why", choices=DemandWhy)
    severity: int = integer("sev", choices=Severity)
    gen: int | None = integer("gen", default=None)


class Inflate(Message, code=0x20, name="INFLATE", senders=COORDINATOR, flags=REQ):
    """Have no more than `target_bytes`: asks for consent to a smaller guest. Never enlarges one."""

    gen: int = integer("gen", low=1)
    target_bytes: int = integer("target", "B")
    ttl_ms: int = integer("ttl_ms", "ms", low=LEASE_LEAST_MS, high=LEASE_MOST_MS)
    floor_bytes: int | None = integer("floor", "B", default=None)
    rate_bytes_per_s: int | None = integer("rate", "B/s", default=None)


class Deflate(Message, code=0x21, name="DEFLATE", senders=COORDINATOR, flags=REQ):
    """You may have `target_bytes`: a grant. Never shrinks a guest."""

    gen: int = integer("gen", low=1)
    target_bytes: int = integer("target", "B")
    ttl_ms: int = integer("ttl_ms", "ms", low=LEASE_LEAST_MS, high=LEASE_MOST_MS)


class BalloonAck(Message, code=0x22, name="BALLOON_ACK", senders=AGENT, flags=RSP):
    """The answer to INFLATE or DEFLATE.

    `effective_bytes` is the size that the agent consents to now; absent when the command was stale.
    """

    re: int = integer("re")
    gen: int = integer("gen")
    status: int = integer("st", choices=AckStatus)
    effective_bytes: int | None = integer("eff", "B", default=None)
    why: int = integer("why", choices=AckWhy)


class BalloonStatus(Message, code=0x23, name="BALLOON_STATUS", senders=AGENT):
    """How far the move `gen` got."""

    gen: int = integer("gen")
    status: int = integer("st", choices=MoveStatus)
    current_bytes: int = integer("cur", "B")
    boottime_ms: int = integer("bt", "ms")


class SetPolicy(Message, code=0x24, name="SET_POLICY", senders=COORDINATOR, flags=REQ):
    """How the agent is to report and when it is to object. Its `gen` is a sequence of its own."""

    gen: int = integer("gen", low=1)
    report_ms: int | None = integer("rep_ms", "ms", low=REPORT_LEAST_MS, high=REPORT_MOST_MS, default=None)
    psi_some_permyriad: int | None = integer("psi_some", "1/10000", low=1, high=10_000, default=None)
    psi_full_permyriad: int | None = integer("psi_full", "1/10000", low=1, high=10_000, default=None)
    floor_bytes: int | None = integer("floor", "B", default=None)
    safe_bytes: int | None = integer("safe", "B", default=None)


class PolicyAck(Message, code=0x25, name="POLICY_ACK", senders=AGENT, flags=RSP):
    """The answer to SET_POLICY."""

    re: int = integer("re")
    gen: int = integer("gen")
    status: int = integer("st", choices=PolicyStatus)


class Event(Message, code=0x30, name="EVENT", senders=AGENT):
    """Something happened in the guest: one of `EVENTS`; receivers ignore others."""

    event: str = text("ev")
    boottime_ms: int = integer("bt", "ms")


EVENTS = ("suspend", "resume", "oom_kill", "balloon_moved", "psi_lost", "clock_step")
CAPABILITIES = ("psi", "refault", "events", "own-balloon")
