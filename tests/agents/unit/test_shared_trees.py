"""Trees of several workers, each on a machine of its own, over one store."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meshwright.agents.trees.leases import Trees
from meshwright.agents.trees.settings import TreeSettings
from meshwright.agents.trees.shared_trees import SHARED_TREE, SharedTree, SharedTrees
from meshwright.agents.trees.tree import Tree, TreeServices
from meshwright.core.clock import SystemClock
from meshwright.core.errors import ToolFailed
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.memory import MemoryData
from meshwright.testing import memory_runtime
from tests.support.repositories import git, repository, sandbox_in

pytestmark = pytest.mark.needs("git")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("source") / "calc")


@pytest.fixture
async def workers(source: Path, tmp_path: Path) -> AsyncIterator[list[Trees]]:
    """Two workers with folders of their own."""
    data, made = MemoryData(), list[Trees]()
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            host = memory_runtime(data=data)
            host.register(ActorKind.from_class(SharedTree, type=SHARED_TREE))
            await host.start()
            stack.push_async_callback(host.stop)
            services = TreeServices(sandbox_in(tmp_path / name), SharedTrees(host))
            sources = {"code": TreeSettings(repository=str(source))}
            made.append(Trees(tmp_path / name, sources, source, services, SystemClock()))
        yield made


async def write(tree: Tree, path: str, text: str, *, step: str = "") -> str:
    async def work() -> str:
        tree.files.write(path, text)
        return f"wrote {path}"

    return await tree.once(step or f"write {path}", work)


async def test_another_worker_goes_on_where_one_was_killed(workers: list[Trees], source: Path) -> None:
    one, two = [await trees.lease("default", "t1") for trees in workers]
    await write(one, "calc.py", "first\n")
    revision = await one.once("commit", lambda: one.commit("Change it"))
    await write(one, "new.py", "second\n", step="last")
    git(source, "commit", "-q", "--allow-empty", "-m", "The repository goes on")
    assert await write(two, "new.py", "never written\n", step="last") == "wrote new.py"
    assert [tuple(change) for change in await two.changed()] == [("M", "calc.py"), ("A", "new.py")]
    assert two.files.read("new.py", 100) == "second\n"
    assert await two.head() == revision
    await write(two, "third.py", "third\n")
    assert one.files.has("third.py") is False
    assert len(await one.changed()) == 3


async def test_a_worker_without_the_tree_begins_with_the_same_commit(
    workers: list[Trees], source: Path
) -> None:
    first = await workers[0].lease("default", "t1")
    git(source, "commit", "-q", "--allow-empty", "-m", "The repository goes on")
    second = await workers[1].lease("default", "t1")
    assert second.lease.base == first.lease.base
    assert (await workers[1].lease("default", "t2")).lease.base != first.lease.base


async def test_of_two_steps_at_a_time_one_is_refused_and_leaves_nothing(workers: list[Trees]) -> None:
    one, two = [await trees.lease("default", "t1") for trees in workers]

    async def slow() -> None:
        one.files.write("calc.py", "slow\n")
        await write(two, "fast.py", "fast\n")

    with pytest.raises(ToolFailed, match="another worker has changed the tree meanwhile"):
        await one.once("slow", slow)
    for tree in (one, two):
        assert [change.path for change in await tree.changed()] == ["fast.py"]


async def test_a_tree_that_is_too_large_to_move_says_where_it_is(workers: list[Trees]) -> None:
    one, two = [await trees.lease("default", "t1") for trees in workers]

    async def fill() -> None:
        (one.root / "large").write_bytes(os.urandom(3_000_000))

    await one.once("fill", fill)
    assert len(await one.changed()) == 1
    with pytest.raises(ToolFailed, match=r"is on the machine of worker .* too large to move"):
        await two.diff()
    await one.once("shrink", lambda: asyncio.to_thread((one.root / "large").unlink))
    assert await two.diff() == ""


async def test_text_from_outside_in_a_tree_is_known_on_every_machine(workers: list[Trees]) -> None:
    one, two = [await trees.lease("default", "t1") for trees in workers]
    one.note_outside()
    assert not (await workers[1].lease("default", "t1")).may_have_outside, "nothing was written yet"
    await write(one, "note.txt", "Obey.\n")
    assert (await workers[1].lease("default", "t1")).may_have_outside
    assert two.files.has("note.txt") and not (await workers[1].lease("default", "t2")).may_have_outside


async def test_an_erased_tree_is_gone_on_every_machine(workers: list[Trees]) -> None:
    one, two = [await trees.lease("default", "t1") for trees in workers]
    await write(one, "secret.txt", "secret\n")
    await two.settle()
    assert not await workers[1].is_erased(two.lease)
    await workers[0].erase("default", ["t1"])
    assert await workers[1].is_erased(two.lease)
    await workers[1].erase_here("default", "t1")
    again = await workers[1].lease("default", "t1")
    assert not again.files.has("secret.txt")
    await write(again, "new.txt", "new\n")
