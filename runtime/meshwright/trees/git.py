"""git on a bare clone that no tool sees, and on a work tree without git's files.

The clone is ours: no hook, filter, diff driver or setting of the source is in it, and nothing that the tree
says makes git run anything or look elsewhere.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.process import run

_MAX_OUTPUT_BYTES = 8_000_000
_SECONDS, _CLONE_SECONDS, _REACH_SECONDS = 120.0, 600.0, 8.0
_CONFIG = {
    "advice.addEmbeddedRepo": "false",
    "commit.gpgSign": "false",
    "core.attributesFile": os.devnull,
    "core.bare": "false",
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.untrackedCache": "false",
    "diff.renames": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
}
_IDENTITY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Meshwright"), ("EMAIL", "mesh@localhost"))
}
_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}
# The files of a repository say how git converts others: contents stay as they are, byte by byte.
_ATTRIBUTES = "* -text -ident !eol !filter !diff !merge !working-tree-encoding !export-subst\n"


class Git:
    """Runs git on a clone and its work tree. Raises ToolFailed with git's words where it fails."""

    def __init__(self, git_dir: Path, work_tree: Path) -> None:
        self.git_dir, self.work_tree = git_dir, work_tree

    async def clone(self, repository: str, branch: str) -> None:
        """Clone a branch of a repository, without hard links to its objects."""
        chosen = ["--branch", branch] if branch else []
        kind = ["--bare", "--no-local", "--single-branch", "--no-tags", "--template=", "--quiet"]
        await self._ask("clone", *kind, *chosen, "--", repository, str(self.git_dir))
        (self.git_dir / "info").mkdir(exist_ok=True)
        (self.git_dir / "info" / "attributes").write_text(_ATTRIBUTES)

    async def reach(self, repository: str, branch: str) -> None:
        """Look whether a repository answers, and has the branch."""
        ref = f"refs/heads/{branch}" if branch else "HEAD"
        if not await self._ask("ls-remote", "--", repository, ref, seconds=_REACH_SECONDS):
            raise ToolFailed(f"it has no branch {branch}" if branch else "it has no commits")

    async def _ask(self, *arguments: str, seconds: float = _CLONE_SECONDS) -> str:
        """Run a command of git that asks another repository, as the user of the mesh."""
        users = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK") if name in os.environ}
        ssh = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "GIT_ALLOW_PROTOCOL": "file:http:https:ssh"}
        return await self._run(list(arguments), {**users, **ssh}, seconds, _MAX_OUTPUT_BYTES)

    async def __call__(
        self,
        *arguments: str,
        max_bytes: int = _MAX_OUTPUT_BYTES,
        accepted: Collection[int] = (0,),
        stdin: str = "",
    ) -> str:
        """Run a command of git in the tree, with `stdin`; returns its output, cut at `max_bytes`."""
        own = {
            "GIT_DIR": str(self.git_dir),
            "GIT_WORK_TREE": str(self.work_tree),
            "GIT_ALLOW_PROTOCOL": "none",
        }
        return await self._run(list(arguments), {**own, **_IDENTITY}, _SECONDS, max_bytes, accepted, stdin)

    async def _run(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        seconds: float,
        max_bytes: int,
        accepted: Collection[int] = (0,),
        stdin: str = "",
    ) -> str:
        values = {"GIT_CONFIG_COUNT": str(len(_CONFIG))}
        for number, (key, value) in enumerate(_CONFIG.items()):
            values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        finished = await run(
            ["git", "--no-pager", *arguments],
            folder=self.work_tree,
            environment={**_ENVIRONMENT, **path, **values, **environment},
            timeout_seconds=seconds,
            max_output_bytes=max_bytes,
            input_text=stdin,
        )
        if finished.status not in accepted and not finished.is_killed:
            why = finished.errors.strip() or f"it ended with the status {finished.status}"
            raise ToolFailed(f"git {arguments[0]} failed: {why}")
        return finished.output

    def unlock(self) -> None:
        """Remove the locks of a git that was killed. Call it while nothing else runs here."""
        for path in (*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").rglob("*.lock")):
            path.unlink(missing_ok=True)


# The files of a tree that git records: all but what the rules of its first commit leave out. Rules
# that a task writes into the tree hide nothing, so that no file acts on tests unseen.

# Caches of programs, left out where the repository's own rules say nothing else.
_CACHES = "__pycache__/\n*.pyc\n.*_cache/\nnode_modules/\n.venv/\n.coverage\n"
_MAX_NAMES_BYTES = 200_000_000


async def record(git: Git, base: str) -> None:
    """Have the index name the files as they are. Raises ToolFailed."""
    rules = await _rules(git, base)
    await git("add", "--update", "--", ".")
    quoted = ("-c", "core.quotePath=true")  # a name need not be UTF-8
    new = await git(*quoted, "ls-files", "--others", rules, max_bytes=_MAX_NAMES_BYTES)
    if len(new) >= _MAX_NAMES_BYTES:
        raise ToolFailed(
            "the names of the tree's files are too long", remedy="Leave out what can be made again"
        )
    if new:
        await git("update-index", "--add", "--replace", "--remove", "--stdin", stdin=new)


async def left_out(git: Git, base: str) -> list[str]:
    """The files and folders that are not recorded, by path; a folder ends with /."""
    options = ("--others", "--ignored", "--directory", "--no-empty-directory", "-z", await _rules(git, base))
    return sorted(filter(None, (await git("ls-files", *options)).split("\0")))


async def _rules(git: Git, base: str) -> str:
    """The option of git that names the rules of a commit, which are written at the first use."""
    place = git.git_dir / "info" / "rules"
    if not place.exists():
        files = ("--", ":(glob)**/.gitignore")
        listing = await git("grep", "-a", "-z", "--full-name", "-e", "", base, *files, accepted=(0, 1))
        lines = [line.removeprefix(f"{base}:").partition("\0") for line in listing.split("\n") if line]
        lines.sort(key=lambda line: line[0].count("/"))  # rules of folders further down win
        rules = [_from_root(PurePosixPath(path).parent, rule) for path, _, rule in lines]
        draft = place.with_suffix(".draft")
        draft.write_text("\n".join([_CACHES, *rules]) + "\n")
        draft.replace(place)
    return f"--exclude-from={place}"


def _from_root(folder: PurePosixPath, rule: str) -> str:
    """A rule of a folder's .gitignore, as one at the root says it."""
    rule = rule.removeprefix("\ufeff")
    if folder == PurePosixPath() or rule.startswith("#") or not rule.strip():
        return rule
    negation = "!" if rule.startswith("!") else ""
    pattern = rule.removeprefix("!")
    is_anchored = "/" in pattern.rstrip()[:-1]
    place = re.sub(r"([\\*?\[\]])", r"\\\1", folder.as_posix())
    return f"{negation}/{place}/{'' if is_anchored else '**/'}{pattern.removeprefix('/')}"


# Locks between the processes of a machine

_LOOK_SECONDS = 0.05


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Hold a lock, by a file that is made, against other processes; it ends with the process that has it."""
    with path.open("w") as file:
        while not _is_locked(file.fileno()):  # noqa: ASYNC110 - another process says no event
            await asyncio.sleep(_LOOK_SECONDS)
        yield


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
