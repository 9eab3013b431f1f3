"""Reading the workspace: what files there are, what they say, and where something is said."""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from meshwright.core.errors import InvalidInput
from meshwright.tools.limited import cut
from meshwright.tools.tool import tool
from meshwright.tools.toolset import Toolset, ToolSettings, WorkspaceFile

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
        lines = _lines_of(self._workspace.read(path, self.settings.max_file_bytes))
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
        terms = _search_terms(phrase) or [phrase]
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
            folded = text.casefold()
            if any(term in folded for term in terms):
                yield from _matches(path, text, phrase, terms)


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


def _lines_of(text: str) -> list[str]:
    """The lines of a text as editors and git count them (`splitlines` would also split at a form feed)."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def _search_terms(query: str) -> list[str]:
    """The different words of a query, in lower case; short ones only if there are no others."""
    words = dict.fromkeys(re.findall(r"\w+", query.casefold()))
    return [word for word in words if len(word) >= _MIN_TERM_CHARS] or list(words)


def _past_folders(places: set[int], parts: Sequence[str]) -> set[int]:
    """Add the places behind each `**`, since it fits no folder at all too."""
    reached = set(places)
    for place, part in enumerate(parts):
        if part == "**" and place in reached:
            reached.add(place + 1)
    return reached


def _matches(path: str, text: str, phrase: str, terms: Sequence[str]) -> Iterator[Match]:
    for number, line in enumerate(_lines_of(text), 1):
        folded = line.casefold()
        count = sum(term in folded for term in terms)
        if count:
            yield Match(phrase not in folded, -count, path, number, line.strip()[:_MAX_LINE_CHARS])


def _left_out(files: int, complete: bool) -> dict[str, str]:
    if not complete:
        return {"note": "there are too many files to see them all: name a folder"}
    return {"note": f"{files} more files were left out: narrow the pattern"} if files else {}
