"""Reading the workspace's git history: its log, and the differences between revisions.

git is run so that nothing that the repository says makes it run anything else, or look elsewhere: no
pagers, file-system monitors, external diffs, text conversions, filters, signature checks or transports.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from meshwright.core.errors import ToolFailed
from meshwright.sandbox.process import ProgramResult, run
from meshwright.tools.tool import tool
from meshwright.tools.toolset import PRIVATE, Toolset

# A name never holds two dots in a row: they are what stands between two.
REVISION = r"[A-Za-z0-9_](\.?[A-Za-z0-9_/-])*([~^][0-9]*)*"
_REVISIONS = rf"^{REVISION}(\.\.\.?{REVISION})?$"
COMMIT = "^{commit}"  # peels a tag; refuses a file or a folder, which would be shown under another path

FIELDS = ("commit", "date", "author", "subject")
FORMAT = "--format=%h%x00%as%x00%an%x00%s"
_DIFF_OPTIONS = [
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=dirty",
    "--submodule=short",
]
CONFIG = {
    "core.fsmonitor": "",
    "core.hooksPath": os.devnull,
    # It would write the index, and lock it against the person who works there.
    "diff.autoRefreshIndex": "false",
    "log.showSignature": "false",
}
_FILTERS = r"^filter\..*\.(clean|process|required)$"
ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}

_EXCLUDED = [f":(exclude,glob,icase)**/{name}{below}" for name in PRIVATE for below in ("", "/**")]

_GitPath = Annotated[str, Field(max_length=4_096)]
_NO_REPOSITORY = "this workspace is no git repository"
_OWN_REPOSITORY = "Set as workspace the folder that holds the repository's .git folder"


class GitTools(Toolset):
    """Reads the git repository whose root is the workspace, and changes nothing.

    Files that are private in the workspace are private in its history.
    """

    @tool(idempotent=True, effect="read", origin="workspace")
    async def git_log(
        self, max_count: Annotated[int, Field(ge=1, le=100)] = 20, path: _GitPath = ""
    ) -> list[dict[str, str]]:
        """List the latest commits: id, day, author and subject.

        Args:
            max_count: how many commits
            path: only the commits that changed this file or folder
        """
        pathspecs = self._pathspecs(path) if path else ()
        finished = await self._git("log", "-z", f"--max-count={max_count}", FORMAT, "--", *pathspecs)
        values = iter(finished.output.split("\0"))
        return [
            dict(zip(FIELDS, commit, strict=True)) for commit in zip(*[values] * len(FIELDS), strict=False)
        ]

    @tool(idempotent=True, effect="read", origin="workspace")
    async def git_diff(
        self,
        revisions: Annotated[str, Field(pattern=_REVISIONS, max_length=200)] = "HEAD",
        path: _GitPath = "",
    ) -> str:
        """Show what was changed, as a unified diff.

        Args:
            revisions: two, as in v1.0..HEAD, or one, to compare the files as they are now with it
            path: only the changes of this file or folder
        """
        pathspecs = self._pathspecs(path)
        compared = await self._commits(revisions)
        filters = await self._filters()
        finished = await self._git("diff", *_DIFF_OPTIONS, compared, "--", *pathspecs, config=filters)
        text = finished.output[: self.settings.max_text_chars]
        is_cut = finished.is_cut or len(text) < len(finished.output)
        return f"{text}\n[cut: there is more; ask for one path]" if is_cut else text

    async def file_at(self, revision: str, path: str, max_bytes: int) -> str:
        """The text of a file as a revision has it. Raises ToolFailed, InvalidInput for a private path."""
        inside = self.settings.files.locate(path).as_posix()
        commit = await self._commits(revision)
        finished = await self._git("cat-file", "blob", f"{commit}:{inside}", max_bytes=max_bytes)
        if finished.is_cut:
            raise ToolFailed(f"{path} has more than {max_bytes:,} bytes in {revision}")
        return finished.output

    async def _filters(self) -> dict[str, str]:
        """Settings that turn off all filters of the repository: comparing a changed file would run it."""
        finished = await self._git("config", "-z", "--name-only", "--get-regexp", _FILTERS, accepted=(0, 1))
        names = finished.output.split("\0")[:-1]
        return {name: "false" if name.endswith(".required") else "" for name in names}

    async def _commits(self, revisions: str) -> str:
        first, dots, last = [*re.split(r"(\.\.\.?)", revisions, maxsplit=1), "", ""][:3]
        names = [f"{name}{COMMIT}" for name in (first, last) if name]
        try:
            finished = await self._git("rev-parse", *names, "--")
        except ToolFailed as error:
            raise ToolFailed(error.message.replace(COMMIT, ""), remedy=error.remedy) from error
        return dots.join(finished.output.split("\n")[: len(names)])

    def _pathspecs(self, path: str) -> list[str]:
        """A path of the workspace, or all of it, but for what is private, as git's pathspecs."""
        inside = self.settings.files.locate(path).as_posix()
        hidden = [f":(exclude,literal){path}" for path in self.settings.files.hidden]
        return [f":(literal){inside}", *hidden, *_EXCLUDED]

    async def _git(
        self,
        *arguments: str,
        config: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (0,),
        max_bytes: int | None = None,
    ) -> ProgramResult:
        root = self.settings.files.root
        git_dir = _git_dir(root)
        finished = await run(
            ["git", "--no-pager", "--no-replace-objects", *filter(None, arguments)],
            folder=root,
            environment=_environment(git_dir, root, CONFIG | dict(config or {})),
            timeout_seconds=self.settings.git_timeout_seconds,
            max_output_bytes=max_bytes or 4 * self.settings.max_text_chars,
        )
        # Of a git that fails only the complaint is shown: its output may be of something else than was asked.
        if finished.status not in accepted and not finished.is_killed:
            raise ToolFailed(f"git {arguments[0]} failed: {finished.errors.strip()}")
        return finished


def _git_dir(root: Path) -> Path:
    """The repository's own folder `.git`. Raises ToolFailed where it is none, or shares another's history."""
    git_dir, what = root / ".git", ""
    if git_dir.is_symlink() or git_dir.is_file():
        what = " of its own: its .git is a link, or a file that names another folder"
    elif any(_leads_out(path, git_dir) for path in _git_paths(git_dir)):
        what = " of its own: its .git folder refers to another's"
    if what or not git_dir.is_dir():
        raise ToolFailed(f"{_NO_REPOSITORY}{what}", remedy=_OWN_REPOSITORY)
    return git_dir


def _git_paths(git_dir: Path) -> Iterator[Path]:
    for folder in (git_dir, git_dir / "objects", git_dir / "objects" / "pack", git_dir / "objects" / "info"):
        with suppress(OSError):
            yield from folder.iterdir()
    for folder, folders, names in os.walk(git_dir / "refs"):
        yield from (Path(folder, name) for name in (*folders, *names))


def _leads_out(path: Path, git_dir: Path) -> bool:
    is_foreign = path.is_symlink() and not path.resolve().is_relative_to(git_dir)
    return is_foreign or path.name in ("commondir", "alternates")


def _environment(git_dir: Path, root: Path, config: Mapping[str, str]) -> dict[str, str]:
    # By environment and not by `-c`, which cannot set a key with an equals sign in it.
    values = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    # Named outright, because git searches: it would find a repository around the workspace, or compare
    # any two paths of the machine where it finds none.
    own = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(root), "PATH": os.environ.get("PATH", os.defpath)}
    return ENVIRONMENT | own | values
