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
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.values import Value
from ballonet_guest_agent.watch import DEFAULT_FULL_PERMYRIAD, DEFAULT_SOME_PERMYRIAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.config import AgentSettings
    from ballonet_guest_agent.sample import Sample

#: The service's User= and the udev rule's GROUP=.
AGENT_USER = "_ballonet-agent"


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


class Facts(Value):
    """What `look` saw. Errors are the system's words, None when there was none.

    `account` is the agent's user, None without one; `agent_capabilities` are the running agent's effective ones, None
    when none runs; `serial_error` says why pyserial cannot be loaded, for a UART.
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
    agent_capabilities: int | None = None
    serial_error: str | None = None
    config_problems: tuple[str, ...] = ()


def look(settings: AgentSettings, port: str, config_problems: list[str]) -> Facts:
    """Gather the facts. Opens the port for an instant; a running agent has it busy, which is well."""
    procfs = Procfs(settings.proc_root, settings.sys_root)
    path, error, busy = _try_port(settings, port)
    triggers = PsiTriggers(procfs.psi_path)
    psi_error = triggers.arm(trigger_us(DEFAULT_SOME_PERMYRIAD), trigger_us(DEFAULT_FULL_PERMYRIAD))
    triggers.close()
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
        agent_capabilities=agent_capabilities(settings.proc_root),
        serial_error=_serial_error() if port.startswith("uart:") else None,
        config_problems=tuple(config_problems),
    )


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


def agent_capabilities(proc_root: str) -> int | None:
    """CapEff of the first agent that runs, None when none does."""
    try:
        names = [name for name in os.listdir(proc_root) if name.isdigit() and name != str(os.getpid())]
    except OSError:
        return None
    for name in names:
        try:
            with open(f"{proc_root}/{name}/cmdline", "rb") as file:
                if not _is_agent(file.read(65536).split(b"\0")):
                    continue
            with open(f"{proc_root}/{name}/status", encoding="latin-1") as status:
                for line in status:
                    key, _, value = line.partition(":")
                    if key == "CapEff":
                        return int(value.strip(), 16)
        except (OSError, ValueError):
            continue
    return None


def _is_agent(words: list[bytes]) -> bool:
    if b"-m" in words and words[words.index(b"-m") + 1 :][:1] == [b"ballonet_guest_agent"]:
        return True
    if any(b"from ballonet_guest_agent.daemon import main" in word for word in words):
        return True
    return any(word.endswith(b"ballonet-agent") for word in words[:2]) and b"run" in words[1:3]


def _serial_error() -> str | None:
    try:
        import ballonet_guest_agent.uart as uart

        uart.load_serial()
    except OSError as error:
        return str(error)
    return None
