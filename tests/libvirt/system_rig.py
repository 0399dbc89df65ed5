"""A libvirtd of its own in system mode, as root: `qemu:///system` with its own /etc, /run, /var/lib and hooks.

It runs in a mount namespace in which these folders are the rig's, so the host's own libvirt, if there is one, is
neither seen nor touched, and the users that libvirt insists on are in no file of the host's.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from ballonet_host_coord.demo.image import Image

from .rig import Rig

HOOK = Path(__file__).parents[2] / "packaging/libvirt/qemu"
BOUND = {
    "etc-libvirt": "/etc/libvirt", "run": "/run", "lib": "/var/lib", "cache": "/var/cache", "log": "/var/log",
    "passwd": "/etc/passwd", "group": "/etc/group",
}  # fmt: skip
NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
# Everything as root, and nothing that needs a host set up for it: no security labels, no cgroups, no virtlogd.
QEMU_CONF = """user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""


def unable() -> str:
    """Why it cannot run here; empty where it can."""
    if os.geteuid() != 0:
        return "qemu:///system needs root"
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"qemu:///system needs {program} (util-linux)"
    if not Path("/etc/libvirt").is_dir():
        return "qemu:///system needs /etc/libvirt (libvirt-daemon)"
    done = subprocess.run([*NAMESPACE, "mount -t tmpfs t /mnt"], capture_output=True, text=True, check=False)
    return f"qemu:///system needs a mount namespace of its own: {done.stderr.strip()}" if done.returncode else ""


class SystemRig(Rig):
    """`control` is where its hook looks for the coordinator."""

    def __init__(self, folder: Path, image: Image) -> None:
        super().__init__(folder, image)
        self.control = folder / "control"
        for name in ("etc-libvirt/hooks/qemu.d", "lib", "cache", "log", "bin"):
            (folder / name).mkdir(parents=True)
        (folder / "etc-libvirt/qemu.conf").write_text(QEMU_CONF)
        (folder / "etc-libvirt/libvirtd.conf").write_text('auth_unix_rw = "none"\n')
        # libvirt looks its own user up, whatever qemu.conf says.
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + "libvirt-qemu:x:64055:64055::/:/bin/false\n")
        (folder / "group").write_text(Path("/etc/group").read_text() + "libvirt-qemu:x:64055:\nkvm:x:64056:\n")
        program = folder / "bin/ballonet"
        program.write_text(
            f'#!/bin/sh\nBALLONET_SOCKET={self.control} exec {sys.executable} -m ballonet_host_coord "$@"\n'
        )
        program.chmod(0o755)

    service_uri = "qemu:///system"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.runtime}/libvirt/libvirt-sock"

    @property
    def pid_files(self) -> Path:
        return self.runtime / "libvirt/qemu"

    def install_hook(self, **settings: str) -> None:
        """Ours, with these of its variables set otherwise. libvirtd sees it when it is started."""
        text = HOOK.read_text()
        for name, value in settings.items():
            (line,) = [line for line in text.splitlines() if line.startswith(f"BALLONET_HOOK_{name}=")]
            text = text.replace(line, f"BALLONET_HOOK_{name}={value}")
        hook = self.folder / "etc-libvirt/hooks/qemu.d/ballonet"
        hook.write_text(text)
        hook.chmod(0o755)

    def start(self) -> None:
        self.start_libvirtd()

    def inside(self, command: list[str]) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.libvirtd_pid()}/ns/mnt", f"--wd={self.folder}", "--", *command]

    def _who(self) -> pwd.struct_passwd | None:
        return None

    def _run(self, name: str, command: list[str]) -> None:
        mounts = [f"mount --bind {self.folder}/{ours} {theirs}" for ours, theirs in BOUND.items()]
        script = " && ".join([*mounts, f"export PATH={self.folder}/bin:$PATH", f"exec {' '.join(command)}"])
        super()._run(name, [*NAMESPACE, script])
