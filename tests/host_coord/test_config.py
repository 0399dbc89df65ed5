"""Settings: what loads, what is refused, and that every refusal says where, what and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ballonet_host_coord.config import ConfigError, Fault, TomlSettings, least_budget_kib
from ballonet_host_coord.model import DemandModel, GuestRules, GuestSettings, HostSettings, Settings, StopPolicy
from ballonet_host_coord.simulated.stores import SimulatedHostMemory

MIB = 1024
GIB = 1024 * MIB

TWO_GUESTS = """
[host]
budget = "1920M"
[defaults]
minimum = "256M"
startup = "512M"
maximum = "1G"
[guest.alpha]
qmp = "/run/vm/alpha.qmp"
channel = "/run/vm/alpha.agent"
[guest.beta]
qmp = "/run/vm/beta.qmp"
channel = "/run/vm/beta.agent"
"""
ONE_GUEST = '[guest.web]\nqmp = "/run/vm/web.qmp"\nminimum = "256M"\nmaximum = "1G"\n'


def load(folder: Path, text: str, **drop_ins: str) -> Settings:
    """Load `text` as the main file; drop-ins are named by their keyword."""
    path = folder / "coordinator.toml"
    path.write_text(text)
    (folder / "coordinator.d").mkdir()
    for name, content in drop_ins.items():
        (folder / "coordinator.d" / f"{name}.toml").write_text(content)
    return TomlSettings(path).load()


def faults(folder: Path, text: str, **drop_ins: str) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **drop_ins)
    return caught.value.faults


def test_readmes_example_loads(tmp_path: Path, workspace: Path) -> None:
    """The settings that the README shows are settings that load, with the guests and sizes they name."""
    example, _ = re.findall(r"^```toml\n(.*?)^```$", (workspace / "README.md").read_text(), re.M | re.S)
    (tmp_path / "readme").mkdir()
    assert load(tmp_path / "readme", example) == load(tmp_path, TWO_GUESTS)


def test_defaults_fill_what_a_guest_does_not_say(tmp_path: Path) -> None:
    """A guest has its own values, then those of [defaults], then those of the model."""
    settings = load(tmp_path, TWO_GUESTS + 'minimum = "128M"\nweight = 10\n')
    common = {"startup_kib": 512 * MIB, "maximum_kib": GIB}
    alpha = GuestSettings(
        "alpha", minimum_kib=256 * MIB, qmp_path="/run/vm/alpha.qmp", channel_path="/run/vm/alpha.agent", **common
    )
    beta = GuestSettings(
        "beta",
        minimum_kib=128 * MIB,
        weight=10,
        qmp_path="/run/vm/beta.qmp",
        channel_path="/run/vm/beta.agent",
        **common,
    )
    assert (settings.host, settings.guests) == (HostSettings(budget_kib=1920 * MIB), (alpha, beta))
    assert settings.libvirt_uri is None


def test_every_key_reaches_the_model(tmp_path: Path) -> None:
    """No key is accepted and then forgotten."""
    text = """
