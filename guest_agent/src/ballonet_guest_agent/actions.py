"""What goes into the agent's core and what comes out of it: instants, an identity, and actions for the shell."""

from __future__ import annotations

from ballonet_guest_agent.values import Value


class Instant(Value):
    """Now, on both clocks. BOOTTIME counts suspended time and is what leases and reports run in; MONOTONIC does not."""

    monotonic_s: float
    boottime_s: float


class Identity(Value):
    """What does not change while the agent runs."""

    boot_id: bytes
    page_bytes: int = 4096
    implementation: str = "ballonet-agent"
    version: str = "0"
    has_psi_trigger: bool = False


class Write(Value):
    """Put these bytes, one whole frame, on the port after those before it."""

    data: bytes


class TakeSample(Value):
    """Read /proc once and call `Agent.sampled` with it before anything else."""


class SetTriggers(Value):
    """Arm the PSI triggers with these stall times per window of 500 ms."""

    some_us: int
    full_us: int


class Log(Value):
    """Tell the operator. `level` is the syslog number: 3 error, 4 warning, 5 notice, 6 info, 7 debug."""

    level: int
    text: str


#: The window of the PSI triggers: the shortest that the kernel allows.
PSI_WINDOW_US = 500_000


def trigger_us(permyriad: int) -> int:
    """A share of the window in 1/10000 -> stall time in microseconds."""
    return permyriad * PSI_WINDOW_US // 10_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Action = Union[Write, TakeSample, SetTriggers, Log]
