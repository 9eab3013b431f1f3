"""Reading the workspace's git history: its log, and the differences between revisions.

git is run so that nothing that the repository says makes it run anything else, or look elsewhere: no
pagers, file-system monitors, external diffs, text conversions, filters, signature checks or transports.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from meshwright.core.errors import ToolFailed
from meshwright.tools.tool import tool
from meshwright.tools.toolset import PRIVATE, Toolset

# A name never holds two dots in a row: they are what stands between two.
_REVISION = r"[A-Za-z0-9_](\.?[A-Za-z0-9_/-])*([~^][0-9]*)*"
_REVISIONS = rf"^{_REVISION}(\.\.\.?{_REVISION})?$"
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

    @tool(idempotent=True)
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

    @tool(idempotent=True)
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
        self, *arguments: str, config: Mapping[str, str] | None = None, accepted: tuple[int, ...] = (0,)
    ) -> _Finished:
        root = self.settings.files.root
        git_dir = _git_dir(root)
        finished = await run(
            ["git", "--no-pager", "--no-replace-objects", *filter(None, arguments)],
            folder=root,
            environment=_environment(git_dir, root, CONFIG | dict(config or {})),
            timeout_seconds=self.settings.git_timeout_seconds,
            max_output_bytes=4 * self.settings.max_text_chars,
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


CHUNK_BYTES = 65_536
MAX_ERROR_BYTES = 4_096


class _Finished(NamedTuple):
    """How a program ended, and what it wrote; `is_cut` if that is not all of it."""

    status: int
    output: str
    errors: str
    is_cut: bool

    @property
    def is_killed(self) -> bool:
        return self.is_cut and self.status == -signal.SIGKILL


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    max_output_bytes: int,
) -> _Finished:
    """Run a program in a folder, with that environment alone and no input, and wait for its end.

    It is killed, with what it started, once it has written more than the limit, when its time is over
    (ToolFailed), and when the caller is cancelled. Raises ToolFailed too where it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=dict(environment),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _finish(process, max_output_bytes)
    except BaseException as error:
        _kill(process)
        # Reads what is left in the pipes: while they hold something, the process is not over.
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise ToolFailed(f"{command[0]} took longer than {timeout_seconds:g} seconds") from error
        raise


async def _finish(process: Process, max_output_bytes: int) -> _Finished:
    assert process.stdout and process.stderr  # pipes, as asked for
    output, errors = await asyncio.gather(
        _read(process.stdout, max_output_bytes, process), _read(process.stderr, MAX_ERROR_BYTES, process)
    )
    return _Finished(
        await process.wait(),
        output[:max_output_bytes].decode(errors="replace"),
        errors[:MAX_ERROR_BYTES].decode(errors="replace"),
        len(output) > max_output_bytes,
    )


async def _read(stream: StreamReader, max_bytes: int, process: Process) -> bytes:
    data = bytearray()
    while chunk := await stream.read(CHUNK_BYTES):
        if len(data) <= max_bytes:
            data += chunk
            if len(data) > max_bytes:
                _kill(process)
    return bytes(data)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
