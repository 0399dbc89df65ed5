"""What the service manager says about the agent's unit, for `ballonet-agent check`."""

from __future__ import annotations

import subprocess

from ballonet_guest_agent.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

UNIT = "ballonet-guest-agent.service"
_WANTED = ("LoadState", "ActiveState", "UnitFileState", "Result", "MainPID", "NRestarts")


class Unit(Value):
    """systemd's words for the unit; `load` is "not-found" where there is none, "masked" where it is forbidden."""

    load: str
    active: str
    file: str = ""
    result: str = ""
    main_pid: int = 0
    restarts: int = 0


def ask(*words: str) -> str | None:
    """What a command prints; None when it is missing or does not answer."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def look_at_unit(ask: Callable[..., str | None] = ask) -> Unit | None:
    """The unit as it is; None without systemd."""
    text = ask("systemctl", "show", f"--property={','.join(_WANTED)}", UNIT)
    values = dict(line.partition("=")[::2] for line in (text or "").splitlines())
    if not values.get("LoadState"):
        return None
    return Unit(
        load=values["LoadState"],
        active=values.get("ActiveState", ""),
        file=values.get("UnitFileState", ""),
        result=values.get("Result", ""),
        main_pid=_count(values.get("MainPID", "")),
        restarts=_count(values.get("NRestarts", "")),
    )


def hypervisor(ask: Callable[..., str | None] = ask) -> str | None:
    """What systemd takes this machine for: "kvm", "qemu", "none" (its unit's condition fails); None: nobody to ask."""
    text = ask("systemd-detect-virt", "--vm")
    return (text or "").strip() or None


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0
