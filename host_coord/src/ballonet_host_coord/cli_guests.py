"""The commands of `ballonet` that change what happens to single guests: release, pause, resume, set, reserve, adopt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import click
import trio

from .cli_asking import NO_ROOM, ask, fail, mib, say, socket_option
from .guest_rules import sane_policy
from .model import Domain
from .ports import PortError
from .settings import OVERHEAD_KIB
from .settings_values import DEFAULT_KEYS

RESERVATION_POLL_S = 0.1


@click.group()
def guest_commands() -> None:
    """Their names come into `ballonet` itself (cli.py)."""


@guest_commands.command()
@click.argument("guest", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every guest.")
@click.option("--force", is_flag=True, help="At once, even beyond the budget.")
@socket_option
def release(guest: str | None, everyone: bool, force: bool, socket_path: str | None) -> None:
    """Give GUEST all of its memory back and leave it alone, until `ballonet resume`."""
    arguments = {"force": force, **_whom(guest, everyone)}
    answer = ask(socket_path, "release", arguments)
    for released in answer["guests"]:
        missing_kib = released["missing_kib"]
        later = f"; {mib(missing_kib)} more when there is room, or with --force" if missing_kib else ""
        say(f"{released['name']}: released with {mib(released['granted_kib'])}{later}")
    _say_what_was_not_saved(answer)


@guest_commands.command()
@click.argument("guest", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every guest.")
@socket_option
def pause(guest: str | None, everyone: bool, socket_path: str | None) -> None:
    """Leave GUEST at the size that it has, until `ballonet resume`."""
    answer = ask(socket_path, "pause", _whom(guest, everyone))
    for name in answer["names"]:
        say(f"{name}: left alone")
    _say_what_was_not_saved(answer)


@guest_commands.command()
@click.argument("guest", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every guest.")
@socket_option
def resume(guest: str | None, everyone: bool, socket_path: str | None) -> None:
    """Manage GUEST again after `ballonet release` or `ballonet pause`."""
    answer = ask(socket_path, "resume", _whom(guest, everyone))
    for name in answer["names"]:
        say(f"{name}: managed again")
    _say_what_was_not_saved(answer)


def _settable(command: Callable[..., Any]) -> Callable[..., Any]:
    for key in reversed(tuple(DEFAULT_KEYS)):
        command = click.option(f"--{key.replace('_', '-')}", key, metavar="VALUE", help=f"As `{key}` in the settings.")(
            command
        )
    return command


@guest_commands.command("set")
@click.argument("guest")
@_settable
@click.option("--persist", is_flag=True, help="Keep it over a restart of the coordinator.")
@click.option("--reset", is_flag=True, help="First forget all that was set for GUEST before.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@socket_option
def set_(
    guest: str, socket_path: str | None, persist: bool, reset: bool, as_json: bool, **values: str | None
) -> None:
    """Change GUEST's settings while the coordinator runs; without options show them."""
    texts = {key: text for key, text in values.items() if text is not None}
    answer = ask(socket_path, "set", {"guest": guest, "values": texts, "persist": persist, "reset": reset})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for key, value in answer["settings"].items():
            shown = mib(value) if key in ("minimum", "startup", "maximum", "overhead") else value
            say(f"{key:30} {shown}{'   set at run time' if key in answer['set'] else ''}")
    _say_what_was_not_saved(answer)


