"""`ballonet check`: looks at host and guests, has it judged, and says it as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .clock import SystemClock
from .finding import VERDICTS, WRONG, Finding, Level, exit_code, shown
from .guest_check import GuestSight, guest_findings
from .guest_look import ask_service, look_at_domains, look_at_guests
from .host_check import HostSight, host_findings, sum_or_none
from .host_look import look_at_host
from .host_memory import ProcHostMemory
from .libvirt_link import LibvirtLink
from .model import Settings, Snapshot
from .plain_text import printable
from .ports import PortError


async def check(
    settings: Settings, warnings: Sequence[str], *, proc_root: str = "/proc", sys_root: str = "/sys",
    link: LibvirtLink | None = None,
) -> list[Finding]:  # fmt: skip
    """Everything that there is to say: of the settings, of the host, of each guest. Changes nothing."""
    memory = ProcHostMemory(SystemClock(), proc_root=proc_root)
    sight = look_at_host(settings, memory, proc_root=proc_root, sys_root=sys_root)
    service, snapshot = await ask_service(settings.host.control_path)
    sight = replace(sight, service=service)
    if snapshot is not None and snapshot.host.facts is not None:
        parts = snapshot.host.budget_parts
        sight = replace(sight, memory=snapshot.host.facts, memory_of_service=True, parts=parts)
    guests = await look_at_guests(settings, service, snapshot, proc_root)
    if settings.libvirt_uri is not None:
        sight, domains = await _domains(settings, sight, snapshot, link, proc_root)
        guests += domains
    resident_kib = sum_or_none([guest.resident_kib for guest in guests])
    if settings.libvirt_uri is not None and sight.libvirt_domains is None:
        resident_kib = None  # nobody knows what the domains hold
    names = ", ".join(shown(guest.name) for guest in settings.guests)
    text = f"OK, {len(settings.guests)} guest(s) named{': ' if names else ''}{names}"
    return [
        *(Finding("settings", Level.HINT, warning, "mend that setting") for warning in warnings),
        Finding("settings", Level.OK, text),
        *host_findings(settings, sight, resident_kib),
        *guest_findings(guests),
    ]


async def _domains(
    settings: Settings, sight: HostSight, snapshot: Snapshot | None, link: LibvirtLink | None, proc_root: str
) -> tuple[HostSight, list[GuestSight]]:
    link = link or LibvirtLink(settings.libvirt_uri or "")
    try:
        domains = await look_at_domains(link, settings, snapshot, proc_root)
    except PortError as error:
        denied = not sight.caller.is_root and "denied" in str(error).lower()
        return replace(sight, libvirt_error=str(error), libvirt_denied=denied), []
    finally:
        await link.aclose()
    return replace(sight, libvirt_domains=len(domains)), domains


def as_json(found: Iterable[Finding]) -> str:
    """With every finding, those that are well, too."""
    found = list(found)
    return _json(exit_code(found), [_row(finding) for finding in found])


def faults_as_json(faults: Iterable[str]) -> str:
    """The same for settings with faults, where nothing else was looked at."""
    return _json(WRONG, [_row(Finding("settings", Level.PROBLEM, fault)) for fault in faults])


def _json(code: int, rows: list[dict[str, Any]]) -> str:
    return json.dumps({"verdict": VERDICTS[code], "exit_code": code, "findings": rows}, indent=2)


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "guest": finding.guest or None,
        "level": finding.level.value,
        "text": finding.text,
        "mend": finding.mend,
    }


def as_text(found: Iterable[Finding]) -> str:
    """Level, whose or what, how it is; below it how to mend it."""
    lines = []
    for finding in found:
        lines.append(f"{finding.level.value:8} {finding.guest or finding.name:14} {printable(finding.text)}")
        for number, line in enumerate(finding.mend.splitlines()):
            lines.append(f"{'':23} {'->' if number == 0 else '  '} {printable(line)}")
    return "\n".join(lines)
