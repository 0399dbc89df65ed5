"""The values that flow through the coordinator: facts in, decisions out, nothing that acts.

Sizes are integer KiB, times are seconds on the coordinator's own monotonic clock. `None` means
unknown, which is never the same as zero. Two scales meet here and are kept apart by name:

* the **hypervisor's scale**: nominal RAM minus balloon, what QMP calls `actual`. `ram`, `actual`, `target`,
  `demand`, `want`, `floor` and the operator's bounds are on it;
* the **guest kernel's scale**: what `/proc/meminfo` shows (`total`, `available`, `committed`). It is smaller
  by the kernel's own reserve (`ram - total`), which is added before a guest number meets a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .agent_facts import NO_AGENT, AgentFacts, Consent, LinkState
from .budget_values import Account, BudgetParts, Survey, UnmanagedGuest
from .decision import (
    AskInflate,
    Command,
    Decision,
    GuestDecision,
    Phase,
    Rule,
    SetTarget,
    StartVm,
    Status,
    TellDeflate,
)
from .settings import (
    QUIET_REPORT_MS,
    DemandModel,
    Enforce,
    GuestRules,
    GuestSettings,
    HostSettings,
    Settings,
    StopPolicy,
)
from .slider import DEFAULT_SLIDER

__all__ = [
    "QUIET_REPORT_MS",
    "Account",
    "AgentFacts",
    "AskInflate",
    "BudgetParts",
    "Command",
    "Consent",
    "Decision",
    "DemandModel",
    "Enforce",
    "GuestDecision",
    "GuestRules",
    "GuestSettings",
    "HostSettings",
    "LinkState",
    "Phase",
    "Rule",
    "SetTarget",
    "Settings",
    "StartVm",
    "Status",
    "StopPolicy",
    "Survey",
    "TellDeflate",
    "UnmanagedGuest",
]

SNAPSHOT_VERSION = 1


# --- facts from the hypervisor and the host's kernel ----------------------------------------------------


class RunState(StrEnum):
    """A VM's state as the hypervisor tells it."""

    ABSENT = "absent"
    """No hypervisor process answers (not started, died, hangs)."""
    PRELAUNCH = "prelaunch"
    """Started with `-S`; not one instruction has run."""
    RUNNING = "running"
    PAUSED = "paused"
    MIGRATING = "migrating"
    """Incoming or outgoing: hands off."""
    SHUTDOWN = "shutdown"
    UNREACHABLE = "unreachable"
    """The process lives and its monitor does not answer: whatever it had stays booked."""


class Migration(StrEnum):
    """Where a VM stands between two hosts, or between this host and a file."""

    NONE = ""
    INCOMING = "incoming"
    """QEMU waits for the machine, or takes it in."""
    ARRIVED = "arrived"
    """This boot began by coming from elsewhere."""
    OUTGOING = "outgoing"
    """Being copied; the guest runs here until the last moment."""
    LEFT = "left"
    """Copied: it runs elsewhere, and this process holds its memory until it ends or is told to go on after all."""


@dataclass(frozen=True, slots=True)
class BalloonStatistics:
    """virtio-balloon's statistics, answered by this boot's driver. Guest kernel's scale."""

    arrived_s: float
    total_kib: int | None = None
    free_kib: int | None = None
    available_kib: int | None = None
    caches_kib: int | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    major_faults: int | None = None


@dataclass(frozen=True, slots=True)
class Hotplug:
    """A virtio-mem device: the guest grows beyond its boot memory by whole blocks of it, as far as its kernel plugs
    and unplugs what is requested."""

    most_kib: int
    block_kib: int
    plugged_kib: int
    """What the guest has of it now. The hypervisor counts this, not the guest."""
    requested_kib: int


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What the hypervisor says of one VM at `read_s`. Boot memory and a virtio-mem device are one size here."""

    run_state: RunState
    ram_kib: int = 0
    """The most that the guest can have: its boot memory and all of its virtio-mem device."""
    actual_kib: int = 0
    """The balloon device's size of the guest, the *guest's claim*, and what is plugged."""
    boot: int = 0
    """Counts the boots seen: a new process, a reset, an incoming migration."""
    boot_began_s: float = 0.0
    deflate_on_oom: bool | None = None
    statistics: BalloonStatistics | None = None
    statistics_count: int = 0
    """How many different statistics this boot's driver has sent: 0 means that no driver has answered."""
    qemu_pid: int | None = None
    read_s: float = 0.0
    migration: Migration = Migration.NONE
    hands_off: str = ""
    """Why nothing may move this VM's memory (hugepages, a device that pins it); empty where it may be moved."""
    hotplug: Hotplug | None = None
    hugepages_kib: int = 0
    """How much of `ram_kib` is in the host's huge pages, which are in no budget (budget.py)."""

    @property
    def ordinary_kib(self) -> int:
        """The most that it can have of what a budget is made of."""
        return max(0, self.ram_kib - self.hugepages_kib)

    @property
    def boot_kib(self) -> int:
        """What it is started with, and what the balloon works on."""
        return self.ram_kib if self.hotplug is None else self.ram_kib - self.hotplug.most_kib

    @property
    def here_kib(self) -> int:
        """What it has now with the balloon empty."""
        return self.ram_kib if self.hotplug is None else self.boot_kib + self.hotplug.plugged_kib

    @property
    def balloon_kib(self) -> int:
        """What the device says is in the balloon."""
        return self.here_kib - self.actual_kib

    @property
    def claim_kib(self) -> int:
        """What a boot can touch before its balloon driver has answered, and before anybody could stop it; what is in
        huge pages apart."""
        if self.hotplug is None:
            return self.ordinary_kib
        claim_kib = self.boot_kib + max(self.hotplug.plugged_kib, self.hotplug.requested_kib)
        return min(claim_kib, self.ordinary_kib)


