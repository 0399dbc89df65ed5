"""What the channel knows of one guest's agent: how it stands, who it is, what it has consented to. Values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LinkState(StrEnum):
    """How the agent's channel stands."""

    NONE = "none"
    """No channel, or nobody answers on it."""
    OPENING = "opening"
    LIVE = "live"
    UNRESPONSIVE = "unresponsive"
    """Connected once and silent now, or three requests without an answer."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The agent's answer to the INFLATE `gen`: it agrees to go down to `effective_kib`, until `expires_s`."""

    gen: int
    effective_kib: int
    refused: bool
    why: int
    answered_s: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What the channel knows of one guest's agent."""

    link: LinkState = LinkState.NONE
    session: int = 0
    live_since_s: float = 0.0
    """When the session became live; a report is fresh only in its own session."""
    report_ms: int = 1000
    boot_id: bytes | None = None
    implementation: str = ""
    capabilities: tuple[str, ...] = ()
    consent: Consent | None = None
    failed_gen: int = 0
    """The newest request that was sent three times without an answer."""
    detail: str = ""


NO_AGENT = AgentFacts()
