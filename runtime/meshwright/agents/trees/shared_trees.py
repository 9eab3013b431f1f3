"""Trees of a mesh with several workers: each step leaves what another machine needs to go on.

An actor holds the newest state of a tree: its snapshot as a bundle of git, above the commit that it began
with, and the results of its last steps. A worker whose files are older takes them from there before it does
anything, so that no process waits for a worker that is gone. A tree with too large a bundle stays on its
machine, and calls elsewhere fail with its name.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from msgspec import field

from meshwright.agents.trees.files import Git
from meshwright.core.encoding import Struct
from meshwright.core.errors import ToolFailed
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime

SHARED_TREE = "SharedTree"
MAX_BUNDLE_BYTES = 2_500_000
MAX_RESULTS = 8  # of steps: a step that another worker repeats is one of the last
_MAX_RESULT_BYTES = 400_000


class SharedState(Struct, frozen=False):
    """A tree as its last step left it. `bundle` is base64, None where it is too large.

    `worker` made the step, `lease` plain data, `outside` whether a run that had read text
    from outside has worked on the tree.
    """

    version: int = 0
    worker: str = ""
    lease: dict[str, Any] | None = None
    snapshot: str = ""
    head: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    bundle: str | None = None
    outside: bool = False


class _Facts(Struct):
    version: int = 0
    lease: dict[str, Any] | None = None


class SharedTree(Actor[SharedState]):
    """Holds the newest state of a tree."""

    @turn
    def save(self, turn: Turn, new: SharedState) -> bool:
        """Take the next state; false where another worker was faster. A repeat is true again."""
        old = self.state
        if (old.version, old.worker, old.snapshot) == (new.version, new.worker, new.snapshot):
            return True
        if new.version != old.version + 1:
            return False
        self.state = new
        return True

    @turn
    def erase(self, turn: Turn) -> None:
        """Keep nothing but the number, so that older states are refused."""
        self.state = SharedState(version=self.state.version + 1)


class SharedTrees:
    """The newest states of trees, for one worker of a mesh."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def worker(self) -> str:
        """The name of this worker: of this life of its process."""
        return self._runtime.incarnation

    async def version(self, tenant_id: str, tree_id: str) -> int:
        """The number of the newest state, 0 where there is none. Raises HostError."""
        facts = await self._runtime.read(_ref(tenant_id, tree_id), _Facts)
        return 0 if facts is None else facts.version

    async def read(self, tenant_id: str, tree_id: str) -> SharedState | None:
        """The newest state, None where there is none or it was erased. Raises HostError."""
        state = await self._runtime.read(_ref(tenant_id, tree_id))
        return None if state is None or state.lease is None else state

    async def is_erased(self, tenant_id: str, tree_id: str) -> bool:
        """Whether there was a state, and is none now. Raises HostError."""
        facts = await self._runtime.read(_ref(tenant_id, tree_id), _Facts)
        return facts is not None and facts.version > 0 and facts.lease is None

    async def save(self, tenant_id: str, tree_id: str, state: SharedState) -> bool:
        """Save the next state; false where another worker was faster. Durable when this returns."""
        results = dict(list(state.results.items())[-MAX_RESULTS:])
        while results and len(str(results)) > _MAX_RESULT_BYTES:
            del results[next(iter(results))]
        state = state.model_copy(update={"results": results})
        return bool(await self._runtime.call(_ref(tenant_id, tree_id), "save", state))

    async def erase(self, tenant_id: str, tree_id: str) -> None:
        """Erase the state of a tree, for good. Safe to repeat."""
        ref = _ref(tenant_id, tree_id)
        if await self._runtime.read(ref) is not None:
            await self._runtime.call(ref, "erase")


async def bundle(git: Git, folder: Path, base: str, head: str, snapshot: str) -> str | None:
    """A snapshot and the commits below it, above the base, in base64; None where they are too large."""
    name, path = "refs/mesh/snapshot", folder / "bundle"
    commit = (await git("commit-tree", snapshot, "-p", head, "-m", "snapshot")).strip()
    await git("update-ref", name, commit)
    await git("bundle", "create", "--quiet", str(path), name, f"^{base}")
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            return None
        return base64.b64encode(path.read_bytes()).decode()
    finally:
        path.unlink()


async def unbundle(git: Git, folder: Path, state: SharedState) -> None:
    """Take the objects of a state into the clone. Raises ToolFailed where it was too large."""
    if state.bundle is None:
        raise ToolFailed(
            f"the tree is on the machine of worker {state.worker}, and too large to move "
            f"(over {MAX_BUNDLE_BYTES // 1_000_000} MB of changes)",
            remedy="Start that worker again, or have workers share a data folder",
        )
    path = folder / "bundle"
    path.write_bytes(base64.b64decode(state.bundle))
    try:
        await git("bundle", "unbundle", str(path))
    finally:
        path.unlink()


def _ref(tenant_id: str, tree_id: str) -> ActorRef:
    return ActorRef(SHARED_TREE, f"{tenant_id}:{tree_id}")