@dataclass(frozen=True, slots=True)
class Domain:
    """A VM that the hypervisor runs, as discovery tells it. Texts are the domain's: untrusted."""

    name: str
    uuid: str
    ram_kib: int = 0
    """The most that it can have; 0 where it is not known."""
    startup_kib: int = 0
    """What it boots with."""
    policy: tuple[tuple[str, str], ...] = ()
    """What it says of itself in our metadata: `minimum`, `weight` and so on."""
    notes: tuple[str, ...] = ()
    """What of its XML cannot be taken as it is given; fit for an operator."""
    fault: str = ""
    """Why it cannot be read; fit for an operator. It has no policy then."""
    hotplug_kib: int = 0
    """How much of `ram_kib` is a virtio-mem device's."""


@dataclass(frozen=True, slots=True)
class Residency:
    """What the host's kernel says that one QEMU holds (RssAnon + RssShmem + VmSwap), split in two."""

    resident_kib: int
    """Of the guest's memory."""
    overhead_kib: int
    """QEMU's own."""
    read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host's own memory at `read_s`."""

    total_kib: int
    available_kib: int
    psi_some_us: int | None = None
    psi_full_us: int | None = None
    cgroup_limit_kib: int | None = None
    """The memory limit of the coordinator's own cgroup, where it has one."""
    cgroup_used_kib: int | None = None
    """What that cgroup uses, file cache that can be dropped apart."""
    read_s: float = 0.0
    hugetlb_kib: int = 0
    """Set aside as huge pages of all sizes, used or not: no balloon moves them."""


class HostState(StrEnum):
    """How short the host itself is of memory; `host_state.py` has the law."""

    EASY = "easy"
    TIGHT = "tight"
    CRITICAL = "critical"


class VmEventKind(StrEnum):
    RESET = "reset"
    PAUSED = "paused"
    RESUMED = "resumed"
    SHUTDOWN = "shutdown"
    BALLOON = "balloon"
    """`actual` has moved: a wake-up, not a progress meter (QEMU sends at most one a second)."""
    CHANNEL_OPEN = "channel_open"
    CHANNEL_CLOSED = "channel_closed"
    MIGRATION = "migration"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class VmEvent:
    kind: VmEventKind
    seen_s: float


# --- facts from the guest (claims, validated) -----------------------------------------------------------


class ReportKind(StrEnum):
    AGENT = "agent"
    STATISTICS = "statistics"


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One report of a guest's memory, whatever its source. Guest kernel's scale; counters since its boot."""

    kind: ReportKind
    arrived_s: float
    boottime_ms: int
    total_kib: int
    """Guest memory with the balloon empty."""
    available_kib: int
    committed_kib: int | None = None
    balloon_kib: int | None = None
    file_kib: int | None = None
    swap_total_kib: int | None = None
    swap_free_kib: int | None = None
    psi_some_us: int | None = None
    psi_full_us: int | None = None
    psi_some_avg10_permyriad: int | None = None
    psi_full_avg10_permyriad: int | None = None
    major_faults: int | None = None
    refaults: int | None = None
    swap_in_kib: int | None = None
    swap_out_kib: int | None = None
    alloc_stalls: int | None = None
    oom_kills: int | None = None
    floor_kib: int | None = None
    """Hypervisor's scale: the guest refuses to go below."""


OOM_WHY, SOON = 5, 0  # the wire's `DemandWhy.OOM` and `Severity.SOON`


