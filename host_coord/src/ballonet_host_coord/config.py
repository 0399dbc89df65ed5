"""The operator's settings: TOML and its drop-ins in, checked `model.Settings` out, or every fault at once.

Three steps, each complete before the next: *load* reads the files and merges them (a drop-in's key replaces the
same key of an earlier file, and each key remembers its file), *normalize* turns texts into values by the tables of
settings_values.py, *validate* checks values against each other. A fault never stops the search for further ones, and
nothing is touched before all three have passed.

    [host]        budget reserve headroom slider report_ms stop_policy observe control control_group state record
    [demand]      model
    [defaults]    what every guest has that does not say otherwise: any guest key but qmp and channel
    [libvirt]     uri domains
    [guest.NAME]  qmp channel minimum startup maximum weight buffer overhead
                  shrink_without_deflate_on_oom start_when_it_fits enforce

A guest with a `qmp` socket is reached there. With a [libvirt] section every domain of that libvirtd whose name fits
`domains` is a guest, too, named or not; a section without `qmp` speaks of such domains. A NAME with `*`, `?` or `[...]`
speaks of all guests that it fits. `startup` that nobody gives is the maximum: a guest then boots as it would without
ballonet. A guest without `channel` is judged by its balloon's statistics alone.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from .booking import headroom_kib
from .budget import budget_parts
from .guest_rules import is_pattern, values_for
from .model import GuestRules, GuestSettings, HostSettings, Settings
from .ports import HostMemory
from .settings_values import (
    DEFAULT_KEYS,
    DEMAND_KEYS,
    GUEST_KEYS,
    HOST_KEYS,
    LIBVIRT_KEYS,
    SIZE,
    SOCKET,
    Table,
    Wrong,
    as_toml,
    as_toml_key,
    at_most,
    did_you_mean,
    exact,
)

DEFAULT_PATH = "/etc/ballonet/coordinator.toml"
DEFAULT_URI = "qemu:///system"
MOST_BYTES = 4 << 20
"""A thousand guests with every key are half a MiB."""
NEEDED_GUEST_KEYS = ("qmp", "minimum", "maximum")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what stands there, what may."""

    file: str
    key: str
    value: str
    allowed: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        stands = f" = {self.value}" if self.value else ""
        return f"{place}{stands}: {self.allowed}"


class ConfigError(Exception):
    """The settings cannot be used. `faults` holds everything that is wrong with them, `control_path` what they say of
    the control socket all the same: whoever asks a running coordinator finds it there."""

    def __init__(self, faults: Iterable[Fault], control_path: str = "") -> None:
        self.faults = tuple(faults)
        self.control_path = control_path or HostSettings().control_path
        super().__init__("\n".join(str(fault) for fault in self.faults))


class TomlSettings:
    """The settings port over `path` and, beside it, `NAME.d/*.toml` in alphabetic order."""

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_PATH, host: HostMemory | None = None) -> None:
        """With a `host`, a budget that the settings leave to it is checked like one that they name."""
        self.path = Path(path)
        self._host = host
        self.warnings: tuple[str, ...] = ()
        """What the last `load` found odd but usable."""

    def load(self) -> Settings:
        """Read everything anew. Raises ConfigError with all faults; then `warnings` is as it was. PortError where the
        host does not tell its memory."""
        checker = _Checker()
        tree = _Tree(checker)
        for file in [self.path, *_drop_ins(self.path.with_suffix(".d"), checker)]:
            tree.merge(file)
        settings = _normalize(tree, checker)
        total_kib = settings.host.budget_kib
        if total_kib is None and self._host is not None:
            total_kib = budget_parts(settings.host, self._host.facts()).budget_kib
        _validate(settings, total_kib, tree, checker)
        if checker.faults:
            raise ConfigError(checker.faults, settings.host.control_path)
        self.warnings = tuple(_odd(settings, total_kib))
        return settings


@dataclass(slots=True)
class _Checker:
    faults: list[Fault] = field(default_factory=list)

    def fault(self, file: str, key: str, value: str, allowed: str) -> None:
        self.faults.append(Fault(file, key, value, allowed))


# --- load -----------------------------------------------------------------------------------------------


def _drop_ins(folder: Path, checker: _Checker) -> list[Path]:
    """The folder's files in alphabetic order; none where there is no folder. An editor's hidden ones are not meant."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        checker.fault(str(folder), "", "", "is a file; drop-ins are files in a folder of this name")
        return []
    except OSError as error:
        checker.fault(str(folder), "", "", f"cannot be read: {error.strerror}")
        return []
    return [folder / name for name in sorted(names) if name.endswith(".toml") and not name.startswith(".")]


def _read(path: Path) -> bytes:
    """The file whole. Raises OSError, also for what is no file: reading from a pipe would wait for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES} bytes")
    return content


