"""Reading the workspace's git history: its log, and the differences between revisions.

git is run so that nothing that the repository says makes it run anything else, or look elsewhere: no
pagers, file-system monitors, external diffs, text conversions, filters, signature checks or transports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from meshwright.errors import ToolFailed
from meshwright.tools.commands import Finished, run
from meshwright.tools.tool import tool
from meshwright.tools.toolset import Toolset, ToolSettings

REVISION = r"[A-Za-z0-9_][A-Za-z0-9_./-]*([~^][0-9]*)*"
REVISIONS = rf"^{REVISION}(\.\.\.?{REVISION})?$"

FIELDS = ("commit", "date", "author", "subject")
FORMAT = "--format=%h%x00%as%x00%an%x00%s"
DIFF_OPTIONS = (
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=dirty",
    "--submodule=short",
)
CONFIG = {
    "core.fsmonitor": "",
    "core.hooksPath": os.devnull,
    # It would write the index, and lock it against the person who works there.
    "diff.autoRefreshIndex": "false",
    "log.showSignature": "false",
}
FILTERS = r"^filter\..*\.(clean|process|required)$"
ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}

GitPath = Annotated[str, Field(max_length=4_096)]


class GitTools(Toolset):
    """Reads the git repository whose root is the workspace, and changes nothing."""

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._root = settings.workspace.resolve()

    @tool(idempotent=True)
    async def git_log(
        self, max_count: Annotated[int, Field(ge=1, le=100)] = 20, path: GitPath = ""
    ) -> list[dict[str, str]]:
        """List the latest commits: id, day, author and subject.

        Args:
            max_count: how many commits
            path: only the commits that changed this file or folder
        """
        finished = await self._git("log", "-z", f"--max-count={max_count}", FORMAT, "--", path)
        values = iter(finished.output.split("\0"))
        return [
            dict(zip(FIELDS, commit, strict=True)) for commit in zip(*[values] * len(FIELDS), strict=False)
        ]

    @tool(idempotent=True)
    async def git_diff(
        self,
        revisions: Annotated[str, Field(pattern=REVISIONS, max_length=200)] = "HEAD",
        path: GitPath = "",
    ) -> str:
        """Show what was changed, as a unified diff.

        Args:
            revisions: two, as in v1.0..HEAD, or one, to compare the files as they are now with it
            path: only the changes of this file or folder
        """
        filters = await self._filters()
        finished = await self._git("diff", *DIFF_OPTIONS, revisions, "--", path, config=filters)
        text = finished.output[: self.settings.max_text_chars]
        is_cut = finished.is_cut or len(text) < len(finished.output)
        return f"{text}\n[cut: there is more; ask for one path]" if is_cut else text

    async def _filters(self) -> dict[str, str]:
        """What turns off every filter of the repository: comparing a changed file would run it."""
        finished = await self._git("config", "-z", "--name-only", "--get-regexp", FILTERS, accepted=(0, 1))
        names = finished.output.split("\0")[:-1]
        return {name: "false" if name.endswith(".required") else "" for name in names}

    async def _git(
        self, *arguments: str, config: Mapping[str, str] | None = None, accepted: tuple[int, ...] = (0,)
    ) -> Finished:
        command = [
            "git",
            "--no-pager",
            "--no-replace-objects",
            "--literal-pathspecs",
            f"--work-tree={self._root}",
        ]
        finished = await run(
            [*command, *filter(None, arguments)],
            folder=self._root,
            environment=self._environment(CONFIG | dict(config or {})),
            timeout_seconds=self.settings.git_timeout_seconds,
            max_output_bytes=4 * self.settings.max_text_chars,
        )
        if finished.status not in accepted and not finished.is_cut:
            raise ToolFailed(f"git {arguments[0]} failed: {finished.errors.strip()}")
        return finished

    def _environment(self, config: Mapping[str, str]) -> dict[str, str]:
        # By environment and not by `-c`, which cannot set a key with an equals sign in it.
        values = {"GIT_CONFIG_COUNT": str(len(config))}
        for number, (key, value) in enumerate(config.items()):
            values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        # A repository that only holds the workspace somewhere inside would show what is outside of it.
        ceiling = {
            "GIT_CEILING_DIRECTORIES": str(self._root.parent),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        return ENVIRONMENT | ceiling | values
