"""The component of trees: their folder, their settings, and the operations on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from meshwright.agents.sandbox.port import Sandbox
from meshwright.agents.tools.settings import ToolsSettings
from meshwright.agents.trees.leases import Trees
from meshwright.agents.trees.settings import TreeSettings
from meshwright.agents.trees.shared_trees import SHARED_TREE, SharedTree, SharedTrees
from meshwright.agents.trees.tree import Tree, TreeChange, TreeLease, TreeServices
from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.errors import ConfigError, NotFound, ToolFailed
from meshwright.core.events import Event
from meshwright.core.ids import Identifier
from meshwright.core.messages import Caller
from meshwright.core.operations import Rule, operation
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.tasks import PRUNED
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.folder import LOCK_NAME, TREES
from meshwright.mesh.components import Actors, Check
from meshwright.mesh.mesh import ORCHESTRATION, Mesh

_READ = Rule("reads trees", (Role.CONTENTS,))
_NONE = {404: "The task works on no tree."}
_PAUSE_SECONDS = 3600.0
_YOUNG = timedelta(hours=1)  # the list may not have the task of such a tree yet


class TreeSummary(BaseModel):
    """A tree: the topmost task of those that share it, its repository, and the commit it began with."""

    task_id: str
    repository: str
    branch: str
    base: str
    created_at: datetime


class TreeView(TreeSummary):
    """A tree with its last commit, where that is not the base, and the files that differ from the base.

    `repository_path` is a bare repository on the machine of the mesh, from which `branch` can be fetched.
    `left_out` are the files and folders that are ignored: no diff or commit has them.
    """

    head: str
    repository_path: str
    changed: list[tuple[str, str]]
    left_out: list[str]


class TreeList(BaseModel):
    """Trees, the oldest first."""

    items: list[TreeSummary]


class TreeDiff(BaseModel):
    """The changes of a tree as a unified diff with binary files; nothing where none differs."""

    diff: str


class TreeOperations:
    """The trees of this process. Operations raise NotFound."""

    config: Mapping[str, TreeSettings]

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings.table("trees")
        sources = {name: _absolute(source, mesh.project) for name, source in self.config.items()}
        shared = SharedTrees(mesh.runtime) if mesh.runtime.is_shared else None
        workspace = (mesh.project / mesh.settings[ToolsSettings].workspace).resolve()
        self._trees = mesh.provide(
            Trees(
                _folder(mesh), sources, workspace, TreeServices(mesh.get(Sandbox), shared), mesh.runtime.clock
            )
        )
        self._sweeping = Duty(mesh.runtime.clock, _PAUSE_SECONDS, self._sweep)
        self._erasing: set[asyncio.Task[None]] = set()
        self._unlisten: Callable[[], None] = lambda: None

    def actors(self) -> Iterable[Actors]:
        """The newest states of trees, for meshes with several workers."""
        yield Actors(ActorKind.from_class(SharedTree, type=SHARED_TREE), ORCHESTRATION)

    def checks(self) -> Iterable[Check]:
        """Whether the repositories that tasks may work on answer."""
        return [Check("trees", self._check)]

    async def _check(self) -> str:
        for name in self.config:
            try:
                await self._trees.reach(name)
            except ToolFailed as error:
                problem = f"the repository {name} cannot be cloned: {error.message}"
                remedy = f"Correct repository and branch in [trees.{name}] of mesh.toml"
                raise ConfigError(problem, remedy=remedy, field=f"trees.{name}") from error
        return ", ".join(self._trees.names) or "no repository: [trees.NAME] in mesh.toml names one"

    async def begin(self) -> None:
        """Remove the trees of tasks that are gone, hourly."""
        self._unlisten()
        self._unlisten = self.mesh.runtime.listen(topics.MESH, self._on_pruned, (PRUNED,))
        await self._sweeping.start()

    async def stop(self) -> None:
        """Remove no more."""
        self._unlisten()
        await asyncio.gather(*self._erasing, self._trees.close(), return_exceptions=True)
        await self._sweeping.stop()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Remove the trees of tasks, with all of their history."""
        await self._trees.erase(tenant_id, task_ids)

    def _on_pruned(self, event: Event) -> None:
        task_ids = event.fields.get("tasks", ())
        erasing = asyncio.create_task(self._trees.erase(event.tenant_id or "", task_ids))
        self._erasing.add(erasing)
        erasing.add_done_callback(self._erasing.discard)

    async def _sweep(self) -> None:
        leases = await asyncio.to_thread(self._trees.leases)
        for lease in leases:
            if await self._trees.is_erased(lease):  # by another worker
                await self._trees.erase_here(lease.tenant_id, lease.tree_id)
        if leases and self.mesh.has_log:
            listed = await self.mesh.log.view_apart(_listed, [lease.tree_id for lease in leases])
            await self._trees.erase_before(self.mesh.runtime.clock.now() - _YOUNG, listed)

    @operation(Rule("lists trees", (Role.VIEWER,)), "GET /trees", "List trees")
    def list_trees(self, caller: Caller) -> TreeList:
        """List the trees of your tenant on this machine: one for each task that works on a repository."""
        return TreeList(items=[_summary(lease) for lease in self._trees.leases(caller.tenant_id)])

    @operation(_READ, "GET /trees/{task_id}", "Show a tree", errors=_NONE)
    async def show_tree(self, caller: Caller, task_id: Identifier) -> TreeView:
        """Show the tree that a task works on, also a delegated one, with the files that were changed."""
        tree = await self._find_tree(caller, task_id)
        changed: list[TreeChange] = await tree.changed()
        return TreeView(
            **dict(_summary(tree.lease)),
            head=await tree.head(),
            repository_path=str(tree.repository),
            changed=[(change.status, change.path) for change in changed],
            left_out=await tree.left_out(),
        )

    @operation(_READ, "GET /trees/{task_id}/diff", "Show the changes", errors=_NONE)
    async def diff_tree(self, caller: Caller, task_id: Identifier) -> TreeDiff:
        """Show the changes since the tree was made, as `git apply` takes them."""
        tree = await self._find_tree(caller, task_id)
        return TreeDiff(diff=await tree.diff(binary=True, max_bytes=_MAX_DIFF_BYTES))

    async def _find_tree(self, caller: Caller, task_id: str) -> Tree:
        await self.mesh.get(Audit).record_read(caller, "trees")
        with suppress(NotFound):
            return self._trees.find(caller.tenant_id, task_id)
        return self._trees.find(caller.tenant_id, await self._topmost(caller.tenant_id, task_id))

    async def _topmost(self, tenant_id: str, task_id: str) -> str:
        return await self.mesh.log.view(_topmost, tenant_id, task_id)


