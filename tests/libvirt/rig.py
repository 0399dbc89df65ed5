"""A libvirtd of its own in session mode, with tiny guests under TCG: what the tests of the libvirt port run against.

Root is always given the system's libvirt, so as root everything runs as the user `lvtest`, made where it is missing.
All files are in one folder, and every process is ended by the number in its own pid file.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ballonet_host_coord.demo.image import Image

USER = "lvtest"
PROGRAMS = ("libvirtd", "virtlogd", "busybox", "cpio", "debugfs", "setpriv", "qemu-system-x86_64")
PACKAGES = "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt busybox-static cpio"
MODULES = (
    *((name, "virtio") for name in (
        "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon",
        "virtio_mem",
    )),
    ("virtio_console", "char"), ("virtio_blk", "block"),
)  # fmt: skip
HERE = Path(__file__).parent
PATIENCE_S = 30.0

CHANNEL = "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.ballonet.agent.0'/></channel>"
WORKLOAD = CHANNEL.replace("org.ballonet.agent.0", "org.ballonet.demo.0")
ARGUMENTS = (
    "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'><arg value='-qmp'/><arg value='unix:",
    ",server=on,wait=off'/></commandline>",
)
HOTPLUG = (
    "<memory model='virtio-mem'><target><size unit='MiB'>{mib}</size><node>0</node><block unit='MiB'>2</block>"
    "<requested>0</requested></target></memory>"
)
CONTROLLER = "<controller type='virtio-serial' index='0'/>"


def missing() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Rig:
    """The daemon, its folder and its guests. `uri` is what the port under test is given."""

    def __init__(self, folder: Path, image: Image, host_uuid: str = "") -> None:
        """`host_uuid`: another one than the machine's, which makes it another host to libvirt."""
        self.folder = folder
        self.runtime = folder / "run"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._user = self._who()
        for path in (self.runtime, folder / "home"):
            path.mkdir(mode=0o700)
            if self._user is not None:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        folder.chmod(0o755)
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        if host_uuid:
            self._configure(f'host_uuid = "{host_uuid}"\n')
        _build_guest(folder, image)

    @property
    def uri(self) -> str:
        return f"qemu+unix:///session?socket={self.runtime}/libvirt/libvirt-sock"

    service_uri = uri
    """What the service is given."""

    def inside(self, command: list[str]) -> list[str]:
        """The command as it sees what the daemon sees."""
        return command

    def _configure(self, text: str) -> None:
        path = self.folder / "home/c/libvirt"
        path.mkdir(parents=True)
        (path / "libvirtd.conf").write_text(text)
        if self._user is not None:
            for made in (path.parent, path, path / "libvirtd.conf"):
                os.chown(made, self._user.pw_uid, self._user.pw_gid)

    # --- the daemon --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._run("virtlogd", ["virtlogd"])
        self.start_libvirtd()

    def start_libvirtd(self) -> None:
        self._run("libvirtd", ["libvirtd", "--timeout", "0"])

    def stop_libvirtd(self) -> None:
        self._end("libvirtd")

    def kill_libvirtd(self) -> None:
        """As a crash would."""
        daemon = self._daemons.pop("libvirtd")
        daemon.kill()
        daemon.wait()
        (self.runtime / "libvirt/libvirt-sock").unlink(missing_ok=True)

    def libvirtd_pid(self) -> int:
        return self._daemons["libvirtd"].pid

    def stop(self) -> None:
        for file in self.pid_files.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)
        for name in list(self._daemons):
            self._end(name)

    def qemu_pid(self, name: str) -> int:
        return int((self.pid_files / f"{name}.pid").read_text())

    @property
    def pid_files(self) -> Path:
        return self.runtime / "libvirt/qemu/run"

    def _who(self) -> pwd.struct_passwd | None:
        """Whom everything runs as; None for ourselves."""
        return _user()

    def _run(self, name: str, command: list[str]) -> None:
        become = []
        if self._user is not None:
            become = ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        home = self.folder / "home"
        environment = {
            "PATH": _path(), "HOME": str(home), "XDG_RUNTIME_DIR": str(self.runtime), "LANG": "C",
            "XDG_CONFIG_HOME": str(home / "c"), "XDG_CACHE_HOME": str(home / "k"), "XDG_DATA_HOME": str(home / "d"),
        }  # fmt: skip
        with open(self.folder / f"{name}.log", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                become + command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        sockets = {"libvirtd": "libvirt-sock", "virtlogd": "virtlogd-sock"}
        deadline_s = time.monotonic() + PATIENCE_S
        while not (self.runtime / "libvirt" / sockets[name]).exists():
            if self._daemons[name].poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{name} does not start:\n{(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(signal.SIGCONT)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        (self.runtime / "libvirt" / f"{name.removesuffix('d')}-sock").unlink(missing_ok=True)

    # --- guests ------------------------------------------------------------------------------------------

    def xml(
        self, name: str, *, memory_mib: int = 160, channel: bool = True, controller: bool = True, top: str = "",
        balloon: str = "<memballoon model='virtio' autodeflate='on' freePageReporting='on'/>", agent: bool = False,
        monitor: bool = False, hotplug_mib: int = 0,
    ) -> str:  # fmt: skip
        """The domain's XML. `agent`: the real agent and the demo's workload run in it, from Debian's disk. `monitor`:
        it has a second QMP monitor, FOLDER/NAME.qmp. `hotplug_mib`: it has a virtio-mem device."""
        disk = f"""<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{self.folder}/disk.ext4'/><target dev='vda' bus='virtio'/>
      <readonly/><shareable/>
    </disk>{WORKLOAD}"""
        hotplug = ""
        if hotplug_mib:
            # libvirt adds the device's size to <memory>; without a NUMA node it takes no such device.
            top += f"<maxMemory slots='1' unit='MiB'>{memory_mib + hotplug_mib}</maxMemory>"
            top += f"<cpu><numa><cell id='0' cpus='0' memory='{memory_mib}' unit='MiB'/></numa></cpu>"
            hotplug = HOTPLUG.format(mib=hotplug_mib)
        return f"""<domain type='qemu' xmlns:ballonet='urn:ballonet:domain:1'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <currentMemory unit='MiB'>{memory_mib}</currentMemory>
  <vcpu>1</vcpu>
  {top}
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{self.folder}/vmlinuz</kernel>
    <initrd>{self.folder}/initramfs.gz</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet mitigations=off no_timer_check memhp_default_state=online_movable</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {CONTROLLER if controller else ""}
    {CHANNEL if channel else ""}
    {disk if agent else ""}
    {hotplug}
    {balloon}
  </devices>
  {f"{ARGUMENTS[0]}{self.folder}/{name}.qmp{ARGUMENTS[1]}" if monitor else ""}
</domain>"""


def _user() -> pwd.struct_passwd | None:
    """Whom the daemon runs as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", USER], check=True, env={"PATH": _path()})
        return pwd.getpwnam(USER)


def _build_guest(folder: Path, image: Image) -> None:
    """Kernel and initramfs: Debian's cloud kernel and its modules from the demo's image, and busybox."""
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy(str(shutil.which("busybox", path=_path())), tree / "bin/busybox")
    shutil.copy(HERE / "guest-init.sh", tree / "init")
    (tree / "init").chmod(0o755)
    root = "/usr/lib/modules"
    (version,) = [entry for entry in _list(image.disk, root) if not entry.startswith(".")]
    for module, place in MODULES:
        target = tree / f"modules/{module}.ko"
        _debugfs(image.disk, f"dump {root}/{version}/kernel/drivers/{place}/{module}.ko {target}")
        assert target.stat().st_size > 0, module
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"],
        cwd=tree, input=names.encode(), stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    (folder / "initramfs.gz").write_bytes(archive)  # the kernel looks at what is in it, not at its name
    shutil.copy(image.kernel, folder / "vmlinuz")
    (folder / "vmlinuz").chmod(0o644)
    # Where the image lies the rig's user may not go. Nobody writes to it, so another name for it will do.
    try:
        os.link(image.disk, folder / "disk.ext4")
    except OSError:
        subprocess.run(["cp", "--sparse=always", str(image.disk), str(folder / "disk.ext4")], check=True)


def _debugfs(disk: Path, request: str) -> str:
    done = subprocess.run(
        ["debugfs", "-R", request, str(disk)], capture_output=True, text=True, check=True, env={"PATH": _path()}
    )
    return done.stdout


def _list(disk: Path, folder: str) -> list[str]:
    """`ls -p` prints /inode/mode/uid/gid/name/size/ for each entry."""
    return [line.split("/")[5] for line in _debugfs(disk, f"ls -p {folder}").splitlines() if line.count("/") >= 6]


@contextlib.contextmanager
def running(image: Image, kind: type[Rig] = Rig, **more: str) -> Iterator[Rig]:
    """A rig that runs, in a folder with a short name: paths of Unix sockets have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/var/tmp") as folder:
        rig = kind(Path(folder), image, **more)
        try:
            rig.start()
            yield rig
        finally:
            rig.stop()


Domain = Any
