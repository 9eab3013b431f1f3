"""The roles that see trees, and how trees go with their tasks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run
from meshwright.agents.trees.leases import Trees
from meshwright.agents.trees.operations import TreeOperations
from meshwright.core.errors import ConfigError, Forbidden, NotFound
from meshwright.core.messages import Caller
from meshwright.mesh.identity.administration import Administration
from meshwright.parts.retention.operations import Retention
from meshwright.testing import ManualClock, MeshUnderTest, mesh_for
from tests.support.repositories import repository

pytestmark = pytest.mark.needs("git")
ADMIN = Caller(requested_by="admin", all_tenants=True, roles=frozenset({"admin"}))
VIEWER = Caller(requested_by="ada", roles=frozenset({"viewer"}))
READER = Caller(requested_by="bob", roles=frozenset({"contents"}))
STRANGER = Caller(requested_by="eve", tenant_id="acme", roles=frozenset({"contents", "viewer"}))
DAY = 86_400


class Writer(Agent):
    """Writes a secret into the tree, and delegates to nobody."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)

    async def run(self, run: Run) -> str:
        tree = await run.tree()

        async def write() -> None:
            await asyncio.to_thread(tree.files.write, "secret.txt", "secret\n")

        await run.step("write", lambda: tree.once(run.step_id, write))
        return "done"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def mesh(tmp_path: Path, clock: ManualClock) -> AsyncIterator[MeshUnderTest]:
    source = repository(tmp_path / "source")
    kept = {"succeeded_days": 1}
    async with mesh_for(
        Writer, clock=clock, retention=kept, trees={"code": {"repository": str(source)}}
    ) as mesh:
        yield mesh


async def test_contents_of_trees_take_their_role_and_tenant(mesh: MeshUnderTest) -> None:
    outcome = await mesh.ask("writer", "Write.")
    operations = mesh.mesh.get(TreeOperations)
    assert [tree.task_id for tree in operations.list_trees(VIEWER).items] == [outcome.task_id]
    assert operations.list_trees(STRANGER).items == []
    assert "+secret" in (await operations.diff_tree(READER, outcome.task_id)).diff
    assert (await operations.show_tree(READER, outcome.task_id)).changed == [("A", "secret.txt")]
    for caller, error in ((VIEWER, Forbidden), (STRANGER, NotFound)):
        with pytest.raises(error):
            await operations.show_tree(caller, outcome.task_id)
        with pytest.raises(error):
            await operations.diff_tree(caller, outcome.task_id)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, ""),
        ({"repository": "nowhere"}, "git ls-remote failed"),
        ({"branch": "none"}, "it has no branch none"),
    ],
)
async def test_a_repository_that_cannot_be_cloned_is_told_by_doctor(
    tmp_path: Path, settings: dict[str, str], complaint: str
) -> None:
    known = {"repository": str(repository(tmp_path / "source")), **settings}
    async with mesh_for(Writer, trees={"code": known}) as mesh:
        [check] = mesh.mesh.get(TreeOperations).checks()
        if complaint:
            with pytest.raises(ConfigError, match=complaint):
                await check.ask()
        else:
            assert await check.ask() == "code"


async def test_an_erased_task_leaves_no_tree(mesh: MeshUnderTest) -> None:
    outcome, other = await mesh.ask("writer", "Write."), await mesh.ask("writer", "Write too.")
    trees = mesh.mesh.get(Trees)
    await Administration(mesh.mesh, ADMIN).erase(task_id=outcome.task_id)
    assert [lease.tree_id for lease in trees.leases()] == [other.task_id]
    assert not list(trees.folder.rglob(f"*{outcome.task_id}*"))
    with pytest.raises(NotFound):
        trees.find("default", outcome.task_id)


async def test_a_pruned_task_leaves_no_tree(mesh: MeshUnderTest, clock: ManualClock) -> None:
    await mesh.ask("writer", "Write.")
    trees = mesh.mesh.get(Trees)
    assert len(trees.leases()) == 1
    clock.jump(2 * DAY)
    await mesh.mesh.get(Retention).prune(ADMIN)
    while trees.leases():
        await asyncio.sleep(0.01)


async def test_a_tree_of_a_task_that_is_gone_is_removed_in_time(
    mesh: MeshUnderTest, clock: ManualClock
) -> None:
    outcome = await mesh.ask("writer", "Write.")
    trees = mesh.mesh.get(Trees)
    await trees.lease("default", "gone")
    clock.jump(2 * 3_600)
    while len(trees.leases()) > 1:
        await mesh.advance(0)
        await asyncio.sleep(0.01)
    assert [lease.tree_id for lease in trees.leases()] == [outcome.task_id]
