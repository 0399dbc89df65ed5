"""A small world for the invariants: model guests of different character before the real records, arbiter and ledger.

`World.turn` lets time pass, hands the facts of every guest to its `GuestRecord`, takes a snapshot, decides, steps the
ledger, lets `Watch` judge the commands and then carries them out. Guests are arithmetic of a few lines, so a state
machine can drive thousands of turns; `tests/end_to_end` has the faithful ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.host_state import HostWatch, watch_host
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    AgentFacts,
    AskInflate,
    BalloonStatistics,
    Command,
    Consent,
    Decision,
    GuestSettings,
    HostFacts,
    HostSnapshot,
    LinkState,
    Residency,
    RunState,
    SetTarget,
    Snapshot,
    StartVm,
    TellDeflate,
    VmFacts,
    Wish,
)
from ballonet_host_coord.slider import tuning

from .builders import GIB, MIB, RESERVE_KIB, make_report, make_settings
from .watch import Watch

HOST_KIB = 16 * GIB
RAM_KIB = 1024 * MIB
OVERHEAD_KIB = 32 * MIB
LEAST_KIB = 96 * MIB
"""What an idle guest occupies."""
RATE_KIB_PER_S = 300 * MIB
BOOT_S = 8.0
"""From power-on to the driver's probe."""
LEASE_S = 30.0


@dataclass
class Character:
    """How a guest differs from a cooperative one."""

    stuck: bool = False
    hidden_floor_kib: int = 0
    slow: bool = False
    """Its balloon inflates at a twentieth of the usual rate."""
    refuses: bool = False
    clamps_kib: int = 0
    silent: bool = False
    """The agent says nothing and hears nothing."""
    floor_kib: int | None = None
    """The floor that it reports."""
    helps_itself: bool = True
    """Takes memory back when its balloon leaves it too little."""
    has_agent: bool = True
    has_statistics: bool = True
    deflate_on_oom: bool = True
    refilled: bool = False
    """khugepaged on the host fills its balloon again: it resides with all its RAM."""


class Agent:
    """Stands for the guest's `AgentSession`: what the coordinator knows of the agent."""

    def __init__(self) -> None:
        self.link = LinkState.OPENING
        self.live_since_s = 0.0
        self.consent: Consent | None = None
        self.asked: AskInflate | None = None
        self.failed_gen = 0
        self.heard_s = float("-inf")
        self.asked_s = 0.0

    def facts(self) -> AgentFacts:
        return AgentFacts(
            self.link, consent=self.consent, failed_gen=self.failed_gen, live_since_s=self.live_since_s
        )

    def renewed(self, ram_kib: int, now_s: float) -> None:
        self.lose(LinkState.OPENING)

    def lose(self, link: LinkState) -> None:
        self.link = link
        self.consent = self.asked = None