_MAX_DIFF_BYTES = 20_000_000


def _summary(lease: TreeLease) -> TreeSummary:
    return TreeSummary(
        task_id=lease.tree_id,
        repository=lease.repository,
        branch=f"mesh/{lease.tree_id}",
        base=lease.base,
        created_at=lease.created_at,
    )


def _listed(session: Session, task_ids: Sequence[str]) -> set[tuple[str, str]]:
    rows = session.select_in("SELECT tenant_id, task_id FROM tasks WHERE task_id", list(task_ids))
    return {(tenant_id, task_id) for tenant_id, task_id in rows}


def _topmost(session: Session, tenant_id: str, task_id: str) -> str:
    """The topmost task above one; itself where there is none, or it is not listed."""
    query = "SELECT parent_task_id FROM tasks WHERE tenant_id = ? AND task_id = ?"
    while True:
        row = session.execute(query, (session.bindable(tenant_id), session.bindable(task_id))).fetchone()
        if row is None or row[0] is None:
            return task_id
        task_id = row[0]


def _absolute(source: TreeSettings, project: Path) -> TreeSettings:
    """The settings with a folder of the project, or below the user's home, as a whole path."""
    folder = project / Path(source.repository).expanduser()
    readable = tuple(project / path.expanduser() for path in source.read)
    place = str(folder.resolve()) if folder.is_dir() else source.repository
    return source.model_copy(update={"repository": place, "read": readable})


def _folder(mesh: Mesh) -> Path:
    """The folder of the trees: one for all processes of a data folder."""
    if mesh.settings.store == "memory":
        return mesh.database.folder / TREES
    data = (mesh.project / mesh.settings.data_dir).absolute()
    is_in_a_stack = mesh.settings.store == "dapr" and (data.parent / LOCK_NAME).exists()
    return (data.parent if is_in_a_stack else data) / TREES
