"""One tree: the files that a task and its delegated tasks change, and their history beside them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from meshwright.agents.sandbox.port import BoxConnection, BoxLimits, Sandbox, SandboxResult
from meshwright.agents.trees.files import Git, TreeFiles, left_out, locked, record
from meshwright.agents.trees.settings import TreeSettings
from meshwright.agents.trees.shared_trees import SharedState, SharedTrees, bundle, unbundle
from meshwright.core.encoding import Struct
from meshwright.core.errors import Conflict, InvalidInput, ToolFailed
from meshwright.engine.sql.folder import read_private, write_private

MAX_DIFF_BYTES = 1_000_000
VERSION = "version"
"""The file with the number of the shared state that the files are at."""
_OUTSIDE = "outside"
"""The file that says that a run which had read text from outside has worked on the tree."""
_STORED_TIMES = 3  # a clone may have so many times what its tree may, without what it began with
_MAX_LINE_CHARS = 300
_ENVIRONMENT = {
    "GODEBUG": "goindex=0",  # an index of packages would have to be written, also to a cache to read alone
    "GOFLAGS": "-buildvcs=false",
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_PACKAGES = "node_modules"
_LIMITS = BoxLimits()
_ResultT = TypeVar("_ResultT")
_DIFF = ("diff", "--cached", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all")


class TreeLease(Struct):
    """The lease of a tree: the topmost task that shares it, and the commit that it began with."""

    tenant_id: str
    tree_id: str
    repository: str
    base: str
    created_at: datetime


class TreeChange(NamedTuple):
    """A changed file: `A` added, `M` changed, `D` deleted, `T` another kind of file."""

    status: str
    path: str


class TreeServices(NamedTuple):
    """The services of the trees of a process: a sandbox, and for several workers the shared states."""

    sandbox: Sandbox
    shared: SharedTrees | None = None


class _Step(Struct):
    """A step that changes the tree: the snapshot and the commit before it, its result once it has ended."""

    step_id: str
    before: str
    head: str = ""
    has_ended: bool = False
    result: Any = None


class Tree:
    """The files of a task: `root` has no `.git`, commits are made beside it and run nothing of its files.

    One step at a time changes them, in all processes of this machine. A step that a killed process has left
    is undone before the next one, or when the tree is leased again.
    """

    def __init__(
        self, folder: Path, lease: TreeLease, settings: TreeSettings, services: TreeServices
    ) -> None:
        self.folder, self.lease, self.settings = folder, lease, settings
        self._services = services
        self.root = folder / "tree"
        self.files = TreeFiles(self.root)
        self._git = Git(folder / "repo.git", self.root)
        self._steps = folder / "steps"
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None

    @property
    def tree_id(self) -> str:
        """The id of the topmost task that shares it."""
        return self.lease.tree_id

    @property
    def branch(self) -> str:
        """The branch that gets its commits."""
        return f"mesh/{self.tree_id}"

    @property
    def repository(self) -> Path:
        """The bare repository with its commits, which `git fetch` can read."""
        return self._git.git_dir

    @property
    def may_have_outside(self) -> bool:
        """Whether its files may have text that strangers have written."""
        return (self.folder / _OUTSIDE).exists()

    def note_outside(self) -> None:
        """Note that its files may have such text: a run that has read it works on the tree."""
        if not self.may_have_outside:
            write_private(self.folder / _OUTSIDE, "")

    async def once(self, step_id: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Change the tree in a step: once, however often a killed process has it repeated.

        Returns the result as it was recorded, plain JSON data, where the step has ended already. The tree is
        as before where `work` raises or was cut off. Raises what `work` raises, and ToolFailed where the tree
        is then larger than it may be.
        """
        async with self._held():
            before = self._read(step_id)
            if before is not None and before.has_ended:
                return before.result
            snapshot, head = await self._pruned(await self.snapshot()), await self.head()
            step = _Step(step_id=step_id, before=snapshot, head=head)
            self._write(step)
            try:
                result = await work()
                snapshot = await self.snapshot()
                if not (self._services.shared is None or await self._share(step_id, snapshot, result)):
                    raise ToolFailed(
                        "another worker has changed the tree meanwhile", remedy="Look at it, and try again"
                    )
            except Exception:  # whatever it was, what the step wrote is no part of the tree
                await self._undo_unended()
                raise
            self._end(step_id, result, step.before)
            return result

    async def step_result(self, step_id: str) -> Any | None:
        """The result of a step that has ended; None for one that has not, and what it left is undone."""
        async with self._held():
            step = self._read(step_id)
        return step.result if step is not None and step.has_ended else None

    async def share(self) -> bool:
        """Save the state of a new tree for other workers; false where one of them was faster."""
        async with self._held():
            return await self._share("", await self.snapshot(), None)

    async def settle(self) -> None:
        """Return when no step is at work here, and what a killed process has left is undone."""
        async with self._held():
            pass

    async def begin(self, base: str = "") -> str:
        """Clone the repository and write the files of a commit, by default the last; returns its id.

        Raises ToolFailed.
        """
        await self._git.clone(self.settings.repository, self.settings.branch)
        base = (await self._git("rev-parse", "--verify", f"{base or 'HEAD'}^{{commit}}")).strip()
        await self._git("read-tree", "--reset", "-u", base)
        await self._tidy()
        return base

    async def diff(self, path: str = "", *, binary: bool = False, max_bytes: int = MAX_DIFF_BYTES) -> str:
        """The changes since the lease as a unified diff; `binary` has what `git apply` needs too.

        One over `max_bytes` is cut, and says so.
        """
        options = [*(["--binary", "--full-index"] if binary else ()), self.lease.base, *self._only(path)]
        async with self._held():
            await self.snapshot()
            text = await self._git(*_DIFF, *options, max_bytes=max_bytes)
        is_cut = len(text) >= max_bytes or len(text.encode()) >= max_bytes
        return f"{text}\n[cut after {max_bytes:,} bytes: ask for one path]" if is_cut else text

    async def original(self, path: str, max_bytes: int) -> str:
        """The text of a file as it was at the lease. Raises ToolFailed where it was not there."""
        place = f"{self.lease.base}:{self.files.locate(path).as_posix()}"
        return await self._git("cat-file", "blob", place, max_bytes=max_bytes)

    async def search(self, pattern: str, glob: str = "", *, most: int = 200) -> str:
        """The lines that fit a regular expression of Perl, each with file and number, at most so many.

        It waits for a step that is at work: a program could put a link in place of a folder that git has
        listed, and have it read what lies outside. Raises ToolFailed for an expression that git cannot read.
        """
        options = ["-n", "-I", "-P", "--no-color", "--no-recurse-submodules"]
        only = [f":(glob){glob if '/' in glob else f'**/{glob}'}"] if glob else []
        async with self._held():
            await self.snapshot()
            output = await self._git("grep", *options, "-e", pattern, "--", *only, accepted=(0, 1))
        lines = [line[:_MAX_LINE_CHARS] for line in output.split("\n")[: most + 1] if line]
        more = ["[there are more: narrow the pattern]"] if len(lines) > most else []
        return "\n".join([*lines[:most], *more])

    async def run(
        self,
        argv: Sequence[str],
        limits: BoxLimits = _LIMITS,
        network: Sequence[str] = (),
        *,
        readable: Sequence[Path] = (),
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> SandboxResult:
        """Run a program in the sandbox, at the root of the tree. Call it within `once`.

        It may read the folders `readable`, and has the variables `env`, beside those of the settings.
        """
        env = {**_ENVIRONMENT, "GOCACHE": str(self.root / ".go_cache"), **env, **self.settings.env}
        folders = [*self._readable(), *readable]
        finished = await self._services.sandbox.run(
            argv, self.root, limits=limits, network=network, env=env, read=folders
        )
        return replace(finished, output=self.named_from_root(finished.output))

    async def run_connected(
        self,
        argv: Sequence[str],
        connection: BoxConnection,
        limits: BoxLimits,
        *,
        env: Mapping[str, str],
        read: Sequence[Path],
    ) -> SandboxResult:
        """Run a program that works on the files by itself; what it has changed stays, however it ends.

        Nothing else reads or changes the tree meanwhile. Raises ToolFailed where the box cannot be started,
        the tree is then larger than it may be, or another worker has changed it meanwhile.
        """
        variables = {**_ENVIRONMENT, **self.settings.env, **env}
        folders = [*self._readable(), *read]
        async with self._held():
            try:
                finished = await self._services.sandbox.run_connected(
                    argv, self.root, connection, limits=limits, env=variables, read=folders
                )
            except BaseException:  # also where the run ends: what the program wrote stays
                with suppress(ToolFailed):  # the error of the program matters more
                    await self._keep()
                raise
            if not await self._keep():
                raise ToolFailed("another worker has changed the tree meanwhile")
            return finished

    async def _keep(self) -> bool:
        """Save the state of the files for other workers; false where one of them was faster."""
        snapshot = await self.snapshot()
        return self._services.shared is None or await self._share("", snapshot, None)

    def home(self, name: str) -> Path:
        """A folder beside the tree for what a program keeps of its own. It is erased with the tree."""
        folder = self.folder / "homes" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _readable(self) -> list[Path]:
        """The folders that programs may read; of Node's packages also a link beside the tree.

        Node looks for packages in every folder above the file that names them.
        """
        packages = next((folder for folder in self.settings.read if folder.name == _PACKAGES), None)
        link = self.folder / _PACKAGES
        if packages is None:
            return [*self.settings.read]
        if not link.is_symlink() or link.readlink() != packages:
            link.unlink(missing_ok=True)
            link.symlink_to(packages)
        return [*self.settings.read, link]

    def named_from_root(self, text: str) -> str:
        """A text in which the files of the tree are named from its root on."""
        return text.replace(f"{self.root}/", "")

    async def tried(self, work: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
        """Do something, and have the files be as they were before. Call it within `once`."""
        before = await self.snapshot()
        try:
            return await work()
        finally:
            await self.restore(before)

    def keep_output(self, text: str) -> str:
        """Keep a text beside the tree; returns the id by which `output` finds it."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.folder / "outputs"
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(folder / digest, text)
        return digest

    def output(self, output_id: str) -> str:
        """A text that was kept. Raises ToolFailed."""
        with suppress(OSError):
            if output_id.isalnum():
                return read_private(self.folder / "outputs" / output_id)
        raise ToolFailed(
            f"There is no output {output_id!r} in this tree", remedy="Name one that a result has"
        )

    async def changed(self) -> list[TreeChange]:
        """The files that differ from the commit that the tree began with, by path."""
        async with self._held():
            await self.snapshot()
            text = await self._git(*_DIFF, "--name-status", "--no-renames", "-z", self.lease.base)
        fields = text.split("\0")
        return [TreeChange(*pair) for pair in zip(fields[::2], fields[1::2], strict=False)]

    async def left_out(self) -> list[str]:
        """The ignored files and folders, which no snapshot, diff or commit has; a folder ends with /."""
        async with self._held():
            return await left_out(self._git, self.lease.base)

    async def proposal(self) -> tuple[str, list[TreeChange], str, list[str]]:
        """The snapshot, the changed files, the diff and what it leaves out, all of the same moment."""
        async with self._held():
            return await self.snapshot(), await self.changed(), await self.diff(), await self.left_out()

    async def commit(self, message: str, *, expected: str = "") -> str:
        """Commit the tree on its branch, and return the revision; an existing one stays.

        Raises Conflict where its snapshot is not `expected`, InvalidInput where nothing has changed.
        """
        async with self._held():
            snapshot = await self.snapshot()
            if expected and snapshot != expected:
                raise Conflict(f"The tree is {snapshot} by now, not {expected}")
            parent = await self.head()
            if await self._resolve_tree(parent) == snapshot:
                last_message = await self._git("log", "-1", "--format=%B", parent)
                if parent != self.lease.base and last_message.strip() == message.strip():
                    return parent
                raise InvalidInput("nothing has changed since the last commit", field="title")
            revision = (await self._git("commit-tree", snapshot, "-p", parent, "-m", message)).strip()
            await self._git("update-ref", f"refs/heads/{self.branch}", revision)
            return revision

    async def head(self) -> str:
        """The last commit on its branch, or the commit that it began with."""
        arguments = ("for-each-ref", "--format=%(objectname)", f"refs/heads/{self.branch}")
        return (await self._git(*arguments)).strip() or self.lease.base

    async def revert(self, path: str = "") -> None:
        """Have the files, or those at and below a path, be as they were at the lease."""
        async with self._held():
            await self.snapshot()
            if path:
                options = ["--source", self.lease.base, "--staged", "--worktree", "--quiet"]
                await self._git("restore", *options, *self._only(path))
            else:
                await self.restore(await self._resolve_tree(self.lease.base))

    async def snapshot(self) -> str:
        """Record the files as they are; returns the id that `restore` takes.

        It has nothing of `left_out`. Raises ToolFailed where the tree is larger than it may be.
        """
        async with self._held():
            await self._tidy()
            await record(self._git, self.lease.base)
            return (await self._git("write-tree")).strip()

    async def restore(self, snapshot: str) -> None:
        """Have the files be as they were at a snapshot, new ones removed."""
        async with self._held():
            await asyncio.to_thread(self.files.cut_deep)
            await asyncio.to_thread(self.files.tidy, 10**9, 10**15)  # too large is what may be undone
            await record(self._git, self.lease.base)
            await self._git("read-tree", "--reset", "-u", snapshot)

    async def _pruned(self, snapshot: str) -> str:
        """Remove objects of earlier snapshots where there are many; returns the snapshot."""
        if await self._stored_mb() > (limit := _STORED_TIMES * self.settings.max_mb):
            await self._git("prune", "--expire=now", "--", snapshot)
            if (stored := await self._stored_mb()) > limit:
                raise ToolFailed(
                    f"the history of the tree has {stored:,} MB, of {limit:,}",
                    remedy="Raise max_mb in [trees.NAME]",
                )
        return snapshot

    async def _stored_mb(self) -> int:
        counts = dict(line.split(": ") for line in (await self._git("count-objects", "-v")).splitlines())
        return int(counts["size"]) // 1_000

    async def _tidy(self) -> None:
        await asyncio.to_thread(self.files.tidy, self.settings.max_files, self.settings.max_mb * 1_000_000)

    async def _resolve_tree(self, revision: str) -> str:
        return (await self._git("rev-parse", "--verify", f"{revision}^{{tree}}")).strip()

    def _only(self, path: str) -> list[str]:
        return ["--", f":(literal){self.files.locate(path).as_posix()}"] if path else ["--"]

    async def _undo_unended(self) -> None:
        last = self._last()
        if last is not None and not last.has_ended:
            if last.head and last.head != await self.head():
                await self._git("update-ref", f"refs/heads/{self.branch}", last.head)
            await self.restore(last.before)
            self._place(last.step_id).unlink(missing_ok=True)

    def _place(self, step_id: str) -> Path:
        return self._steps / f"{hashlib.sha256(step_id.encode()).hexdigest()[:32]}.json"

    def _read(self, step_id: str) -> _Step | None:
        with suppress(FileNotFoundError, ValueError):  # a power cut may leave half of it
            return _Step.model_validate_json(read_private(self._place(step_id)))
        return None

    def _last(self) -> _Step | None:
        with suppress(FileNotFoundError):
            return self._read(read_private(self._steps / "last"))
        return None

    def _end(self, step_id: str, result: Any, before: str) -> None:
        self._write(_Step(step_id=step_id, before=before, has_ended=True, result=result))

    @property
    def _version(self) -> int:
        """The number of the shared state that the files are at."""
        with suppress(FileNotFoundError, ValueError):
            return int(read_private(self.folder / VERSION))
        return 0

    async def _share(self, step_id: str, snapshot: str, result: Any) -> bool:
        """Save the state that a step has left; false where another worker was faster."""
        assert self._services.shared is not None
        shared, lease, version = self._services.shared, self.lease, self._version + 1
        before = await shared.read(lease.tenant_id, self.tree_id)
        results = before.results if before is not None else dict[str, Any]()
        head = await self.head()
        state = SharedState(
            version=version,
            worker=shared.worker,
            lease=lease.model_dump(mode="json"),
            snapshot=snapshot,
            head=head,
            results={**results, step_id: result} if step_id else results,
            bundle=await bundle(self._git, self.folder, self.lease.base, head, snapshot),
            outside=self.may_have_outside,
        )
        is_saved = await shared.save(lease.tenant_id, self.tree_id, state)
        if is_saved:
            write_private(self.folder / VERSION, str(version))
        return is_saved

    async def _catch_up(self, shared: SharedTrees) -> None:
        """Take the files of a newer state that another worker has saved. Raises ToolFailed, HostError."""
        if await shared.version(self.lease.tenant_id, self.tree_id) <= self._version:
            return
        state = await shared.read(self.lease.tenant_id, self.tree_id)
        if state is None:
            raise ToolFailed("the tree was erased", remedy="Submit the task again")
        if state.outside:
            self.note_outside()
        await unbundle(self._git, self.folder, state)
        await self.restore(state.snapshot)
        if state.head != self.lease.base:
            await self._git("update-ref", f"refs/heads/{self.branch}", state.head)
        for step_id, result in state.results.items():
            self._end(step_id, result, state.snapshot)
        write_private(self.folder / VERSION, str(state.version))

    def _write(self, step: _Step) -> None:
        self._steps.mkdir(mode=0o700, exist_ok=True)
        write_private(self._place(step.step_id), step.model_dump_json())
        write_private(self._steps / "last", step.step_id)

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[None]:
        """Hold the tree against others, in this process and in the others of this machine."""
        if self._holder is (task := asyncio.current_task()):
            yield
            return
        async with self._lock, locked(self.folder / "lock"):
            self._holder = task
            try:
                self._git.unlock()
                await self._undo_unended()
                if self._services.shared is not None:
                    await self._catch_up(self._services.shared)
                yield
            finally:
                self._holder = None
