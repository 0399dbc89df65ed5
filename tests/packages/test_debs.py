"""The Debian packages: what is in them, what they ask for, and what Debian's own judges say about them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from email.parser import HeaderParser
from pathlib import Path

import pytest
import tomllib

from .conftest import BINARIES, ROOT, SYSTEM_PATH, Need

AGENT, HOST, PROTOCOL = "ballonet-guest-agent", "ballonet-host-coord", "python3-ballonet-protocol"
PACKAGES = {PROTOCOL: "ballonet_protocol", AGENT: "ballonet_guest_agent", HOST: "ballonet_host_coord"}
COMMANDS = {PROTOCOL: "ballonet-conform", AGENT: "ballonet-agent", HOST: "ballonet"}
PAGES = {
    PROTOCOL: ["man1/ballonet-conform.1"],
    AGENT: ["man8/ballonet-agent.8", "man5/ballonet-agent.conf.5"],
    HOST: ["man8/ballonet.8", "man5/ballonet-coordinator.toml.5"],
}
# What each has besides code, command, man pages, completions and documents.
SYSTEM_FILES = {
    PROTOCOL: set(),
    AGENT: {
        "lib/systemd/system/ballonet-guest-agent.service", "lib/udev/rules.d/60-ballonet-guest-agent.rules",
        "usr/lib/sysusers.d/ballonet-guest-agent.conf", "etc/ballonet/agent.conf",
    },
    HOST: {
        "lib/systemd/system/ballonet.service", "lib/systemd/system/ballonet.socket",
        "usr/lib/sysusers.d/ballonet-host-coord.conf",
    },
}  # fmt: skip
# Debian 12's versions, where they are not the ones of the machine that runs the tests.
DEBIAN_12 = {
    "python3:any": "3.11.2", "python3-click": "8.1.3", "python3-msgpack": "1.0.3", "python3-psutil": "5.9.4",
    "python3-trio": "0.22.0", "python3-serial": "3.5", "python3-matplotlib": "3.6.3",
}  # fmt: skip
# Nobody has asked Debian for the package, so there is no bug that its first upload closes.
WARNINGS = {"initial-upload-closes-no-bugs"}
MOST_EXPOSED = 1.5
SITE = "usr/lib/python3/dist-packages"
AGENT_SHARE = "guest_agent/src/ballonet_guest_agent/share"
HOST_SHARE = "host_coord/src/ballonet_host_coord/share"


def fields(deb: Path) -> dict[str, str]:
    text = subprocess.run(["dpkg-deb", "--field", str(deb)], capture_output=True, text=True, check=True).stdout
    return dict(HeaderParser().parsestr(text).items())


def files(deb: Path) -> set[str]:
    """Every file and link, without a leading slash; no folders."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True).stdout
    names = subprocess.run(["tar", "--list"], input=tar, capture_output=True, check=True).stdout.decode().split()
    return {name.removeprefix("./") for name in names if not name.endswith("/")}


def relations(text: str) -> list[tuple[str, str, str]]:
    """(package, operator, version) of a field like Depends; the first of alternatives."""
    found = re.findall(r"(?:^|,)\s*([a-z0-9.:+-]+)(?: \((\S+) (\S+)\))?", text)
    return [(name, operator, version) for name, operator, version in found]


def test_lintian_has_no_objection(built: Path, need: Need) -> None:
    """Debian's checker finds no error in source and binaries, and no warning but the one that cannot be helped."""
    need("lintian")
    (changes,) = built.glob("*.changes")
    done = subprocess.run(
        ["lintian", "--allow-root", str(changes)], capture_output=True, text=True, check=False
    )  # fmt: skip
    tags = re.findall(r"^([EW]): \S+(?: source)?: (\S+)", done.stdout, re.MULTILINE)
    assert [tag for kind, tag in tags if kind == "E"] == [], done.stdout
    assert {tag for _, tag in tags} <= WARNINGS, done.stdout


def test_a_build_of_equal_sources_does_nothing(built: Path) -> None:
    """The packages are built once: a second call leaves them as they are."""
    before = {path: path.stat().st_mtime_ns for path in built.glob("[!.]*")}
    subprocess.run([str(ROOT / "packaging/build-deb")], check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in built.glob("[!.]*")} == before


