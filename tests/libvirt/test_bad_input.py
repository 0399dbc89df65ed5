"""Strange names and strange XML, over a real libvirtd: a clear line for each, and nobody else is disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ballonet_host_coord.cli import cli

from .rig import CHANNEL, Rig

PATIENCE_S = 60.0
NAMES = (
    "web 1 \"the 'big' one\"", "größe-Ω", "雲の上", "n" * 200, "a\tb", "a\rb", "a\x9b31mb", "a\x85b",
    "a\u2028<3>forged", "a\u202egnp", "   ", "--all", "db[1]*?", "%s{0}", "..", "$(id);`id`",
)  # fmt: skip
"""libvirt starts a domain of each."""
NEST = "<d xmlns='urn:d'>" + "<d>" * 220 + "</d>" * 221
MANY = " ".join(f"a{number}=''" for number in range(3000))
OTHER = "<x:policy xmlns:x='urn:ballonet:domain:2' minimum='32M'/>"
METADATA = {
    "good": ("<ballonet:policy minimum='32M' weight='7000'/>", ""),
    "values": ("<ballonet:policy minimum='lots' weight='-1'/>", 'metadata minimum="lots": allowed is a size'),
    "namespace": (OTHER, "is not read; ours is urn:ballonet:domain:1"),
    "misspelt": ("<ballonet:polcy minimum='32M'/>", 'metadata: "polcy" is not read'),
    "inside": ("<ballonet:policy><ballonet:minimum>32M</ballonet:minimum></ballonet:policy>", "stands inside <policy>"),
    "thousands": (f"<ballonet:policy {MANY}/>", "and 2992 more"),
    "huge": (f"<ballonet:policy minimum='{'9' * 500_000}M'/>", "metadata minimum="),
    "deep": (f"<ballonet:policy minimum='32M'/>{NEST}", "more than 200 deep is not read"),
}


@pytest.fixture(scope="module")
def ballonet(rig: Rig) -> Iterator[Callable[..., subprocess.CompletedProcess[bytes]]]:
    """The command, beside the service over all these domains, paused: none of them boots."""
    import libvirt

    folder = rig.folder
    config = folder / "coordinator.toml"
    config.write_text(
        f'[host]\nbudget = "8G"\nheadroom = "64M"\ncontrol = "{folder}/control"\nstate = "{folder}/state.sqlite"\n'
        f'[libvirt]\nuri = "{rig.uri}"\n[guest."db[1]*?"]\nminimum = "40M"\n[guest."n*n"]\nweight = 7\n'
    )
    # Its pid files are where the session's libvirt puts them.
    environment = {**os.environ, "BALLONET_CONFIG": str(config), "XDG_RUNTIME_DIR": str(rig.runtime), "COLUMNS": "100"}
    command = [sys.executable, "-m", "ballonet_host_coord"]

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, *words], env=environment, capture_output=True, timeout=60, check=False)

    connection = libvirt.open(rig.uri)
    same = CHANNEL.replace("mode='bind'", f"mode='bind' path='{folder}/same.sock'")
    documents = [rig.xml("NAME", memory_mib=64).replace("<name>NAME", f"<name>{_by_number(name)}") for name in NAMES]
    documents += [
        rig.xml(name, memory_mib=64, top=f"<metadata>{said}</metadata>") for name, (said, _) in METADATA.items()
    ]
    documents += [rig.xml(name, memory_mib=64).replace(CHANNEL, same) for name in ("same1", "same2")]
    documents.append(rig.xml("balloonless", memory_mib=64, balloon="<memballoon model='none'/>"))
    documents.append(rig.xml("undeflated", memory_mib=64, channel=False, balloon="<memballoon model='virtio'/>"))
    bound = "<numatune><memory mode='strict' nodeset='0'/></numatune>"
    documents.append(rig.xml("bound", memory_mib=64, top=bound))
    for document in documents:
        connection.createXML(document, libvirt.VIR_DOMAIN_START_PAUSED)
    connection.close()
    with (folder / "serve.log").open("wb") as log:
        service = subprocess.Popen([*command, "serve"], env=environment, stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while len([g for g in guests(run).values() if g["state"] in ("paused", "unreachable")]) < len(documents):
            assert time.monotonic() < until_s, (folder / "serve.log").read_text()
            time.sleep(0.2)
        yield run
    finally:
        service.terminate()
        assert service.wait(30) == 0
    journal = (folder / "serve.log").read_text()
    assert "Traceback" not in journal
    assert all(line.isprintable() for line in journal.split("\n"))


def _by_number(name: str) -> str:
    """As XML takes every character that it knows at all."""
    return "".join(f"&#{ord(letter)};" for letter in name)


def guests(run: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    done = run("status", "--json")
    return {guest["name"]: guest for guest in json.loads(done.stdout)["guests"]} if done.returncode == 0 else {}


def test_every_strange_domain_has_a_clear_line(ballonet: Callable[..., Any]) -> None:
    """The whole status, explanation and check are made of lines that can be seen, and each fault has its words."""
    found = guests(ballonet)
    assert set(NAMES) <= set(found)
    for name, (_, words) in METADATA.items():
        assert words in found[name]["why"], name
        assert len(found[name]["why"]) < 2000
    assert found["deep"]["resident_kib"] is not None  # its process is known, and booked with what it holds
    for name, other in (("same1", "same2"), ("same2", "same1")):
        assert f"its channel has the same path as that of {other}" in found[name]["why"]
    for command in ("status", "explain", "check"):
        done = ballonet(command)
        assert done.returncode == (1 if command == "check" else 0), done.stderr
        assert all(line.isprintable() for line in done.stdout.decode().split("\n"))
        assert done.stderr == b""


def test_every_command_takes_every_name(ballonet: Callable[..., Any], rig: Rig) -> None:
    """Set, kept, paused, resumed, explained: the one guest is meant, and what is said can be seen."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, [*words[:-1], "--", words[-1]], env={"BALLONET_SOCKET": f"{rig.folder}/control"})

    for name in NAMES:
        for words in (("set", "--weight", "77", "--persist"), ("pause",), ("explain",), ("resume",)):
            done = run(*words, name)
            assert done.exit_code == 0, (name, done.output)
            assert all(line.isprintable() for line in done.output.split("\n"))
        shown = json.loads(run("set", "--json", name).output)
        assert (shown["name"], shown["set"]) == (name, {"weight": "77"})
        assert shown["settings"]["minimum"] == (40960 if name == "db[1]*?" else 65536)
    assert {name for name, guest in guests(ballonet).items() if "paused by" in guest["why"]} == set()


def test_check_names_what_is_wrong_with_each(ballonet: Callable[..., Any]) -> None:
    """The faults of design.md's section 7 that a domain can have here, each at its own domain, with how to mend it."""
    done = ballonet("check", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["verdict"]) == (1, "mend")

    def said(guest: str) -> dict[str, tuple[str, str]]:
        rows = [row for row in answer["findings"] if row["guest"] == guest]
        return {row["name"]: (row["level"], row["text"] + row["mend"]) for row in rows}

    assert said("balloonless")["balloon"][0] == "problem"
    assert said("undeflated")["deflate-on-oom"][0] == "problem"
    assert said("undeflated")["free-page-reporting"][0] == "hint"
    assert "ballonet adopt undeflated" in said("undeflated")["agent"][1]
    assert said("bound")["pinned"] == ("ok", "left alone: its memory is bound to one NUMA node")
    assert "same1" in said("same2")["channel"][1]
    assert "deflate-on-oom" not in said("good")
    assert not [row for row in answer["findings"] if row["guest"] == ""]
