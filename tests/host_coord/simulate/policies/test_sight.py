from __future__ import annotations

from ballonet_host_coord.simulate.policies.sight import apparent_used_kib, assigned_kib, free_kib, promised_kib

from .stepping import GIB, make_vm


def test_swapped_memory_leaves_the_counters() -> None:
    """A guest that needs more than it has shows its size as its use, and nothing free."""
    vm = make_vm("a", 4, 7)
    assert (apparent_used_kib(vm), free_kib(vm)) == (4 * GIB, 0.0)


def test_page_cache_is_not_free() -> None:
    """Free memory is what programs and page cache leave."""
    vm = make_vm("a", 4, 1)
    assert free_kib(vm) == 3 * GIB
    vm.cached_kib = 2 * GIB
    assert free_kib(vm) == 1 * GIB
    vm.cached_kib = 8 * GIB
    assert free_kib(vm) == 0


def test_promise_counts_the_larger_end() -> None:
    """What is still to be given counts, and what is still to be taken too."""
    growing, shrinking = make_vm("a", 2, 1), make_vm("b", 6, 1)
    growing.target_kib, shrinking.target_kib = 3 * GIB, 5 * GIB
    assert (assigned_kib([growing, shrinking]), promised_kib([growing, shrinking])) == (8 * GIB, 9 * GIB)