@pytest.mark.parametrize("name", BINARIES)
def test_package_holds_what_it_should(name: str, debs: dict[str, Path]) -> None:
    """Code, command, pages, completions, units, and nothing else: no tests, no byte code, no build's leavings."""
    command, package = COMMANDS[name], PACKAGES[name]
    found = files(debs[name])
    code = {file for file in found if file.startswith(f"{SITE}/{package}/")}
    metadata = {file for file in found if re.match(rf"{SITE}/{package}-[\d.]+\.dist-info/", file)}
    documents = {file for file in found if file.startswith(f"usr/share/doc/{name}/")}
    expected = {
        f"usr/bin/{command}",
        f"usr/share/bash-completion/completions/{command}",
        f"usr/share/zsh/vendor-completions/_{command}",
        f"usr/share/fish/vendor_completions.d/{command}.fish",
        *(f"usr/share/man/{page}.gz" for page in PAGES[name]),
        *SYSTEM_FILES[name],
    }
    assert found - code - metadata - documents == expected
    member = package.removeprefix("ballonet_")
    modules = {str(path.relative_to(ROOT / member / "src")) for path in (ROOT / member / "src").rglob("*.py")}
    assert {file.removeprefix(f"{SITE}/") for file in code if file.endswith(".py")} == modules
    assert not [file for file in found if "__pycache__" in file or "egg-info" in file or file.endswith(".pyc")]
    assert {"copyright", "changelog.Debian.gz"} <= {Path(file).name for file in documents}


def test_versions_are_the_distributions(debs: dict[str, Path]) -> None:
    """The packages have the version of the three distributions, and ask for each other in exactly their own."""
    version = tomllib.loads((ROOT / "protocol/pyproject.toml").read_text())["project"]["version"]
    for name, deb in debs.items():
        field = fields(deb)
        assert field["Version"].rpartition("-")[0] == version
        if name != PROTOCOL:
            assert (PROTOCOL, "=", field["Version"]) in relations(field["Depends"])


@pytest.mark.parametrize("name", BINARIES)
def test_debian_12_has_what_the_package_asks_for(name: str, debs: dict[str, Path]) -> None:
    """Every version asked for, of Depends and Suggests alike, is one that Debian 12 has."""
    field = fields(debs[name])
    asked = relations(field["Depends"]) + relations(field.get("Suggests", ""))
    for package, operator, version in asked:
        if version and package not in BINARIES:
            has = DEBIAN_12[package]
            assert subprocess.run(["dpkg", "--compare-versions", has, operator, version], check=False).returncode == 0


@pytest.mark.parametrize("name", BINARIES)
def test_every_requirement_of_the_distribution_is_asked_for(name: str, debs: dict[str, Path]) -> None:
    """What pyproject.toml requires, and what the command needs, is in Depends, with the same least version."""
    member = PACKAGES[name].removeprefix("ballonet_")
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    wanted = [r for r in project["dependencies"] if not r.startswith("ballonet")]
    wanted += project.get("optional-dependencies", {}).get("cli", [])
    asked = {(package, version) for package, operator, version in relations(fields(debs[name])["Depends"])}
    assert ("python3:any", project["requires-python"].removeprefix(">=")) in asked
    for requirement in wanted:
        package, _, version = requirement.partition(">=")
        assert (f"python3-{package}", version) in asked


def test_the_settings_file_is_a_conffile(debs: dict[str, Path]) -> None:
    """dpkg keeps what an operator changed in agent.conf, and asks; no other file is a conffile."""
    conffiles = {}
    for name, deb in debs.items():
        command = ["dpkg-deb", "--info", str(deb), "conffiles"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        conffiles[name] = done.stdout.split()
    assert conffiles == {PROTOCOL: [], AGENT: ["/etc/ballonet/agent.conf"], HOST: []}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("lib/systemd/system/ballonet-guest-agent.service", f"{AGENT_SHARE}/ballonet-guest-agent.service"),
        ("lib/udev/rules.d/60-ballonet-guest-agent.rules", f"{AGENT_SHARE}/60-ballonet-guest-agent.rules"),
        ("usr/lib/sysusers.d/ballonet-guest-agent.conf", f"{AGENT_SHARE}/ballonet-guest-agent.sysusers"),
        ("etc/ballonet/agent.conf", f"{AGENT_SHARE}/agent.conf"),
        ("lib/systemd/system/ballonet.service", f"{HOST_SHARE}/ballonet.service"),
        ("lib/systemd/system/ballonet.socket", f"{HOST_SHARE}/ballonet.socket"),
        ("usr/lib/sysusers.d/ballonet-host-coord.conf", f"{HOST_SHARE}/ballonet.sysusers"),
        ("usr/share/doc/ballonet-host-coord/examples/coordinator.toml", f"{HOST_SHARE}/coordinator.toml"),
    ],
)  # fmt: skip
def test_system_files_are_those_of_the_wheel(file: str, source: str, unpacked: Path) -> None:
    """What a package installs for the system is what the wheel carries: there is no second copy to go stale."""
    assert (unpacked / file).read_bytes() == (ROOT / source).read_bytes()
    assert not list((ROOT / "packaging").rglob(Path(source).name))


