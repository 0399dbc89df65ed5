"""The wire between ballonet's guest agents and its host coordinator, as a library without I/O.

Bytes go in through `Connection.receive_data`, messages come out of `Connection.next_message`, and
`Connection.send` turns a message into the bytes of one frame. There is no socket, clock, thread or random number in
here, so the same code runs in an agent's epoll loop, in a coordinator's nursery and in a test. SPEC.md says what the
bytes mean.
"""

from __future__ import annotations

from ._connection import Connection as Connection
from ._errors import LocalProtocolError as LocalProtocolError
from ._errors import ProtocolError as ProtocolError
from ._errors import RemoteProtocolError as RemoteProtocolError
from ._framing import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES
from ._framing import MAX_WIRE_BYTES as MAX_WIRE_BYTES
from ._messages import AGENT as AGENT
from ._messages import COORDINATOR as COORDINATOR
from ._messages import EVENTS as EVENTS
from ._messages import MESSAGE_TYPES as MESSAGE_TYPES
from ._messages import AckStatus as AckStatus
from ._messages import AckWhy as AckWhy
from ._messages import BalloonAck as BalloonAck
from ._messages import BalloonStatus as BalloonStatus
from ._messages import Bye as Bye
from ._messages import ByeWhy as ByeWhy
from ._messages import Deflate as Deflate
from ._messages import Demand as Demand
from ._messages import DemandWhy as DemandWhy
from ._messages import Drops as Drops
from ._messages import ErrorCode as ErrorCode
from ._messages import ErrorMessage as ErrorMessage
from ._messages import Event as Event
from ._messages import Hello as Hello
from ._messages import HelloAck as HelloAck
from ._messages import HelloReq as HelloReq
from ._messages import HelloReqWhy as HelloReqWhy
from ._messages import Inflate as Inflate
from ._messages import Limits as Limits
from ._messages import MemoryReport as MemoryReport
from ._messages import Message as Message
from ._messages import MoveStatus as MoveStatus
from ._messages import Ping as Ping
from ._messages import PolicyAck as PolicyAck
from ._messages import PolicyStatus as PolicyStatus
from ._messages import Pong as Pong
from ._messages import PsiReport as PsiReport
from ._messages import Report as Report
from ._messages import Role as Role
from ._messages import SetPolicy as SetPolicy
from ._messages import Severity as Severity
from ._messages import VmReport as VmReport
from ._records import Record as Record
from ._state import State as State
