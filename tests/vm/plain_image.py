"""Builds a Debian 12 guest as an operator has it: nothing of ours in it, and a mirror of Debian on a disk.

The demo's guest has the agent copied into place; this one gets it from apt. It knows a repository at /mnt/mirror, which
is the second disk, and answers on the demo's port with a root shell (plain_guest.py). Both are the image's own and no
part of our packages.

    plain-base-HASH/     base.tar, debian/*.deb: what mmdebstrap makes; needs root and the network, a minute or two
    plain-HASH/          disk.ext4, kernel, initrd: the base, the shell, and settings; seconds
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.image import MASKED, SUITE, Image, Say

# Python is there as on most guests: apt can bring it too, and takes 60 s more under emulation (2026-11-24).
PACKAGES = ("systemd", "systemd-sysv", "udev", "dbus", "python3", "linux-image-cloud-amd64")
FROM_THE_MIRROR = ("python3-msgpack", "python3-click", "python3-psutil", "python3-trio")
"""What apt takes from Debian when it installs our packages, with what these depend on."""
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
DISK_SIZE = "1200M"
MIRROR_AT = "/mnt/mirror"
IN_GUEST = Path(__file__).parent / "in_guest"
SHELL = {
    "usr/lib/ballonet-test/shell.sh": "shell.sh",
    "etc/systemd/system/ballonet-test-shell.service": "ballonet-test-shell.service",
    "etc/udev/rules.d/60-ballonet-test-shell.rules": "60-ballonet-test-shell.rules",
}
FILES = {
    "etc/fstab": f"/dev/vda / ext4 rw,noatime 0 1\n/dev/vdb {MIRROR_AT} ext4 ro 0 0\n",
    "etc/hostname": "plain\n",
    "etc/apt/sources.list": "".join(
        f"deb [trusted=yes] file:{MIRROR_AT}/{name} ./\n" for name in ("debian", "ballonet")
    ),
    "etc/systemd/journald.conf.d/plain.conf": (
        "[Journal]\nStorage=volatile\nForwardToConsole=yes\nMaxLevelConsole=warning\n"
    ),
} | {target: (IN_GUEST / name).read_text(encoding="utf-8") for target, name in SHELL.items()}
# Packages make their users with this; it must do at a boot what it does on any machine.
STARTED = ("systemd-sysusers.service",)


@dataclass(frozen=True, slots=True)
class PlainImage:
    """The guest's disk, to be copied by who writes to it, and Debian's packages for its mirror."""

    image: Image
    debian: Path


def build_plain_image(cache: Path, say: Say) -> PlainImage:
    """From the cache or built. OSError, CalledProcessError and RequirementsError say why that could not be done."""
    base = cache / f"plain-base-{_hash(*_base_command(Path('folder')))}"
    settings = [f"{name}:{text}" for name, text in sorted(FILES.items())]
    folder = cache / f"plain-{_hash(base.name, DISK_SIZE, *settings, *_masked())}"
    if not folder.is_dir():
        if os.geteuid() != 0:
            raise PermissionError(f"building {folder} needs root (files of many owners)")
        requirements.ensure(requirements.TO_BUILD, say)
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "plain-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _build(folder, base, say)
    return PlainImage(
        Image(folder / "disk.ext4", folder / "no-swap", folder / "vmlinuz", folder / "initrd.img"), base / "debian"
    )


def write_disk(disk: Path, content: Path, size: str) -> None:
    """An ext4 disk with what is in `content`."""
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(content), str(disk), size])


def index(folder: Path) -> None:
    """Make apt find the .debs of a folder."""
    packages = run(["dpkg-scanpackages", "--multiversion", "."], cwd=folder)
    (folder / "Packages").write_text(packages, encoding="utf-8")


def run(command: list[str], cwd: Path | None = None) -> str:
    """A program's output. CalledProcessError where it fails, with what it said as a note."""
    program = requirements.program(command[0])
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    environment = os.environ | {"PATH": requirements.SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note(done.stderr[-2000:])
        raise
    return done.stdout


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _masked() -> list[str]:
    return [unit for unit in MASKED if unit not in STARTED]


def _base_command(folder: Path) -> list[str]:
    archives = '"$1"/var/cache/apt/archives'
    download = "APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --yes --download-only"
    return [
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        f"--customize-hook=rm -f {archives}/*.deb",
        f"--customize-hook={download} {' '.join(FROM_THE_MIRROR)}",
        f"--customize-hook=cp {archives}/*.deb {folder}/debian/",
        # What is installed later comes with its manual.
        '--customize-hook=rm "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap',
        SUITE, f"{folder}/base.tar",
    ]  # fmt: skip


def _build(folder: Path, base: Path, say: Say) -> None:
    for old in folder.parent.glob("plain-unfinished-*"):
        shutil.rmtree(old)
    if not base.is_dir():
        say("building a plain Debian guest with mmdebstrap (once; a minute or two)")
        unfinished = folder.parent / f"plain-unfinished-{os.getpid()}"
        (unfinished / "debian").mkdir(parents=True)
        run(_base_command(unfinished))
        unfinished.rename(base)
    if not folder.is_dir():
        say("putting a shell on the plain guest's disk")
        _build_folder(folder, base)
    for old in folder.parent.glob("plain-*"):
        if old.is_dir() and old not in (folder, base):
            shutil.rmtree(old)


def _build_folder(folder: Path, base: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="plain-unfinished-") as work:
        root, out = Path(work, "root"), Path(work, "out")
        root.mkdir()
        out.mkdir()
        run(["tar", "--extract", "--numeric-owner", f"--file={base / 'base.tar'}", f"--directory={root}"])
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)
        (root / MIRROR_AT[1:]).mkdir()
        for unit in _masked():
            (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
        for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
            shutil.copyfile(next((root / "boot").glob(pattern)), out / name)
        run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(out / "disk.ext4"), DISK_SIZE])
        out.chmod(0o755)
        out.rename(folder)
