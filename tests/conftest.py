"""What all tests share: where the workspace is, and how hypothesis behaves on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A deadline per example measures the machine, not the code: two cores that also run guests miss any.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# CI repeats the same examples, so that a red run means a change and not a draw.
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
# Under each Python and library of the matrix (tests/matrix/README.md): what differs there shows in few examples.
settings.register_profile("matrix", settings.get_profile("ci"), max_examples=20)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.fixture(scope="session")
def workspace() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parent.parent
