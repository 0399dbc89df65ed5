"""libvirt's hook: what it asks, whom it refuses, and that it keeps nobody waiting for long."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

DOMAIN = """<domain type='qemu'><name>web</name><uuid>5b1f4c3e-9d1a-4a3b-8f0e-2c5d6e7f8a9b</uuid>
<memory unit='MiB'>1024</memory><currentMemory unit='MiB'>512</currentMemory><devices/></domain>"""
HOOK = Path(__file__).parents[2] / "packaging/libvirt/qemu"


@pytest.mark.parametrize(
    ("words", "strict", "answers", "code", "calls"),
    [
        (["web", "prepare", "begin", "-"], "no", 0, 0, 1),
        (["web", "prepare", "begin", "-"], "no", 1, 0, 1),
        (["web", "prepare", "begin", "-"], "no", 4, 0, 1),
        (["web", "prepare", "begin", "-"], "yes", 4, 1, 1),
        *((["web", "prepare", "begin", "-"], "yes", wrong, 0, 1) for wrong in (1, 2, 3)),
        (["--strange 'name' \"$(exit 9)", "prepare", "begin", "-"], "yes", 4, 1, 1),
        (["web", "started", "begin", "-"], "yes", 4, 0, 0),
    ],
)
def test_the_libvirt_hook(
    tmp_path: Path, words: list[str], strict: str, answers: int, code: int, calls: int
) -> None:
    """It reserves at prepare alone, hands the XML on, and refuses a start only where told to and there is no room."""
    lines = ("#!/bin/sh", f'echo "$@" >>{tmp_path}/calls', f"cat >>{tmp_path}/xml", f"exit {answers}", "")
    (tmp_path / "ballonet").write_text("\n".join(lines))
    (tmp_path / "ballonet").chmod(0o755)
    hook = tmp_path / "hook"
    hook.write_text(HOOK.read_text().replace("BALLONET_HOOK_STRICT=no", f"BALLONET_HOOK_STRICT={strict}"))
    done = subprocess.run(
        ["sh", str(hook), *words], input=DOMAIN, text=True, check=False, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert done.returncode == code
    said = (tmp_path / "calls").read_text().splitlines() if calls else []
    assert said == ["reserve --domain-xml - --timeout 10s --hold 60s"] * calls
    assert not calls or (tmp_path / "xml").read_text() == DOMAIN


def test_the_libvirt_hook_ends_within_its_limit(tmp_path: Path) -> None:
    """A command that does not end is ended, and keeps no domain from starting."""
    (tmp_path / "ballonet").write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n")
    (tmp_path / "ballonet").chmod(0o755)
    text = HOOK.read_text().replace("HOOK_STRICT=no", "HOOK_STRICT=yes").replace("HOOK_LIMIT=15s", "HOOK_LIMIT=0.1s")
    done = subprocess.run(
        ["sh", "-c", text, "hook", "web", "prepare"], input=DOMAIN, text=True, check=False, timeout=60,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0
