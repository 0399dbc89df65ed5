"""Domains with strange names and XML, without a libvirt: what reaches settings, books, hook and state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.control import serve_control
from ballonet_host_coord.finding import shown
from ballonet_host_coord.guest_rules import NOTES_MOST, settings_for
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_xml import parse_domain
from ballonet_host_coord.model import Domain, GuestRules
from ballonet_host_coord.plain_text import shown_name
from ballonet_host_coord.ports import PortError, VmAbsent
from ballonet_host_coord.state_store import SqliteState

from .builders import GIB
from .fake_libvirt import FakeLibvirt, xml
from .libvirt_world import run as with_libvirt

HOOK = Path(__file__).parents[2] / "packaging/libvirt/qemu"
STRANGE = ("web 1 \"the 'big' one\"", "größe-Ω", "n" * 200, "a\tb", "a\nb", "$(touch x);`id`", "-x", "   ", "*")
UUID = "00000000-0000-4000-8000-000000000007"


def policy(inner: str) -> Domain:
    read = parse_domain(xml("web", UUID, f"<metadata xmlns:b='urn:ballonet:domain:1'>{inner}</metadata>"))
    return Domain(read.name, read.uuid, read.memory_kib, read.current_memory_kib, read.policy, read.notes)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("<b:policy weight='7'/>", []),
        ("<other xmlns='urn:x'/>", []),
        ("<policy xmlns='urn:ballonet:domain:2' weight='7'/>", ["the namespace \"urn:ballonet:domain:2\" is not read"]),
        ("<b:polcy weight='7'/>", ['"polcy" is not read']),
        ("<b:policy weight='7'/><b:policy weight='8'/>", ["a second <policy> is not read"]),
        ("<b:policy weight='7'><b:weight>8</b:weight></b:policy>", ["inside <policy> is not read"]),
        ("<b:policy>weight=7</b:policy>", ["inside <policy> is not read"]),
    ],
)
def test_metadata_that_is_not_read_is_said(inner: str, said: list[str]) -> None:
    """What somebody may believe to be in force has a sentence, other people's metadata has none."""
    settings, notes = settings_for(GuestRules(), policy(inner))
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
    assert settings.weight == (7 if "<b:policy weight='7'" in inner else 5000)


def test_a_thousand_faults_are_a_line() -> None:
    """The first few are said, and how many more there are; what is right among them holds."""
    attributes = " ".join(f"a{number}='x'" for number in range(1000))
    settings, notes = settings_for(GuestRules(), policy(f"<b:policy {attributes} weight='7'/>"))
    assert settings.weight == 7
    assert len(notes) == NOTES_MOST + 1
    assert notes[-1] == f"and {1000 - NOTES_MOST} more"


def test_two_domains_with_one_channel_are_both_told_and_neither_is_opened() -> None:
    """One would be heard as the other. A third is not concerned."""
    channel = (
        "<devices><channel type='unix'><source mode='bind' path='{}'/>"
        "<target type='virtio' name='org.ballonet.agent.0'/></channel>"
    )

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for name, path in (("one", "/run/same"), ("two", "/run/same"), ("three", "/run/other"), ("none", "")):
            domain = fake.domain(name)
            if path:
                domain.xml = domain.xml.replace("<devices>", channel.format(path))
        notes = {domain.name: domain.notes for domain in await hypervisor.domains()}
        assert notes["three"] == notes["none"] == ()
        for name, other in (("one", "two"), ("two", "one")):
            assert notes[name] == (f"its channel has the same path as that of {other}: neither is opened",)
            vm = hypervisor.vm(name)
            await vm.connect()
            with pytest.raises(PortError, match=f"/run/same: is the channel of {other}, too"):
                await vm.open_channel()

    with_libvirt(test)


def test_a_domain_whose_xml_is_refused_still_has_its_process() -> None:
    """What it holds can be booked: the process is found by its uuid alone."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain = fake.domain("deep")
        domain.xml = domain.xml.replace("<devices>", "<x>" * 300 + "</x>" * 300 + "<devices>")
        vm = hypervisor.vm("deep")
        with pytest.raises(PortError, match="more than 200 deep"):
            await vm.connect()
        assert vm.listener_pid == int(domain.uuid[-6:])
        del fake.running["deep"]
        with pytest.raises(VmAbsent):
            await vm.connect()
        assert vm.listener_pid is None

    with_libvirt(test)


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
def test_the_hook_reserves_for_every_name(tmp_path: Path, name: str) -> None:
    """The real hook, the real command, in a locale that is not UTF-8: what is asked for is this machine, unchanged."""
    document = xml("NAME", UUID).replace("NAME", "".join(f"&#{ord(letter)};" for letter in name))
    if name.isprintable():
        document = xml("NAME", UUID).replace("NAME", name.replace("&", "&amp;").replace("<", "&lt;"))
    asked: list[tuple[str, dict[str, Any]]] = []

    async def handle(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked.append((operation, arguments))
        return {"name": arguments["guest"], "state": "held", "size_kib": 1, "hold_s": 1.0, "free_kib": 0}

    (tmp_path / "ballonet").write_text(f'#!/bin/sh\nexec {sys.executable} -m ballonet_host_coord "$@"\n')
    (tmp_path / "ballonet").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "BALLONET_SOCKET": f"{tmp_path}/control", "PYTHONIOENCODING": "latin-1",
    }  # fmt: skip

    async def main() -> subprocess.CompletedProcess[bytes]:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, str(tmp_path / "control"), handle)
            done = await trio.run_process(
                ["sh", str(HOOK), name, "prepare", "begin", "-"], stdin=document.encode(), env=environment,
                capture_stdout=True, capture_stderr=True, check=False, cwd=tmp_path,
            )  # fmt: skip
            nursery.cancel_scope.cancel()
        return done

    done = trio.run(main)
    assert done.returncode == 0, done.stderr
    assert [(operation, arguments["guest"]) for operation, arguments in asked] == [("reserve", name)]
    assert done.stderr == b""
    assert all(line.isprintable() for line in done.stdout.decode("latin-1").split("\n"))
    assert sorted(os.listdir(tmp_path)) == ["ballonet"]


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
def test_every_name_is_a_key_of_the_state(tmp_path: Path, name: str) -> None:
    """What is kept for one name is that name's alone, over a restart."""
    state = SqliteState(str(tmp_path / "state.sqlite"))
    for key in STRANGE:
        state.put(f"settings:{key}", {"weight": str(STRANGE.index(key))})
    state.close()
    state = SqliteState(str(tmp_path / "state.sqlite"))
    assert state.get(f"settings:{name}") == {"weight": str(STRANGE.index(name))}
    state.close()


def test_a_name_of_spaces_can_be_seen() -> None:
    """In quotes; an ordinary one has none, and nothing is nothing."""
    assert [shown_name(name) for name in ("web 1", " web", "   ", "")] == ["web 1", '" web"', '"   "', '""']
    assert (shown("   "), shown(""), shown("web")) == ('"   "', "", "web")


def test_settings_of_a_domain_named_like_a_pattern() -> None:
    """Its own section holds for it, though the name fits itself as a pattern or does not."""
    rules = GuestRules(sections=(("db[1]", (("weight", 7),)), ("*", (("buffer_percent", 3),))))
    of = {name: settings_for(rules, Domain(name, UUID, GIB, GIB))[0] for name in ("db[1]", "db1", "dbx")}
    assert [settings.weight for settings in of.values()] == [7, 7, 5000]
    assert {settings.buffer_percent for settings in of.values()} == {3}
