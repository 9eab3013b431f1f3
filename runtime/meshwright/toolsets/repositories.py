"""Public git repositories, looked at without checking anything out: nothing of them is run or written."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from meshwright.agents.sandbox.process import run
from meshwright.core.errors import ToolFailed
from meshwright.core.folders import temporary_folder

_CLONE_SECONDS, _READ_SECONDS = 90.0, 20.0
_DEPTH = 100
_MAX_OUTPUT_BYTES = 4_000_000
_MAX_README_CHARS = 6_000
_MAX_LANGUAGES = 8
_MAX_COMMITS = 10
_MAX_FILE_BYTES = 300_000_000
_README = re.compile(r"readme(\.(md|rst|txt|adoc))?", re.IGNORECASE)
_LICENCE = re.compile(r"(licen[cs]e|copying)(\..*)?", re.IGNORECASE)
_TEST = re.compile(r"(^|/)(tests?|spec|__tests__)/|(^|/)test_[^/]*$|_test\.[a-z]+$|\.(test|spec)\.[a-z]+$")
_LANGUAGES = {
    "c": "C", "h": "C", "cc": "C++", "cpp": "C++", "hpp": "C++", "cs": "C#", "go": "Go", "java": "Java",
    "js": "JavaScript", "mjs": "JavaScript", "jsx": "JavaScript", "kt": "Kotlin", "lua": "Lua", "php": "PHP",
    "py": "Python", "pyi": "Python", "rb": "Ruby", "rs": "Rust", "scala": "Scala", "sh": "Shell",
    "swift": "Swift", "ts": "TypeScript", "tsx": "TypeScript", "vue": "Vue", "zig": "Zig",
}  # fmt: skip
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "https:http",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}
_CONFIG = ("core.hooksPath=/dev/null", "http.followRedirects=false", "credential.helper=", "gc.auto=0")


async def repository_overview(url: str) -> dict[str, Any]:
    """Languages by their number of files, tests, activity, latest commits and the readme of a repository.

    Its last 100 commits are fetched into a folder that is removed again, and of its files the readme alone
    where the server lets choose. Raises ToolFailed.
    """
    with temporary_folder("mesh-repository-") as folder:
        clone = ("clone", "--quiet", "--bare", "--no-tags", "--single-branch", f"--depth={_DEPTH}")
        await _git(folder, *clone, "--filter=blob:none", "--", url, ".", seconds=_CLONE_SECONDS)
        log = await _git(folder, "log", "--format=%as%x00%an%x00%s", "HEAD", "--")
        tree = await _git(folder, "ls-tree", "-r", "-z", "--name-only", "HEAD")
        paths = [path for path in tree.split("\0") if path]
        readme = next((path for path in paths if _README.fullmatch(path)), None)
        text = await _git(folder, "cat-file", "blob", f"HEAD:{readme}") if readme else ""
    return {"url": url, **_activity(log.splitlines()), **_contents(paths), "readme": text[:_MAX_README_CHARS]}


def _activity(log: Sequence[str]) -> dict[str, Any]:
    commits = [dict(zip(("date", "author", "subject"), line.split("\0"), strict=False)) for line in log]
    counted = len(commits) if len(commits) < _DEPTH else f"{_DEPTH} or more"
    return {
        "last_commit": commits[0]["date"] if commits else None,
        "commits": counted,
        "since": commits[-1]["date"] if commits else None,
        "authors": len({commit.get("author") for commit in commits}),
        "latest": commits[:_MAX_COMMITS],
    }


def _contents(paths: Sequence[str]) -> dict[str, Any]:
    suffixes = (PurePosixPath(path).suffix.lower().lstrip(".") for path in paths)
    languages = Counter(_LANGUAGES[suffix] for suffix in suffixes if suffix in _LANGUAGES)
    top = [path for path in paths if "/" not in path]
    return {
        "files": len(paths),
        "languages": dict(languages.most_common(_MAX_LANGUAGES)),
        "tests": sum(_TEST.search(path) is not None for path in paths),
        "workflows": [path for path in paths if path.startswith(".github/workflows/")][:20],
        "licence": next((path for path in top if _LICENCE.fullmatch(path)), None),
        "top": sorted({path.partition("/")[0] for path in paths})[:100],
    }


async def _git(folder: Path, *arguments: str, seconds: float = _READ_SECONDS) -> str:
    settings = (part for setting in _CONFIG for part in ("-c", setting))
    limit = (prlimit, f"--fsize={_MAX_FILE_BYTES}") if (prlimit := shutil.which("prlimit")) else ()
    finished = await run(
        [*limit, "git", "--no-pager", *settings, *arguments],
        folder=folder,
        environment={**_ENVIRONMENT, "PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)},
        timeout_seconds=seconds,
        max_output_bytes=_MAX_OUTPUT_BYTES,
    )
    if finished.status and not finished.is_killed:
        raise ToolFailed(f"git {arguments[0]} failed: {finished.errors.strip()}")
    return finished.output