class _Section(NamedTuple):
    kind: str
    guest: str = ""

    def __str__(self) -> str:
        return f"[{self.kind}.{as_toml_key(self.guest)}]" if self.guest else f"[{self.kind}]"


HOST, DEMAND, LIBVIRT, DEFAULTS = (_Section(kind) for kind in ("host", "demand", "libvirt", "defaults"))
SECTIONS = ("host", "demand", "libvirt", "defaults", "guest")


@dataclass(slots=True)
class _Tree:
    """All files as one: section -> key -> value, and the file that said it last."""

    checker: _Checker
    sections: dict[_Section, dict[str, Any]] = field(default_factory=lambda: {HOST: {}, DEMAND: {}, DEFAULTS: {}})
    said_by: dict[tuple[_Section, str], str] = field(default_factory=dict)
    first_file: str = ""

    def merge(self, path: Path) -> None:
        file = str(path)
        self.first_file = self.first_file or file
        try:
            document = tomllib.loads(_read(path).decode())
        except OSError as error:
            self.checker.fault(file, "", "", f"cannot be read: {error.strerror}")
            return
        except UnicodeDecodeError as error:
            self.checker.fault(file, "", "", f"is not UTF-8 text (byte {error.start}); TOML must be")
            return
        except RecursionError:
            self.checker.fault(file, "", "", "is not read: it nests too deep")
            return
        except ValueError as error:  # TOMLDecodeError, and what Python says of a number with thousands of digits
            self.checker.fault(file, "", "", f"is not TOML: {error}")
            return
        for name, content in document.items():
            if name not in SECTIONS:
                hint = did_you_mean(name, SECTIONS)
                allowed = f"unknown{hint}; sections are [host], [demand], [libvirt], [defaults], [guest.NAME]"
                self.checker.fault(file, as_toml_key(name), "", allowed)
            elif not isinstance(content, dict):
                self.checker.fault(file, name, as_toml(content), f"must be a section, written [{name}]")
            elif name != "guest":
                self._section(file, _Section(name), content)
            else:
                for guest, keys in content.items():
                    self._guest(file, guest, keys)

    def _guest(self, file: str, guest: str, keys: object) -> None:
        section = _Section("guest", guest)
        if not isinstance(keys, dict):
            allowed = "must be a section, written [guest.NAME]"
            self.checker.fault(file, f"[guest] {as_toml_key(guest)}", as_toml(keys), allowed)
        elif not guest.strip() or not guest.isprintable():
            allowed = "a name has at least one letter and no control characters"
            self.checker.fault(file, f"[guest.{as_toml_key(guest)}]", "", allowed)
        else:
            self._section(file, section, keys)

    def _section(self, file: str, section: _Section, keys: Mapping[str, Any]) -> None:
        self.sections.setdefault(section, {}).update(keys)
        for key in keys:
            self.said_by[section, key] = file

    def file_of(self, section: _Section, key: str) -> str:
        """The file that said it, or the first file for what nobody said."""
        return self.said_by.get((section, key)) or next(
            (file for (name, _), file in self.said_by.items() if name == section), self.first_file
        )


# --- normalize ------------------------------------------------------------------------------------------


def _values(tree: _Tree, section: _Section, table: Table, checker: _Checker) -> dict[str, Any]:
    """The section's keys as attributes of the model. What is at fault is left out."""
    values: dict[str, Any] = {}
    for key, raw in tree.sections[section].items():
        if key not in table:
            hint = did_you_mean(key, table)
            allowed = f"unknown{hint}; keys are {', '.join(table)}"
            checker.fault(tree.file_of(section, key), f"{section} {as_toml_key(key)}", as_toml(raw), allowed)
            continue
        attribute, read = table[key]
        try:
            values[attribute] = read(raw)
        except Wrong as error:
            checker.fault(tree.file_of(section, key), f"{section} {key}", as_toml(raw), str(error))
    return values


def _normalize(tree: _Tree, checker: _Checker) -> Settings:
    """Settings of everything that could be read; a guest that lacks something needed is left out."""
    host = replace(
        HostSettings(),
        **_values(tree, HOST, HOST_KEYS, checker),
        **_values(tree, DEMAND, DEMAND_KEYS, checker),
    )
    rules = _rules(tree, checker)
    with_libvirt = LIBVIRT in tree.sections
    guests = []
    for section in tree.sections:
        if section.kind != "guest" or is_pattern(section.guest):
            continue
        if with_libvirt and not {"qmp", "channel"} & set(tree.sections[section]):
            continue
        values = values_for(rules, section.guest)
        for key in NEEDED_GUEST_KEYS:
            if not _is_given(tree, section, key):
                where = f"{section} or [defaults]" if key in DEFAULT_KEYS else section
                allowed = f"is missing; allowed is {SIZE if key in DEFAULT_KEYS else SOCKET}"
                checker.fault(tree.file_of(section, key), f"{where} {key}", "", allowed)
        if all(GUEST_KEYS[key][0] in values for key in NEEDED_GUEST_KEYS):
            values.setdefault("startup_kib", values["maximum_kib"])
            guests.append(GuestSettings(name=section.guest, **values))
    if not with_libvirt:
        return Settings(host, tuple(guests), rules=rules)
    libvirt = {"libvirt_uri": DEFAULT_URI, **_values(tree, LIBVIRT, LIBVIRT_KEYS, checker)}
    return Settings(host, tuple(guests), rules=rules, **libvirt)


