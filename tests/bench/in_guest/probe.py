"""Runs in the guest in the service's place: the agent's own daemon, with two stamps around its DEMAND.

`probe.py FILE [ARGUMENT...]`, the arguments the daemon's. Stamps are CLOCK_MONOTONIC in nanoseconds, kept in memory and
written to FILE as JSON at SIGTERM:
{"triggers": [[event, written or null (held back, or no harm of the guest's), faults], ...],
"demands": [[written, why], ...]}
Faults are [major, minor] of this process between event and write.
"""

from __future__ import annotations

import json
import resource
import select
import sys
import time

import ballonet_guest_agent.daemon as daemon
from ballonet_guest_agent.loop import Loop
from ballonet_protocol import Connection, Demand

found: dict[str, list[list]] = {"triggers": [], "demands": []}
waiting: dict[bytes, int] = {}
send = Connection.send


def noting_send(self, message):
    """Remember which frames are DEMANDs."""
    frame = send(self, message)
    if isinstance(message, Demand):
        waiting[frame] = int(message.why)
    return frame


def faults():
    """Of this process so far: those that waited for a disk, and those that did not."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_majflt, usage.ru_minflt


class StampedLoop(Loop):
    """The loop, stamped where epoll hands over PSI events and where a DEMAND has left."""

    def __init__(self, agent, port, procfs, triggers):
        super().__init__(agent, port, procfs, triggers)
        write = port.write

        def stamped_write(data):
            taken = write(data)
            if taken and data in waiting:
                found["demands"].append([time.monotonic_ns(), waiting.pop(data)])
            return taken

        port.write = stamped_write

    def _take_pressure(self, events):
        event_ns = time.monotonic_ns()
        began = faults()
        fired = any(fd in self._triggers.fds and happened & select.EPOLLPRI for fd, happened in events)
        before = len(found["demands"])
        super()._take_pressure(events)
        if fired:
            written = found["demands"][before:]
            since = [now - then for now, then in zip(faults(), began, strict=True)]
            found["triggers"].append([event_ns, written[0][0] if written else None, since])


if __name__ == "__main__":
    Connection.send = noting_send
    daemon.Loop = StampedLoop
    daemon.main(sys.argv[2:])
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)
