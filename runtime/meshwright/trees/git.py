"""git on a bare clone that no tool sees, and on a work tree without git's files.

The clone is ours: no hook, filter, diff driver or setting of the source is in it, and nothing that the tree
says makes git run anything or look elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

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
        wanted = f"refs/heads/{branch}" if branch else "HEAD"
        if not await self._ask("ls-remote", "--", repository, wanted, seconds=_REACH_SECONDS):
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
        given: str = "",
    ) -> str:
        """Run a command of git in the tree, `given` on stdin; returns its output, cut at `max_bytes`."""
        own = {
            "GIT_DIR": str(self.git_dir),
            "GIT_WORK_TREE": str(self.work_tree),
            "GIT_ALLOW_PROTOCOL": "none",
        }
        return await self._run(list(arguments), {**own, **_IDENTITY}, _SECONDS, max_bytes, accepted, given)

    async def _run(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        seconds: float,
        max_bytes: int,
        accepted: Collection[int] = (0,),
        given: str = "",
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
            given=given,
        )
        if finished.status not in accepted and not finished.is_killed:
            why = finished.errors.strip() or f"it ended with the status {finished.status}"
            raise ToolFailed(f"git {arguments[0]} failed: {why}")
        return finished.output

    def unlock(self) -> None:
        """Remove the locks of a git that was killed. Call it while nothing else runs here."""
        for path in (*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").rglob("*.lock")):
            path.unlink(missing_ok=True)