@dataclass
class Guest:
    """One machine, its agent and the wish of its workload."""

    settings: GuestSettings
    now_s: float
    character: Character = field(default_factory=Character)
    run_state: RunState = RunState.PRELAUNCH
    use_kib: int = LEAST_KIB
    reachable: bool = True
    pid: int = 1
    boot: int = 1

    def __post_init__(self) -> None:
        self.agent = Agent()
        self.target_kib = RAM_KIB
        self.device_actual_kib = RAM_KIB
        self.statistics_s = float("-inf")
        self.began()

    def began(self) -> None:
        self.boot_began_s = self.now_s
        self.size_kib = RAM_KIB
        self.resident_kib = 0 if self.run_state is RunState.PRELAUNCH else LEAST_KIB
        self.statistics_count = 0

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def is_up(self) -> bool:
        return self.run_state is RunState.RUNNING and self.now_s - self.boot_began_s >= BOOT_S

    def live(self, until_s: float) -> None:
        """Let the balloon move and the workload touch its memory."""
        passed_s, self.now_s = until_s - self.now_s, until_s
        if self.run_state is not RunState.RUNNING:
            return
        if self.is_up:
            self._move(passed_s)
            self.device_actual_kib = self.size_kib
            self.statistics_count += self.character.has_statistics
            self.statistics_s = until_s
        self.resident_kib = min(self.size_kib, max(self.resident_kib, self.use_kib))
        if self.is_up and self.character.refilled:
            self.resident_kib = RAM_KIB

    def _move(self, passed_s: float) -> None:
        if not self.character.stuck:
            goal_kib = max(self.target_kib, self.character.hidden_floor_kib)
            rate = RATE_KIB_PER_S // 20 if self.character.slow else RATE_KIB_PER_S
            if goal_kib < self.size_kib:
                self.size_kib = max(goal_kib, self.size_kib - int(rate * passed_s))
            else:
                self.size_kib = min(max(goal_kib, self.size_kib), self.size_kib + int(4 * rate * passed_s))
        if self.character.helps_itself and self.size_kib < self.use_kib:
            self.size_kib = min(RAM_KIB, self.use_kib)

    def vm_facts(self) -> VmFacts:
        statistics = None
        if self.statistics_count and self.is_up:
            available_kib = max(0, self.size_kib - self.use_kib)
            statistics = BalloonStatistics(self.statistics_s, RAM_KIB - RESERVE_KIB, available_kib, available_kib)
        return VmFacts(
            run_state=self.run_state,
            ram_kib=RAM_KIB,
            actual_kib=self.device_actual_kib,
            boot=self.boot,
            boot_began_s=self.boot_began_s,
            deflate_on_oom=self.character.deflate_on_oom,
            statistics=statistics,
            statistics_count=self.statistics_count,
            qemu_pid=self.pid,
            read_s=self.now_s,
        )

    def speak(self, record: GuestRecord) -> None:
        """One report period of the agent: its session, its answer to a request, its report, its DEMAND."""
        agent, now_s = self.agent, self.now_s
        if not self.is_up or self.character.silent or not self.character.has_agent:
            if agent.link is LinkState.LIVE and now_s - agent.heard_s > 10.0:
                agent.lose(LinkState.UNRESPONSIVE)
            elif agent.asked is not None and now_s - agent.asked_s >= 3.0:
                agent.failed_gen, agent.asked = agent.asked.gen, None
            return
        agent.heard_s = now_s
        if agent.link is not LinkState.LIVE:
            agent.link, agent.live_since_s, agent.failed_gen = LinkState.LIVE, now_s, 0
        if agent.asked is not None:
            self._answer(agent.asked)
        available_kib = max(0, self.size_kib - self.use_kib)
        report = make_report(
            now_s, self.size_kib, floor_kib=self.character.floor_kib, available_kib=available_kib
        )
        record.reported(report)
        if self.use_kib > self.size_kib:
            agent.consent = None
            record.wished(Wish(self.use_kib, 1, 2, arrived_s=now_s))

    def _answer(self, asked: AskInflate) -> None:
        character = self.character
        effective_kib = max(asked.target_kib, character.clamps_kib)
        if character.refuses:
            effective_kib = max(self.size_kib, asked.target_kib)
        self.agent.asked = None
        self.agent.consent = Consent(
            asked.gen, effective_kib, character.refuses, 0, self.now_s, expires_s=self.now_s + LEASE_S
        )


