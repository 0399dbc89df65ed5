"""Text of agent.conf -> settings. Plain `key = value` lines: a TOML parser costs 1.4 MB in every guest.

A value that is not allowed is reported with its file, line, key, value and what is allowed; the default stays in force,
because an agent that does not start helps nobody.
"""

from __future__ import annotations

from ballonet_guest_agent.values import Value, parse_count
from ballonet_protocol.limits import REPORT_LEAST_MS, REPORT_MOST_MS, REPORT_MS, SETTLING_S
from ballonet_protocol.units import parse_size

DEFAULT_PORT = "org.ballonet.agent.0"
DEFAULT_PATH = "/etc/ballonet/agent.conf"
#: So many wrong lines are named; a sentence for each line of a file that is no text would take megabytes.
PROBLEMS_MOST = 100


class AgentSettings(Value):
    """Everything an operator may set. `floor_kib` None: computed from the guest's size (balloon_floor.py)."""

    port: str = DEFAULT_PORT
    floor_kib: int | None = None
    report_ms: int = REPORT_MS
    settling_s: int = int(SETTLING_S)
    lock_memory: bool = True
    proc_root: str = "/proc"
    sys_root: str = "/sys"
    dev_root: str = "/dev"


def _integer(low: int, high: int, unit: str) -> tuple[object, str]:
    def read(text: str) -> int:
        number = parse_count(text)
        if number is None or not low <= number <= high:
            raise ValueError
        return number

    return read, f"a whole number from {low} to {high} ({unit})"


def _yes_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


def _directory(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError
    return text.rstrip("/") or "/"


def check_port(text: str) -> str:
    """A port as the agent takes it. Raises ValueError for one that it does not."""
    kind, colon, path = text.partition(":")
    if colon and (kind not in ("unix", "uart") or not path.startswith("/")):
        raise ValueError
    if not colon and (not text or "/" in text or not text.isascii() or not text.isprintable()):
        raise ValueError
    return text


PORTS_ALLOWED = "a virtio port's name, unix:/PATH or uart:/PATH"

#: key -> (reader, what is allowed, attribute)
_KEYS = {
    "port": (check_port, PORTS_ALLOWED, "port"),
    "floor": (parse_size, 'a size such as "512M" or "1.5G"', "floor_kib"),
    "report_ms": (*_integer(REPORT_LEAST_MS, REPORT_MOST_MS, "milliseconds"), "report_ms"),
    "settling_s": (*_integer(0, 3600, "seconds"), "settling_s"),
    "lock_memory": (_yes_no, '"yes" or "no"', "lock_memory"),
    "proc_root": (_directory, "an absolute path", "proc_root"),
    "sys_root": (_directory, "an absolute path", "sys_root"),
    "dev_root": (_directory, "an absolute path", "dev_root"),
}


def parse_config(text: str, name: str) -> tuple[AgentSettings, list[str]]:
    """Settings, and one sentence per line that could not be taken. `name` is the file's, for those sentences.

    "#" begins a comment at the start of a line; the last of a repeated key is refused, the first holds. A byte
    order mark and carriage returns are no part of a line.
    """
    values: dict[str, object] = {}
    problems: list[str] = []
    unnamed = 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if len(problems) == PROBLEMS_MOST:
            unnamed += 1  # this is no file of settings; a right line behind a hundred wrong ones is chance
            continue
        where = f"{name} line {number}"
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            problems.append(f"{where}: {line[:60]!r} is not a setting; allowed is key = value")
        elif key not in _KEYS:
            problems.append(f"{where}: unknown key {key[:60]!r} (value {value[:60]!r}); allowed are {', '.join(_KEYS)}")
        elif _KEYS[key][2] in values:
            problems.append(f"{where}: {key} = {value[:60]!r} repeats a key; allowed is one line for each")
        else:
            read, allowed, attribute = _KEYS[key]
            try:
                values[attribute] = read(value)  # type: ignore[operator]
            except ValueError:
                problems.append(f"{where}: {key} = {value[:60]!r} is not allowed; allowed is {allowed}")
    if unnamed:
        problems.append(f"{name}: {unnamed} more lines after {PROBLEMS_MOST} wrong ones are not looked at")
    return AgentSettings(**values), problems
