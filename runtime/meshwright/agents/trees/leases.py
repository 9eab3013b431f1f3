"""Leases trees to tasks: a task and all that it delegates have one, kept as long as its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from meshwright.agents.trees.files import Git
from meshwright.agents.trees.settings import WORKSPACE, TreeSettings
from meshwright.agents.trees.tree import VERSION, Tree, TreeLease, TreeServices
from meshwright.core.clock import Clock
from meshwright.core.errors import InvalidInput, NotFound, ToolFailed
from meshwright.core.folders import remove_folder
from meshwright.core.ids import new_id
from meshwright.engine.sql.folder import read_private, write_private

_LEASE, _DRAFT = "lease.json", ".new-"
LEASES = f"*/[!.]*/{_LEASE}"
"""A pattern of the leases in a folder of trees, by tenant and topmost task."""


class Trees:
    """The trees of a folder, by tenant and topmost task.

    `sources` are the repositories by name; without any the `workspace` is the one there is, where it is a git
    repository.
    """

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, TreeSettings],
        workspace: Path,
        services: TreeServices,
        clock: Clock,
    ) -> None:
        self.folder = folder
        self._sources = dict(sources)
        if not sources and (workspace / ".git").is_dir():
            self._sources[WORKSPACE] = TreeSettings(repository=str(workspace))
        self._services, self._clock = services, clock
        self._known: dict[tuple[str, str], Tree] = {}
        self._making: dict[tuple[str, str], asyncio.Task[Tree]] = {}

    @property
    def names(self) -> Sequence[str]:
        """The names of the repositories."""
        return list(self._sources)

    async def reach(self, name: str) -> None:
        """Look whether a repository answers, and has its branch. Raises ToolFailed."""
        source = self._sources[name]
        await Git(self.folder, Path("/")).reach(source.repository, source.branch)

    async def lease(
        self, tenant_id: str, tree_id: str, repository: str = "", *, may_make: bool = True
    ) -> Tree:
        """The tree of a topmost task, made of a repository at the first lease.

        Raises ToolFailed where that cannot be cloned, or there is none and it may not be made; InvalidInput
        for a name that is not known, or for none where several are.
        """
        try:
            tree = self.find(tenant_id, tree_id)
        except NotFound:
            key = tenant_id, tree_id
            if not (may_make or key in self._making or await self._is_elsewhere(*key)):
                raise ToolFailed(
                    "the files that this task has changed are gone: its tree was removed, or is not in the "
                    "backup that was restored, or the task is a fork",
                    remedy="Submit the task again",
                ) from None
            if (making := self._making.get(key)) is None:
                making = self._making[key] = asyncio.create_task(self._made(*key, repository))
                making.add_done_callback(lambda _: self._making.pop(key, None))
            tree = await asyncio.shield(making)  # a call of a tool that has too little time leaves it
        self._known[tenant_id, tree_id] = tree
        await tree.settle()
        return tree

    async def _is_elsewhere(self, tenant_id: str, tree_id: str) -> bool:
        shared = self._services.shared
        return shared is not None and await shared.read(tenant_id, tree_id) is not None

    async def close(self) -> None:
        """Make no more trees."""
        for making in (pending := [*self._making.values()]):
            making.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def find(self, tenant_id: str, tree_id: str) -> Tree:
        """A tree that was leased. Raises NotFound."""
        if (tree := self._known.get((tenant_id, tree_id))) is not None:
            return tree
        folder = self._place(tenant_id, tree_id)
        try:
            lease = TreeLease.model_validate_json(read_private(folder / _LEASE))
        except OSError:
            raise NotFound(f"There is no tree of task {tree_id}", remedy="mesh trees lists them") from None
        source = self._sources.get(lease.repository) or TreeSettings(repository=lease.repository)
        return Tree(folder, lease, source, self._services)

    def have_outside(self, tenant_id: str, tree_id: str) -> bool:
        """Whether the tree of a topmost task was used here, and may have text from outside by now."""
        tree = self._known.get((tenant_id, tree_id))
        return tree is not None and tree.may_have_outside

    def leases(self, tenant_id: str | None = None) -> list[TreeLease]:
        """The leases of a tenant, or of all of them, the oldest first."""
        leases: list[TreeLease] = []
        for path in self.folder.glob(f"{tenant_id or '*'}/[!.]*/{_LEASE}"):
            with suppress(OSError, ValueError):  # erased meanwhile
                leases.append(TreeLease.model_validate_json(read_private(path)))
        return sorted(leases, key=lambda lease: (lease.created_at, lease.tree_id))

    async def erase(self, tenant_id: str, tree_ids: Collection[str]) -> None:
        """Remove trees of topmost tasks, for good; other ids are passed over."""
        for tree_id in tree_ids:
            if self._services.shared is not None:
                await self._services.shared.erase(tenant_id, tree_id)
            await self.erase_here(tenant_id, tree_id)

    async def is_erased(self, lease: TreeLease) -> bool:
        """Whether a worker of another machine has erased the tree."""
        shared = self._services.shared
        return shared is not None and await shared.is_erased(lease.tenant_id, lease.tree_id)

    async def erase_here(self, tenant_id: str, tree_id: str) -> None:
        """Remove the files of a tree on this machine."""
        self._known.pop((tenant_id, tree_id), None)
        folder = self._place(tenant_id, tree_id)
        if folder.is_dir():
            await asyncio.to_thread(remove_folder, folder)

    async def erase_before(self, moment: datetime, kept_tasks: Collection[tuple[str, str]]) -> int:
        """Remove the trees that were leased before a time, but for trees of kept tasks; returns how many."""
        old = [lease for lease in self.leases() if lease.created_at < moment]
        expired = [lease for lease in old if (lease.tenant_id, lease.tree_id) not in kept_tasks]
        for draft in self.folder.glob(f"*/{_DRAFT}*"):
            if draft.stat().st_mtime < moment.timestamp():
                await asyncio.to_thread(remove_folder, draft)
        for lease in expired:
            await self.erase(lease.tenant_id, [lease.tree_id])
        return len(expired)

    def _named(self, repository: str) -> str:
        if not self._sources:
            raise ToolFailed(
                "there is no repository to work on",
                remedy="Name one in [trees.NAME] of mesh.toml, or have the workspace be a git repository",
            )
        if not repository and len(self._sources) == 1:
            return next(iter(self._sources))
        if repository not in self._sources:
            lack = f"there is no repository {repository!r}" if repository else "the task names no repository"
            remedy = f"Submit the task with one of {', '.join(self._sources)} as its repository"
            raise InvalidInput(lack, remedy=remedy, field="repository")
        return repository

    async def _made(self, tenant_id: str, tree_id: str, repository: str) -> Tree:
        """Make a tree, with the files of the machine that has it already, if any."""
        name, base, version = repository, "", 0
        shared = self._services.shared
        if shared is not None and (state := await shared.read(tenant_id, tree_id)) is not None:
            lease = TreeLease.model_validate(state.lease)
            name, base = lease.repository, lease.base
        elif shared is not None:
            version = await shared.version(tenant_id, tree_id)  # of an erased tree
        await self._make(tenant_id, tree_id, self._named(name), base, version)
        tree = self.find(tenant_id, tree_id)
        if shared is None or base or await tree.share():
            return tree
        await self.erase_here(tenant_id, tree_id)  # another worker was faster, perhaps with another commit
        return await self._made(tenant_id, tree_id, repository)

    async def _make(self, tenant_id: str, tree_id: str, name: str, base: str, version: int) -> None:
        place = self._place(tenant_id, tree_id)
        folder = place.with_name(f"{_DRAFT}{new_id()}")
        try:
            for path in (self.folder, place.parent, folder, folder / "tree"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            source = self._sources[name]
            lease = TreeLease(
                tenant_id=tenant_id, tree_id=tree_id, repository=name, base="", created_at=self._clock.now()
            )
            base = await Tree(folder, lease, source, self._services).begin(base)
            write_private(folder / VERSION, str(version))
            write_private(folder / _LEASE, lease.model_copy(update={"base": base}).model_dump_json())
            with suppress(OSError):  # another process was first
                folder.rename(place)
        finally:
            if folder.is_dir():
                await asyncio.to_thread(remove_folder, folder)

    def _place(self, tenant_id: str, tree_id: str) -> Path:
        return self.folder / tenant_id / tree_id