[host]
budget = "8GiB"
reserve = "2GiB"
headroom = "0M"
slider = 80
report_ms = 2000
stop_policy = "deflate"
observe = true
control = "/run/b/c.sock"
control_group = "operators"
state = "/var/b/state"
record = "/var/b/record"
[demand]
model = "hyperv"
[guest."web server"]
qmp = "/a/q"
channel = "/a/c"
minimum = "1G"
startup = "2G"
maximum = "3G"
weight = 1
buffer = 0
overhead = "50M"
shrink_without_deflate_on_oom = true
start_when_it_fits = false
"""
    settings = load(tmp_path, text)
    assert settings.host == HostSettings(
        budget_kib=8 * GIB,
        reserve_kib=2 * GIB,
        headroom_kib=0,
        slider=80,
        report_ms=2000,
        demand_model=DemandModel.HYPERV,
        stop_policy=StopPolicy.DEFLATE,
        observe=True,
        control_path="/run/b/c.sock",
        control_group="operators",
        state_path="/var/b/state",
        record_path="/var/b/record",
    )
    assert settings.guests == (
        GuestSettings(
            name="web server",
            minimum_kib=GIB,
            startup_kib=2 * GIB,
            maximum_kib=3 * GIB,
            weight=1,
            buffer_percent=0,
            overhead_kib=50 * MIB,
            shrink_without_deflate_on_oom=True,
            start_when_it_fits=False,
            qmp_path="/a/q",
            channel_path="/a/c",
        ),
    )


def test_startup_that_nobody_gives_is_the_maximum(tmp_path: Path) -> None:
    """Without a startup size a guest boots with all it may have, as it would without a coordinator."""
    (guest,) = load(tmp_path, ONE_GUEST).guests
    assert guest.startup_kib == guest.maximum_kib


def test_later_drop_in_wins_key_by_key(tmp_path: Path) -> None:
    """Drop-ins apply in the order of their names, and replace single keys, not sections."""
    settings = load(
        tmp_path,
        ONE_GUEST,
        b='[guest.web]\nmaximum = "3G"\n',
        a='[guest.web]\nmaximum = "2G"\nweight = 7\n',
    )
    (guest,) = settings.guests
    assert (guest.minimum_kib, guest.maximum_kib, guest.weight) == (256 * MIB, 3 * GIB, 7)


def test_fault_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    """The file that said the faulty value is the file that is blamed."""
    (fault,) = faults(tmp_path, ONE_GUEST, tuning='[guest.web]\nminimum = "2G"\n')
    assert fault == Fault(
        f"{tmp_path}/coordinator.d/tuning.toml",
        "[guest.web] minimum",
        "2 GiB",
        "allowed is at most the maximum, 1 GiB",
    )


@pytest.mark.parametrize(
    ("line", "key", "value", "allowed"),
    [
        ("minimum = 512", "minimum", "512", "512M"),
        ('minimum = "a lot"', "minimum", '"a lot"', "512M"),
        ('minimum = "0M"', "minimum", '"0M"', "at least 1 KiB"),
        ("weight = 0", "weight", "0", "from 1 to 10000"),
        ("weight = 10001", "weight", "10001", "from 1 to 10000"),
        ("weight = true", "weight", "true", "from 1 to 10000"),
        ('weight = "5"', "weight", '"5"', "from 1 to 10000"),
        ("buffer = -1", "buffer", "-1", "from 0 to 1000"),
        ("buffer = 1001", "buffer", "1001", "from 0 to 1000"),
        ("buffer = 1.5", "buffer", "1.5", "from 0 to 1000"),
        ("start_when_it_fits = 1", "start_when_it_fits", "1", "true or false"),
        ('channel = ""', "channel", '""', "absolute path of a socket"),
        ('channel = "vm.sock"', "channel", '"vm.sock"', "absolute path of a socket"),
        ('channel = "/a\\u0000b"', "channel", r'"/a\x00b"', "absolute path of a socket"),
        (f'channel = "/{"x" * 107}"', "channel", '"/xx', "this has 108"),
        ('startup = "255M"', "startup", "255 MiB", "at least the minimum, 256 MiB"),
        ('startup = "1025M"', "startup", "1025 MiB", "at most the maximum, 1 GiB"),
        ('minimun = "1M"', "minimun", "", "did you mean minimum?"),
        ('colour = "red"', "colour", '"red"', "unknown; keys are qmp, channel, minimum"),
    ],
)
def test_bad_guest_value_is_refused(tmp_path: Path, line: str, key: str, value: str, allowed: str) -> None:
    """A value outside what its key allows is refused with file, key, the value itself and what is allowed."""
    text = "\n".join(old for old in ONE_GUEST.splitlines() if not old.startswith(f"{key} ")) + f"\n{line}\n"
    (fault,) = faults(tmp_path, text)
    assert (fault.file, fault.key) == (f"{tmp_path}/coordinator.toml", f"[guest.web] {key}")
    assert fault.value.startswith(value)
    assert allowed in fault.allowed


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ('[host]\nstop_policy = "explode"\n', "[host] stop_policy", '"leave" or "deflate"'),
        ("[host]\nreport_ms = 249\n", "[host] report_ms", "from 250 to 60000"),
        ("[host]\nslider = -1\n", "[host] slider", "from 0 to 100"),
        ("[host]\nslider = 101\n", "[host] slider", "from 0 to 100"),
        ("[host]\nslider = 25.0\n", "[host] slider", "a whole number"),
        ('[demand]\nmodel = "vmware"\n', "[demand] model", '"ballonet" or "hyperv"'),
        ("[demand]\nmodle = 1\n", "[demand] modle", "did you mean model?"),
        ('[host]\nmodel = "hyperv"\n', "[host] model", "unknown"),
        ('demand = "hyperv"\n', "demand", "must be a section, written [demand]"),
        ('[host]\nbudget = "0G"\n', "[host] budget", "at least 1 KiB"),
        ('[host]\ncontrol_group = ""\n', "[host] control_group", "not empty"),
        ('[host]\nstate = "state.sqlite"\n', "[host] state", "absolute path"),
        ('[hosts]\nbudget = "1G"\n', "hosts", "did you mean host?"),
        ("host = 3\n", "host", "must be a section, written [host]"),
        ("[guest]\nweb = 3\n", "[guest] web", "must be a section, written [guest.NAME]"),
        ('[guest.""]\nqmp = "/a"\n', '[guest.""]', "at least one letter"),
        ('[guest."a\\u0007b"]\nqmp = "/a"\n', r'[guest."a\x07b"]', "no control characters"),
        ('[defaults]\nqmp = "/a"\n', "[defaults] qmp", "unknown"),
        ('[guest.web]\nminimum = "1G"\nmaximum = "1G"\n', "[guest.web] qmp", "is missing"),
        ('[guest.web]\nqmp = "/a"\nminimum = "1G"\n', "[guest.web] or [defaults] maximum", "is missing"),
    ],
)
def test_bad_section_is_refused(tmp_path: Path, text: str, key: str, allowed: str) -> None:
    """What is wrong outside a guest's values, or with a guest as a whole, is refused with its place."""
    (fault,) = faults(tmp_path, text)
    assert fault.key == key
    assert allowed in fault.allowed


