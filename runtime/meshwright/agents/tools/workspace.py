"""Reading the workspace: its files, and the history of its git repository.

git is run so that nothing that the repository says makes it run anything else, or look elsewhere: no
pagers, file-system monitors, external diffs, text conversions, filters, signature checks or transports.
"""

from __future__ import annotations

import heapq
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from meshwright.agents.sandbox.process import ProgramResult, run
from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import tool
from meshwright.agents.tools.toolset import PRIVATE, Toolset, ToolSettings, WorkspaceFile
from meshwright.core.errors import InvalidInput, ToolFailed

_MAX_LINE_CHARS = 300
_MIN_TERM_CHARS = 3

_Pattern = Annotated[str, Field(max_length=200)]
_Positive = Annotated[int, Field(ge=1)]


class Match(NamedTuple):
    """A line that a search found; the smaller sorts first: a phrase, then many terms, then by place."""

    lacks_phrase: bool
    fewer_terms: int
    file: str
    line: int
    text: str


class FileTools(Toolset):
    """List, read and search the files of the workspace; nothing outside it, and nothing is changed."""

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._workspace = settings.files

    @tool(idempotent=True, effect="read", origin="workspace")
    def list_files(self, pattern: _Pattern = "**", folder: str = "") -> dict[str, Any]:
        """List the files of the workspace.

        Args:
            pattern: which files, such as *.py for a name anywhere, or docs/**/*.md for paths
            folder: only in and below this folder
        """
        listing = self._workspace.walk(folder)
        chosen = [file.path for file in listing.files if path_matches(file.path, pattern)]
        visible = chosen[: self.settings.max_results]
        return {"files": visible} | _left_out(len(chosen) - len(visible), listing.complete)

    @tool(idempotent=True, effect="read", origin="workspace")
    def read_file(self, path: str, start_line: _Positive = 1, max_lines: _Positive = 400) -> dict[str, Any]:
        """Read a text file of the workspace, or some lines of it.

        Args:
            path: the file, from the workspace's root on
            start_line: the first line wanted, from 1 on
            max_lines: how many lines are wanted
        """
        lines = _split_lines(self._workspace.read(path, self.settings.max_file_bytes))
        page = lines[start_line - 1 : start_line - 1 + max_lines]
        text = cut("\n".join(page), self.settings.max_text_chars)
        return {"file": path, "start_line": start_line, "total_lines": len(lines), "text": text}

    @tool(idempotent=True, effect="read", origin="workspace")
    def search_files(
        self,
        query: Annotated[str, Field(min_length=1, max_length=500)],
        pattern: _Pattern = "**",
        folder: str = "",
        max_results: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """Search the lines of the workspace's files; upper and lower case are the same.

        Lines with the exact phrase come first, then those with most of its words.

        Args:
            query: a phrase, or some words
            pattern: in which files, such as *.py, or docs/**/*.md
            folder: only in and below this folder
            max_results: how many lines are wanted
        """
        phrase = query.casefold().strip()
        if not phrase:
            raise InvalidInput("the query is blank", remedy="search for at least one word", field="query")
        words = dict.fromkeys(re.findall(r"\w+", phrase))
        # Short words count only if there are no others.
        terms = [word for word in words if len(word) >= _MIN_TERM_CHARS] or [*words] or [phrase]
        listing = self._workspace.walk(folder)
        files = [file for file in listing.files if path_matches(file.path, pattern)]
        affordable = self._affordable(files)
        matches = (match for path in affordable for match in self._search(path, phrase, terms))
        best = heapq.nsmallest(min(max_results, self.settings.max_results), matches)
        entries = [{"file": match.file, "line": match.line, "text": match.text} for match in best]
        return {"matches": entries} | _left_out(len(files) - len(affordable), listing.complete)

    def _affordable(self, files: Sequence[WorkspaceFile]) -> list[str]:
        room = self.settings.max_search_bytes
        paths = []
        for file in files:
            if file.size <= min(room, self.settings.max_file_bytes):
                room -= file.size
                paths.append(file.path)
        return paths

    def _search(self, path: str, phrase: str, terms: Sequence[str]) -> Iterator[Match]:
        with suppress(InvalidInput):  # it is binary, or was removed since the walk
            text = self._workspace.read(path, self.settings.max_file_bytes)
            whole = text.casefold()
            is_hit = any(term in whole for term in terms)  # most files have none, and need no lines
            for number, line in enumerate(_split_lines(text) if is_hit else (), 1):
                folded = line.casefold()
                if count := sum(term in folded for term in terms):
                    yield Match(phrase not in folded, -count, path, number, line.strip()[:_MAX_LINE_CHARS])


def path_matches(path: str, pattern: str) -> bool:
    """Whether a path fits a pattern: `*` within a folder, `**` for any folders; a bare name fits anywhere.

    Takes time in proportion to both, whatever the pattern.
    """
    parts = pattern.strip("/").split("/")
    if len(parts) == 1:
        parts = ["**", *parts]
    reached = _past_folders({0}, parts)
    for part in path.split("/"):
        staying = {place for place in reached if parts[place : place + 1] == ["**"]}
        fitting = (place for place in reached - staying if place < len(parts))
        going = {place + 1 for place in fitting if fnmatchcase(part, parts[place])}
        reached = _past_folders(staying | going, parts)
    return len(parts) in reached


def _split_lines(text: str) -> list[str]:
    """The lines of a text as editors and git count them (`splitlines` would also split at a form feed)."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def _past_folders(places: set[int], parts: Sequence[str]) -> set[int]:
    """Add the places behind each `**`, since it fits no folder at all too."""
    reached = set(places)
    for place, part in enumerate(parts):
        if part == "**" and place in reached:
            reached.add(place + 1)
    return reached


def _left_out(files: int, complete: bool) -> dict[str, str]:
    if not complete:
        return {"note": "there are too many files to see them all: name a folder"}
    return {"note": f"{files} more files were left out: narrow the pattern"} if files else {}


# The git repository

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
    elif any(
        path.name in ("commondir", "alternates")
        or (path.is_symlink() and not path.resolve().is_relative_to(git_dir))
        for path in _git_paths(git_dir)
    ):
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


def _environment(git_dir: Path, root: Path, config: Mapping[str, str]) -> dict[str, str]:
    # By environment and not by `-c`, which cannot set a key with an equals sign in it.
    values = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    # Named outright, because git searches: it would find a repository around the workspace, or compare
    # any two paths of the machine where it finds none.
    own = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(root), "PATH": os.environ.get("PATH", os.defpath)}
    return ENVIRONMENT | own | values
