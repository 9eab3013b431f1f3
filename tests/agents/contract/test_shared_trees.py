"""The newest state of a tree, on every store."""

from __future__ import annotations

from typing import Any

from meshwright.agents.trees.shared_trees import (
    MAX_BUNDLE_BYTES,
    SHARED_TREE,
    SharedState,
    SharedTree,
    SharedTrees,
)
from meshwright.engine.kernel.turns import ActorKind
from tests.support.harness import RuntimeHarness

KIND = ActorKind.from_class(SharedTree, type=SHARED_TREE)


def state(version: int, worker: str = "one", **fields: Any) -> SharedState:
    return SharedState(version=version, worker=worker, **{"lease": {"tree_id": "t1"}, **fields})


async def test_a_state_as_large_as_may_be_comes_back_whole(harness: RuntimeHarness) -> None:
    trees = SharedTrees(await harness.open(KIND))
    bundle = "A" * (MAX_BUNDLE_BYTES * 4 // 3)
    results = {f"step {number}": {"output": "x" * 30_000} for number in range(20)}
    assert await trees.save("default", "t1", state(1, bundle=bundle, results=results))
    found = await trees.read("default", "t1")
    assert found is not None
    assert found.bundle == bundle
    assert list(found.results) == [f"step {number}" for number in range(12, 20)]


async def test_of_two_workers_one_saves_a_state(harness: RuntimeHarness) -> None:
    trees = SharedTrees(await harness.open(KIND))
    assert await trees.save("default", "t1", state(1, snapshot="a"))
    assert await trees.save("default", "t1", state(1, snapshot="a")), "a repeat is no other worker"
    assert not await trees.save("default", "t1", state(1, "two", snapshot="b"))
    assert not await trees.save("default", "t1", state(3, "two", snapshot="b"))
    assert await trees.save("default", "t1", state(2, "two", snapshot="b"))
    assert await trees.version("default", "t1") == 2
    assert await trees.version("acme", "t1") == 0


async def test_an_erased_state_is_gone_and_older_ones_do_not_come_back(harness: RuntimeHarness) -> None:
    trees = SharedTrees(await harness.open(KIND))
    await trees.erase("default", "t1")
    assert not await trees.is_erased("default", "t1")
    assert await trees.save("default", "t1", state(1, bundle="secret"))
    await trees.erase("default", "t1")
    assert await trees.is_erased("default", "t1")
    assert await trees.read("default", "t1") is None
    assert not await trees.save("default", "t1", state(2, "two"))
