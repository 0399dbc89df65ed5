"""Everything read of the guest at one instant, and the two sizes that need more than one file."""

from __future__ import annotations

import errno

from ballonet_guest_agent.meminfo import MemInfo, parse_meminfo
from ballonet_guest_agent.psi import ABSENT, Psi, parse_psi, psi_state
from ballonet_guest_agent.values import Value, increase
from ballonet_guest_agent.vmstat import VmStat, parse_vmstat
from ballonet_guest_agent.zram import Zram

_NO_ZRAM = Zram()


class Sample(Value):
    """One reading. `deflate_on_oom`: was it negotiated with the balloon device; None: no device seen.

    `psi_state` says why `psi` is None; see psi.py for the four states.
    """

    memory: MemInfo
    vm: VmStat
    psi: Psi | None
    deflate_on_oom: bool | None
    page_kib: int = 4
    psi_state: str = ABSENT
    zram: Zram = _NO_ZRAM

    @classmethod
    def from_texts(
        cls,
        meminfo: str,
        vmstat: str,
        psi: str | None,
        deflate_on_oom: bool | None,
        page_kib: int = 4,
        zram: Zram = _NO_ZRAM,
    ) -> Sample:
        """A sample from the texts of the three files; `psi` is None where /proc/pressure/memory is missing."""
        stalls = parse_psi(psi)
        state = psi_state(stalls, errno.ENOENT if psi is None else 0)
        return cls(parse_meminfo(meminfo), parse_vmstat(vmstat), stalls, deflate_on_oom, page_kib, state, zram)

    @property
    def balloon_kib(self) -> int | None:
        """Size of the balloon: pages in less pages out, else meminfo's `Balloon` (newer kernels), else unknown."""
        pages = increase(self.vm.balloon_deflated_pages, self.vm.balloon_inflated_pages)
        return self.memory.balloon_kib if pages is None else pages * self.page_kib

    @property
    def total_kib(self) -> int | None:
        """Guest memory with the balloon empty.

        virtio-balloon takes its pages out of MemTotal unless deflate-on-oom was negotiated, so they are added back
        then. Unknown counts as not negotiated: use then reads too high, never too low.
        """
        total = self.memory.total_kib
        if total is None or self.deflate_on_oom:
            return total
        return total + (self.balloon_kib or 0)
