"""A bench for each test, its descriptors given back behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .bench import Bench


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches; with an agent that has opened the port unless told otherwise."""
    made: list[Bench] = []

    def make(*, agent: bool = True, bench_type: type[Bench] = Bench, **options: object) -> Bench:
        bench = bench_type(**options)  # type: ignore[arg-type]
        made.append(bench)
        if agent:
            bench.start_agent()
        return bench

    yield make
    for bench in made:
        bench.release()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