@dataclass(frozen=True, slots=True)
class Wish:
    """A DEMAND as it arrived: the guest is short and names the size it wants (hypervisor's scale)."""

    want_kib: int
    why: int
    severity: int
    arrived_s: float
    gen: int | None = None
    """The INFLATE that hurts, where the guest blames one."""

    @property
    def tells_of_a_move(self) -> bool:
        """All that an agent can say of a balloon that moved unannounced."""
        return (self.why, self.severity) == (OOM_WHY, SOON)

    def is_before(self, vm: VmFacts) -> bool:
        """It tells of a move that may be newer than this size: beside it, it would be a need."""
        return self.tells_of_a_move and self.arrived_s > vm.read_s


# --- what the coordinator makes of it -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Demand:
    """What the coordinator believes a guest needs. Hypervisor's scale, before the buffer."""

    demand_kib: int
    """Now: use, bounded commitment, harm, the guest's own fresh wish."""
    held_kib: int
    """The same with its past: rises at once, falls slowly. Memory between the two goes to the short."""
    use_kib: int
    committed_kib: int | None = None
    cache_kib: int = 0
    """File cache that is worth keeping while there is room; it ranks with the buffer."""
    urgent: bool = False
    """The guest is short at this moment and says so, or shows it."""
    psi_some_ratio: float | None = None
    """Share of the last report interval in which somebody waited for memory."""
    psi_full_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Booking:
    """What the books hold against one guest."""

    assigned_kib: int
    """max(actual, target in flight, resident), or the boot claim."""
    overhead_kib: int
    claimed: bool
    """Booked with its boot claim: this boot's driver has not answered yet."""

    @property
    def booked_kib(self) -> int:
        return self.assigned_kib + self.overhead_kib


@dataclass(frozen=True, slots=True)
class GuestSnapshot:
    """Everything a decision may know of one guest."""

    settings: GuestSettings
    vm: VmFacts
    booking: Booking
    hypervisor_target_kib: int | None = None
    """The last target that was set and not overtaken by an act of the guest."""
    residency: Residency | None = None
    agent: AgentFacts = NO_AGENT
    report: UsageReport | None = None
    demand: Demand | None = None
    wish: Wish | None = None
    released: bool = False
    hands_off: str = ""
    """Why it is left alone, running or not; empty where it is not."""
    stuck_since_s: float | None = None
    """Its balloon has not followed since then."""
    retried: bool = False
    """A stuck balloon is being tried again, so it counts as one that may move."""
    uncooperative: bool = False
    """Flagged: its balloon has not followed for long, or time and again."""
    refuses: bool = False
    """It refused, objected or did not answer when it was last to shrink: nobody waits for its memory."""
    forced: bool = False
    """The operator gave it what it has, whatever the budget says."""
    on_its_way: bool = False
    """A target was ordered, and its hypervisor has not taken it yet."""
    waiting_to_start: bool = False
    held_kib: int = 0
    """Room that a reservation holds for it, while it waits before its first instruction."""
    above_since_s: float | None = None
    """It has resided above its balloon's size since then (refilled.py)."""
    limit_kib: int | None = None
    """Of its QEMU's cgroup, where we have set one (enforcement.py)."""
    unseen: bool = False
    """Nobody has looked yet: whether it runs, and with how much, is unknown."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def given_kib(self) -> int:
        """What the guest has or is promised, and may use. It may reside above it, where the host's kernel took pages
        of its balloon back."""
        actual_kib, target_kib = self.vm.actual_kib, self.hypervisor_target_kib
        return actual_kib if target_kib is None or target_kib < actual_kib else target_kib


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    budget_kib: int
    headroom_kib: int
    facts: HostFacts | None = None
    slider: int = DEFAULT_SLIDER
    state: HostState = HostState.EASY
    lacking_kib: int = 0
    """What a critical host lacks, to be taken from what guests share."""
    state_why: str = ""
    reserved_kib: int = 0
    """Kept for machines that are about to start (reservations.py): held and pending."""
    held_kib: int = 0
    """The part of it that is held, so promised."""
    unlisted_kib: int | None = 0
    """What machines may hold that libvirt has not listed yet; None where nobody has looked for them either."""
    budget_parts: BudgetParts | None = None
    refills: bool | None = None
    """khugepaged may fill balloons again; None where the kernel does not say."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the decision may use. Immutable, versioned, serialisable (`snapshot.py`)."""

    now_s: float
    host: HostSnapshot
    guests: tuple[GuestSnapshot, ...]
    observe: bool = False
    version: int = SNAPSHOT_VERSION

    @property
    def booked_kib(self) -> int:
        return sum(guest.booking.booked_kib for guest in self.guests)

    @property
    def unseen(self) -> bool:
        """Somebody may be here whom nobody has looked at: may be large, and is not booked."""
        return self.host.unlisted_kib is None or any(guest.unseen for guest in self.guests)
