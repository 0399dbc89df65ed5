"""The coordinator's session and the protocol's own agent end, joined without time passing between them."""

from __future__ import annotations

from ballonet_host_coord.session import KIB, AgentSession
from ballonet_protocol import (
    AGENT,
    AckStatus,
    AckWhy,
    BalloonAck,
    Connection,
    ErrorCode,
    Hello,
    HelloAck,
    Limits,
    MemoryReport,
    RemoteProtocolError,
    Report,
)

from .builders import MIB, CountedRandomness

RAM_KIB = 1024 * MIB
MEMORY = {"total_bytes": 2**30, "free_bytes": 2**28, "available_bytes": 2**29, "committed_bytes": 2**28}


class Channel:
    """A session and an agent's end, joined without time passing between them."""

    def __init__(self) -> None:
        self.session = AgentSession(CountedRandomness())
        self.agent = Connection(AGENT)
        self.session.attached(RAM_KIB, 0.0)

    def said(self):
        """What the coordinator has said since the last time, in the agent's ears."""
        self.agent.receive_data(self.session.take_output())
        return list(iter(self.agent.next_message, None))

    def say(self, message, now_s):
        self.session.received(self.agent.send(message), now_s)

    def answer_hello(self, now_s=0.0):
        (hello,) = (message for message in self.said() if isinstance(message, Hello))
        acknowledgement = HelloAck(
            re=hello.seq, nonce=hello.nonce, major=1, minor=0, capabilities=("psi",), implementation="agent",
            implementation_version="1.0", boot_id=bytes(16), boottime_ms=1, page_bytes=4096, total_bytes=2**30,
            floor_bytes=0, limits=Limits(), gen=0, status=0,
        )  # fmt: skip
        self.say(acknowledgement, now_s)

    def report(self, boottime_ms, now_s):
        self.say(Report(boottime_ms=boottime_ms, memory=MemoryReport(**MEMORY)), now_s)

    def ask(self, gen=1, target_kib=400 * MIB, now_s=0.0):
        """The INFLATE that arrives."""
        self.session.ask_inflate(gen, target_kib, 256 * MIB, 1024, now_s)
        (inflate,) = self.said()
        return inflate

    def consent(self, inflate, now_s=0.0, gen=None, status=AckStatus.ACCEPTED, effective_kib=400 * MIB):
        self.say(
            BalloonAck(
                re=inflate.seq,
                gen=inflate.gen if gen is None else gen,
                status=status,
                effective_bytes=effective_kib * KIB,
                why=AckWhy.NONE,
            ),
            now_s,
        )

    @property
    def facts(self):
        return self.session.facts()


def refuse(connection, message_type, seq, re, untrusted_payload):
    """Stands in for `Connection._decode`: nothing that the agent says holds."""
    raise RemoteProtocolError(ErrorCode.BAD_MESSAGE, seq, "no")
