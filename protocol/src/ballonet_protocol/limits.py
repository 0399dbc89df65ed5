"""The times and limits of the wire, each with its reason. SPEC.md, section 11, is the same table.

Both ends take them from here, so that what an agent does and what a coordinator expects cannot drift apart. Sizes of
frames and values are enforced by the library itself and stand in `_framing` and `_records`.
"""

from __future__ import annotations

#: HELLO and HELLO_REQ: a peer that is there answers within milliseconds. QEMU queues a second client of a socket
#: silently, so only asking again tells; one that is not there costs a frame per 15 s.
HELLO_FIRST_S = 1.0
HELLO_GROWTH = 1.5
HELLO_LONGEST_S = 15.0
#: Part of the pause by which guests differ, so that a hundred of them do not ask in the same instant.
HELLO_JITTER_RATIO = 0.2
#: A frame of a foreign session is answered by asking for, or opening, a session: the peer's storm must not become ours.
RESYNC_EVERY_S = 1.0

#: hv_balloon reports each second; four a second follow a change, a minute is rest.
REPORT_MS = 1_000
REPORT_LEAST_MS = 250
REPORT_MOST_MS = 60_000
#: Four windows of a PSI trigger of 500 ms hold two events each at the most.
DEMANDS_PER_S = 4

#: The coordinator speaks at least this often, with a PING when it has nothing else to say.
HEARTBEAT_S = 2.0
#: A paused VM whose host has left swallows bytes without a sign; five lost PINGs are no accident.
DEAD_S = 10.0
#: A quarter of a virtio port's ring of 128 slots: a suspend with a full ring wedges the port for good.
UNANSWERED_MOST = 32
#: Half of that ring. Asking on would fill it within two hours, so then an agent waits to hear or see anything.
SILENT_AFTER = 64

#: How long a consent holds. It outlives a coordinator's restart and not its death.
LEASE_MS = 30_000
LEASE_LEAST_MS = 5_000
LEASE_MOST_MS = 3_600_000

#: An answer to a command is due within this; then the command is sent again, three times in all.
ACK_WITHIN_S = 1.0
TRIES = 3

#: A frame is written in one go; half a one that is older than this lost its end.
PARTIAL_S = 2.0
#: A line that takes nothing for this long is closed and opened again.
WRITE_STUCK_S = 5.0
#: Requests that may wait for an answer; QMP allows as many.
INFLIGHT_MOST = 8
#: Frames waiting for a line that does not take them.
QUEUE_BYTES = 32_768
#: All frames of one side together, as a token bucket.
FRAMES_PER_S = 20
FRAMES_BURST = 60

#: ERROR frames, and how many bad frames in a row show that there is no common language.
ERROR_EVERY_S = 1.0
ERRORS_IN_A_ROW = 16

#: Programs are starting, and early requests have crashed guests; Hyper-V's host side in QEMU waits 50 s.
SETTLING_S = 30.0
#: A report is fresh for so many of its periods, and for this long in any case.
FRESH_PERIODS = 3
FRESH_LEAST_S = 3.0
#: Stalls that an inflation caused are over a second after it stopped; a need of the guest's own is not.
REPEAT_AFTER_S = 1.0
