"""What `ballonet-agent check` looks at: the port, PSI, the agent's user and the running agent, as facts.

Who types the command is not who serves, so permissions come as they are written on the files and in /proc, for
check.py to judge for the agent's user. What the caller can try by himself is tried as well.
"""

from __future__ import annotations

import errno
import os
import pwd

from ballonet_guest_agent.actions import trigger_us
from ballonet_guest_agent.port import find_port
from ballonet_guest_agent.processes import KILLERS, holders, running
from ballonet_guest_agent.procfs import Procfs, read_line
from ballonet_guest_agent.service import hypervisor, look_at_unit
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.values import Value, parse_count
from ballonet_guest_agent.watch import DEFAULT_FULL_PERMYRIAD, DEFAULT_SOME_PERMYRIAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.config import AgentSettings
    from ballonet_guest_agent.processes import Process
    from ballonet_guest_agent.sample import Sample
    from ballonet_guest_agent.service import Unit

#: The service's User= and the udev rule's GROUP=.
AGENT_USER = "_ballonet-agent"
#: Numbers of the virtio specification.
_CONSOLE_DEVICE, _BALLOON_DEVICE = "0x0003", "0x0005"


class Account(Value):
    """A user: its number and those of its groups."""

    uid: int
    gids: tuple[int, ...]


class Access(Value):
    """Owner, group and permission bits of a file."""

    uid: int
    gid: int
    mode: int

    def lets(self, account: Account) -> bool:
        """May this user read and write, by the bits alone? Root always may."""
        if account.uid == 0:
            return True
        if account.uid == self.uid:
            return self.mode & 0o600 == 0o600
        if self.gid in account.gids:
            return self.mode & 0o060 == 0o060
        return self.mode & 0o006 == 0o006


class Machine(Value):
    """What the guest's kernel and its settings are like. None: not readable.

    `port_names` are the virtio ports that exist; `console_device` and `console_driver`: a virtio-serial controller, and
    the module that drives it. `balloon_features` is the balloon device's line of bits, `swap_names` what is
    swapped to, `overcommit` vm.overcommit_memory, `huge_kib` what is set aside as huge pages.
    """

    port_names: tuple[str, ...] | None = ()
    console_device: bool = True
    console_driver: bool = True
    kernel: tuple[int, int] | None = None
    psi_refused: str | None = None
    balloon_features: str | None = None
    balloon_driver: bool = True
    swap_names: tuple[str, ...] = ()
    overcommit: int | None = None
    huge_kib: int | None = None
    hypervisor: str | None = None
    uptime_s: float | None = None


class Facts(Value):
    """What `look` saw. Errors are the system's words, None when there was none.

    `account` is the agent's user, None without one; `serial_error` says why pyserial cannot be loaded, for a UART.
    `port_holders` are the processes that have the port open, None when that could not be seen. `agents` and `killers`
    run; `unit` is None without systemd.
    """

    port: str
    port_path: str | None
    port_access: Access | None
    port_error: str | None
    port_busy: bool
    sample: Sample
    psi_access: Access | None
    psi_error: str | None
    account: Account | None
    caller_is_root: bool
    serial_error: str | None = None
    config_problems: tuple[str, ...] = ()
    port_holders: tuple[Process, ...] | None = ()
    agents: tuple[Process, ...] = ()
    killers: tuple[Process, ...] = ()
    unit: Unit | None = None
    machine: Machine = Machine()
    settling_s: int = 0

    @property
    def is_served_by_user(self) -> bool:
        """The service has a port or a line; a Unix socket is for development, by whoever starts the agent."""
        return not self.port.startswith("unix:")


def shut_out(facts: Facts, access: Access | None) -> bool:
    """Is the agent's user kept from a file with these permissions?"""
    if facts.account is None or access is None or not facts.is_served_by_user:
        return False
    return not access.lets(facts.account)


