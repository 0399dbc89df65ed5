"""Builds the guest of the demo and the VM tests: a real Debian 12 disk with the agent as its own service.

Two stages, both kept below the cache folder and both named by a hash of what went in, this builder included, so that
an image is never older than our code and never built twice. Debian's packages stay those of the day of the base:

    base-HASH.tar     what mmdebstrap makes of the package list; needs the network, about a minute
    image-HASH/       disk.ext4, kernel, initrd: the base plus the payload (agent, workload, settings); seconds

The payload is copied from the installed import packages: the guest needs no pip and no network. Builds write
to a temporary name and rename; a lock file keeps two of them apart. Only building needs root: what is there is taken
without a lock, and any user may read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import requirements

SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus",
    "python3", "python3-msgpack", "python3-click",
    "qemu-guest-agent",  # compared with our agent; started only by a port that guests have on request
    "linux-image-cloud-amd64",
)  # fmt: skip
# Nobody reads manuals there, and a smaller disk is built and started sooner.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Sparse, so the size costs nothing. The guests' writes go to a throw-away overlay.
DISK_SIZE = "2G"
SWAP_BYTES = 512 << 20
# Two kept: a run that still uses the one before must be able to reset its guests.
KEPT_IMAGES = 2

AGENT = "ballonet_guest_agent"
SITE_PACKAGES = "usr/lib/python3/dist-packages"
SHARE = Path(__file__).parent / "share"
# The folder of the installed agent's package data -> where Debian's package puts the same file.
AGENT_FILES = {
    "ballonet-guest-agent.service": "usr/lib/systemd/system/ballonet-guest-agent.service",
    "60-ballonet-guest-agent.rules": "usr/lib/udev/rules.d/60-ballonet-guest-agent.rules",
    "ballonet-guest-agent.sysusers": "usr/lib/sysusers.d/ballonet-guest-agent.conf",
}
WORKLOAD_FILES = {
    "workload.py": "usr/lib/ballonet-demo/workload.py",
    "ballonet-demo-workload.service": "usr/lib/systemd/system/ballonet-demo-workload.service",
    "60-ballonet-demo-workload.rules": "usr/lib/udev/rules.d/60-ballonet-demo-workload.rules",
}
SETTINGS = {
    "etc/fstab": "/dev/vda / ext4 rw,noatime 0 1\n/dev/vdb none swap sw 0 0\n",
    "etc/hostname": "guest\n",
    "etc/systemd/journald.conf.d/demo.conf": (
        "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\nForwardToConsole=yes\nMaxLevelConsole=warning\n"
    ),
    "usr/bin/ballonet-agent": f"#!/usr/bin/python3\nfrom {AGENT}.cli import main\n\nmain()\n",
}
# The console is a log file on the host, nobody logs in, and nothing is kept: what these do is of no use to the
# guest, and without them it was up in 14 s instead of 24 (2026-11-24, TCG on two cores).
MASKED = (
    "serial-getty@ttyS0.service", "getty@tty1.service", "systemd-logind.service", "systemd-user-sessions.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service", "systemd-random-seed.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service",
    "systemd-sysusers.service", "systemd-modules-load.service", "systemd-binfmt.service", "kmod-static-nodes.service",
    "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-mqueue.mount", "dev-hugepages.mount",
    "modprobe@drm.service", "modprobe@fuse.service", "modprobe@configfs.service", "modprobe@dm_mod.service",
    "modprobe@loop.service",
)  # fmt: skip

Say = Callable[[str], None]


class ImageError(Exception):
    """The image could not be built. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """A guest's disk (shared by all guests, never written), its swap, and what QEMU boots it with."""

    disk: Path
    swap: Path
    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    """Where images are kept: $XDG_CACHE_HOME/ballonet, ~/.cache/ballonet without it."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ballonet"


def build_image(say: Say, cache: Path | None = None) -> Image:
    """The image of the agent and workload that are installed now, from the cache or built.

    Raises ImageError, and RequirementsError where a program is missing and we may not install it.
    """
    cache = cache or cache_folder()
    payload = _payload()
    base = cache / f"base-{_base_hash()}.tar"
    folder = cache / f"image-{_image_hash(base.name, payload)}"
    try:
        if not _is_ready(folder):
            _need_root()
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache / "lock", say):
                if not _is_ready(folder):
                    _build(folder, base, payload, say)
    except OSError as error:
        raise ImageError(f"the guest image in {cache}: {error}") from error
    return Image(folder / "disk.ext4", folder / "swap.img", folder / "vmlinuz", folder / "initrd.img")


def _is_ready(folder: Path) -> bool:
    """Whether the image is there; if so it counts as used now, where it is ours to say so."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    except PermissionError:
        return folder.is_dir()
    return True


def _build(folder: Path, base: Path, payload: dict[str, bytes], say: Say) -> None:
    """Build what is not there yet. Only under the lock."""
    requirements.ensure(requirements.TO_BUILD, say)
    _sweep(folder.parent)
    if not base.is_file():
        _build_base(base, say)
    _build_folder(folder, base, payload, say)
    _forget_old(folder.parent, base)


