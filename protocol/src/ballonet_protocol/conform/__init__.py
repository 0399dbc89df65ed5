"""The conformance kit: plays the other side against any agent or any coordinator, and names the sentence it breaks.

`table` has the cases, one function each in the `cases_*` modules, `talk` the conversation, `lines` the transports,
`runner` the verdicts, `cli` the command. Nothing here is loaded by an agent or a coordinator.
"""

from __future__ import annotations

from .as_agent import CoordinatorTalk as CoordinatorTalk
from .as_coordinator import AgentTalk as AgentTalk
from .lines import Line as Line
from .lines import Unreachable as Unreachable
from .runner import FAILED as FAILED
from .runner import PASSED as PASSED
from .runner import SKIPPED as SKIPPED
from .runner import Verdict as Verdict
from .runner import run as run
from .table import CASES as CASES
from .table import Case as Case
from .table import select as select
