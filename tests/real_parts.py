"""What a test says that lacks a real part: an emulator, a package's tools."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def cannot(why: str) -> NoReturn:
    """The real part is what the test is for: CI may not go without, a developer's machine may."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
