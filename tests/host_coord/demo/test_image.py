"""Guest images are named by what is in them, built once, and never half there. No program runs here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet_host_coord.demo import image, requirements
from ballonet_host_coord.demo.image import ImageError, build_image


class Workshop:
    """Stands in for mmdebstrap, tar, chroot and mke2fs: makes the files that they would, and counts them."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: str | None = None
        self.payload: dict[str, bytes] = {}
        self.before: dict[str, threading.Event] = {}

    def run(self, command: list[str], _say: image.Say) -> None:
        self.ran.append(command[0])
        if command[0] in self.before:
            assert self.before[command[0]].wait(10)
        if command[0] == self.fails:
            raise ImageError(f"{command[0]} failed")
        if command[0] == "mmdebstrap":
            Path(command[-1]).write_bytes(b"tar")
        if command[0] == "tar":
            root = Path(command[-1].partition("=")[2])
            for folder in ("boot", "etc/systemd/system"):
                (root / folder).mkdir(parents=True)
            for name in ("vmlinuz-6.1", "initrd.img-6.1"):
                (root / "boot" / name).write_text(name)
        if command[0] == "mke2fs":
            root = Path(command[command.index("-d") + 1])
            files = [path for path in root.rglob("*") if path.is_file()]
            self.payload = {str(path.relative_to(root)): path.read_bytes() for path in files}
            Path(command[-2]).write_bytes(b"disk")


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop()
    monkeypatch.setattr(image, "_run", workshop.run)
    monkeypatch.setattr(requirements, "ensure", lambda packages, say: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return workshop


def build(cache: Path) -> image.Image:
    return build_image(lambda _: None, cache)


def test_an_image_is_built_once(workshop, tmp_path):
    """The second request runs no program and gets the same files."""
    first = build(tmp_path)
    ran = list(workshop.ran)
    assert build(tmp_path) == first
    assert workshop.ran == ran
    assert all(path.is_file() for path in (first.disk, first.swap, first.kernel, first.initrd))


def test_a_changed_agent_makes_a_new_image_on_the_same_base(workshop, tmp_path, monkeypatch):
    """An image is never older than our code: one changed byte of what is installed makes another, in seconds."""
    first = build(tmp_path)
    settings = image.SETTINGS | {"etc/hostname": "another\n"}
    monkeypatch.setattr(image, "SETTINGS", settings)
    assert build(tmp_path) != first
    assert workshop.ran.count("mmdebstrap") == 1
    assert workshop.payload["etc/hostname"] == b"another\n"


def test_a_changed_builder_makes_a_new_image_on_the_same_base(workshop, tmp_path, monkeypatch):
    """Another build step makes another image, too, though what is put on the disk is the same."""
    first = build(tmp_path)
    changed = tmp_path / "image.py"
    changed.write_text(Path(image.__file__).read_text() + "# one more step\n")
    monkeypatch.setattr(image, "__file__", str(changed))
    assert build(tmp_path) != first
    assert workshop.ran.count("mmdebstrap") == 1


def test_a_changed_package_list_makes_a_new_base(workshop, tmp_path, monkeypatch):
    """The base is named by its packages; the one before is not kept."""
    build(tmp_path)
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "procps"))
    build(tmp_path)
    assert workshop.ran.count("mmdebstrap") == 2
    assert len(list(tmp_path.glob("base-*"))) == 1


@pytest.mark.parametrize("program", ["mmdebstrap", "tar", "mke2fs", "mkswap"])
def test_a_failed_build_leaves_nothing_that_looks_ready(workshop, tmp_path, program):
    """Whichever step fails, the next request builds again and succeeds."""
    workshop.fails = program
    with pytest.raises(ImageError, match=program):
        build(tmp_path)
    assert not list(tmp_path.glob("image-*"))
    workshop.fails = None
    assert build(tmp_path).disk.is_file()


def test_what_a_killed_build_left_is_swept(workshop, tmp_path):
    """Unfinished files of a build that was killed do not pile up."""
    (tmp_path / "unfinished-abc").mkdir()
    (tmp_path / "base-1.2.tmp.tar").touch()
    build(tmp_path)
    assert not list(tmp_path.glob("unfinished-*"))
    assert not list(tmp_path.glob("*.tmp.tar"))


def test_two_builders_build_one_image(workshop, tmp_path):
    """The second waits for the first, says so, and takes what it made."""
    go = workshop.before["mmdebstrap"] = threading.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            go.set()

    builders = [threading.Thread(target=build_image, args=(say, tmp_path)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert workshop.ran.count("mke2fs") == 1
    assert sum("waiting" in line for line in said) == 1


def test_old_images_are_forgotten(workshop, tmp_path, monkeypatch):
    """Every change of the agent makes an image; only the newest few stay."""
    for count in range(image.KEPT_IMAGES + 2):
        monkeypatch.setitem(image.SETTINGS, "etc/hostname", f"guest{count}\n")
        newest = build(tmp_path)
        os.utime(newest.disk.parent, (count, count))
    assert len(list(tmp_path.glob("image-*"))) == image.KEPT_IMAGES
    assert newest.disk.is_file()


def test_without_root_it_says_what_is_needed(workshop, tmp_path, monkeypatch):
    """A user who may not build is told so, before anything runs or is written."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageError, match="root"):
        build(tmp_path / "fresh")
    assert workshop.ran == []
    assert not (tmp_path / "fresh").exists()


NOBODY = 65534
AS_A_USER = """
import sys
from pathlib import Path
from ballonet_host_coord.demo.image import ImageError, build_image
try:
    image = build_image(print, Path(sys.argv[1]))
except ImageError as why:
    sys.exit(f"ImageError: {why}")
for path in (image.disk, image.swap, image.kernel, image.initrd):
    path.open("rb").close()
"""


@pytest.fixture
def roots_cache(workshop) -> Iterator[Path]:
    """A cache in a folder that all users reach; pytest's own belongs to one."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ballonet-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder, "ballonet")


def as_a_user(cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_A_USER, str(cache)]
    try:
        return subprocess.run(
            command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True, check=False
        )
    except PermissionError as why:
        pytest.skip(f"needs root, and a source tree that other users may read: {why}")


def test_what_root_has_built_a_user_may_use(roots_cache):
    """Building needs root, using does not: nothing in the cache must be written or locked for it."""
    before = os.umask(0o077)
    try:
        build(roots_cache)
    finally:
        os.umask(before)
    roots_cache.chmod(0o755)
    done = as_a_user(roots_cache)
    assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_be_read_is_our_error(roots_cache):
    """A user gets a sentence with the folder in it, not a traceback."""
    build(roots_cache)
    roots_cache.chmod(0o700)
    done = as_a_user(roots_cache)
    assert done.stderr.startswith(f"ImageError: the guest image in {roots_cache}: "), done.stderr


def test_the_guest_gets_the_agent_and_no_tests_or_caches(workshop, tmp_path):
    """Both packages, the agent's own unit and rule, the workload: nothing compiled on another interpreter."""
    build(tmp_path)
    assert f"{image.SITE_PACKAGES}/ballonet_guest_agent/__main__.py" in workshop.payload
    assert f"{image.SITE_PACKAGES}/ballonet_protocol/__init__.py" in workshop.payload
    assert {*image.AGENT_FILES.values(), *image.WORKLOAD_FILES.values()} <= workshop.payload.keys()
    assert not [name for name in workshop.payload if "__pycache__" in name]
