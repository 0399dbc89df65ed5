"""The daemon: reads its arguments and settings, joins transport, core and loop, and serves.

No click and no argparse here: the service runs this, and no guest shall pay for a command line's library.
"""

from __future__ import annotations

import os
import sys

import ballonet_guest_agent
from ballonet_guest_agent.actions import Identity, trigger_us
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import DEFAULT_PATH, PORTS_ALLOWED, AgentSettings, check_port, parse_config
from ballonet_guest_agent.diet import give_back
from ballonet_guest_agent.libc import lock_memory
from ballonet_guest_agent.loop import Loop
from ballonet_guest_agent.notify import log
from ballonet_guest_agent.oom_score import protect_from_oom
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.psi import PRESENT
from ballonet_guest_agent.rehearsal import rehearse
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.watch import DEFAULT_FULL_PERMYRIAD, DEFAULT_SOME_PERMYRIAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.loop import Port

USAGE = f"usage: python3 -m ballonet_guest_agent [--port PORT] [--config FILE]\n  PORT: {PORTS_ALLOWED}"
EXIT_USAGE = 2
#: Settings have some hundred bytes; a file without end must not eat the guest's memory.
CONFIG_MOST_BYTES = 65_536
#: How stalls are noticed then, without PSI and with it.
WITHOUT_TRIGGER = (
    "allocation stalls, swap-in and refaults are read each second instead",
    "reading the stall counter each 250 ms while it rises",
)


def load_settings(path: str | None) -> tuple[AgentSettings, list[str]]:
    """Settings from a file and what was wrong with it. None: the usual file, which may be missing."""
    name = path or DEFAULT_PATH
    try:
        data = _read_file(name)
    except FileNotFoundError:
        return AgentSettings(), [f"{path}: no such file"] if path else []
    except OSError as error:
        return AgentSettings(), [f"{name}: {error.strerror}"]
    settings, problems = parse_config(data[:CONFIG_MOST_BYTES].decode("utf-8", "replace"), name)
    if len(data) > CONFIG_MOST_BYTES:
        problems.append(f"{name}: longer than {CONFIG_MOST_BYTES} bytes; what comes behind them is not read")
    return settings, problems


def _read_file(path: str) -> bytes:
    """At most one byte more than settings may have. A pipe without a writer is empty and not waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        data = b""
        while len(data) <= CONFIG_MOST_BYTES:
            part = os.read(fd, CONFIG_MOST_BYTES + 1 - len(data))
            if not part:
                break
            data += part
        return data
    finally:
        os.close(fd)


def make_port(settings: AgentSettings, port: str) -> Port:
    """The transport that a port's name asks for."""
    kind, colon, path = port.partition(":")
    if colon and kind == "unix":
        from ballonet_guest_agent.unixport import UnixPort

        return UnixPort(path)
    if colon:
        from ballonet_guest_agent.uart import UartPort

        return UartPort(path)
    from ballonet_guest_agent.port import VirtioPort

    return VirtioPort(port, settings.sys_root, settings.dev_root)


def run_daemon(settings: AgentSettings, port: str, problems: list[str]) -> int:
    """Serve until a signal. The exit code."""
    for problem in problems:
        log(4, f"{problem} (the default is in force)")
    reason = protect_from_oom(settings.proc_root)
    if reason is not None:
        log(5, f"OOM score not set: {reason}")
    procfs = Procfs(settings.proc_root, settings.sys_root)
    triggers = PsiTriggers(procfs.psi_path)
    reason = triggers.arm(trigger_us(DEFAULT_SOME_PERMYRIAD), trigger_us(DEFAULT_FULL_PERMYRIAD))
    if reason is not None:
        state = procfs.psi_state()
        log(4, f"no PSI trigger ({reason}; PSI is {state}): {WITHOUT_TRIGGER[state == PRESENT]}")
    identity = Identity(
        boot_id=procfs.boot_id(),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        version=ballonet_guest_agent.__version__,
        has_psi_trigger=reason is None,
    )
    loop = Loop(Agent(settings, identity), make_port(settings, port), procfs, triggers)
    give_back(lambda: rehearse(settings, identity, procfs.sample()))
    if settings.lock_memory:
        reason = lock_memory()
        if reason is not None:
            log(5, f"memory not locked: {reason}")
    return loop.run()


def main(arguments: list[str]) -> int:
    """Read the arguments and serve."""
    options: dict[str, str] = {}
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name in ("-h", "--help"):
            print(USAGE)
            return 0
        if name not in ("--port", "--config") or not (equals or words):
            sys.stderr.write(f"{USAGE}\n")
            return EXIT_USAGE
        options[name] = value if equals else words.pop(0)
    settings, problems = load_settings(options.get("--config"))
    try:
        port = check_port(options.get("--port", settings.port))
    except ValueError:
        sys.stderr.write(f"--port {options['--port']!r} is not a port; allowed is {PORTS_ALLOWED}\n")
        return EXIT_USAGE
    return run_daemon(settings, port, problems)
