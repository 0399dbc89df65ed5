"""The agent's shell: one edge-triggered epoll that carries out what the core decides.

    wait -> PSI event first: sample, DEMAND -> port: read until empty -> deadline: tick -> write

Edges, because a level-triggered wait on a port whose host is away returns at once, for ever. An edge can be lost (a
host that leaves while the guest sleeps raises none), so the port is looked at every five seconds anyway, and every
fifteen while no host is there. Nothing here blocks: a descriptor that takes no bytes keeps its frames in a queue of
32 KiB, and what does not fit is dropped whole. Lines for the operator come after the frames of the same turn, twenty
at once and one a second.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` dresses the same functions in enums
import os
import select
import time

from ballonet_guest_agent.actions import Instant, Log, SetTriggers, TakeSample, Write, trigger_us
from ballonet_guest_agent.cadence import ARMINGS_BURST, ARMINGS_PER_S, Budget, LineBudget, WorkBudget
from ballonet_guest_agent.notify import log, notify, watchdog_period_s
from ballonet_guest_agent.port import AWAY
from ballonet_protocol.limits import QUEUE_BYTES, WRITE_STUCK_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Protocol

    from ballonet_guest_agent.actions import Action
    from ballonet_guest_agent.agent import Agent
    from ballonet_guest_agent.procfs import Procfs
    from ballonet_guest_agent.triggers import PsiTriggers

    class Port(Protocol):
        """What the loop needs of a transport; port.py says what each means."""

        name: str
        hint: str

        def open(self) -> None: ...
        def fileno(self) -> int: ...
        def listener_fileno(self) -> int: ...
        def accept(self) -> None: ...
        def read(self) -> bytes | None: ...
        def write(self, data: bytes) -> int: ...
        def host_left(self) -> None: ...
        def close(self) -> None: ...


#: The timer behind the edges while a host is thought to be there.
LOOK_AGAIN_S = 5.0
#: The same while none is. A host that comes raises two edges, by connecting and by its HELLO, and it repeats the HELLO
#: within as long as this; so little is at stake, and each look costs an idle guest a wake-up.
LOOK_FOR_HOST_S = 15.0
#: A port that takes nothing for WRITE_STUCK_S is opened again after this; twice in a row, and only a new process helps.
REOPEN_S, STUCK_MOST = 1.0, 2
#: A name that is not there is looked for less and less often.
SEARCH_LONGEST_S = 5.0
#: Triggers that could not be armed, or were lost, are tried again this often: a lack of descriptors or memory passes.
REARM_S = 60.0
#: A flood on the port must not keep PSI events waiting: 64 KiB, then look round.
READS_PER_TURN = 16
EXIT_STOPPED, EXIT_STUCK = 0, 75


def read_clocks() -> Instant:
    """Now, by the kernel. BOOTTIME first: a process that is held up between the two must not seem to have slept."""
    boottime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Instant(time.monotonic(), boottime_s)


class Loop:
    """Joins the core, a port, /proc and the PSI triggers. `turn` is one wait; `run` turns until a signal."""

    def __init__(
        self,
        agent: Agent,
        port: Port,
        procfs: Procfs,
        triggers: PsiTriggers,
        now: Callable[[], Instant] = read_clocks,
        say: Callable[[int, str], None] = log,
        work_s: Callable[[], float] = time.process_time,
    ) -> None:
        self.agent = agent
        self.exit_code: int | None = None
        self._port = port
        self._procfs = procfs
        self._triggers = triggers
        self._now = now
        self._say_line = say
        self._lines = LineBudget()
        self._armings = Budget(ARMINGS_BURST, ARMINGS_PER_S)
        self._arm_next: SetTriggers | None = None
        self._work_s = work_s
        self._work_budget = WorkBudget()
        self._worked_s = work_s()
        self._rest_end_s: float | None = None
        self._epoll = select.epoll()
        self._signals = -1
        self._is_open = False
        self._host_there = False
        self._more = False
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._dropping = False
        self._stuck_since_s: float | None = None
        self._times_stuck = 0
        self._look_s = self._open_s = 0.0
        self._search_s = REOPEN_S
        self._complaint = ""
        self._refused_s = now().monotonic_s
        self._watchdog_s = watchdog_period_s()
        self._alive_s = 0.0
        for fd in triggers.fds:
            self._epoll.register(fd, select.EPOLLPRI)

    # ---- turning -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Turn until SIGTERM or SIGINT, or until only a new process helps. The exit code."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, _wake)
        self._signals = read_end
        self._epoll.register(read_end, select.EPOLLIN)
        notify("READY=1")
        try:
            while self.exit_code is None:
                self.turn()
        finally:
            _signal.set_wakeup_fd(before)
            self.close()
            os.close(read_end)
            os.close(write_end)
        return self.exit_code

    def turn(self, longest_s: float = LOOK_FOR_HOST_S) -> None:
        """One wait, at most `longest_s`, and everything that is due after it."""
        events = self._epoll.poll(min(longest_s, self._wait_s(self._now())))
        fds = [fd for fd, _ in events]
        self._take_pressure(events)
        if self._signals in fds:
            self._stop()
            return
        if self._port.listener_fileno() in fds:
            self._accept()
        now_s = self._now().monotonic_s
        look = now_s >= self._look_due_s()
        if look:
            self._look_s = now_s
        if self._rest_end_s is not None and now_s >= self._rest_end_s:
            self._end_rest()
        knocked = self._more or self._port.fileno() in fds
        if not self._is_open and now_s >= self._open_s:
            self._open()
        elif self._is_open and (look or knocked):
            self._read()
        deadline_s = self.agent.deadline_s(self._now())
        if look or (deadline_s is not None and deadline_s <= 0):
            self._perform(self.agent.tick(self._now()))
        if not self._triggers.fds and now_s >= self._refused_s + REARM_S:
            watch = self.agent.watch
            self._arm_next = SetTriggers(trigger_us(watch.some_permyriad), trigger_us(watch.full_permyriad))
            self._arm()
        self._flush()
        self._check_stuck()
        self._feed_watchdog(now_s)
        if knocked:
            self._charge_port()
        else:
            self._worked_s = self._work_s()

    def _look_due_s(self) -> float:
        nobody = self._is_open and not self._host_there
        return self._look_s + (LOOK_FOR_HOST_S if nobody else LOOK_AGAIN_S)

    def _wait_s(self, now: Instant) -> float:
        if self._more:
            return 0.0
        due_s = self._look_due_s()
        if self._rest_end_s is not None:
            due_s = min(due_s, self._rest_end_s)
        if not self._is_open:
            due_s = min(due_s, self._open_s)
        if self._stuck_since_s is not None:
            due_s = min(due_s, self._stuck_since_s + WRITE_STUCK_S)
        if self._watchdog_s is not None:
            due_s = min(due_s, self._alive_s + self._watchdog_s)
        wait_s = due_s - now.monotonic_s
        deadline_s = self.agent.deadline_s(now)
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s)
        return max(0.0, wait_s)

    def _take_pressure(self, events: list[tuple[int, int]]) -> None:
        """Before anything else: the DEMAND leaves with one pass over /proc."""
        kinds = {self._triggers.fds[fd] for fd, _ in events if fd in self._triggers.fds}
        if any(fd in self._triggers.fds and happened & select.EPOLLERR for fd, happened in events):
            self._lose_triggers("the kernel took the trigger away")
        elif kinds:
            self._perform(self.agent.pressed("full" if "full" in kinds else "some", self._now()))
            self._worked_s = self._work_s()

    def _stop(self) -> None:
        self._perform(self.agent.shutdown(self._now()))
        self._flush()
        self._say(6, "stopped")
        self.exit_code = EXIT_STOPPED

    def _feed_watchdog(self, now_s: float) -> None:
        """In time; from half of the time on with any turn, so that waking for this alone is rare."""
        if self._watchdog_s is not None and now_s >= self._alive_s + self._watchdog_s / 2:
            self._alive_s = now_s
            notify("WATCHDOG=1")

    def close(self) -> None:
        """Let go of everything that was opened."""
        self._port.close()
        self._triggers.close()
        self._epoll.close()

    # ---- the port ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._port.open()
        except OSError as error:
            complaint = f"port {self._port.name}: {error.strerror or error}; {self._port.hint}"
            if complaint != self._complaint:
                self._complaint = complaint
                self._say(4, complaint)
            self._open_s = self._now().monotonic_s + self._search_s
            self._search_s = min(self._search_s * 2, SEARCH_LONGEST_S)
            return
        self._is_open, self._complaint, self._search_s = True, "", REOPEN_S
        self._say(6, f"port {self._port.name} is open")
        self._watch_port()
        if self._port.fileno() >= 0:
            self._read()

    def _watch_port(self) -> None:
        if self._port.fileno() >= 0:
            self._epoll.register(self._port.fileno(), self._edges())
        if self._port.listener_fileno() >= 0:
            self._epoll.register(self._port.listener_fileno(), select.EPOLLIN)

    def _edges(self) -> int:
        if self._rest_end_s is not None:
            return select.EPOLLET
        return select.EPOLLIN | select.EPOLLOUT | select.EPOLLET

    def _unwatch_port(self) -> None:
        for fd in (self._port.fileno(), self._port.listener_fileno()):
            if fd >= 0:
                self._epoll.unregister(fd)

    def _accept(self) -> None:
        self._unwatch_port()
        self._port.accept()
        self._watch_port()
        if self._port.fileno() >= 0:
            self._read()
        self._charge_port()

    def _read(self) -> None:
        self._more = False
        for _ in range(READS_PER_TURN):
            if self._port.fileno() < 0 or self._rest_end_s is not None:
                return
            try:
                data = self._port.read()
            except OSError as error:
                self._lose_port(error.strerror or str(error))
                return
            if data == AWAY:
                self._host_gone()
                return
            if not self._host_there:
                self._host_there = True
                self._perform(self.agent.connected(self._now()))
            if data is None:
                return
            self._perform(self.agent.received(data, self._now()))
            self._charge_port()
        # The last read may have lost the port or its host.
        self._more = self._is_open and self._port.fileno() >= 0 and self._rest_end_s is None

    def _charge_port(self) -> None:
        """The port pays for the work since the last charge. With its budget spent it is left unread for a while.

        What comes meanwhile waits on the line. Its edges would wake us for nothing, so none is asked for; asking again
        counts as an edge when something is there.
        """
        worked_s, before_s = self._work_s(), self._worked_s
        self._worked_s = worked_s
        now_s = self._now().monotonic_s
        rest_s = self._work_budget.spend(now_s, worked_s - before_s)
        if rest_s > 0.0 and self._rest_end_s is None and self._is_open:
            self._rest_end_s = now_s + rest_s
            self._more = False
            self._ask_for_edges()

    def _end_rest(self) -> None:
        self._rest_end_s = None
        self._more = self._is_open and self._port.fileno() >= 0
        self._ask_for_edges()

    def _ask_for_edges(self) -> None:
        if self._is_open and self._port.fileno() >= 0:
            self._epoll.modify(self._port.fileno(), self._edges())

    def _host_gone(self) -> None:
        self._forget_queue()
        fd = self._port.fileno()
        self._port.host_left()
        # A descriptor that stays must not be registered anew: that counts as an edge, and this would go on for ever.
        if self._port.fileno() != fd:
            self._watch_port()
        if self._host_there:
            self._host_there = False
            self._perform(self.agent.disconnected(self._now()))

    def _lose_port(self, reason: str) -> None:
        """Unplugged, or stuck: close it and look for the name again."""
        self._say(4, f"port {self._port.name} lost: {reason}")
        self._forget_queue()
        self._unwatch_port()
        self._port.close()
        self._is_open = self._host_there = self._more = False
        self._rest_end_s = None
        self._open_s = self._now().monotonic_s + REOPEN_S
        self._perform(self.agent.disconnected(self._now()))

    # ---- actions -----------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        todo, lines = list(actions), []
        while todo:
            action = todo.pop(0)
            if isinstance(action, Write):
                self._enqueue(action.data)
            elif isinstance(action, TakeSample):
                todo[:0] = self.agent.sampled(self._procfs.sample(), self._now())
            elif isinstance(action, SetTriggers):
                self._arm_next = action
            elif isinstance(action, Log):
                lines.append(action)
        self._arm()
        self._flush()
        for line in lines:
            self._say(line.level, line.text)

    def _say(self, level: int, text: str) -> None:
        left_out = self._lines.next_line(self._now().monotonic_s)
        if left_out is None:
            return
        if left_out:
            self._say_line(4, f"{left_out} lines were left out")
        self._say_line(level, text)

    def _arm(self) -> None:
        """Arm for the newest thresholds; too soon after the last time, with a later turn."""
        action = self._arm_next
        if action is None or not self._armings.take(self._now().monotonic_s):
            return
        self._arm_next = None
        had = bool(self._triggers.fds)
        self._unwatch_triggers()
        reason = self._triggers.arm(action.some_us, action.full_us)
        if reason is None:
            for fd in self._triggers.fds:
                self._epoll.register(fd, select.EPOLLPRI)
            if not had:
                self._say(5, "PSI triggers armed: stalls are announced by the kernel")
                self._perform(self.agent.psi_found(self._now()))
        elif had:
            self._lose_triggers(reason)
        else:
            self._refused_s = self._now().monotonic_s

    def _unwatch_triggers(self) -> None:
        for fd in self._triggers.fds:
            self._epoll.unregister(fd)

    def _lose_triggers(self, reason: str) -> None:
        self._unwatch_triggers()
        self._triggers.close()
        self._refused_s = self._now().monotonic_s
        self._say(4, f"PSI triggers lost ({reason}): reading the stall counter each 250 ms while it rises")
        self._perform(self.agent.psi_lost(self._now()))

    def _enqueue(self, frame: bytes) -> None:
        if not self._host_there:
            return
        if self._queued_bytes + len(frame) > QUEUE_BYTES:
            if not self._dropping:
                self._dropping = True
                self._say(4, f"port {self._port.name} takes nothing and the queue is full: dropping frames")
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)

    def _flush(self) -> None:
        while self._queue:
            try:
                taken = self._port.write(self._queue[0])
            except OSError as error:
                self._lose_port(error.strerror or str(error))
                return
            if taken == 0:
                if self._stuck_since_s is None:
                    self._stuck_since_s = self._now().monotonic_s
                return
            self._stuck_since_s = None
            self._times_stuck = 0
            self._queued_bytes -= taken
            if taken == len(self._queue[0]):
                self._queue.pop(0)
                self._dropping = False
            else:
                self._queue[0] = self._queue[0][taken:]

    def _forget_queue(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._stuck_since_s = None

    def _check_stuck(self) -> None:
        if self._stuck_since_s is None or self._now().monotonic_s < self._stuck_since_s + WRITE_STUCK_S:
            return
        self._times_stuck += 1
        if self._times_stuck >= STUCK_MOST:
            self._say(3, f"port {self._port.name} is stuck after opening it again: leaving")
            self.exit_code = EXIT_STUCK
            return
        self._lose_port(f"no byte taken for {WRITE_STUCK_S:.0f} s")


def _wake(_number: int, _frame: object) -> None:
    """The wake-up descriptor has the news."""
