"""A balloon between the coordinator's ledger and the guest, on the bench where both real ends of the wire already are.

Every turn asks the ledger for commands, keeps what it was asked, and carries it out: targets at a balloon that moves
at `rate_kib_per_s`, questions and grants through the coordinator's session.
"""

from __future__ import annotations

from tests.host_coord.builders import GIB, MIB, make_demand, make_guest, make_report, make_snapshot, make_vm

from ballonet_host_coord.ledger import ARRIVED_KIB, Ledger
from ballonet_host_coord.model import (
    AskInflate,
    Decision,
    GuestDecision,
    LinkState,
    Phase,
    Rule,
    SetTarget,
    Status,
    TellDeflate,
    UsageReport,
)

from .bench import Bench

TURN_S = 0.25


class Machine(Bench):
    """One guest of 1 GiB that has 900 MiB and uses two thirds of it; its ledger wants it at `goal_kib`."""

    def __init__(self, settings: object = None) -> None:
        super().__init__(settings=settings)
        self.guest.inflate(124 * MIB)
        self.guest.used_kib = 600 * MIB
        self.goal_kib = 900 * MIB
        self.rate_kib_per_s = 64 * MIB
        self.target_kib = self.guest.size_kib
        self.targets: list[tuple[float, int, int]] = []
        """(when, target, the guest's size then)"""
        self.asked: list[AskInflate] = []
        self.ledger = Ledger()
        self.ledger.began_boot("a", 1, self.target_kib, adopted=False)

    @property
    def steps_down(self) -> list[tuple[float, int, int]]:
        return [(at_s, target, size) for at_s, target, size in self.targets if target < size - ARRIVED_KIB]

    def begin(self) -> None:
        """An agent and a coordinator that knows the guest's size, at rest."""
        self.start_agent()
        self.coordinator = self.serve()
        self.turns(2.0)
        assert self.targets == []

    def turns(self, seconds: float) -> None:
        for _ in range(round(seconds / TURN_S)):
            self.turn()

    def turn(self) -> None:
        self.run(TURN_S)
        self._move(int(self.rate_kib_per_s * TURN_S))
        for command in self._commands():
            if isinstance(command, SetTarget):
                self.targets.append((self.now_s, command.target_kib, self.guest.size_kib))
                self.target_kib = command.target_kib
            elif isinstance(command, AskInflate):
                self.asked.append(command)
                self.coordinator.session.ask_inflate(
                    command.gen, command.target_kib, command.floor_kib, command.rate_kib_per_s, self.now_s
                )
            elif isinstance(command, TellDeflate):
                self.coordinator.session.tell_deflate(command.gen, command.target_kib, self.now_s)
        self.talk()

    def until_step(self) -> None:
        """Until a quarter of the first downward step is done."""
        while not self.steps_down:
            self.turn()
            assert self.now_s < 1060.0
        target, size = self.steps_down[0][1:]
        while self.guest.size_kib > (target + 3 * size) // 4:
            self.turn()
        assert self.guest.size_kib > self.target_kib + ARRIVED_KIB

    def _move(self, most_kib: int) -> None:
        away_kib = self.target_kib - self.guest.size_kib
        if away_kib < 0:
            self.guest.inflate(min(most_kib, -away_kib))
        elif away_kib > 0:
            self.guest.deflate(min(4 * most_kib, away_kib))

    def _commands(self) -> list[object]:
        facts = self.coordinator.session.facts()
        report: UsageReport | None = self.coordinator.reports[-1] if self.coordinator.reports else None
        guest = make_guest(
            "a",
            self.guest.size_kib,
            vm=make_vm(actual_kib=self.guest.size_kib),
            agent=facts,
            report=report or make_report(0.0, self.guest.size_kib),
            demand=make_demand(200 * MIB),
            wish=self.coordinator.wishes[-1] if self.coordinator.wishes else None,
        )
        snapshot = make_snapshot(guest, budget_kib=4 * GIB, now_s=self.now_s)
        choice = GuestDecision(
            name="a", target_kib=self.goal_kib, floor_kib=256 * MIB, phase=Phase.HOLD, status=Status.OK,
            shrinkable=True, urgent=False, rule=Rule.BUFFER, want_kib=0,
        )  # fmt: skip
        decision = Decision(self.now_s, snapshot.host.budget_kib, snapshot.booked_kib, 0, 0, 0, "", (choice,))
        commands = self.ledger.step(snapshot, decision)
        for command in commands:
            if isinstance(command, SetTarget) and facts.link is LinkState.LIVE:
                self._judge(command)
        return list(commands)

    def _judge(self, command: SetTarget) -> None:
        """A live agent's guest is sent nowhere that it did not agree to, and never below what it agreed to now."""
        if command.target_kib >= self.guest.size_kib - ARRIVED_KIB:
            return
        consent = self.coordinator.session.facts().consent
        assert consent is not None
        assert not consent.refused
        assert command.target_kib >= consent.effective_kib