@guest_commands.command()
@click.argument("size", required=False)
@click.option("--for", "name", metavar="NAME", help="The machine that is about to start.")
@click.option("--domain-xml", type=click.File("rb"), help="Both from a libvirt domain's XML instead; - is stdin.")
@click.option("--timeout", default="30s", show_default=True, metavar="DURATION", help="How long to wait for the room.")
@click.option("--hold", default="60s", show_default=True, metavar="DURATION", help="How long it is held for NAME.")
@click.option("--weight", help="How much may be taken: as a guest's weight. [default: the domain's own, or 5000]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@socket_option
def reserve(
    size: str | None,
    name: str | None,
    domain_xml: BinaryIO | None,
    timeout: str,
    hold: str,
    weight: str | None,
    as_json: bool,
    socket_path: str | None,
) -> None:
    """Make room of SIZE, all or nothing, before a machine starts. Exit code 4, and the numbers, where there is none."""
    from .explaining import parse_duration_s

    try:
        timeout_s, hold_s = parse_duration_s(timeout), parse_duration_s(hold)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout, --hold") from error
    if domain_xml is not None:
        name, size, of_domain = _of_domain(domain_xml)
    else:
        of_domain = {}
    if not name or not size:
        raise click.UsageError("say SIZE and --for NAME, or --domain-xml")
    asked = {"guest": name, "size": size, "weight": "5000", "timeout_s": timeout_s, "hold_s": hold_s, **of_domain}
    if weight is not None:
        asked["weight"] = weight
    answer = ask(socket_path, "reserve", asked)
    until_s = time.monotonic() + timeout_s + 1.0
    try:
        while answer["state"] == "pending" and time.monotonic() < until_s:
            time.sleep(RESERVATION_POLL_S)
            answer = ask(socket_path, "reservation", {"guest": name})
    except KeyboardInterrupt:
        ask(socket_path, "unreserve", {"guest": name})
        raise
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    if answer["state"] == "none" and time.monotonic() < until_s - 1.5:  # it was not the time that ended it
        fail(f"{name}: the coordinator was started anew, or {name} is there already; nothing is held")
    if answer["state"] != "held":
        free = mib(answer["free_kib"])
        fail(f"{size} for {name} could not be freed in {timeout}: {free} are free; nothing is held", NO_ROOM)
    if not as_json:
        say(f"{name}: {mib(answer['size_kib'])} are held for {answer['hold_s']:.0f} s")
    _say_what_was_not_saved(answer)


@guest_commands.command()
@click.argument("name", required=False)
@click.option("--domain-xml", type=click.File("rb"), help="NAME from a libvirt domain's XML instead; - is stdin.")
@socket_option
def unreserve(name: str | None, domain_xml: BinaryIO | None, socket_path: str | None) -> None:
    """Give back the room that is held for NAME, or stop making it."""
    if domain_xml is not None:
        name, _, _ = _of_domain(domain_xml)
    if not name:
        raise click.UsageError("say NAME, or --domain-xml")
    dropped_kib = ask(socket_path, "unreserve", {"guest": name})["dropped_kib"]
    say(f"{name}: {mib(dropped_kib)} are free again" if dropped_kib else f"{name}: nothing was reserved")


def _of_domain(domain_xml: BinaryIO) -> tuple[str, str, dict[str, str]]:
    """Name and size of a domain: all that it may touch while it boots, and QEMU's own memory; without what is in huge
    pages, as any budget. Besides, as the request has it, its size when its balloon driver has taken it to its
    `currentMemory`, and the weight in its metadata."""
    from .libvirt_xml import parse_domain  # here, since no other command needs it

    try:
        domain = parse_domain(domain_xml.read().decode())  # UTF-8 from libvirt, whatever the locale
    except (PortError, UnicodeDecodeError) as error:
        fail(str(error))
    sizes_kib = (domain.ordinary_claim_kib, min(domain.ordinary_claim_kib, domain.current_memory_kib))
    size, settled = (f"{kib + OVERHEAD_KIB}KiB" for kib in sizes_kib)
    weight = sane_policy(Domain(domain.name, domain.uuid, policy=domain.policy)).get("weight")
    return domain.name, size, {"settled": settled, **({"weight": weight} if weight else {})}


def _whom(guest: str | None, everyone: bool) -> dict[str, Any]:
    if (guest is None) != everyone:
        raise click.UsageError("name one GUEST, or say --all")
    return {"all": True} if everyone else {"guest": guest}


@guest_commands.command()
@click.argument("domain")
@click.option("--uri", default="qemu:///system", show_default=True, help="Which libvirt it runs under.")
def adopt(domain: str, uri: str) -> None:
    """Plug the agent's channel into the running libvirt DOMAIN, and into its definition."""
    from .libvirt_adopt import adopt_once  # here, since no other command needs libvirt

    try:
        say(f"{domain}: the channel is {trio.run(adopt_once, uri, domain)}")
    except PortError as error:
        fail(str(error))


def _say_what_was_not_saved(answer: dict[str, Any]) -> None:
    if "not_saved" in answer:
        fail(f"done, but it ends with the coordinator: {answer['not_saved']}")