def _base_hash() -> str:
    return _hash(*_base_command(Path("base.tar")))


def _image_hash(base: str, payload: dict[str, bytes]) -> str:
    files = (f"{name}:{hashlib.sha256(data).hexdigest()}" for name, data in sorted(payload.items()))
    return _hash(base, Path(__file__).read_text(encoding="utf-8"), *files)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _payload() -> dict[str, bytes]:
    """Path in the guest -> content, of everything that is ours."""
    files = {name: text.encode() for name, text in SETTINGS.items()}
    for package in ("ballonet_protocol", AGENT):
        root = _package_folder(package)
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{SITE_PACKAGES}/{package}/{path.relative_to(root)}"] = path.read_bytes()
    agent_share = _package_folder(AGENT) / "share"
    for share, table in ((agent_share, AGENT_FILES), (SHARE, WORKLOAD_FILES)):
        files |= {target: (share / name).read_bytes() for name, target in table.items()}
    return files


def _package_folder(package: str) -> Path:
    """Of an installed import package; it is not imported: the coordinator has no part in the agent's code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        member = package.removeprefix("ballonet_")
        raise ImageError(f"{package} is not installed; guests get a copy. In the tree: pip install ./{member}")
    return Path(spec.submodule_search_locations[0])


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ImageError(
            "the guest image is not built yet and building it needs root (files of many owners, a chroot): "
            f"run `make image` as root with XDG_CACHE_HOME={cache_folder().parent}"
        )


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the guest image; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_base(base: Path, say: Say) -> None:
    say(f"building a Debian {SUITE} guest with mmdebstrap (once; about a minute and 150 MB of packages)")
    # A name of our own: a killed build's mmdebstrap may still be writing to the one before.
    unfinished = base.with_suffix(f".{os.getpid()}.tmp.tar")
    _run(_base_command(unfinished), say)
    unfinished.rename(base)


def _base_command(target: Path) -> list[str]:
    return [
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT), SUITE, str(target),
    ]  # fmt: skip


def _build_folder(folder: Path, base: Path, payload: dict[str, bytes], say: Say) -> None:
    say("putting agent and workload on the guest's disk")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as work:
        root, out = Path(work, "root"), Path(work, "out")
        root.mkdir()
        out.mkdir()
        _run(["tar", "--extract", "--numeric-owner", f"--file={base}", f"--directory={root}"], say)
        for name, data in payload.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755 if name.startswith("usr/bin/") else 0o644)
        for unit in MASKED:
            (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
        _run(["chroot", str(root), "systemd-sysusers"], say)
        # Compiling takes seconds under emulation, and the guest would do it at every boot: it keeps no writes.
        _run(["chroot", str(root), "python3", "-m", "compileall", "-q", f"/{SITE_PACKAGES}"], say)
        for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
            shutil.copyfile(next((root / "boot").glob(pattern)), out / name)
        disk, swap = out / "disk.ext4", out / "swap.img"
        # No journal: the disk is never written, and a guest's own writes end with it.
        options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(root)]
        _run(["mke2fs", *options, str(disk), DISK_SIZE], say)
        with swap.open("wb") as file:
            file.truncate(SWAP_BYTES)
        _run(["mkswap", "--quiet", str(swap)], say)
        # Root built it and any user may run it, whatever root's umask is.
        for path in out.iterdir():
            path.chmod(0o644)
        out.chmod(0o755)
        out.rename(folder)
    say(f"guest image ready: {folder}")


def _run(command: list[str], say: Say) -> None:
    """Run a program, its lines to `say` as they come. Raises ImageError with the last of them."""
    path = requirements.program(command[0])
    if path is None:
        raise ImageError(f"{command[0]} is not installed")
    environment = os.environ | {"PATH": requirements.SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    last: list[str] = []
    with subprocess.Popen(
        [path, *command[1:]], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            say(f"  {command[0]}: {line.rstrip()}")
            last = [*last[-9:], line]
    if process.returncode != 0:
        raise ImageError(f"{command[0]} failed with exit code {process.returncode}:\n{''.join(last)}")


def _sweep(cache: Path) -> None:
    """Remove what interrupted builds left. Only under the lock: nobody else builds now."""
    for path in cache.glob("unfinished-*"):
        shutil.rmtree(path)
    for path in cache.glob("*.tmp.tar"):
        path.unlink()


def _forget_old(cache: Path, base: Path) -> None:
    """Every change of the agent makes an image: keep the newest few and the base in use."""
    images = sorted(cache.glob("image-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in images[KEPT_IMAGES:]:
        shutil.rmtree(folder)
    for other in cache.glob("base-*.tar"):
        if other != base:
            other.unlink()


def main() -> None:
    """Build the image and say where it is: `python -m ballonet_host_coord.demo.image`."""
    try:
        image = build_image(lambda line: print(line, file=sys.stderr, flush=True))
    except (ImageError, requirements.RequirementsError) as why:
        sys.exit(f"image: {why}")
    print(image.disk)


if __name__ == "__main__":
    main()
