"""Trees that programs have made as hard to handle as they can: each is undone, searched and removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshwright.agents.trees.leases import Trees
from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import ToolFailed
from tests.support.folders import nested
from tests.support.repositories import CALC, repository, trees_of

pytestmark = pytest.mark.needs("git")
_LEVELS = 3_000  # more than Python recurses, and with these names more than a path may be long


@pytest.fixture
async def trees(tmp_path: Path) -> Trees:
    return trees_of(repository(tmp_path / "source"), tmp_path / "trees")


@pytest.fixture
async def tree(trees: Trees) -> Tree:
    return await trees.lease("default", "t1")


async def test_a_step_that_nests_folders_without_end_is_undone(tree: Tree) -> None:
    with pytest.raises(ToolFailed, match="deeper than"):
        await tree.once("nest", lambda: asyncio.to_thread(nested, tree.root, _LEVELS))
    assert [file.path for file in tree.files.walk("", 10)[0]] == sorted(CALC)
    assert await tree.diff() == ""


async def test_a_tree_with_folders_without_end_is_erased(trees: Trees, tree: Tree) -> None:
    await asyncio.to_thread(nested, tree.root, _LEVELS)
    await trees.erase("default", ["t1"])
    assert not tree.folder.exists()


async def test_a_search_sees_nothing_of_a_step_at_work(tree: Tree) -> None:
    searching: list[asyncio.Task[str]] = []

    async def work() -> None:
        (tree.root / "half.txt").write_text("half of it\n")
        searching.append(asyncio.create_task(tree.search("half of it")))
        for _ in range(20):  # each starts git, as often as a search that does not wait takes to end
            await tree.snapshot()
        raise ToolFailed("it broke")

    with pytest.raises(ToolFailed, match="it broke"):
        await tree.once("step 1", work)
    assert await searching[0] == ""
