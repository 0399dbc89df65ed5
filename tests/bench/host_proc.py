"""A /proc with recorded QEMUs in it: what the host's kernel says of each guest's process, and of the host.

The texts were taken from a QEMU 7.2 with one guest of 1 GiB (TCG, 2026-11-25): its `status`, its `stat`, and of its
`smaps` as many mappings as it had. Sizes are written in place when the guest's memory has changed. Reading them costs
what reading text costs; what the kernel takes to make it up is not in it, and is measured on real guests.
"""

from __future__ import annotations

import os
from pathlib import Path

FIRST_PID = 5_000_000
"""Above the largest that a kernel gives away."""
OVERHEAD_KIB = 58_000
"""QEMU's own under TCG, waiting."""
MAPPINGS = 355
MAPPED_KIB = 650_000
"""What is mapped beside the guest's RAM."""

STATUS = """Name:	qemu-system-x86
Umask:	0022
State:	S (sleeping)
Tgid:	{pid}
Ngid:	0
Pid:	{pid}
PPid:	4642
TracerPid:	0
Uid:	0	0	0	0
Gid:	0	0	0	0
FDSize:	256
Groups:
NStgid:	{pid}
NSpid:	{pid}
NSpgid:	3719
NSsid:	3719
Kthread:	0
VmPeak:	{size_kib:>8} kB
VmSize:	{size_kib:>8} kB
VmLck:	       0 kB
VmPin:	       0 kB
VmHWM:	{held_kib:>8} kB
VmRSS:	{held_kib:>8} kB
RssAnon:	{held_kib:>8} kB
RssFile:	   37688 kB
RssShmem:	       0 kB
VmData:	 1266472 kB
VmStk:	     132 kB
VmExe:	    5724 kB
VmLib:	   14608 kB
VmPTE:	     892 kB
VmSwap:	       0 kB
HugetlbPages:	       0 kB
CoreDumping:	0
THP_enabled:	1
untag_mask:	0xffffffffffffffff
Threads:	6
SigQ:	2/96365
SigPnd:	0000000000000000
ShdPnd:	0000000000000000
SigBlk:	0000000010002240
SigIgn:	0000000000001004
SigCgt:	0000000100004043
CapInh:	0000000000000000
CapPrm:	000001fffeffffff
CapEff:	000001fffeffffff
CapBnd:	000001fffeffffff
CapAmb:	0000000000000000
NoNewPrivs:	0
Seccomp:	0
Seccomp_filters:	0
Speculation_Store_Bypass:	vulnerable
SpeculationIndirectBranch:	always enabled
Cpus_allowed:	3
Cpus_allowed_list:	0-1
Mems_allowed_list:	0
voluntary_ctxt_switches:	4767
nonvoluntary_ctxt_switches:	78
"""
STAT = (
    "{pid} (qemu-system-x86) S 4642 3719 3719 0 -1 138412416 22082 0 3 0 654 47 0 0 20 0 6 0 3874969 1663356928 82541"
    " 18446744073709551615 94792284889088 94792290749525 140733924682000 0 0 0 268444224 4100 16451 0 0 0 17 1 0 0 0 0"
    " 0 94792293861624 94792299065776 94793088196608 140733924685307 140733924686373 140733924686373 140733924687836"
    " 0\n"
)
MAPPING = """{begin:x}-{end:x} {mode} 00000000 00:00 0
Size:           {size_kib:>8} kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:            {rss_kib:>8} kB
Pss:            {rss_kib:>8} kB
Pss_Dirty:      {rss_kib:>8} kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:  {rss_kib:>8} kB
Referenced:     {rss_kib:>8} kB
Anonymous:      {rss_kib:>8} kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:           0
VmFlags: {flags}
"""


class RecordedProcess:
    """The files of one QEMU, below `root`."""

    def __init__(self, root: Path, number: int, ram_kib: int) -> None:
        self.pid = FIRST_PID + number
        self._ram_kib = ram_kib
        self._resident_kib = -1
        folder = root / str(self.pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(STAT.format(pid=self.pid))
        self._status = os.open(folder / "status", os.O_WRONLY | os.O_CREAT)
        self._smaps = os.open(folder / "smaps", os.O_WRONLY | os.O_CREAT)
        self.holds(0)
        begin, size_kib = 0x7F00_0000_0000, 512
        rest = ""
        for index in range(MAPPINGS - 1):
            # Some three in five can be written to; no two neighbours touch.
            mode, flags = ("rw-p", "rd wr mr mw me ac") if index % 5 < 3 else ("r--p", "rd mr mw me")
            end = begin + size_kib * 1024
            rest += MAPPING.format(
                begin=begin, end=end, mode=mode, size_kib=size_kib, rss_kib=OVERHEAD_KIB // MAPPINGS, flags=flags
            )
            begin = end + 4096
        os.pwrite(self._smaps, rest.encode(), len(self._ram()))

    def holds(self, resident_kib: int) -> None:
        """Its guest's memory is that much of what it holds."""
        if resident_kib == self._resident_kib:
            return
        self._resident_kib = resident_kib
        held_kib = resident_kib + OVERHEAD_KIB
        status = STATUS.format(pid=self.pid, size_kib=self._ram_kib + MAPPED_KIB, held_kib=held_kib)
        os.pwrite(self._status, status.encode(), 0)
        os.pwrite(self._smaps, self._ram(), 0)

    def _ram(self) -> bytes:
        begin = 0x7E00_0000_0000
        return MAPPING.format(
            begin=begin, end=begin + self._ram_kib * 1024, mode="rw-p", size_kib=self._ram_kib,
            rss_kib=self._resident_kib, flags="rd wr mr mw me dc ac",
        ).encode()  # fmt: skip


def write_host(root: Path, total_kib: int, available_kib: int) -> None:
    """/proc/meminfo and what tells of stalls, as a host without trouble has them."""
    (root / "pressure").mkdir(parents=True)
    (root / "meminfo").write_text(f"MemTotal: {total_kib} kB\nMemAvailable: {available_kib} kB\n")
    (root / "pressure" / "memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