def look(settings: AgentSettings, port: str, config_problems: list[str]) -> Facts:
    """Gather the facts. Opens the port for an instant; a running agent has it busy, which is well."""
    procfs = Procfs(settings.proc_root, settings.sys_root)
    path, error, busy = _try_port(settings, port)
    triggers = PsiTriggers(procfs.psi_path)
    psi_error = triggers.arm(trigger_us(DEFAULT_SOME_PERMYRIAD), trigger_us(DEFAULT_FULL_PERMYRIAD))
    triggers.close()
    processes = running(settings.proc_root)
    return Facts(
        port=port,
        port_path=path,
        port_access=None if path is None else access_of(path),
        port_error=error,
        port_busy=busy,
        sample=procfs.sample(),
        psi_access=access_of(procfs.psi_path),
        psi_error=psi_error,
        account=find_account(AGENT_USER),
        caller_is_root=os.geteuid() == 0,
        serial_error=_serial_error() if port.startswith("uart:") else None,
        config_problems=tuple(config_problems),
        port_holders=holders(settings.proc_root, path) if path is not None and busy else (),
        agents=tuple(process for process in processes if process.is_agent),
        killers=tuple(process for process in processes if process.command in KILLERS),
        unit=look_at_unit() if settings.sys_root == "/sys" else None,
        machine=look_at_machine(settings.proc_root, settings.sys_root),
        settling_s=settings.settling_s,
    )


def look_at_machine(proc_root: str, sys_root: str) -> Machine:
    """The kernel's part of the facts."""
    ports = f"{sys_root}/class/virtio-ports"
    port_names = None
    if os.path.isdir(ports):
        names = (read_line(f"{ports}/{device}/name") for device in sorted(os.listdir(ports)))
        port_names = tuple(name for name in names if name)
    balloon = _device(sys_root, _BALLOON_DEVICE)
    return Machine(
        port_names=port_names,
        console_device=_device(sys_root, _CONSOLE_DEVICE) is not None,
        console_driver=os.path.isdir(f"{sys_root}/bus/virtio/drivers/virtio_console"),
        kernel=_kernel(read_line(f"{proc_root}/sys/kernel/osrelease") or ""),
        psi_refused=_refusal(f"{proc_root}/pressure/memory"),
        balloon_features=None if balloon is None else read_line(f"{balloon}/features"),
        balloon_driver=balloon is not None and os.path.exists(f"{balloon}/driver"),
        swap_names=_swap_names(f"{proc_root}/swaps"),
        overcommit=parse_count(read_line(f"{proc_root}/sys/vm/overcommit_memory") or ""),
        huge_kib=_huge_kib(f"{proc_root}/meminfo"),
        hypervisor=hypervisor() if sys_root == "/sys" else None,
        uptime_s=_seconds(read_line(f"{proc_root}/uptime") or ""),
    )


def _device(sys_root: str, number: str) -> str | None:
    """The first virtio device of this kind."""
    devices = f"{sys_root}/bus/virtio/devices"
    try:
        names = sorted(os.listdir(devices))
    except OSError:
        return None
    return next((f"{devices}/{name}" for name in names if read_line(f"{devices}/{name}/device") == number), None)


def _kernel(release: str) -> tuple[int, int] | None:
    """ "6.1.0-18-amd64" -> (6, 1)."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _refusal(path: str) -> str | None:
    """Why a file that exists cannot be read; with psi=0 that is EOPNOTSUPP."""
    if not os.path.exists(path):
        return None
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _swap_names(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="latin-1") as file:
            return tuple(line.split()[0] for line in file.read(65536).splitlines()[1:] if line.strip())
    except OSError:
        return ()


def _huge_kib(path: str) -> int | None:
    try:
        with open(path, encoding="latin-1") as file:
            values = dict(line.rstrip("\n").partition(":")[::2] for line in file.read(65536).splitlines())
    except OSError:
        return None
    pages, kib = parse_count(values.get("HugePages_Total", "").strip()), values.get("Hugepagesize", "").split()
    size_kib = parse_count(kib[0]) if kib else None
    return None if pages is None or size_kib is None else pages * size_kib


def _seconds(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (IndexError, ValueError):
        return None


def _try_port(settings: AgentSettings, port: str) -> tuple[str | None, str | None, bool]:
    kind, colon, path = port.partition(":")
    if colon and kind == "unix":
        folder = os.path.dirname(path)
        error = None if os.access(folder, os.W_OK) else f"{folder} is not a directory that can be written"
        return path, error, False
    found = path if colon else find_port(port, settings.sys_root, settings.dev_root)
    if found is None:
        return None, None, False
    try:
        os.close(os.open(found, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError as error:
        return found, error.strerror or str(error), error.errno == errno.EBUSY
    return found, None, False


def access_of(path: str) -> Access | None:
    """Who may do what with a file; None when it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Access(status.st_uid, status.st_gid, status.st_mode & 0o777)


def find_account(name: str) -> Account | None:
    """A user by name, with its groups; None when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, tuple(os.getgrouplist(name, entry.pw_gid)))


def _serial_error() -> str | None:
    try:
        import ballonet_guest_agent.uart as uart

        uart.load_serial()
    except OSError as error:
        return str(error)
    return None
