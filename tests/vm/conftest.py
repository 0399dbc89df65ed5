"""Real guests for the tests: one image for the session, machines on request, each ended with its test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.real_parts import cannot

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.accelerator import choose_accelerator
from ballonet_host_coord.demo.image import Image, ImageError, build_image
from ballonet_host_coord.demo.machine import Machine, MachineSpec, machine_folder, open_machine

# The slowest guest yet took 30 s (2026-11-24, TCG, both cores busy). A test that hangs ends here, not with the run.
LONGEST_TEST_S = 840.0

BootMachine = Callable[[MachineSpec], AbstractAsyncContextManager[Machine]]
Play = Callable[[Callable[[], Awaitable[Any]]], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def image() -> Image:
    """The demo's own image, from the cache or built now."""
    if lacking := requirements.missing(requirements.TO_RUN):
        cannot(f"real guests need {', '.join(lacking)}; as root: {requirements.apt_line(lacking)}")
    try:
        return build_image(lambda line: print(line, file=sys.stderr))
    except (ImageError, requirements.RequirementsError) as why:
        cannot(str(why))


@pytest.fixture(scope="session")
def accelerator(image: Image) -> str:
    return choose_accelerator(image.kernel)


@pytest.fixture(scope="session")
def machines(image: Image, accelerator: str) -> BootMachine:
    """`async with machines(spec) as machine` starts QEMU; `machine.monitor.call("cont")` where it waits."""

    @asynccontextmanager
    async def boot(spec: MachineSpec) -> AsyncIterator[Machine]:
        with machine_folder() as folder:
            async with open_machine(spec, image, accelerator, folder) as machine:
                yield machine

    return boot


@pytest.fixture(scope="session")
def play() -> Play:
    """Run an async scenario to its end, within the time any test may take, and return what it returns."""

    def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
        async def limited() -> Any:
            with trio.fail_after(LONGEST_TEST_S):
                return await scenario()

        return trio.run(limited, strict_exception_groups=True)

    return run