class World:
    """Some guests under one budget. Guests begin as VMs that wait before their first instruction."""

    def __init__(
        self,
        budget_kib: int,
        characters: list[Character],
        headroom_kib: int = 0,
        settings: list[GuestSettings] | None = None,
        slider: int = 50,
    ) -> None:
        self.now_s = 1000.0
        self.budget_kib = budget_kib
        self.headroom_kib = headroom_kib
        names = ("alpha", "beta", "gamma", "delta", "epsilon")
        chosen = settings or [make_settings(name) for name in names[: len(characters)]]
        self.guests = [Guest(setting, self.now_s, nature) for setting, nature in zip(chosen, characters, strict=True)]
        self.watch = Watch()
        self.commands: list[Command] = []
        """Of the last turn."""
        self.slider = slider
        self.others_kib = 0
        """What processes that nobody manages hold on the host."""
        self.snapshot: Snapshot | None = None
        self.decision: Decision | None = None
        self.restart()

    def restart(self) -> None:
        """A coordinator that knows nothing."""
        self.ledger = Ledger()
        self.host_watch = HostWatch()
        self.records: dict[str, GuestRecord] = {}
        for guest in self.guests:
            guest.agent.lose(LinkState.NONE)
            record = GuestRecord(guest.settings, guest.agent, self.ledger)  # type: ignore[arg-type]
            record.tuned = tuning(self.slider)
            self.records[guest.name] = record
        self.watch.coordinator_began(self.now_s)

    def __getitem__(self, name: str) -> Guest:
        return next(guest for guest in self.guests if guest.name == name)

    def turns(self, count: int, passed_s: float = 1.0) -> None:
        for _ in range(count):
            self.turn(passed_s)

    def turn(self, passed_s: float = 1.0) -> None:
        self.now_s += passed_s
        for guest in self.guests:
            guest.live(self.now_s)
            self._read(guest)
        self.snapshot = self._take_snapshot()
        self.watch.facts(self.snapshot, self.guests)
        self.decision = one_iteration(self.snapshot)
        self.commands = self.ledger.step(self.snapshot, self.decision)
        self.watch.commands(self.snapshot, self.decision, self.commands)
        for command in self.commands:
            self._carry_out(command)
        for record in self.records.values():
            record.note_taken_back(self.now_s)

    def _read(self, guest: Guest) -> None:
        record = self.records[guest.name]
        if guest.run_state is RunState.ABSENT or not guest.reachable:
            guest.agent.lose(LinkState.NONE if guest.run_state is RunState.ABSENT else LinkState.UNRESPONSIVE)
            record.vm_lost(guest.run_state is not RunState.ABSENT, "away", qemu_pid=guest.pid)
            return
        residency = Residency(guest.resident_kib, OVERHEAD_KIB)
        startup = record.vm_read(guest.vm_facts(), residency, self.now_s)
        if startup is not None:
            self.watch.startup(guest, startup, self.now_s)
            guest.target_kib = startup.target_kib
        guest.speak(record)

    def _take_snapshot(self) -> Snapshot:
        used_kib = sum(guest.resident_kib + OVERHEAD_KIB for guest in self.guests)
        facts = HostFacts(HOST_KIB, max(0, HOST_KIB - used_kib - self.others_kib))
        seen = self.host_watch = watch_host(self.host_watch, facts, self.now_s)
        host = HostSnapshot(
            self.budget_kib, self.headroom_kib, facts, self.slider, seen.state, seen.lacking_kib, seen.why
        )
        return Snapshot(self.now_s, host, tuple(record.snapshot(self.now_s) for record in self.records.values()))

    def _carry_out(self, command: Command) -> None:
        guest = self[command.guest]
        if isinstance(command, SetTarget):
            guest.target_kib = min(command.target_kib, RAM_KIB)
        elif isinstance(command, AskInflate):
            guest.agent.asked, guest.agent.asked_s, guest.agent.consent = command, self.now_s, None
        elif isinstance(command, TellDeflate):
            guest.agent.asked = guest.agent.consent = None
        elif isinstance(command, StartVm):
            guest.run_state = RunState.RUNNING
            guest.began()

    # --- what happens to guests --------------------------------------------------------------------------

    def boot_all(self) -> None:
        """Wait until every guest has started, settled and may be shrunk."""
        self.turns(int(len(self.guests) * (BOOT_S + 8) + 35))

    def demand(self, name: str, want_kib: int, blames: bool = False) -> None:
        """The agent sends a DEMAND; consent ends with it, as in the session."""
        guest = self[name]
        if guest.agent.link is not LinkState.LIVE:
            return
        gen = guest.agent.consent.gen if blames and guest.agent.consent else None
        guest.agent.consent = guest.agent.asked = None
        self.records[name].wished(Wish(want_kib, 1, 2, arrived_s=self.now_s + 0.001, gen=gen))

    def lower(self, name: str, target_kib: int) -> None:
        """Another mover (virsh setmem) makes the guest smaller."""
        guest = self[name]
        if guest.is_up:
            guest.target_kib = min(target_kib, guest.target_kib)
            self.watch.moved_by_another(name, guest.target_kib)

    def reset(self, name: str) -> None:
        guest = self[name]
        if guest.run_state is RunState.RUNNING:
            guest.boot += 1
            guest.began()

    def die(self, name: str) -> None:
        guest = self[name]
        guest.run_state = RunState.ABSENT
        guest.resident_kib = 0

    def power_on(self, name: str) -> None:
        guest = self[name]
        if guest.run_state is RunState.ABSENT:
            guest.run_state = RunState.PRELAUNCH
            guest.pid += 1
            guest.boot += 1
            guest.target_kib = guest.device_actual_kib = RAM_KIB
            guest.began()

    def reconnect(self, name: str) -> None:
        """The monitor answers again: a new boot as far as the hypervisor port can tell."""
        guest = self[name]
        if not guest.reachable:
            guest.reachable = True
            guest.boot += 1
            guest.statistics_count = 0
