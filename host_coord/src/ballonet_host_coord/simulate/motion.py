"""Memory between a host's pool and its machines, moving at the speeds of the scoring rule, and its exact integrals.
Pure.

Between events everything is linear. A machine below its target is given memory, one above gives it back:

- reclaiming moves at RECLAIM_KIB_PER_S, below the machine's demand at SWAP_KIB_PER_S;
- giving moves at GIVE_KIB_PER_S while the pool has memory. With an empty pool the givers share alike what is
  reclaimed at that moment, each GIVE_KIB_PER_S at the most.

All givers thus move at one speed at any time. That speed's integral `_given_kib` is the clock by which givers arrive,
time is the clock of the reclaimers, and an event touches one machine: what is scored are sums over machines, kept as
aggregates that change at rates which depend on counts alone.

The budget is a hard limit: memory that is not free is not given, so a policy that overshoots waits, and is spared
the swapping that it would bring upon a real host.
"""

from __future__ import annotations

from heapq import heappop, heappush

from .vm import Vm

_GIB_KIB = 1 << 20

# virtio-balloon with 4 KiB pages, measured in the HyperAlloc artifact (EuroSys 2025).
RECLAIM_KIB_PER_S = 0.86 * _GIB_KIB
GIVE_KIB_PER_S = 2.1 * _GIB_KIB
# What must be written out first.
SWAP_KIB_PER_S = 0.1 * _GIB_KIB

# The part of provisioned memory that page cache works with.
WORKING_CACHE_PARTS = 5

# A shortage that lasts longer is an episode.
EPISODE_S = 2.0

# Rounding lets aggregates drift from the sums they stand for by about 1e-4 KiB an event; so often they are summed anew.
_EVENTS_PER_SUM = 1024

_FOREVER_S = float("inf")


