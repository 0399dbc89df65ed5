"""Recorded runs of the original systems, where they lie beside the project: not part of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def golden_cases(workspace: Path, name: str) -> list[dict[str, Any]]:
    """The 300 cases of one file in ../shared/peers, or in the folder that BALLONET_GOLDEN names; else a skip."""
    folder = Path(os.environ.get("BALLONET_GOLDEN", workspace.parent / "shared" / "peers"))
    path = folder / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is missing: the recorded runs are not part of the project; set BALLONET_GOLDEN")
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    assert len(cases) == 300
    return cases
