"""Calls in a thread that is left behind where it does not come back in time. Who reads of a process may wait for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")

# A cancelled wait leaves its thread behind. trio 0.22, which Debian 12 has, calls that `cancellable`.
_NEW_NAME = "abandon_on_cancel" in inspect.signature(trio.to_thread.run_sync).parameters
LEFT_BEHIND: dict[str, Any] = {"abandon_on_cancel" if _NEW_NAME else "cancellable": True}


async def in_time(seconds: float, function: Callable[..., _T | None], *arguments: object) -> _T | None:
    """What the function returns; None where it takes longer. A thread of its own: others that hang do not delay it."""
    with trio.move_on_after(seconds):
        await trio.lowlevel.checkpoint_if_cancelled()  # what never becomes a thread would never end
        limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(function, *arguments, limiter=limiter, **LEFT_BEHIND)
    return None
