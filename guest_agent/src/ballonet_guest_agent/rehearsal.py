"""Does once, before anybody is there, what the agent must do at once when the guest is short: a session, a DEMAND.

What the interpreter and its libraries need for that is then in memory, where the daemon locks it. Nothing of the
rehearsal is kept and nothing of it reaches a port.
"""

from __future__ import annotations

from ballonet_guest_agent.actions import Instant, Write
from ballonet_guest_agent.agent import Agent
from ballonet_protocol import COORDINATOR, Connection, Hello
from ballonet_protocol.limits import REPORT_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.actions import Action, Identity
    from ballonet_guest_agent.config import AgentSettings
    from ballonet_guest_agent.sample import Sample


def rehearse(settings: AgentSettings, identity: Identity, sample: Sample) -> int:
    """Open a session, report, and be pressed, with a coordinator of its own. How many frames the agent wrote."""
    agent, host = Agent(settings, identity), Connection(COORDINATOR)
    hello = Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=(), ram_bytes=1 << 30)
    start = Instant(0.0, 0.0)
    later = Instant(REPORT_MS / 1000, REPORT_MS / 1000)
    frames = _frames(agent.connected(start))
    frames += _frames(agent.received(host.open_session(1, hello), start))
    frames += _frames(agent.sampled(sample, start))
    frames += _frames(agent.pressed("full", later))
    frames += _frames(agent.sampled(sample, later))
    return frames


def _frames(actions: list[Action]) -> int:
    return sum(isinstance(action, Write) for action in actions)