class Body:
    """One machine in motion. Only `Motion` writes here."""

    __slots__ = (
        "arrival", "cache_line_kib", "deficit", "from_given_kib", "from_kib", "from_s", "giving", "milestone_kib",
        "per_s", "short", "short_since_s", "token", "vm", "wanted_cache_kib",
    )  # fmt: skip

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.from_kib = vm.assigned_kib   # where its present piece of motion began
        self.from_s = 0.0
        self.from_given_kib = 0.0
        self.giving = False
        self.per_s = 0.0                  # its speed of reclaiming, 0 when it is not
        self.milestone_kib = 0.0          # where its piece ends
        self.short = False
        self.short_since_s = _FOREVER_S   # infinity: it is not short
        self.deficit = False
        self.cache_line_kib = -1          # below this its cache lacks something; -1: not recorded
        self.wanted_cache_kib = 0
        self.token = 0                    # which entry of a heap is its own

    def wants(self) -> None:
        """Take over what the machine's `used_kib`, `cached_kib` and `maximum_kib` say about its cache."""
        vm = self.vm
        if vm.cached_kib is None:
            self.wanted_cache_kib, self.cache_line_kib = 0, -1
        else:
            self.wanted_cache_kib = min(vm.cached_kib, vm.maximum_kib // WORKING_CACHE_PARTS)
            self.cache_line_kib = vm.used_kib + self.wanted_cache_kib


class Motion:
    """The pool and all machines. A machine is changed between `detach` and `attach`."""

    def __init__(self, budget_kib: int, now_s: float) -> None:
        self.now_s = now_s
        self.free_kib = float(budget_kib)
        self.demand_kib = 0
        self.short_kib = 0.0
        self.bodies: dict[str, Body] = {}
        # The integrals, in KiB*s and seconds, and what was moved.
        self.short_kib_s = self.demand_kib_s = self.held_kib_s = self.deficit_kib_s = self.cache_kib_s = 0.0
        self.short_s = self.vm_s = self.moved_kib = self.deepest_kib = 0.0
        self.episodes = 0
        self.has_cache = False

        self._budget_kib = budget_kib
        self._moving: set[Body] = set()
        self._deficit_kib = 0.0
        self._cache_kib = 0
        self._givers: list[tuple[float, int, Body]] = []     # by the given_kib at which they arrive
        self._reclaimers: list[tuple[float, int, Body]] = []  # by the time at which they arrive
        self._tokens = self._events = 0
        self._given_kib = 0.0
        self._due: Body | None = None
        # Counts: short machines, givers, those of them that are short or lack cache; reclaimers fast and slow.
        self._short = self._give = self._give_short = self._give_deficit = 0
        self._fast = self._slow = self._fast_deficit = self._slow_deficit = 0
        # Rates that hold until the next event.
        self._giver_per_s = self._free_per_s = 0.0

    def next_s(self) -> float:
        """When the next piece of motion ends; infinity when nothing moves."""
        give = self._give
        self._due = None
        if not give and not self._fast and not self._slow:
            self._free_per_s = 0.0
            return _FOREVER_S
        reclaim_per_s = self._fast * RECLAIM_KIB_PER_S + self._slow * SWAP_KIB_PER_S
        wish_per_s = give * GIVE_KIB_PER_S
        next_s = _FOREVER_S
        if wish_per_s > reclaim_per_s:
            if self.free_kib <= 0.0:
                self._giver_per_s = reclaim_per_s / give
                self._free_per_s = 0.0
            else:
                self._giver_per_s = GIVE_KIB_PER_S
                self._free_per_s = reclaim_per_s - wish_per_s
                next_s = self.now_s - self.free_kib / self._free_per_s
        else:
            self._giver_per_s = GIVE_KIB_PER_S
            self._free_per_s = reclaim_per_s - wish_per_s
        reclaimers, givers = self._reclaimers, self._givers
        while reclaimers and reclaimers[0][1] != reclaimers[0][2].token:
            heappop(reclaimers)
        while givers and givers[0][1] != givers[0][2].token:
            heappop(givers)
        if reclaimers and reclaimers[0][0] <= next_s:
            next_s, _, self._due = reclaimers[0]
        if givers and self._giver_per_s:
            arrival_s = self.now_s + (givers[0][0] - self._given_kib) / self._giver_per_s
            if arrival_s <= next_s:
                next_s, self._due = arrival_s, givers[0][2]
        return next_s

    def advance(self, to_s: float) -> None:
        """Let everything move until `to_s`, which is not after the last answer of `next_s`."""
        dt_s = to_s - self.now_s
        if dt_s <= 0.0:
            return
        self.now_s = to_s
        self.demand_kib_s += self.demand_kib * dt_s
        self.vm_s += len(self.bodies) * dt_s
        self.cache_kib_s += self._cache_kib * dt_s
        held_kib = self._budget_kib - self.free_kib
        if not self._moving:
            self.held_kib_s += held_kib * dt_s
            if self._short:
                self.short_s += self._short * dt_s
                self.short_kib_s += self.short_kib * dt_s
            self.deficit_kib_s += self._deficit_kib * dt_s
            return
        half_s = dt_s / 2
        giver_per_s, give = self._giver_per_s, self._give
        self.held_kib_s += (held_kib - self._free_per_s * half_s) * dt_s
        self.free_kib += self._free_per_s * dt_s
        self.moved_kib += (
            give * giver_per_s + self._fast * RECLAIM_KIB_PER_S + self._slow * SWAP_KIB_PER_S
        ) * dt_s
        if self._short:
            per_s = self._slow * SWAP_KIB_PER_S - self._give_short * giver_per_s
            self.short_s += self._short * dt_s
            self.short_kib_s += (self.short_kib + per_s * half_s) * dt_s
            self.short_kib += per_s * dt_s
        if self.has_cache:
            per_s = (
                self._fast_deficit * RECLAIM_KIB_PER_S
                + self._slow_deficit * SWAP_KIB_PER_S
                - self._give_deficit * giver_per_s
            )
            self.deficit_kib_s += (self._deficit_kib + per_s * half_s) * dt_s
            self._deficit_kib += per_s * dt_s
        if give:
            self._given_kib += giver_per_s * dt_s

    def happen(self) -> None:
        """At the time that `next_s` answered: end the piece of motion that ends now."""
        body = self._due
        if body is None:
            self.free_kib = 0.0
            return
        self.detach(body)
        body.vm.assigned_kib = body.milestone_kib
        self.attach(body)

    def settle(self) -> None:
        """Write where everything is now into `Vm.assigned_kib`."""
        for body in self._moving:
            body.vm.assigned_kib = self._place_kib(body)

    def detach(self, body: Body) -> None:
        """End the machine's piece of motion here and take it out of the aggregates. It stays in `bodies`."""
        vm = body.vm
        assigned_kib = body.from_kib
        if body.giving or body.per_s:
            assigned_kib = vm.assigned_kib = self._place_kib(body)
            self._moving.discard(body)
            body.token = 0
            if body.giving:
                body.giving = False
                self._give -= 1
                self._give_short -= body.short
                self._give_deficit -= body.deficit
                if not self._give:
                    self._givers.clear()
                    self._given_kib = 0.0
            elif body.per_s == SWAP_KIB_PER_S:
                self._slow -= 1
                self._slow_deficit -= body.deficit
            else:
                self._fast -= 1
                self._fast_deficit -= body.deficit
            body.per_s = 0.0
        if body.short:
            lacked_kib = max(0.0, vm.demand_kib - assigned_kib)
            self.short_kib -= lacked_kib
            self._short -= 1
            if self.now_s > body.from_s:
                self.deepest_kib = max(self.deepest_kib, lacked_kib, vm.demand_kib - body.from_kib)
            if not self._short:
                self.short_kib = 0.0
        if body.deficit:
            self._deficit_kib -= max(0.0, body.cache_line_kib - assigned_kib)
        self.demand_kib -= vm.demand_kib
        self._cache_kib -= body.wanted_cache_kib

    def attach(self, body: Body) -> None:
        """Let the machine move on from its `assigned_kib` to its target, and count it."""
        vm = body.vm
        at_kib, demand_kib = vm.assigned_kib, vm.demand_kib
        goal_kib: float = min(vm.target_kib, vm.maximum_kib) if vm.follows else at_kib
        if goal_kib < vm.least_kib and goal_kib < at_kib:
            goal_kib = min(at_kib, vm.least_kib)
        line_kib = body.cache_line_kib
        down = goal_kib < at_kib
        body.from_kib, body.from_s = at_kib, self.now_s
        short = body.short = at_kib < demand_kib or (down and at_kib == demand_kib)
        deficit = body.deficit = at_kib < line_kib or (down and at_kib == line_kib)
        self.demand_kib += demand_kib
        self._cache_kib += body.wanted_cache_kib
        if line_kib >= 0:
            self.has_cache = True
        if short:
            self._short += 1
            self.short_kib += demand_kib - at_kib
            if body.short_since_s == _FOREVER_S:
                body.short_since_s = self.now_s
        elif body.short_since_s != _FOREVER_S:
            self._end_episode(body)
        if deficit:
            self._deficit_kib += line_kib - at_kib
        if goal_kib == at_kib:
            return
        self._tokens = body.token = self._tokens + 1
        self._moving.add(body)
        if down:
            self._reclaim(body, goal_kib)
        else:
            milestone_kib = min(mark for mark in (demand_kib, line_kib, goal_kib) if mark > at_kib)
            body.milestone_kib = milestone_kib
            body.giving = True
            body.from_given_kib = self._given_kib
            self._give += 1
            self._give_short += short
            self._give_deficit += deficit
            heappush(self._givers, (self._given_kib + milestone_kib - at_kib, body.token, body))

    def add(self, body: Body) -> None:
        """A machine appears with its `assigned_kib`, which is free."""
        self.bodies[body.vm.name] = body
        self.free_kib -= body.vm.assigned_kib
        self.attach(body)

    def remove(self, body: Body) -> None:
        """A machine is gone, and what it had is free."""
        self.detach(body)
        if body.short_since_s != _FOREVER_S:
            self._end_episode(body)
        del self.bodies[body.vm.name]
        self.free_kib += body.vm.assigned_kib

    def jump(self, body: Body, to_kib: float) -> None:
        """Between detach and attach: move the machine at once, as far as memory is free."""
        to_kib = min(to_kib, body.vm.assigned_kib + max(0.0, self.free_kib))
        self.moved_kib += abs(to_kib - body.vm.assigned_kib)
        self.free_kib += body.vm.assigned_kib - to_kib
        body.vm.assigned_kib = to_kib

    def cut(self, body: Body) -> None:
        """Between detach and attach: what a machine has above its maximum is free at once; no balloon moved it."""
        excess_kib = body.vm.assigned_kib - body.vm.maximum_kib
        if excess_kib > 0:
            self.free_kib += excess_kib
            body.vm.assigned_kib -= excess_kib

    def tidy(self) -> None:
        """Now and then, sum the aggregates anew, so that rounding does not add up over millions of events."""
        self._events += 1
        if self._events % _EVENTS_PER_SUM:
            return
        self.settle()
        bodies = self.bodies.values()
        self.free_kib = max(0.0, self._budget_kib - sum(body.vm.assigned_kib for body in bodies))
        self.short_kib = sum(body.vm.short_kib for body in bodies)
        self._deficit_kib = sum(max(0.0, body.cache_line_kib - body.vm.assigned_kib) for body in bodies)

    def _reclaim(self, body: Body, goal_kib: float) -> None:
        at_kib, demand_kib = body.from_kib, body.vm.demand_kib
        milestone_kib = max(mark for mark in (demand_kib, body.cache_line_kib, goal_kib) if goal_kib <= mark < at_kib)
        body.milestone_kib = milestone_kib
        if body.short:
            body.per_s = SWAP_KIB_PER_S
            self._slow += 1
            self._slow_deficit += body.deficit
        else:
            body.per_s = RECLAIM_KIB_PER_S
            self._fast += 1
            self._fast_deficit += body.deficit
        heappush(self._reclaimers, (self.now_s + (at_kib - milestone_kib) / body.per_s, body.token, body))

    def _end_episode(self, body: Body) -> None:
        if self.now_s - body.short_since_s > EPISODE_S:
            self.episodes += 1
        body.short_since_s = _FOREVER_S

    def _place_kib(self, body: Body) -> float:
        if body.giving:
            return min(body.milestone_kib, body.from_kib + self._given_kib - body.from_given_kib)
        return max(body.milestone_kib, body.from_kib - body.per_s * (self.now_s - body.from_s))
