"""Debian packages that real guests need: which are missing, and how to get them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable

# apt package -> a program that it brings.
TO_RUN = {"qemu-system-x86": "qemu-system-x86_64"}
TO_BUILD = {"mmdebstrap": "mmdebstrap", "e2fsprogs": "mke2fs", "tar": "tar", "util-linux": "mkswap"}

# mke2fs and mkswap are in sbin, which is not on every user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class RequirementsError(Exception):
    """Something that real guests need is not there and could not be installed. The text says what to do."""


def program(name: str) -> str | None:
    """The full path of a program, sbin included; None where it is not installed."""
    return shutil.which(name, path=SEARCH_PATH)


def missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` (keys of the tables above) whose program is not there."""
    programs = TO_RUN | TO_BUILD
    return [package for package in packages if program(programs[package]) is None]


def apt_line(packages: Iterable[str]) -> str:
    """The one command that installs `packages` on Debian, for a person to paste."""
    return f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"


def ensure(packages: Iterable[str], say: Callable[[str], None]) -> None:
    """Install what is missing when we are root. Raises RequirementsError with the apt line otherwise."""
    lacking = missing(packages)
    if not lacking:
        return
    apt = program("apt-get")
    if os.geteuid() != 0 or apt is None:
        raise RequirementsError(f"real guests need {', '.join(lacking)}; as root: {apt_line(lacking)}")
    say(f"installing {', '.join(lacking)} with apt-get")
    install = [apt, "install", "--yes", "--no-install-recommends", *lacking]
    # Package lists may be absent (a fresh container) or too old for the mirror: fetch them only then.
    if _apt(install):
        say("fetching package lists")
        if why := _apt([apt, "update"]) or _apt(install):
            raise RequirementsError(f"could not install {', '.join(lacking)}: {why}; as root: {apt_line(lacking)}")
    if still := missing(lacking):
        raise RequirementsError(f"installed, yet not found on the PATH: {', '.join(still)}")


def _apt(command: list[str]) -> str:
    """Run apt-get; what went wrong in one line, empty where nothing did. Its own lines are not shown."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [command[0], "--quiet=2", *command[1:]],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    said = [line for line in (done.stdout or "").splitlines() if line.strip()]
    return said[-1].strip() if said else f"exit code {done.returncode}"
