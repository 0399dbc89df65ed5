"""Plays `in_guest/enforce.py` in a running guest: what its kernel makes of a limit that the coordinator's code sets."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from ballonet_host_coord.demo.machine import Guest

NEEDED = (
    "__init__", "agent_facts", "budget_values", "cgroups", "decision", "enforcement", "hotplug", "memory_limits",
    "model", "move", "other_mover", "ports", "settings", "slider",
)  # fmt: skip
SCRIPT = Path(__file__).parent / "in_guest/enforce.py"
PART = 16384


def modules() -> bytes:
    """The coordinator's own, of which a guest needs no more than these."""
    spec = importlib.util.find_spec("ballonet_host_coord")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NEEDED:
            archive.write(folder / f"{name}.py", f"ballonet_host_coord/{name}.py")
    return data.getvalue()


async def enforce(guest: Guest) -> dict[str, Any]:
    """What the script saw."""
    for path, content in (("/run/coord.zip", modules()), ("/run/enforce.py", SCRIPT.read_bytes())):
        text = base64.b64encode(content).decode()
        await guest.run(f": > {path}.b64")
        for at in range(0, len(text), PART):
            await guest.run(f"echo -n {text[at : at + PART]} >> {path}.b64")
        await guest.run(f"base64 -d {path}.b64 > {path}")
    seen: dict[str, Any] = json.loads(await guest.run("python3 /run/enforce.py /run/coord.zip", timeout_s=120.0))
    return seen
