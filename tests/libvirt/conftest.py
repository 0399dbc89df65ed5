"""A libvirtd with tiny guests for the tests of the libvirt port; one for all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.image import ImageError, build_image

from . import rig as rigs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


def cannot(why: str) -> NoReturn:
    """A real libvirt is what these tests are for: CI may not go without, a developer's machine may."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def rig() -> Iterator[rigs.Rig]:
    """It runs, and no domain does."""
    lacking = rigs.missing()
    try:
        import libvirt  # noqa: F401
    except ImportError:
        lacking.append("libvirt's Python module")
    if lacking:
        cannot(f"libvirt's tests need {', '.join(lacking)}; as root: apt-get install {rigs.PACKAGES}")
    try:
        image = build_image(lambda line: print(line, file=sys.stderr))
    except (ImageError, requirements.RequirementsError) as why:
        cannot(str(why))
    with rigs.running(image) as rig:
        yield rig