def test_syntax_error_names_its_line(tmp_path: Path) -> None:
    """A file that is not TOML is refused with the line at which it stops to be."""
    (fault,) = faults(tmp_path, '[host]\nbudget = \n')
    assert "line 2" in str(fault)


def test_file_that_is_not_text_or_not_there_is_a_fault(tmp_path: Path) -> None:
    """Neither a missing file nor one in another encoding ends in a traceback."""
    path = tmp_path / "latin1.toml"
    path.write_bytes(b'[guest.caf\xe9]\n')
    for file, words in ((path, "not UTF-8"), (tmp_path / "none.toml", "cannot be read: No such file")):
        with pytest.raises(ConfigError, match=words):
            TomlSettings(file).load()


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """An operator mends a file once: faults of every step and every file come together."""
    found = faults(tmp_path, TWO_GUESTS.replace('"1920M"', '"1G"') + 'weight = 0\n', broken="nonsense", more="[x]")
    assert [fault.key for fault in found] == ["", "x", "[guest.beta] weight"]
    assert str(tmp_path / "coordinator.d" / "broken.toml") in str(found[0])


def test_budget_must_hold_what_every_guest_keeps(tmp_path: Path) -> None:
    """A budget below the minimums, the overheads and the headroom is refused; that sum itself is enough."""
    least_kib = 2 * (256 + 96) * MIB + 64 * MIB
    enough = TWO_GUESTS.replace('"1920M"', f'"{least_kib // MIB}M"')
    settings = load(tmp_path, enough)
    assert settings.host.budget_kib == least_budget_kib(settings) == least_kib
    (tmp_path / "b").mkdir()
    (fault,) = faults(tmp_path / "b", TWO_GUESTS.replace('"1920M"', f'"{least_kib // MIB - 1}M"'))
    assert fault.key == "[host] budget"
    assert f"at least {least_kib // MIB} MiB" in fault.allowed


