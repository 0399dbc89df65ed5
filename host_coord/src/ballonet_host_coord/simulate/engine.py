"""One policy on recorded demand at one budget, event by event: the scoring rule's (b) to (e). Pure.

The theory. Between two events nothing changes but memory in motion, which moves linearly (`motion.py`). Events are
the end of a piece of motion, a step of demand or a change of mood, the policy's next turn, and a machine's last
moment. At the same time they happen in this order: motion, the policy's turn, then what machines do. A periodic policy
so learns of a step at its own time one period later, which is the worst case that the rule asks for; a policy that is
told of changes can have a turn at the same time, after them.

The run begins with the first machine. Those that exist then start with what their demand and the policy's buffer need,
scaled down alike when that is more than the budget; a later machine gets the same as far as memory is free. What a
machine has when it ends, or above its maximum when that falls, is free at once, and no balloon moved it.

The budget is a hard limit for every policy (`motion.py`). A policy sees `Vm` objects and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from .demand_trace import Step, floor_kib
from .guest import Guest, Mood
from .motion import Body, Motion
from .score import Score
from .vm import Policy, Vm

_GIB_KIB = 1 << 20
_DAY_S = 86400.0
_FOREVER_S = float("inf")
_PROGRESS_MARKS = 200

# Events of machines at the same time: who goes makes room for who comes.
_ENDS, _STEPS, _FEELS = range(3)
_Event = tuple[float, int, int, Step | Mood | None]


class Point(NamedTuple):
    """The sums over all machines at one time, for a plot."""

    t_s: float
    demand_kib: float
    assigned_kib: float
    unmet_kib: float


class PolicyError(ValueError):
    """A policy answered what no policy may: a turn in the past, a machine that does not exist."""


def run(
    guests: Sequence[Guest],
    policy: Policy,
    budget_kib: int,
    progress: Callable[[float], None] | None = None,
    points: list[Point] | None = None,
    points_every_s: float = 300.0,
) -> Score:
    """Score `policy`, an instance of its own, on `guests`, whose names differ, at least one.

    `progress` is called with the part of the time that is done, `points` is filled every `points_every_s`.
    The answer's `seconds` is 0. Raises PolicyError.
    """
    engine = _Engine(guests, policy, budget_kib)
    engine.run(progress, points, points_every_s)
    return engine.score()


class _Engine:
    def __init__(self, guests: Sequence[Guest], policy: Policy, budget_kib: int) -> None:
        self._guests = guests
        self._policy = policy
        self._budget_kib = budget_kib
        # The oracle's speed: an instance says so, and the protocol of policies stays as small as it is.
        self._instant = bool(getattr(policy, "instant", False))
        self._start_s = min(guest.trace.start_s for guest in guests)
        self._end_s = max(guest.trace.end_s for guest in guests)
        self._motion = Motion(budget_kib, self._start_s)
        self._bodies: dict[int, Body] = {}   # by place in `guests`
        self._vms: tuple[Vm, ...] = ()
        self._moods: dict[int, Mood] = {}
        self._commands = 0
        self._changed = False
        self._came_or_went = False

    def run(self, progress: Callable[[float], None] | None, points: list[Point] | None, every_s: float) -> None:
        motion = self._motion
        events = merge(*(_events(index, guest) for index, guest in enumerate(self._guests)))
        event = next(events, None)
        event = self._begin(event, events)
        turn_s = self._next_turn_s(motion.now_s)
        point_s = self._start_s if points is not None else _FOREVER_S
        mark_s = gap_s = (self._end_s - self._start_s) / _PROGRESS_MARKS
        mark_s += self._start_s
        while event is not None:
            event_s = event[0]
            motion_s = motion.next_s()
            if motion_s <= event_s and motion_s <= turn_s and motion_s <= point_s:
                motion.advance(motion_s)
                motion.happen()
                motion.tidy()
            elif point_s <= turn_s and point_s <= event_s:
                motion.advance(point_s)
                if points is not None:
                    held_kib = self._budget_kib - motion.free_kib
                    points.append(Point(point_s, motion.demand_kib, held_kib, motion.short_kib))
                point_s += every_s
            elif turn_s <= event_s:
                motion.advance(turn_s)
                turn_s = self._turn(turn_s)
            else:
                motion.advance(event_s)
                while event is not None and event[0] <= event_s:
                    self._happen(event)
                    event = next(events, None)
                if self._came_or_went:
                    self._came_or_went = False
                    self._vms = tuple(body.vm for body in motion.bodies.values())
                if self._changed:
                    self._changed = False
                    turn_s = self._next_turn_s(event_s)
                if progress is not None and event_s >= mark_s:
                    progress((event_s - self._start_s) / (self._end_s - self._start_s))
                    mark_s = event_s + gap_s

    def score(self) -> Score:
        motion = self._motion
        days = motion.vm_s / _DAY_S
        lasted_s = motion.now_s - self._start_s
        return Score(
            unmet_ratio=_ratio(motion.short_kib_s, motion.demand_kib_s),
            shortage_vm_seconds=motion.short_s,
            episodes_per_vm_day=_ratio(motion.episodes, days),
            deepest_shortage_kib=motion.deepest_kib,
            moved_gib_per_vm_day=_ratio(motion.moved_kib / _GIB_KIB, days),
            commands_per_vm_day=_ratio(self._commands, days),
            held_mean_kib=_ratio(motion.held_kib_s, lasted_s),
            cache_deficit_ratio=motion.deficit_kib_s / motion.cache_kib_s if motion.cache_kib_s else None,
            seconds=0.0,
        )

    def _begin(self, event: _Event | None, events: Iterator[_Event]) -> _Event | None:
        """The machines of the first moment, with sizes scaled alike if need be; answers the first event after it."""
        first: list[tuple[Vm, int, Step]] = []
        moods: list[_Event] = []
        while event is not None and event[0] <= self._start_s:
            _, _, index, what = event
            if isinstance(what, Step):
                first.append((self._vm_of(index, what), index, what))
            elif isinstance(what, Mood):
                moods.append(event)
            event = next(events, None)
        wanted_kib = [self._first_kib(vm) for vm, _, _ in first]
        sum_kib = sum(wanted_kib)
        scale = min(1.0, self._budget_kib / sum_kib) if sum_kib else 1.0
        for (vm, index, _), kib in zip(first, wanted_kib, strict=True):
            self._appear(vm, index, int(kib * scale))
        for mood in moods:
            self._happen(mood)
        self._vms = tuple(body.vm for body in self._motion.bodies.values())
        self._changed = self._came_or_went = False
        self._policy.begin(self._start_s, self._budget_kib, self._vms)
        return event

    def _turn(self, now_s: float) -> float:
        """The policy's turn: new targets; answers the time of its next one."""
        motion = self._motion
        if not self._vms:
            return _FOREVER_S
        motion.settle()
        targets = self._policy.turn(now_s, self._vms)
        bodies = motion.bodies
        changed: list[tuple[Body, int]] = []
        for name, target_kib in targets.items():
            body = bodies.get(name)
            if body is None:
                raise PolicyError(f"{self._policy.name} at {now_s} s: a target for {name!r}, which does not exist")
            if target_kib != body.vm.target_kib:
                target_kib = max(0, min(int(target_kib), body.vm.maximum_kib))
                if target_kib != body.vm.target_kib:
                    changed.append((body, target_kib))
        self._commands += len(changed)
        if self._instant:
            changed.sort(key=lambda pair: pair[1] - pair[0].vm.assigned_kib)
        for body, target_kib in changed:
            motion.detach(body)
            body.vm.target_kib = target_kib
            if self._instant:
                motion.jump(body, target_kib)
            motion.attach(body)
        next_s = self._policy.next_turn_s(now_s, False)
        if next_s <= now_s:
            raise PolicyError(f"{self._policy.name} at {now_s} s: next turn at {next_s} s; allowed are later times")
        return next_s

    def _next_turn_s(self, now_s: float) -> float:
        if not self._vms:
            return _FOREVER_S
        # A time that has passed means now: while there was no machine there was no turn.
        return max(now_s, self._policy.next_turn_s(now_s, True))

    def _happen(self, event: _Event) -> None:
        """What a machine does: step, feel otherwise, end."""
        _, _, index, what = event
        body = self._bodies.get(index)
        motion = self._motion
        if what is None:
            if body is not None:
                motion.remove(body)
                del self._bodies[index]
                self._changed = self._came_or_went = True
        elif isinstance(what, Step):
            if body is None:
                vm = self._vm_of(index, what)
                self._appear(vm, index, int(max(0.0, min(self._first_kib(vm), motion.free_kib))))
                self._changed = self._came_or_went = True
                return
            motion.detach(body)
            self._step(body.vm, index, what)
            motion.cut(body)
            body.wants()
            motion.attach(body)
            self._changed = True
        else:
            self._moods[index] = what
            if body is not None:
                self._feel(body, index, what)

    def _feel(self, body: Body, index: int, mood: Mood) -> None:
        motion, vm = self._motion, body.vm
        motion.detach(body)
        was = (vm.silent, vm.shows_kib)
        vm.follows, vm.silent = mood.follows, mood.silent
        if mood.swing_kib is not None:
            used_kib = max(0, min(vm.maximum_kib, int(vm.assigned_kib) + mood.swing_kib))
            self._step(vm, index, Step(motion.now_s, used_kib, vm.cached_kib, vm.maximum_kib))
            body.wants()
        else:
            self._show(vm, mood)
        motion.attach(body)
        # That a balloon is stuck, nobody is told.
        self._changed |= was != (vm.silent, vm.shows_kib)

    def _step(self, vm: Vm, index: int, step: Step) -> None:
        _, used_kib, cached_kib, provisioned_kib = step
        vm.used_kib, vm.cached_kib = used_kib, cached_kib
        if provisioned_kib != vm.maximum_kib:
            vm.maximum_kib = provisioned_kib
            minimum_kib = self._guests[index].minimum_kib
            vm.minimum_kib = floor_kib(provisioned_kib) if minimum_kib is None else min(minimum_kib, provisioned_kib)
            vm.target_kib = min(vm.target_kib, provisioned_kib)
        vm.demand_kib = max(used_kib, vm.minimum_kib)
        self._show(vm, self._moods.get(index))

    def _show(self, vm: Vm, mood: Mood | None) -> None:
        if not vm.silent:
            ratio = mood.shows_ratio if mood is not None else 1.0
            vm.shows_kib = vm.demand_kib if ratio == 1.0 else min(vm.maximum_kib, int(vm.demand_kib * ratio))

    def _vm_of(self, index: int, step: Step) -> Vm:
        guest = self._guests[index]
        vm = Vm(guest.trace.name, 0, 0, guest.weight, guest.buffer_percent, least_kib=guest.least_kib)
        self._step(vm, index, step)
        mood = self._moods.get(index)
        if mood is not None:
            vm.follows, vm.silent = mood.follows, mood.silent
        return vm

    def _first_kib(self, vm: Vm) -> float:
        if not vm.demand_kib:
            return 0.0
        return min(vm.maximum_kib, vm.demand_kib * (1.0 + self._policy.buffer_ratio))

    def _appear(self, vm: Vm, index: int, first_kib: int) -> None:
        vm.assigned_kib, vm.target_kib = float(first_kib), first_kib
        body = self._bodies[index] = Body(vm)
        body.wants()
        self._motion.add(body)


def _events(index: int, guest: Guest) -> Iterator[_Event]:
    trace = guest.trace
    steps: Iterator[_Event] = ((step.t_s, _STEPS, index, step) for step in trace.steps)
    end: list[_Event] = [(trace.end_s, _ENDS, index, None)]
    if not guest.moods:
        yield from steps
        yield from end
        return
    yield from merge(
        steps, ((mood.t_s, _FEELS, index, mood) for mood in guest.moods if mood.t_s < trace.end_s), end
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
