"""What a test of the protocol needs besides the protocol and the agent, which run on older Pythons than the rest."""

from __future__ import annotations

import importlib.util

import pytest

needs_coordinator = pytest.mark.skipif(
    importlib.util.find_spec("ballonet_host_coord") is None,
    reason="ballonet-host-coord is not installed; it needs Python 3.11 and trio",
)
