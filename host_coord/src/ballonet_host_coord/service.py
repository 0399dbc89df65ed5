"""The real service: the coordinator between QMP monitors, the host's kernel, a database and the control socket."""

from __future__ import annotations

import logging
import random
import resource
import secrets
import signal
import socket
import time
from collections.abc import Callable, Sequence

import trio

from .clock import TrioClock
from .config import ConfigError
from .control import serve_control
from .coordinator import Coordinator
from .host_memory import ProcHostMemory
from .libvirt_hypervisor import LibvirtHypervisor, lock_directories
from .libvirt_link import LibvirtLink
from .memory_limits import CgroupLimits
from .model import Settings
from .notify import notify, watchdog_interval_s
from .ports import Clock, PortError, SettingsSource
from .qmp_hypervisor import QmpHypervisor
from .recorder import FileRecorder
from .settings_values import HOST_KEYS
from .state_store import SqliteState

log = logging.getLogger("ballonet")

STATUS_EVERY_S = 10.0
LIBVIRT_LEAVE_S = 2.0


class HostRandomness:
    """Session numbers from the host's kernel: a restored guest repeats its own random numbers, the host does not."""

    def session_id(self) -> int:
        return secrets.randbelow(2**64 - 1) + 1

    def nonce(self) -> bytes:
        return secrets.token_bytes(16)

    def jitter(self) -> float:
        return random.uniform(0.8, 1.2)


async def serve(
    settings: Settings,
    *,
    observe: bool = False,
    source: SettingsSource | None = None,
    passed: Sequence[socket.socket] = (),
    on_ready: Callable[[Coordinator], None] | None = None,
) -> None:
    """Run the service until cancelled. Raises ControlError or OSError before any guest is touched.

    With a `source` SIGHUP reads the settings again. `passed` are the control sockets that systemd holds for us.
    `on_ready` gets the coordinator before its first decision; the demo and tests look over its shoulder there.
    """
    _allow_open_files()
    clock = TrioClock()
    state = SqliteState(settings.host.state_path)
    recorder = FileRecorder(settings.host.record_path) if settings.host.record_path else None
    libvirt = _libvirt(settings, clock)
    coordinator = Coordinator(
        settings,
        QmpHypervisor(settings, clock),
        ProcHostMemory(clock),
        clock,
        recorder,
        state,
        HostRandomness(),
        observe=observe,
        discovery=libvirt,
        limits=CgroupLimits(),
    )
    if on_ready is not None:
        on_ready(coordinator)
    try:
        async with trio.open_nursery() as nursery:

            async def control(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await serve_control(
                    settings.host.control_path,
                    coordinator.handle,
                    group=settings.host.control_group,
                    passed=passed,
                    task_status=task_status,
                )

            await nursery.start(control)
            await nursery.start(coordinator.run)
            if source is not None:
                await nursery.start(_reload_on_sighup, coordinator, source)
            notify("READY=1")
            log.info(
                "%s %d guest(s)%s, control socket %s",
                "observing" if coordinator.observe else "serving",
                len(settings.guests),
                f" and the domains of {settings.libvirt_uri}" if libvirt is not None else "",
                settings.host.control_path,
            )
            nursery.start_soon(_keep_systemd_informed, coordinator)
    finally:
        notify("STOPPING=1")
        if libvirt is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LIBVIRT_LEAVE_S):
                await libvirt.aclose()
        state.close()
        if recorder is not None:
            recorder.close()


def _allow_open_files() -> None:
    """As many as the kernel lets us. A guest takes three (monitor, channel, its lock), and 1024, what a service has by
    default, is there for programs that call select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _libvirt(settings: Settings, clock: Clock) -> LibvirtHypervisor | None:
    """libvirt itself is loaded when it is first asked; without its module the status says which package to install."""
    if settings.libvirt_uri is None:
        return None
    return LibvirtHypervisor(LibvirtLink(settings.libvirt_uri), clock, lock_directories(settings.host.control_path))


async def _keep_systemd_informed(coordinator: Coordinator) -> None:
    """Pet the watchdog only while decisions are taken: a loop that stands still is worth a restart."""
    pause_s = watchdog_interval_s() or STATUS_EVERY_S
    seen_s = float("-inf")
    while True:
        await trio.sleep(pause_s)
        decision = coordinator.decision
        if decision is not None and decision.now_s > seen_s:
            seen_s = decision.now_s
            notify(
                "WATCHDOG=1\n"
                f"STATUS=booked {decision.booked_kib // 1024} of {decision.budget_kib // 1024} MiB, "
                f"{len(decision.guests)} guests{coordinator.alarm and f'; ALARM: {coordinator.alarm}'}"
            )


NEEDS_A_START = ("control", "control_group", "state", "record")
"""Keys of [host]."""


async def _reload_on_sighup(
    coordinator: Coordinator, source: SettingsSource, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            reload(coordinator, source)
            notify("READY=1")


def reload(coordinator: Coordinator, source: SettingsSource) -> None:
    """Read the settings again. Files with a fault change nothing: it is said here and in `status`."""
    before = coordinator.settings
    try:
        settings = source.load()
    except (ConfigError, PortError) as error:
        lines = str(error).splitlines()
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        coordinator.settings_fault = f"{lines[0]}{more}"
        for line in lines:
            log.error("settings not taken, those before stay in force: %s", line)
        return
    coordinator.reload(settings)
    log.info("settings read again: %d guest(s) named", len(settings.guests))
    waiting = [f"[host] {key}" for key in NEEDS_A_START if _value(settings, key) != _value(before, key)]
    if settings.libvirt_uri != before.libvirt_uri:
        waiting.append("[libvirt] uri")
    for key in waiting:
        log.warning("%s has changed and is taken at the next start of the service", key)


def _value(settings: Settings, key: str) -> object:
    return getattr(settings.host, HOST_KEYS[key][0])
