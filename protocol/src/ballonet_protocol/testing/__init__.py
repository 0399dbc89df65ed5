"""Helpers for testing this library and for testing your own agent or coordinator with it.

    pair = ConnectionPair()
    pair.open()
    assert pair.send(AGENT, Event(event="resume", boottime_ms=1)) == [Event(event="resume", boottime_ms=1)]

`load_vectors("frames")` gives the golden frames that every implementation of the wire must decode.
"""

from __future__ import annotations

from ._pair import BOOT_ID as BOOT_ID
from ._pair import NONCE as NONCE
from ._pair import SESSION as SESSION
from ._pair import ConnectionPair as ConnectionPair
from ._pair import drain as drain
from ._pair import feed_in_every_split as feed_in_every_split
from ._pair import make_hello as make_hello
from ._pair import make_hello_ack as make_hello_ack
from ._time import VirtualTime as VirtualTime
from ._vectors import load_vectors as load_vectors
