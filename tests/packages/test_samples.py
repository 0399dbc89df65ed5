"""The sample settings that the packages install: each names every key of the code, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib

from ballonet_guest_agent import config as agent
from ballonet_host_coord import config as host
from ballonet_host_coord.model import GuestSettings, HostSettings

from .conftest import ROOT

AGENT = (ROOT / "guest_agent/src/ballonet_guest_agent/share/agent.conf").read_text()
COORDINATOR = (ROOT / "host_coord/src/ballonet_host_coord/share/coordinator.toml").read_text()
SETTING = re.compile(r"^#(?=\w+ = )", re.MULTILINE)
# Keys without a default in the code: the sample says so, and shows an example.
AGENT_EXAMPLES = {"floor"}
HOST_EXAMPLES = {
    "budget", "headroom", "control_group", "record", "minimum", "startup", "maximum", "qmp", "channel",
}  # fmt: skip


def remarks(sample: str, key: str) -> str:
    """The lines of explanation above a key's line."""
    found = re.search(rf"((?:^#[^\n]*\n)+)#{key} = ", sample, re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_agents_sample_has_every_key_once() -> None:
    """agent.conf names every key that the agent takes, in the code's order, and no other."""
    assert re.findall(r"^#(\w+) = ", AGENT, re.MULTILINE) == list(agent._KEYS)


def test_the_agents_sample_changes_nothing() -> None:
    """As it is installed every line is a comment, and the defaults are in force."""
    assert agent.parse_config(AGENT, "agent.conf") == (agent.AgentSettings(), [])


def test_the_agents_sample_shows_the_defaults() -> None:
    """With the `#` taken away from every setting it parses without a word, and is still the defaults."""
    settings, problems = agent.parse_config(SETTING.sub("", AGENT), "agent.conf")
    assert problems == []
    for key, (_, _, attribute) in agent._KEYS.items():
        default = getattr(agent.AgentSettings(), attribute)
        assert (default is None) == (key in AGENT_EXAMPLES)
        if key in AGENT_EXAMPLES:
            assert getattr(settings, attribute) is not None
            assert "# default: " in remarks(AGENT, key)
        else:
            assert getattr(settings, attribute) == default, key


@pytest.mark.parametrize("key", ["report_ms", "settling_s"])
def test_the_agents_sample_says_what_is_allowed(key: str) -> None:
    """The bounds of a number are in the sample as they are in the code."""
    low, high = re.findall(r"from (\d+) to (\d+)", str(agent._KEYS[key][1]))[0]
    assert re.search(rf"\b{low} to {high}\b", remarks(AGENT, key))


def test_the_coordinators_sample_has_every_key_once() -> None:
    """coordinator.toml names every key of every section, in the code's order, and no other."""
    keys = re.findall(r"^#(\w+) = ", COORDINATOR, re.MULTILINE)
    assert keys == [*host.HOST_KEYS, *host.DEMAND_KEYS, *host.LIBVIRT_KEYS, *host.DEFAULT_KEYS, "qmp", "channel"]
    assert set(host.GUEST_KEYS) == {*host.DEFAULT_KEYS, "qmp", "channel"}


def test_the_coordinators_sample_names_no_guest(tmp_path: Path) -> None:
    """As it is installed it is valid, and has every default."""
    file = tmp_path / "coordinator.toml"
    file.write_text(COORDINATOR)
    settings = host.TomlSettings(file).load()
    assert settings.host == HostSettings()
    assert settings.guests == ()


def test_the_coordinators_sample_shows_the_defaults(tmp_path: Path) -> None:
    """With the `#` taken away from sections and settings it is accepted, and still the defaults, examples apart."""
    file = tmp_path / "coordinator.toml"
    text = re.sub(r"^#\[", "[", SETTING.sub("", COORDINATOR), flags=re.MULTILINE)
    tomllib.loads(text)
    file.write_text(text)
    settings = host.TomlSettings(file).load()
    (guest,) = settings.guests
    assert (settings.libvirt_uri, settings.libvirt_domains) == ("qemu:///system", ("*",))
    for key, (attribute, _) in {**host.HOST_KEYS, **host.DEMAND_KEYS, **host.GUEST_KEYS}.items():
        of_host = key in host.HOST_KEYS or key in host.DEMAND_KEYS
        if key in HOST_EXAMPLES:
            assert "# default: " in remarks(COORDINATOR, key)
        else:
            model, value = (HostSettings, settings.host) if of_host else (GuestSettings, guest)
            assert getattr(value, attribute) == model.__dataclass_fields__[attribute].default, key
