"""Small houses for the simulator's tests: traces by hand and by draw, a policy that follows a script, and a brute force
that moves memory in small steps of time and shares nothing with the engine but the speeds."""

from __future__ import annotations

from math import inf

from hypothesis import strategies as st

from ballonet_host_coord.simulate.demand_trace import Step, trace_of
from ballonet_host_coord.simulate.guest import Guest

GIB = 1 << 20
RECLAIM, GIVE, SWAP = 0.86 * GIB, 2.1 * GIB, 0.1 * GIB


def trace(name, *used, end_s=100.0, provisioned_kib=16 * GIB):
    """A trace of (t_s, used_kib) or (t_s, used_kib, cached_kib)."""
    steps = [Step(at[0], at[1], at[2] if len(at) > 2 else None, provisioned_kib) for at in used]
    return trace_of(name, steps, end_s)


def guest(name, *used, **more):
    return Guest(trace(name, *used, **more))


class Script:
    """Sets targets at given times ({t_s: {name: kib}}), and notes what it sees at each of them."""

    name = "script"

    def __init__(self, turns, buffer_ratio=0.0):
        self.turns, self.buffer_ratio, self.seen = turns, buffer_ratio, []

    def begin(self, now_s, budget_kib, vms):
        self.first = {vm.name: vm.assigned_kib for vm in vms}

    def turn(self, now_s, vms):
        self.seen.append((now_s, {vm.name: (vm.assigned_kib, vm.target_kib) for vm in vms}))
        names = {vm.name for vm in vms}
        return {name: kib for name, kib in self.turns[now_s].items() if name in names}

    def next_turn_s(self, now_s, changed):
        return min((t_s for t_s in self.turns if t_s > now_s), default=inf)


SIZES = st.integers(0, 8 * 8).map(lambda eighths: eighths * GIB // 8)
TIMES = st.integers(1, 31).map(lambda quarters: quarters / 4)


@st.composite
def houses(draw):
    """(guests, turns, budget, buffer ratio): up to four machines of 8 GiB for 8 s; times are quarter seconds."""
    guests, names = [], "abcd"[: draw(st.integers(1, 4))]
    for name in names:
        start_s = draw(st.sampled_from([0.0, 0.0, 0.0, 1.0]))
        end_s = draw(st.sampled_from([8.0, 8.0, 6.0]))
        times_s = sorted({start_s} | {t_s for t_s in draw(st.lists(TIMES, max_size=4)) if start_s < t_s < end_s})
        used = [(t_s, draw(SIZES), draw(SIZES)) for t_s in times_s]
        guests.append(guest(name, *used, end_s=end_s, provisioned_kib=8 * GIB))
    if all(one.trace.start_s for one in guests):
        guests.append(guest("z", (0.0, GIB, GIB), end_s=8.0, provisioned_kib=8 * GIB))
    turns = draw(st.dictionaries(TIMES, st.dictionaries(st.sampled_from(names), SIZES), max_size=4))
    return guests, turns, draw(st.integers(2, 24)) * GIB, draw(st.sampled_from([0.0, 0.2]))


def brute(guests, turns, budget_kib, buffer_ratio, dt_s=1 / 256):
    """Sums over the run by small steps: unmet and cache deficit in KiB*s, seconds short, KiB moved, KiB*s held."""
    assigned, target, now = {}, {}, {}
    unmet = deficit = short_s = moved = held = 0.0
    for tick in range(round(8.0 / dt_s)):
        t_s = tick * dt_s
        for name, kib in turns.get(t_s, {}).items():
            if name in assigned:
                target[name] = min(kib, 8 * GIB)
        for one in guests:
            if one.trace.end_s == t_s:
                assigned.pop(one.trace.name)
        new = []
        for one in guests:
            for step in one.trace.steps:
                if step.t_s == t_s:
                    now[one.trace.name] = step
                    if one.trace.start_s == t_s:
                        new.append(one.trace.name)
        wants = {name: min(8 * GIB, now[name].demand_kib * (1 + buffer_ratio)) for name in new}
        scale = min(1.0, budget_kib / sum(wants.values())) if wants and t_s == 0 else 1.0
        for name in new:
            assigned[name] = target[name] = int(min(wants[name] * scale, budget_kib - sum(assigned.values())))
        before = dict(assigned)
        for name, kib in assigned.items():
            if target[name] < kib:
                speed = RECLAIM if kib > now[name].demand_kib else SWAP
                assigned[name] = max(target[name], kib - speed * dt_s)
        free = budget_kib - sum(assigned.values())
        givers = [name for name in assigned if target[name] > assigned[name]]
        givers.sort(key=lambda name: target[name] - before[name])
        for place, name in enumerate(givers):
            gift = min(target[name] - assigned[name], GIVE * dt_s, free / (len(givers) - place))
            assigned[name] += gift
            free -= gift
        for name, kib in assigned.items():
            step, middle = now[name], (kib + before[name]) / 2
            unmet += max(0.0, step.demand_kib - middle) * dt_s
            short_s += dt_s if middle < step.demand_kib else 0.0
            deficit += max(0.0, min(step.cached_kib, 8 * GIB // 5) - (middle - step.used_kib)) * dt_s
            moved += abs(kib - before[name])
            held += middle * dt_s
    return unmet, deficit, short_s, moved, held