def test_without_a_budget_the_host_decides(tmp_path: Path) -> None:
    """No budget in the settings is no fault: what the host has is not the settings' business."""
    assert load(tmp_path, ONE_GUEST).host.budget_kib is None


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("/run/vm/beta.qmp", "/run/vm/alpha.qmp", "[guest.alpha] qmp"),
        ("/run/vm/beta.agent", "/run/vm/../vm//alpha.agent", "[guest.alpha] channel"),
        ("/run/vm/beta.agent", "/run/vm/beta.qmp", "[guest.beta] qmp"),
        ("/run/vm/beta.agent", "/run/ballonet/control.sock", "[host] control"),
    ],
)
def test_socket_with_two_uses_is_refused(tmp_path: Path, old: str, new: str, first: str) -> None:
    """Two guests, two purposes of a guest, or a guest and the coordinator never share a socket."""
    (fault,) = faults(tmp_path, TWO_GUESTS.replace(old, new))
    assert fault.allowed.startswith(f"is the socket of {first} already")


def test_one_socket_by_two_paths_is_one_socket(tmp_path: Path) -> None:
    """A symbolic link in a path does not hide that two guests have one socket."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = TWO_GUESTS.replace("/run/vm/alpha.qmp", f"{tmp_path}/real/q").replace(
        "/run/vm/beta.qmp", f"{tmp_path}/link/q"
    )
    (fault,) = faults(tmp_path, text)
    assert fault.allowed.startswith("is the socket of [guest.alpha] qmp already")


def test_odd_but_usable_settings_are_warned_about(tmp_path: Path) -> None:
    """No guest at all, and a guest that the budget can never start, load with a warning."""
    path = tmp_path / "coordinator.toml"
    path.write_text("")
    source = TomlSettings(path)
    assert source.load().guests == ()
    assert "no guest" in source.warnings[0]
    path.write_text('[host]\nbudget = "1G"\n' + ONE_GUEST)
    source.load()
    assert "[guest.web] can never start" in source.warnings[0]


def test_the_host_is_the_budget_where_none_is_named(tmp_path: Path) -> None:
    """Minimums that this host cannot hold are refused like those of a budget that is too small; a claim warns."""
    machine = SimulatedHostMemory(4 * GIB, [])
    path = tmp_path / "coordinator.toml"
    path.write_text(ONE_GUEST)
    source = TomlSettings(path, machine)
    source.load()
    assert source.warnings == ()
    path.write_text('[host]\nreserve = "3796M"\n' + ONE_GUEST)
    with pytest.raises(ConfigError, match=r"\[host\] budget = 300 MiB \(not set: this host's memory less"):
        source.load()
    path.write_text('[host]\nreserve = "3000M"\n' + ONE_GUEST)
    source.load()
    assert "[guest.web] can never start" in source.warnings[0]


def test_patterns_speak_of_every_guest_that_they_fit(tmp_path: Path) -> None:
    """A pattern's values are stronger than [defaults] and weaker than the guest's own; a later pattern wins."""
    patterns = '[guest."*"]\nweight = 1\nbuffer = 5\n[guest."al*"]\nweight = 2\n[guest."b?ta"]\nminimum = "64M"\n'
    alpha, beta = load(tmp_path, TWO_GUESTS + patterns).guests
    assert (alpha.weight, alpha.buffer_percent, alpha.minimum_kib) == (2, 5, 256 * MIB)
    assert (beta.weight, beta.buffer_percent, beta.minimum_kib) == (1, 5, 64 * MIB)


def test_a_pattern_names_no_socket(tmp_path: Path) -> None:
    """A socket belongs to one guest: a section for several cannot have one."""
    with pytest.raises(ConfigError, match=r'\[guest."w\*"\] qmp = "/a/q": unknown; keys are minimum'):
        load(tmp_path, '[guest."w*"]\nqmp = "/a/q"\n')


def test_libvirt_section(tmp_path: Path) -> None:
    """With [libvirt] a section without sockets speaks of a domain and needs nothing; its values wait for the domain."""
    settings = load(tmp_path, '[libvirt]\ndomains = ["web*", "db"]\n[guest.db]\nweight = 9000\n')
    assert (settings.libvirt_uri, settings.libvirt_domains) == ("qemu:///system", ("web*", "db"))
    assert settings.guests == ()
    assert settings.rules == GuestRules(sections=(("db", (("weight", 9000),)),))


def test_libvirt_domains_are_a_list(tmp_path: Path) -> None:
    """An empty list would manage nothing and say so nowhere."""
    with pytest.raises(ConfigError, match=r"\[libvirt\] domains = \[\]: allowed is a list of texts"):
        load(tmp_path, "[libvirt]\ndomains = []\n")
