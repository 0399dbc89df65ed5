"""`ballonet-agent run | sample | check`: the command for people. The service runs `python3 -m ballonet_guest_agent`."""

from __future__ import annotations

import json
import sys

import click

import ballonet_guest_agent
from ballonet_guest_agent.balloon_floor import computed_floor_kib
from ballonet_guest_agent.check import VERDICTS, exit_code, findings
from ballonet_guest_agent.config import PORTS_ALLOWED, AgentSettings, check_port
from ballonet_guest_agent.daemon import load_settings, run_daemon
from ballonet_guest_agent.finding import OK
from ballonet_guest_agent.kernels import first_kernel
from ballonet_guest_agent.look import look
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.psi import Psi
from ballonet_guest_agent.want import want_kib
from ballonet_protocol.units import format_kib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.sample import Sample

_config = click.option("--config", "config", metavar="FILE", help="Settings; default /etc/ballonet/agent.conf.")
_port = click.option("--port", "port", metavar="PORT", help=f"{PORTS_ALLOWED[0].upper()}{PORTS_ALLOWED[1:]}.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _read(config: str | None, port: str | None) -> tuple[AgentSettings, str, list[str]]:
    settings, problems = load_settings(config)
    try:
        return settings, check_port(port if port is not None else settings.port), problems
    except ValueError:
        raise click.BadParameter(f"{port!r} is not a port; allowed is {PORTS_ALLOWED}") from None


@click.group()
@click.version_option(ballonet_guest_agent.__version__)
def main() -> None:
    """The guest's half of ballonet: dynamic memory for Linux guests on KVM."""


@main.command()
@_port
@_config
def run(port: str | None, config: str | None) -> None:
    """Serve the coordinator until stopped."""
    settings, where, problems = _read(config, port)
    sys.exit(run_daemon(settings, where, problems))


@main.command()
@_config
@_json
def sample(config: str | None, as_json: bool) -> None:
    """Print what one report would say about this guest."""
    settings, problems = load_settings(config)
    for problem in problems:
        click.echo(f"{problem} (the default is in force)", err=True)
    reading = Procfs(settings.proc_root, settings.sys_root).sample()
    if as_json:
        click.echo(json.dumps(as_dict(reading, settings), indent=2))
        return
    for section, values in as_dict(reading, settings).items():
        if not isinstance(values, dict):
            continue
        click.echo(section)
        for name, value in values.items():
            click.echo(f"  {name:26} {_shown(name, value):>16}{_why_unknown(name, value)}")


@main.command()
@_port
@_config
@_json
@click.option("--quiet", is_flag=True, help="Print only what is not well.")
def check(port: str | None, config: str | None, as_json: bool, quiet: bool) -> None:
    """Say what is missing on this guest and how to mend it.

    A problem keeps the agent or a shrink from working; a hint makes either worse.

    \b
    Exit code:
      0  all is well (there may be hints)
      1  something must be mended
      2  the command line is wrong
      3  nothing is wrong as far as this user can see; root sees all
    """
    settings, where, problems = _read(config, port)
    found = findings(look(settings, where, problems))
    code = exit_code(found)
    shown = [finding for finding in found if finding.level != OK or not quiet]
    if as_json:
        rows = [{"name": f.name, "level": f.level, "text": f.text, "mend": f.mend} for f in shown]
        click.echo(json.dumps({"verdict": VERDICTS[code], "exit_code": code, "findings": rows}, indent=2))
    else:
        for finding in shown:
            click.echo(f"{finding.level:8} {finding.name:10} {finding.text}")
            for number, line in enumerate(finding.mend.splitlines()):
                click.echo(f"{'':19} {'->' if number == 0 else '  '} {line}")
    sys.exit(code)


def as_dict(reading: Sample, settings: AgentSettings) -> dict[str, object]:
    """A sample as JSON has it: KiB, counters, null for unknown.

    `psi.state` says whether there is PSI (psi.py has the four states), `zram` which part of the swap is memory.
    `size` is what a REPORT adds. The nominal memory comes from a coordinator; without one it counts as what the kernel
    manages, so both sizes are lower than in a REPORT by what the kernel took before it counted.
    """
    total_kib = reading.total_kib
    floor_kib = want = None
    if total_kib is not None:
        floor_kib = settings.floor_kib
        if floor_kib is None:
            floor_kib = computed_floor_kib(total_kib, total_kib)
        if reading.balloon_kib is not None:
            want = want_kib(reading, total_kib, min(floor_kib, total_kib), 0)
    memory = {name: getattr(reading.memory, name) for name in reading.memory._fields}
    memory["total_kib"], memory["balloon_kib"] = reading.total_kib, reading.balloon_kib
    psi = reading.psi or Psi()
    return {
        "memory": memory,
        "psi": {"state": reading.psi_state, **{name: getattr(psi, name) for name in psi._fields}},
        "vm": {name: getattr(reading.vm, name) for name in reading.vm._fields},
        "zram": {name: getattr(reading.zram, name) for name in reading.zram._fields},
        "size": {"want_kib": want, "floor_kib": floor_kib},
        "balloon": {"deflate_on_oom": reading.deflate_on_oom, "page_kib": reading.page_kib},
    }


def _why_unknown(name: str, value: object) -> str:
    first = first_kernel(name) if value is None else None
    return "" if first is None else f"  (Linux {first} or later)"


def _shown(name: str, value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_kib") and isinstance(value, int):
        return format_kib(value)
    if name.endswith("_permyriad") and isinstance(value, int):
        return f"{value / 100:.2f} %"
    return str(value)
