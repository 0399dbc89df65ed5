"""Who holds the host's memory, and what the budget is made of: values. Pure; budget.py has the law."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnmanagedGuest:
    """A QEMU on this host that is no guest of ours."""

    pid: int
    name: str
    """Untrusted: of its command line."""
    resident_kib: int
    """All that the process holds in memory, its own included."""
    ram_kib: int = 0
    """What its command line gives the machine at its start; 0 where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Account:
    """One bound of what there is: the host's memory, or a limit of our cgroup or of one above it."""

    of: str
    """"MemTotal", or which cgroup's limit it is."""
    total_kib: int
    hugepages_kib: int = 0
    others_kib: int = 0
    """Held by whoever is not a guest of ours, the host's kernel included; what can be dropped at once apart."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Who holds the host's memory beside our guests, all read at one moment."""

    read_s: float
    accounts: tuple[Account, ...]
    """The host's memory first."""
    unmanaged: tuple[UnmanagedGuest, ...] = ()
    managed: frozenset[int] = frozenset()
    """The processes that were taken for guests of ours."""
    refills: bool | None = None
    """khugepaged may fill balloons again; None where the kernel does not say."""


@dataclass(frozen=True, slots=True)
class BudgetParts:
    """What the budget is made of (budget.py)."""

    of: str
    """The account that bounds it."""
    total_kib: int
    hugepages_kib: int
    reserve_kib: int
    others_kib: int
    """Counted for host processes and unmanaged guests, with the margin; what the reserve covers included."""
    set_kib: int | None = None
    """What the settings promise, whatever there is."""
    unmanaged: tuple[UnmanagedGuest, ...] = ()

    @property
    def beyond_kib(self) -> int:
        """Of `others_kib`: what the reserve does not cover."""
        return max(0, self.others_kib - self.reserve_kib)

    @property
    def budget_kib(self) -> int:
        if self.set_kib is not None:
            return self.set_kib
        return max(0, self.total_kib - self.hugepages_kib - self.reserve_kib - self.beyond_kib)

    @property
    def not_there_kib(self) -> int:
        """How much of a budget that was set the host does not have, reserve or not."""
        if self.set_kib is None:
            return 0
        return max(0, self.set_kib - max(0, self.total_kib - self.hugepages_kib - self.others_kib))