def _rules(tree: _Tree, checker: _Checker) -> GuestRules:
    defaults = _values(tree, DEFAULTS, DEFAULT_KEYS, checker)
    sections = []
    for section in tree.sections:
        if section.kind == "guest":
            table = DEFAULT_KEYS if is_pattern(section.guest) else GUEST_KEYS
            sections.append((section.guest, tuple(_values(tree, section, table, checker).items())))
    return GuestRules(tuple(defaults.items()), tuple(sections))


def _is_given(tree: _Tree, section: _Section, key: str) -> bool:
    """Whether anything that applies to this guest names the key, rightly or wrongly."""
    return any(
        key in keys
        for said, keys in tree.sections.items()
        if said in (section, DEFAULTS)
        or (said.kind == "guest" and is_pattern(said.guest) and fnmatchcase(section.guest, said.guest))
    )


# --- validate -------------------------------------------------------------------------------------------


def _validate(settings: Settings, total_kib: int | None, tree: _Tree, checker: _Checker) -> None:
    for guest in settings.guests:
        section = _Section("guest", guest.name)

        def said(key: str, section: _Section = section) -> tuple[str, str]:
            by = section if (section, key) in tree.said_by else DEFAULTS
            return tree.file_of(by, key), f"{section} {key}"

        if guest.minimum_kib > guest.maximum_kib:
            checker.fault(*said("minimum"), exact(guest.minimum_kib), at_most("maximum", guest.maximum_kib))
        elif guest.startup_kib < guest.minimum_kib:
            allowed = f"allowed is at least the minimum, {exact(guest.minimum_kib)}"
            checker.fault(*said("startup"), exact(guest.startup_kib), allowed)
        elif guest.startup_kib > guest.maximum_kib:
            checker.fault(*said("startup"), exact(guest.startup_kib), at_most("maximum", guest.maximum_kib))
    least_kib = least_budget_kib(settings)
    if total_kib is not None and total_kib < least_kib:
        allowed = (
            f"allowed is at least {exact(least_kib)}: the headroom, and of each guest the minimum and the overhead"
        )
        stands = exact(total_kib)
        if settings.host.budget_kib is None:
            reserve = exact(settings.host.reserve_kib)
            stands += f" (not set: this host's memory less huge pages and the reserve of {reserve})"
        checker.fault(tree.file_of(HOST, "budget"), "[host] budget", stands, allowed)
    _validate_sockets(settings, tree, checker)


def _validate_sockets(settings: Settings, tree: _Tree, checker: _Checker) -> None:
    """No socket has two uses: a monitor and a channel each serve one client, and the second hears nothing."""
    used: dict[str, str] = {os.path.realpath(settings.host.control_path): "[host] control"}
    for guest in settings.guests:
        section = _Section("guest", guest.name)
        for key, path in (("qmp", guest.qmp_path), ("channel", guest.channel_path)):
            if not path:
                continue
            first = used.setdefault(os.path.realpath(path), f"{section} {key}")
            if first != f"{section} {key}":
                allowed = f"is the socket of {first} already; each needs its own"
                checker.fault(tree.file_of(section, key), f"{section} {key}", as_toml(path), allowed)


def least_budget_kib(settings: Settings) -> int:
    """What the budget must hold at least: the headroom, and every guest's minimum and overhead."""
    guests_kib = sum(guest.minimum_kib + guest.overhead_kib for guest in settings.guests)
    return guests_kib + headroom_kib(settings.host, guests_kib)


def _odd(settings: Settings, total_kib: int | None) -> Iterable[str]:
    if not settings.guests and settings.libvirt_uri is None:
        yield "no guest is named: there is nothing to do; add [guest.NAME] sections, or [libvirt] for libvirt's domains"
    if total_kib is None:
        return
    for guest in settings.guests:
        needs_kib = guest.maximum_kib + guest.overhead_kib + headroom_kib(settings.host, total_kib)
        if needs_kib > total_kib:
            yield (
                f"{_Section('guest', guest.name)} can never start where its RAM is its maximum: that, overhead and "
                f"headroom are {exact(needs_kib)}, the budget is {exact(total_kib)}"
            )
