"""Helpers for testing this library and for testing your own agent or coordinator with it.

    pair = ConnectionPair()
    pair.open()
    assert pair.send(AGENT, Event(event="resume", boottime_ms=1)) == [Event(event="resume", boottime_ms=1)]

`load_vectors("frames")` gives the golden frames that every implementation of the wire must decode; `replay_frame` and
`replay_stream` play vectors to this library.

    vport = FakeVport()
    fd = vport.open()
    assert vport.read(fd, 4096) == b""                  # no host
    host = vport.connect()
    host.send(frame)
    assert vport.read(fd, 4096) == frame

`FakeVport` and `FakeHost` are the two ends of a virtio port with the faults of a real one, `VirtualTime` the guest's
clocks. `MEASURED` is what a real port showed, and `observe` puts it to the fake.
"""

from __future__ import annotations

from ._measured import MEASURED as MEASURED
from ._observe import observe as observe
from ._pair import BOOT_ID as BOOT_ID
from ._pair import NONCE as NONCE
from ._pair import SESSION as SESSION
from ._pair import ConnectionPair as ConnectionPair
from ._pair import drain as drain
from ._pair import feed_in_every_split as feed_in_every_split
from ._pair import make_hello as make_hello
from ._pair import make_hello_ack as make_hello_ack
from ._replay import as_vector as as_vector
from ._replay import make_receiver as make_receiver
from ._replay import replay_frame as replay_frame
from ._replay import replay_stream as replay_stream
from ._time import VirtualTime as VirtualTime
from ._vectors import load_vectors as load_vectors
from ._vport import POLLHUP as POLLHUP
from ._vport import POLLIN as POLLIN
from ._vport import POLLOUT as POLLOUT
from ._vport import FakeHost as FakeHost
from ._vport import FakeVport as FakeVport
