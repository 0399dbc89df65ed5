"""Keeps one guest's limit in step with its balloon: the pure rule (enforcement.py) carried out through the port.

That a limit is ours is written down before it is set: a coordinator that died leaves it standing, and the next one
takes it away before anything else (`lift`), whoever it belongs to by then. It is set anew when the guest has been seen.
A guest is never kept from its memory by a limit that could not be raised: that is said, and the balloon is moved all
the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from .choices import Choices
from .enforcement import Cell, needed_kib, next_limit_kib
from .model import GuestSnapshot
from .ports import MemoryLimits, PortError

log = logging.getLogger("ballonet")

LOOK_EVERY_S = 10.0
"""How often it is looked whether the group is still its alone, and the limit still ours."""


async def lift(limits: MemoryLimits, choices: Choices) -> None:
    """Take away what a coordinator that died has left: nobody has raised it since."""
    try:
        left = choices.limited()
    except PortError as error:
        log.error("whether limits of guests were left cannot be told, and none is taken away: %s", error)
        return
    for name, folder in left.items():
        try:
            await limits.set(0, folder, None)
            choices.keep_limited(name, "")
            log.warning("%s: a limit that was left in %s is taken away", name, folder)
        except PortError as error:
            log.error("%s: a limit that was left stands: %s", name, error)


class GuestLimit:
    def __init__(self, name: str, limits: MemoryLimits, choices: Choices) -> None:
        self._name = name
        self._limits = limits
        self._choices = choices
        self._folder = ""
        """Whose limit is ours; empty for none."""
        self._limit_kib: int | None = None
        self._used_kib = 0
        self._look_next_s = float("-inf")
        self._one_at_a_time = trio.Lock()
        self.fault = ""
        """Why there is no limit though there should be; fit for an operator."""

    @property
    def limit_kib(self) -> int | None:
        """In force and ours, as far as is known."""
        return self._limit_kib

    async def follow(self, known_now: Callable[[], GuestSnapshot], now_s: float) -> None:
        """Bring the limit to where it should be. Does nothing, and costs nothing, where none is wanted or ours.

        The guest is asked for anew whenever this had to wait: a target may have been promised meanwhile.
        """
        guest = known_now()
        if needed_kib(guest) is None:
            await self.remove()
            return
        known = Cell(self._folder, 0, self._limit_kib, self._used_kib)
        at_rest = self._limit_kib is not None and next_limit_kib(guest, known) == self._limit_kib
        if (at_rest or self.fault) and now_s < self._look_next_s:
            return
        self._look_next_s = now_s + LOOK_EVERY_S
        async with self._one_at_a_time:
            try:
                await self._follow(known_now)
                self._said("")
            except PortError as error:
                self._said(str(error))

    async def before(self, guest: GuestSnapshot, target_kib: int) -> None:
        """A target is about to be set: its guest must not meet the limit on the way."""
        async with self._one_at_a_time:
            needed, limit_kib = needed_kib(guest, target_kib), self._limit_kib
            if limit_kib is None or (needed is not None and needed <= limit_kib):
                return
            try:
                await self._set(guest.vm.qemu_pid or 0, needed)
            except PortError as error:
                self._said(str(error))

    async def remove(self) -> None:
        """No limit of ours any more."""
        if not self._folder:
            return
        async with self._one_at_a_time:
            try:
                await self._drop()
                self._said("")
            except PortError as error:
                self._said(str(error))

    # --- inside ------------------------------------------------------------------------------------------

    async def _follow(self, known_now: Callable[[], GuestSnapshot]) -> None:
        pid = known_now().vm.qemu_pid
        if pid is None:
            raise PortError("its limit cannot be set: its process is not known")
        try:
            cell = await self._limits.look(pid)
        except PortError:
            await self._drop()
            raise
        if self._folder and cell.folder != self._folder:
            await self._drop()  # it was moved, or is another process
        if cell.limit_kib is not None and (not self._folder or self._limit_kib not in (None, cell.limit_kib)):
            self._forget()
            limit = f"{cell.limit_kib // 1024} MiB"
            raise PortError(f"{cell.folder} has a limit of {limit} that is not ours: left as it is")
        self._limit_kib, self._used_kib = cell.limit_kib, cell.used_kib
        wanted_kib = next_limit_kib(known_now(), cell)
        if wanted_kib != cell.limit_kib:
            if not self._folder:
                self._choices.keep_limited(self._name, cell.folder)
                self._folder = cell.folder
            await self._set(pid, wanted_kib)

    async def _set(self, pid: int, limit_kib: int | None) -> None:
        await self._limits.set(pid, self._folder, limit_kib)
        self._limit_kib = limit_kib

    async def _drop(self) -> None:
        if self._folder:
            await self._set(0, None)
            self._forget()

    def _forget(self) -> None:
        self._limit_kib = None
        if self._folder:
            self._folder = ""
            self._choices.keep_limited(self._name, "")

    def _said(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.warning("%s: %s", self._name, fault)
        self.fault = fault