def test_the_packages_own_trial_finds_its_files(unpacked: Path) -> None:
    """What debian/tests names of an installed system is there; so is libvirt's hook, and can be run."""
    named = re.findall(r"/(usr/\S+)", (ROOT / "packaging/debian/tests/smoke").read_text())
    assert named
    assert [path for path in named if not (unpacked / path).is_file()] == []
    hook = unpacked / "usr/share/doc/ballonet-host-coord/examples/qemu"
    assert hook.read_bytes() == (ROOT / "packaging/libvirt/qemu").read_bytes()
    assert os.access(hook, os.X_OK)


def test_the_agents_unit_is_little_exposed(unpacked: Path, need: Need) -> None:
    """systemd's own judgement of the packaged unit: at most 1.5 of 10."""
    need("systemd-analyze")
    unit = unpacked / "lib/systemd/system/ballonet-guest-agent.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", str(unit)],
        capture_output=True, text=True, check=False, env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    (score,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(score) <= MOST_EXPOSED
    assert done.returncode == 0, done.stdout


def test_the_port_starts_the_agent(unpacked: Path) -> None:
    """The unit lives and ends with the device, nothing enables it, and the rule names unit, port and user's group."""
    unit = (unpacked / "lib/systemd/system/ballonet-guest-agent.service").read_text()
    rule = (unpacked / "lib/udev/rules.d/60-ballonet-guest-agent.rules").read_text()
    device = r"dev-virtio\x2dports-org.ballonet.agent.0.device"
    assert f"BindsTo={device}\n" in unit
    assert f"After={device}\n" in unit
    assert unit.endswith("[Install]\n")
    assert {"Type=notify", "User=_ballonet-agent"} <= set(unit.splitlines())
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
    # The journal reads the level in front of each line, unless it is told not to.
    assert "SyslogLevelPrefix" not in unit
    assert 'ATTR{name}=="org.ballonet.agent.0"' in rule
    assert 'ENV{SYSTEMD_WANTS}="ballonet-guest-agent.service"' in rule
    assert 'GROUP="_ballonet-agent"' in rule
    assert "u _ballonet-agent " in (unpacked / "usr/lib/sysusers.d/ballonet-guest-agent.conf").read_text()


@pytest.mark.parametrize("unit", ["ballonet-guest-agent.service", "ballonet.service", "ballonet.socket"])
def test_systemd_understands_the_unit(unit: str, unpacked: Path, tmp_path: Path, need: Need) -> None:
    """`systemd-analyze verify` has nothing to say: no unknown setting, no command or page that is missing."""
    need("systemd-analyze", "man")
    # The command is looked for on the system's path, where the package would have it.
    assert (unpacked / "usr/bin/ballonet").exists()
    for name in {unit, "ballonet.service", "ballonet.socket"}:
        text = (unpacked / "lib/systemd/system" / name).read_text()
        (tmp_path / name).write_text(text.replace("ExecStart=ballonet ", f"ExecStart={unpacked}/usr/bin/ballonet "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / unit)],
        capture_output=True, text=True, check=False,
        env={"PATH": SYSTEM_PATH, "MANPATH": str(unpacked / "usr/share/man"), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_coordinator_looks_into_a_process(environment: dict[str, str]) -> None:
    """With Debian's trio, older than the development one, the packaged coordinator reads a process's memory."""
    code = (
        "import os, trio\n"
        "from ballonet_host_coord.clock import SystemClock\n"
        "from ballonet_host_coord.host_memory import ProcHostMemory\n"
        "async def look():\n"
        "    memory = ProcHostMemory(SystemClock())\n"
        "    await memory.look(os.getpid(), 1024)\n"
        "    return memory.residency(os.getpid(), 1024)\n"
        "print(trio.run(look).overhead_kib)\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_commands_run_from_the_packages(environment: dict[str, str], unpacked: Path) -> None:
    """On Debian's Python and libraries alone, each command answers, and the agent reads this machine."""
    for command in COMMANDS.values():
        done = subprocess.run([command, "--help"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert shutil.which(command, path=environment["PATH"]) == str(unpacked / "usr/bin" / command)
    sample = subprocess.run(
        ["ballonet-agent", "sample", "--json"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(sample)["memory"]["total_kib"] > 0
