"""One line of `ballonet-agent check`."""

from __future__ import annotations

from ballonet_guest_agent.values import Value

#: A problem keeps the agent or a shrink from working; a hint makes either worse.
OK, HINT, PROBLEM = "ok", "hint", "problem"


class Finding(Value):
    """What was looked at, how it is, and how to mend it: empty for what is well, else one or more lines."""

    name: str
    level: str
    text: str
    mend: str = ""
