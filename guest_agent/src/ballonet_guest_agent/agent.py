"""The agent's core: bytes, samples, PSI events and `now` in; actions and the next deadline out.

A command that changes what the guest has, and a HELLO, are answered from a sample taken after it arrived: the core asks
for one with `TakeSample`, the shell reads /proc and calls `sampled`, and the answer leaves in that call, followed by a
fresh REPORT. Messages behind such a command wait for it, in order. A PSI event goes the same way: one pass over /proc,
then the DEMAND, before anything else is written.

When the guest asks and what a DEMAND blames is decided in asking.py, what is agreed to in consent.py.
"""

from __future__ import annotations

from ballonet_guest_agent.actions import SetTriggers, TakeSample, trigger_us
from ballonet_guest_agent.asking import Asking, Need
from ballonet_guest_agent.balloon_floor import computed_floor_kib
from ballonet_guest_agent.cadence import COMMANDS_PER_S, REPORT_CLOSEST_S, CommandBudget, ReportRhythm
from ballonet_guest_agent.consent import Consent, View
from ballonet_guest_agent.pressure import Harm
from ballonet_guest_agent.report import memory_report, psi_report, unmovable_kib, vm_report
from ballonet_guest_agent.session import MAJOR, MINOR, NEVER_S, Session, milliseconds
from ballonet_guest_agent.values import between, kib_up
from ballonet_guest_agent.want import present_kib, shortfall_kib, want_kib
from ballonet_guest_agent.watch import DEFAULT_FULL_PERMYRIAD, DEFAULT_SOME_PERMYRIAD, Watch
from ballonet_protocol import (
    MAX_WIRE_BYTES,
    AckStatus,
    BalloonAck,
    BalloonStatus,
    Deflate,
    Demand,
    DemandWhy,
    Hello,
    HelloAck,
    Inflate,
    Limits,
    Message,
    MoveStatus,
    PolicyAck,
    PolicyStatus,
    Report,
    SetPolicy,
    Severity,
)
from ballonet_protocol.limits import (
    DEAD_S,
    HEARTBEAT_S,
    INFLIGHT_MOST,
    REPORT_LEAST_MS,
    REPORT_MOST_MS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.actions import Action, Identity, Instant
    from ballonet_guest_agent.config import AgentSettings
    from ballonet_guest_agent.sample import Sample

COMMANDS = (Hello, Inflate, Deflate, SetPolicy)
CAPABILITIES = ("psi", "refault", "events")
#: What a coordinator may call dead: not less than its own ping's period, nor so long that a consent outlives it.
DEAD_MS_RANGE = (2_000, 60_000)


class Agent:
    """One guest's side of the conversation. Every input returns the actions to carry out, in order."""

    def __init__(self, settings: AgentSettings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.session = Session(identity)
        self.consent = Consent()
        self.watch = Watch(identity.has_psi_trigger)
        self._asking = Asking(self.consent, self.watch)
        self._rhythm = ReportRhythm(settings.report_ms / 1000)
        self._commands = CommandBudget()
        self._flooded = False
        self._waiting: Message | None = None
        self._fired: str | None = None
        self._ram_kib: int | None = None
        self._policy_gen = 0
        self._policy_floor_kib = 0
        self._meminfo_lacks = False

    # ---- inputs ------------------------------------------------------------------------------------------------

    def connected(self, now: Instant) -> list[Action]:
        """The port has a host on its other end (again)."""
        self._begin(now)
        self.session.connected(now)
        return self._finish()

    def disconnected(self, now: Instant) -> list[Action]:
        """The port has no host."""
        self._begin(now)
        self.session.disconnected()
        return self._finish()

    def received(self, data: bytes, now: Instant) -> list[Action]:
        """Bytes from the port, cut anywhere."""
        self._begin(now)
        self.session.connection.receive_data(data)
        self._read_messages(now)
        return self._finish()

    def sampled(self, sample: Sample, now: Instant) -> list[Action]:
        """The sample that was asked for."""
        self._begin(now)
        message, self._waiting = self._waiting, None
        if isinstance(message, Hello):
            self._welcome(message, sample, now)
        if self.session.live:
            self._observe(sample, now)
            self._send_demand(sample, now)
        if isinstance(message, (Inflate, Deflate)):
            self._balloon_command(message, sample, now)
        if message is not None:
            self._read_messages(now)
        stirred = self.consent.moving or self.watch.pressed(now.monotonic_s)
        if self.session.live and self._rhythm.is_due(sample, self.consent.state, now.monotonic_s, stirred):
            self._send_report(sample, now)
        return self._finish()

    def pressed(self, kind: str, now: Instant) -> list[Action]:
        """A PSI trigger fired: "some" or "full"."""
        self._begin(now)
        if self.session.live:
            self._fired = "full" if "full" in (kind, self._fired) else kind
            self._take_sample()
        else:
            self.watch.note_harm(now.monotonic_s)
        return self._finish()

    def psi_lost(self, now: Instant) -> list[Action]:
        """The PSI triggers are gone: from now on stalls are seen in the samples."""
        self._begin(now)
        if self.watch.has_psi_trigger:
            self.watch.has_psi_trigger = False
            self.session.send_event("psi_lost", now)
        return self._finish()

    def psi_found(self, now: Instant) -> list[Action]:
        """The PSI triggers are armed (again)."""
        self._begin(now)
        self.watch.has_psi_trigger = True
        return self._finish()

    def tick(self, now: Instant) -> list[Action]:
        """The deadline came. Harmless at any other time."""
        self._begin(now)
        self.session.tick(now)
        if self.consent.expire(now.boottime_s):
            self.session.log(4, f"move {self.consent.gen}: lease ran out")
            if self.session.live and self.watch.sample is not None:
                self._send_status(self.watch.sample, now)
        self._sample_when_due(now)
        return self._finish()

    def shutdown(self, now: Instant) -> list[Action]:
        """The agent stops: say so."""
        self.session.stop(now)
        return self._finish()

    def deadline_s(self, now: Instant) -> float | None:
        """Seconds until `tick` has something to do; None when only an input can change anything."""
        wait_s = self.session.deadline_s(now)
        lease_s = self.consent.lease_left_s(now.boottime_s)
        if lease_s is not None:
            wait_s = min(wait_s, lease_s)
        if self.session.live:
            wait_s = min(wait_s, self._sample_due_s() - now.monotonic_s)
        return None if wait_s == NEVER_S else max(0.0, wait_s)

    # ---- each input --------------------------------------------------------------------------------------------

    def _begin(self, now: Instant) -> None:
        self.session.look_at_clock(now)
        self._forget_lost()

    def _finish(self) -> list[Action]:
        self._forget_lost()
        actions, self.session.out = self.session.out, []
        return actions

    def _forget_lost(self) -> None:
        if self.session.take_loss() and not isinstance(self._waiting, Hello):
            self._forget()

    def _forget(self) -> None:
        """Nobody is there any more: consent, harm and rhythm belonged to the conversation."""
        self._waiting = self._fired = None
        self.consent.end()
        self._asking.forget()
        self.watch.forget()
        self._rhythm.restart()

    def _read_messages(self, now: Instant) -> None:
        while self._waiting is None:
            message = self.session.next_message(now)
            if message is None:
                break
            if isinstance(message, COMMANDS) and not self._hears_command(message, now):
                continue
            if isinstance(message, SetPolicy):
                self._set_policy(message, now)
            elif isinstance(message, COMMANDS):
                self._waiting = message
                self._take_sample()

    def _hears_command(self, command: Message, now: Instant) -> bool:
        """False for one too many: it changes nothing and is not answered, as if it were lost on the way."""
        if self._commands.take(now.monotonic_s):
            self._flooded = False
            return True
        if not self._flooded:
            self._flooded = True
            self.session.log(4, f"more than {COMMANDS_PER_S} commands a second: those beyond are not heard")
        if isinstance(command, Hello):
            self.session.turn_away(now)
        return False

    def _take_sample(self) -> None:
        if not any(isinstance(action, TakeSample) for action in self.session.out):
            self.session.out.append(TakeSample())

    def _sample_when_due(self, now: Instant) -> None:
        if self.session.live and now.monotonic_s >= self._sample_due_s():
            self._take_sample()

    def _sample_due_s(self) -> float:
        report_s = max(self._rhythm.due_s(), self.watch.sampled_s + REPORT_CLOSEST_S)
        due_s = min(self.watch.due_s(self._rhythm.period_s), report_s)
        demand_s = self._asking.due_s()
        return due_s if demand_s is None else min(due_s, demand_s)

    # ---- session and policy ------------------------------------------------------------------------------------

    def _welcome(self, hello: Hello, sample: Sample, now: Instant) -> None:
        limits = hello.limits
        report_ms = (limits and limits.report_ms) or self.settings.report_ms
        last_gen, last_status = self.consent.state or (0, MoveStatus.REACHED)
        self._forget()
        self.consent.reset()
        dead_ms = (limits and limits.dead_ms) or int(DEAD_S * 1000)
        self.session.dead_s = between(dead_ms, *DEAD_MS_RANGE) / 1000
        self._rhythm.period_s = between(report_ms, REPORT_LEAST_MS, REPORT_MOST_MS) / 1000
        self._ram_kib = None if hello.ram_bytes is None else hello.ram_bytes // 1024
        self._policy_gen = self._policy_floor_kib = 0
        self._set_triggers(DEFAULT_SOME_PERMYRIAD, DEFAULT_FULL_PERMYRIAD)
        has = {"psi": sample.psi is not None, "refault": sample.vm.refaults_file is not None, "events": True}
        acknowledgement = HelloAck(
            re=hello.seq,
            nonce=hello.nonce,
            major=MAJOR,
            minor=min(MINOR, hello.minor),
            capabilities=tuple(name for name in CAPABILITIES if has[name] and name in hello.capabilities),
            implementation=self.identity.implementation,
            implementation_version=self.identity.version,
            boot_id=self.identity.boot_id,
            boottime_ms=milliseconds(now),
            page_bytes=self.identity.page_bytes,
            total_bytes=(sample.total_kib or 0) * 1024,
            floor_bytes=self._floor_kib(sample) * 1024,
            limits=Limits(
                frame_bytes=MAX_WIRE_BYTES,
                inflight=INFLIGHT_MOST,
                heartbeat_ms=int(HEARTBEAT_S * 1000),
                dead_ms=int(self.session.dead_s * 1000),
                report_ms=int(self._rhythm.period_s * 1000),
            ),
            gen=last_gen,
            status=last_status,
        )
        if self.session.welcome(acknowledgement, now):
            self.session.log(5, f"session opened, nominal memory {self._ram(sample) // 1024} MiB")

    def _set_policy(self, policy: SetPolicy, now: Instant) -> None:
        status = PolicyStatus.APPLIED
        if policy.gen == self._policy_gen:
            status = PolicyStatus.DUPLICATE
        elif policy.gen < self._policy_gen:
            status = PolicyStatus.STALE
        else:
            self._policy_gen = policy.gen
            if policy.report_ms is not None:
                self._rhythm.period_s = policy.report_ms / 1000
            if policy.floor_bytes is not None:
                self._policy_floor_kib = kib_up(policy.floor_bytes)
                if self._ram_kib is not None and self._policy_floor_kib > self._ram_kib:
                    status = PolicyStatus.CLAMPED
            self._set_triggers(
                policy.psi_some_permyriad or self.watch.some_permyriad,
                policy.psi_full_permyriad or self.watch.full_permyriad,
            )
        self.session.send(PolicyAck(re=policy.seq, gen=self._policy_gen, status=status), now)

    def _set_triggers(self, some_permyriad: int, full_permyriad: int) -> None:
        if (some_permyriad, full_permyriad) != (self.watch.some_permyriad, self.watch.full_permyriad):
            self.watch.some_permyriad, self.watch.full_permyriad = some_permyriad, full_permyriad
            self.session.out.append(SetTriggers(trigger_us(some_permyriad), trigger_us(full_permyriad)))

    # ---- the guest's size --------------------------------------------------------------------------------------

    def _ram(self, sample: Sample) -> int:
        """Nominal RAM in KiB: what HELLO said, at least what the kernel manages."""
        return max(self._ram_kib or 0, sample.total_kib or 0)

    def _present_bytes(self, sample: Sample) -> int | None:
        """The guest's size; None when its kernel counts no balloon."""
        return None if sample.balloon_kib is None else present_kib(sample, self._ram(sample)) * 1024

    def _own_floor_kib(self, sample: Sample) -> int:
        """The higher of configuration and policy, in KiB."""
        ram_kib = self._ram(sample)
        own_kib = self.settings.floor_kib
        if own_kib is None:
            own_kib = computed_floor_kib(sample.total_kib or ram_kib, ram_kib)
        return min(max(own_kib, self._policy_floor_kib), ram_kib)

    def _floor_kib(self, sample: Sample) -> int:
        """The floor in force: the newest INFLATE's, where that is higher. A host can raise it, never lower it."""
        return max(self._own_floor_kib(sample), min(kib_up(self.consent.floor_bytes), self._ram(sample)))

    def _want_kib(self, sample: Sample, severity: int | None = None) -> int:
        hot_kib = self.watch.hot_swap.kib(sample)
        return want_kib(sample, self._ram(sample), self._floor_kib(sample), hot_kib, severity)

    def _need(self, sample: Sample) -> Need:
        ram_kib = self._ram(sample)
        return Need(
            ram_kib,
            present_kib(sample, ram_kib),
            self._want_kib(sample),
            shortfall_kib(sample, ram_kib),
            unmovable_kib(sample, ram_kib),
        )

    # ---- a new sample ------------------------------------------------------------------------------------------

    def _observe(self, sample: Sample, now: Instant) -> None:
        if self._rhythm.changed(sample, self.consent.state) or self.consent.moving:
            self.watch.attend(now.monotonic_s)
        granted_bytes = self.consent.granted_bytes(now.boottime_s)
        granted_kib = None if granted_bytes is None else granted_bytes // 1024
        in_move = self._asking.in_move(now.monotonic_s)
        for harm in self.watch.observe(sample, now, self._ram(sample), granted_kib, in_move):
            self._asking.raise_(harm)
        fired, self._fired = self._fired, None
        if fired is not None and self.watch.stalls(now.monotonic_s, in_move):
            severity = Severity.STARVING if fired == "full" else Severity.STALLING
            self._asking.raise_(Harm(DemandWhy.PSI, severity), announced=True)
        if self.watch.compared:
            self.consent.close_grant(self._present_bytes(sample))
        if self.watch.oom_killed:
            self.session.send_event("oom_kill", now)
        if self.watch.self_moved:
            self.session.send_event("balloon_moved", now)
        self._follow_move(sample, now)
        self._asking.look(self._need(sample), now.monotonic_s)

    def _follow_move(self, sample: Sample, now: Instant) -> None:
        if self.consent.progress(self._present_bytes(sample)):
            if self.consent.inflating:
                self._asking.inflate_arrived(self._need(sample), now.monotonic_s)
            self._send_status(sample, now)

    # ---- balloon commands --------------------------------------------------------------------------------------

    def _balloon_command(self, command: Inflate | Deflate, sample: Sample, now: Instant) -> None:
        ram_kib = self._ram(sample)
        view = View(
            ram_bytes=ram_kib * 1024,
            present_bytes=self._present_bytes(sample),
            floor_bytes=self._own_floor_kib(sample) * 1024,
            unmovable_bytes=unmovable_kib(sample, ram_kib) * 1024,
            suspended=self.session.asleep,
            settling=now.boottime_s < self.settings.settling_s,
            pressed=self.watch.pressed(now.monotonic_s),
        )
        answer = self.consent.answer(command, view, now.boottime_s)
        acknowledgement = BalloonAck(
            re=command.seq,
            gen=answer.gen,
            status=answer.status,
            effective_bytes=answer.effective_bytes,
            why=answer.why,
        )
        self.session.send(acknowledgement, now)
        if answer.status in (AckStatus.ACCEPTED, AckStatus.CLAMPED):
            if isinstance(command, Inflate):
                self._asking.inflate_began()
            self.watch.attend(now.monotonic_s)
            self._follow_move(sample, now)
            self._send_report(sample, now)

    # ---- messages out ------------------------------------------------------------------------------------------

    def _send_demand(self, sample: Sample, now: Instant) -> None:
        ask = self._asking.take(now.monotonic_s)
        if ask is None:
            return
        harm = ask.harm
        want = max(self._want_kib(sample, harm.severity), present_kib(sample, self._ram(sample)))
        self._asking.asked(want)
        demand = Demand(
            boottime_ms=milliseconds(now),
            want_bytes=want * 1024,
            why=harm.why,
            severity=harm.severity,
            gen=ask.gen,
        )
        if not self.session.send(demand, now):
            self._asking.raise_(harm)
        if ask.hurt:
            self.session.log(5, f"move {ask.gen} hurts (why {harm.why}, severity {harm.severity}): stopped")
            self._send_status(sample, now)

    def _send_report(self, sample: Sample, now: Instant) -> None:
        memory = memory_report(sample)
        if memory is None:
            if not self._meminfo_lacks:
                self.session.log(3, "/proc/meminfo lacks a field that a report needs")
            self._meminfo_lacks = True
            self._rhythm.sent(sample, self.consent.state, now.monotonic_s)  # it would have been reported
            return
        self._meminfo_lacks = False
        gen, status = self.consent.state or (None, None)
        drops = self.session.connection.drops
        report = Report(
            boottime_ms=milliseconds(now),
            memory=memory,
            psi=psi_report(sample),
            vm=vm_report(sample),
            want_bytes=None if sample.balloon_kib is None else self._want_kib(sample) * 1024,
            floor_bytes=self._floor_kib(sample) * 1024,
            gen=gen,
            status=status,
            drops=drops if drops.crc or drops.over or drops.gap else None,
        )
        if self.session.send(report, now):
            self._rhythm.sent(sample, self.consent.state, now.monotonic_s)

    def _send_status(self, sample: Sample, now: Instant) -> None:
        state, current_bytes = self.consent.state, self._present_bytes(sample)
        if state is None or current_bytes is None:
            return
        gen, status = state
        bt = milliseconds(now)
        self.session.send(BalloonStatus(gen=gen, status=status, current_bytes=current_bytes, boottime_ms=bt), now)
