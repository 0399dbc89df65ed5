"""Reads what the core needs of /proc and /sys, under given roots so that a test can pass a directory.

The three files of a sample are opened once and read again from offset 0: that is half the system calls, and a guest
that is short of memory need not find the directory entries again.
"""

from __future__ import annotations

import os

from ballonet_guest_agent.meminfo import parse_meminfo
from ballonet_guest_agent.psi import parse_psi, psi_state
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.vmstat import parse_vmstat
from ballonet_guest_agent.zram import Zram, parse_swaps, zram_of

#: /proc files are produced a page at a time, and each read brings at most what fits.
_READ_BYTES = 16384
#: No file of a sample is near this; a stand-in that never ends must not eat the guest's memory.
_MOST_BYTES = 1 << 20
#: virtio device number of the traditional balloon, and the bit of deflate-on-oom in its `features`.
_BALLOON_DEVICE, _DEFLATE_ON_OOM_BIT = "0x0005", 2


class KeptFile:
    """A file that is opened once and read from its start each time. Missing or unreadable: None, tried again."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Why the last read gave None; 0 when it gave a text.
        self.error_number = 0
        self._fd = -1

    def read(self) -> str | None:
        """The whole text, None when it cannot be read now."""
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            parts, offset = [], 0
            while offset < _MOST_BYTES:
                part = os.pread(self._fd, _READ_BYTES, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
        except OSError as error:
            self.error_number = error.errno or 0
            self.close()
            return None
        self.error_number = 0
        return b"".join(parts).decode("latin-1")

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Procfs:
    """The guest as /proc and /sys show it."""

    def __init__(self, proc_root: str = "/proc", sys_root: str = "/sys") -> None:
        self._proc_root = proc_root
        self._sys_root = sys_root
        self._meminfo = KeptFile(proc_root + "/meminfo")
        self._vmstat = KeptFile(proc_root + "/vmstat")
        self._psi = KeptFile(self.psi_path)
        self._balloon: str | None = None
        self._swap_total_kib: int | None = None
        self._zram_sizes_kib: dict[str, int] = {}
        self._zram_files: list[KeptFile] = []
        self._page_kib = os.sysconf("SC_PAGE_SIZE") // 1024

    @property
    def psi_path(self) -> str:
        """Where the PSI triggers are armed, too."""
        return self._proc_root + "/pressure/memory"

    def sample(self) -> Sample:
        """Read everything once. What cannot be read is unknown in the sample; nothing is raised."""
        memory = parse_meminfo(self._meminfo.read() or "")
        psi = parse_psi(self._psi.read())
        return Sample(
            memory,
            parse_vmstat(self._vmstat.read() or ""),
            psi,
            self.deflate_on_oom(),
            self._page_kib,
            psi_state(psi, self._psi.error_number),
            self._zram(memory.swap_total_kib),
        )

    def psi_state(self) -> str:
        """PRESENT, OFF, ABSENT or UNREADABLE (psi.py), now."""
        return psi_state(parse_psi(self._psi.read()), self._psi.error_number)

    def _zram(self, swap_total_kib: int | None) -> Zram:
        """Swap devices are looked for when there is more or less swap than before; most guests have no zram."""
        if swap_total_kib != self._swap_total_kib:
            self._swap_total_kib = swap_total_kib
            self._find_zram()
        return zram_of(self._zram_sizes_kib, [file.read() for file in self._zram_files])

    def _find_zram(self) -> None:
        for file in self._zram_files:
            file.close()
        swaps = KeptFile(self._proc_root + "/swaps")
        self._zram_sizes_kib = parse_swaps(swaps.read() or "")
        swaps.close()
        self._zram_files = [KeptFile(f"{self._sys_root}/block/{name}/mm_stat") for name in self._zram_sizes_kib]

    def deflate_on_oom(self) -> bool | None:
        """Did the balloon's driver negotiate deflate-on-oom? None without a balloon device.

        Read each time: the driver can be unbound and bound again. The device is looked for when it is not where it was.
        """
        features = None if self._balloon is None else read_line(self._balloon + "/features")
        if features is None:
            self._balloon = self._find_balloon()
            features = None if self._balloon is None else read_line(self._balloon + "/features")
        return None if features is None else features[_DEFLATE_ON_OOM_BIT : _DEFLATE_ON_OOM_BIT + 1] == "1"

    def _find_balloon(self) -> str | None:
        devices = self._sys_root + "/bus/virtio/devices"
        try:
            names = os.listdir(devices)
        except OSError:
            return None
        for name in names:
            if read_line(f"{devices}/{name}/device") == _BALLOON_DEVICE:
                return f"{devices}/{name}"
        return None

    def boot_id(self) -> bytes:
        """Sixteen bytes that change with each boot; zeros when the kernel does not say."""
        text = read_line(self._proc_root + "/sys/kernel/random/boot_id") or ""
        try:
            boot_id = bytes.fromhex(text.replace("-", ""))
        except ValueError:
            boot_id = b""
        return boot_id if len(boot_id) == 16 else bytes(16)


def read_line(path: str) -> str | None:
    """The first line of a small file without its end, None when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096).decode("latin-1").partition("\n")[0]
    except OSError:
        return None
    finally:
        os.close(fd)
