"""What applies to a guest that the settings do not name one by one: from its name, its size and its own metadata.

Strongest first: what was set while the service ran (`ballonet set`), the domain's metadata, its section
`[guest.NAME]`, the sections whose pattern fits (a later one over an earlier one), `[defaults]`, and what follows from
its size. A value that is at odds with the machine does not keep the guest out: it is taken as near as the machine
allows, and the guest's line in `status` says so. Metadata that changes to nonsense changes nothing: a bad file never
takes down what was in force, and neither does a bad element.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from .model import Domain, GuestRules, GuestSettings
from .settings_values import DEFAULT_KEYS, GUEST_KEYS, Wrong, as_toml, exact, from_text

MINIMUM_PART = 4
MINIMUM_LEAST_KIB = 512 * 1024
"""A guest for which nobody gave a minimum keeps a quarter of its memory, at least 512 MiB. Its agent's floor holds
besides."""

NOTES_MOST = 8
"""As many as a line of `status` bears: metadata may have thousands of attributes."""

PATTERN_CHARACTERS = "*?["

Values = Mapping[str, Any]
"""Attribute of GuestSettings -> value."""


def is_pattern(name: str) -> bool:
    """Whether a section's name stands for several guests (fnmatch: `*`, `?`, `[abc]`)."""
    return any(character in name for character in PATTERN_CHARACTERS)


def values_for(rules: GuestRules, name: str) -> dict[str, Any]:
    """What the files say of a guest of this name; the strongest speaks last."""
    values = dict(rules.defaults)
    for pattern, said in rules.sections:
        if is_pattern(pattern) and fnmatchcase(name, pattern):
            values.update(said)
    for section, said in rules.sections:
        if section == name:
            values.update(said)
    return values


def settings_for(
    rules: GuestRules, domain: Domain, changed: Values | None = None, before: Mapping[str, str] | None = None
) -> tuple[GuestSettings, list[str]]:
    """The guest's settings, and one sentence for each value that could not be taken as it was given. `before` is what
    its metadata said last that could be taken.

    Of a domain that cannot be read nothing is known: it is booked with what it is seen to hold, and left alone.
    """
    if domain.fault or domain.ram_kib <= 0:
        return GuestSettings(domain.name, 0, 0, 0), [domain.fault or "its size is not known"]
    values = values_for(rules, domain.name)
    notes = list(domain.notes)
    for key, untrusted_text in domain.policy:
        try:
            values[DEFAULT_KEYS[key][0] if key in DEFAULT_KEYS else key] = from_text(DEFAULT_KEYS, key, untrusted_text)
        except Wrong as wrong:
            note = f"metadata {key}={as_toml(untrusted_text)}: {wrong}"
            if before and key in before:
                values[DEFAULT_KEYS[key][0]] = from_text(DEFAULT_KEYS, key, before[key])
                note = f"{note}; {as_toml(before[key])} is in force as before"
            notes.append(note)
    values.update(changed or {})
    usual_kib = max(MINIMUM_LEAST_KIB, (domain.ram_kib - domain.hotplug_kib) // MINIMUM_PART)
    usual = {"minimum_kib": usual_kib, "startup_kib": domain.startup_kib, "maximum_kib": domain.ram_kib}
    settings = _bounded(domain.name, usual, values, domain.ram_kib, notes)
    if len(notes) > NOTES_MOST:
        notes = [*notes[:NOTES_MOST], f"and {len(notes) - NOTES_MOST} more"]
    return settings, notes


def sane_policy(domain: Domain, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """What of its metadata can be taken, key -> text; for a key whose text cannot, the text `before`."""
    sane = {}
    for key, untrusted_text in domain.policy:
        try:
            from_text(DEFAULT_KEYS, key, untrusted_text)
            sane[key] = untrusted_text
        except Wrong:
            if before and key in before:
                sane[key] = before[key]
    return sane


def amended(settings: GuestSettings, changed: Values) -> tuple[GuestSettings, list[str]]:
    """A guest that the files name, with what was set at run time; its machine's size is not known here."""
    notes: list[str] = []
    values = {**{name: getattr(settings, name) for name in _ATTRIBUTES}, **changed}
    return _bounded(settings.name, {}, values, max(settings.maximum_kib, values["maximum_kib"]), notes), notes


_ATTRIBUTES = tuple(attribute for attribute, _ in GUEST_KEYS.values())
_BOUNDS = ("minimum_kib", "startup_kib", "maximum_kib")


def _bounded(name: str, usual: Values, given: Values, ram_kib: int, notes: list[str]) -> GuestSettings:
    """Settings whose bounds are in order. What is only usual, and the startup size, bow to the others in silence."""
    maximum_kib = _within("maximum", given.get("maximum_kib", usual.get("maximum_kib")), 1, ram_kib, notes)
    if "minimum_kib" in given:
        minimum_kib = _within("minimum", given["minimum_kib"], 1, maximum_kib, notes)
    else:
        minimum_kib = min(usual["minimum_kib"], maximum_kib)
    startup_kib = min(max(given.get("startup_kib", usual.get("startup_kib")), minimum_kib), maximum_kib)
    rest = {key: value for key, value in given.items() if key in _ATTRIBUTES and key not in _BOUNDS}
    return GuestSettings(name, minimum_kib, startup_kib, maximum_kib, **rest)


def _within(what: str, kib: int, least_kib: int, most_kib: int, notes: list[str]) -> int:
    if least_kib <= kib <= most_kib:
        return kib
    taken_kib = most_kib if kib > most_kib else least_kib
    notes.append(f"{what} {exact(kib)} does not fit this machine; {exact(taken_kib)} is in force")
    return taken_kib
