"""Our Debian packages for a guest's mirror: those of this tree, and the same with a higher version."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .plain_image import index, run, write_disk

TREE = Path(__file__).resolve().parents[2]
IN_A_GUEST = ("python3-ballonet-protocol", "ballonet-guest-agent", "ballonet-host-coord")
MODULE = "usr/lib/python3/dist-packages/ballonet_guest_agent/__init__.py"
NEWER = "99.0"
MIRROR_SIZE = "64M"


def build_mirror(disk: Path, debian: Path, work: Path) -> str:
    """Write the mirror's disk: debian/, ballonet/ and newer/, each a repository. Returns our version.

    CalledProcessError where the packages cannot be built, with the reason as a note.
    """
    run([str(TREE / "packaging" / "build-deb")], cwd=TREE)
    content = work / "mirror"
    shutil.copytree(debian, content / "debian")
    version = ""
    for name in ("ballonet", "newer"):
        (content / name).mkdir()
    for package in IN_A_GUEST:
        [deb] = (TREE / "dist" / "deb").glob(f"{package}_*.deb")
        shutil.copy(deb, content / "ballonet")
        version = run(["dpkg-deb", "--field", str(deb), "Version"]).strip()
        make_newer(deb, content / "newer", version, work / f"unpacked-{package}")
    for name in ("debian", "ballonet", "newer"):
        index(content / name)
    write_disk(disk, content, MIRROR_SIZE)
    return version


def make_newer(deb: Path, folder: Path, version: str, unpacked: Path) -> None:
    """The same package as `NEWER`, its pins to its siblings too; the agent says so when it is asked for its version."""
    run(["dpkg-deb", "--raw-extract", str(deb), str(unpacked)])
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text(encoding="utf-8").replace(version, NEWER), encoding="utf-8")
    module = unpacked / MODULE
    if module.exists():
        source = module.read_text(encoding="utf-8")
        module.write_text(re.sub(r'(__version__ = )".*"', rf'\1"{NEWER}"', source), encoding="utf-8")
    run(["dpkg-deb", "--root-owner-group", "--build", str(unpacked), str(folder)])
