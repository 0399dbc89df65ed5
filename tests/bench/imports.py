"""What importing the protocol's library costs a process that has the interpreter and msgpack already."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import msgpack
from figures import Findings

import ballonet_protocol

NAME = "imports"
STARTS = 11
CODE = """
import sys
sys.path[:] = {path!r}
import {name}
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("Private_Dirty"):
        print(line.split()[1])
"""


def measure(findings: Findings, quick: bool) -> None:
    """Private dirty memory after `import msgpack` and after `import ballonet_protocol`, each in new processes.

    Both packages are copied into a folder of their own: the interpreter remembers a listing of each folder that it
    searches, and a development environment's would be most of what is measured.
    """
    starts = 3 if quick else STARTS
    with tempfile.TemporaryDirectory(prefix="ballonet-") as folder:
        for package in (msgpack, ballonet_protocol):
            assert package.__file__ is not None
            source = Path(package.__file__).parent
            shutil.copytree(source, Path(folder) / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        path = [*_standard_library(), folder]
        _private_dirty_kib(path, "ballonet_protocol")  # compiled once, as a package manager does
        bare = [_private_dirty_kib(path, "msgpack") for _ in range(starts)]
        ours = [_private_dirty_kib(path, "ballonet_protocol") for _ in range(starts)]
    base = findings.add(NAME, "interpreter and msgpack: private dirty", "KiB", bare)
    assert base.median is not None
    findings.add(NAME, "ballonet_protocol over that", "KiB", [kib - base.median for kib in ours])


def _standard_library() -> list[str]:
    return [sysconfig.get_path("stdlib"), sysconfig.get_path("stdlib") + "/lib-dynload"]


def _private_dirty_kib(path: list[str], name: str) -> float:
    command = [sys.executable, "-S", "-c", CODE.format(path=path, name=name)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
