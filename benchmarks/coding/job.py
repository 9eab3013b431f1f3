"""A job: the files of a repository, the task, a recorded trajectory that solves it, and the proof."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.repositories import repository

JOBS = Path(__file__).parent / "jobs"
INSTALL = Path(__file__).parent / "compiler" / "install"


@dataclass(frozen=True)
class Language:
    """What the repositories of a language have in common: files, and the command of their tests.

    `files` are the project's own, which no solution may change.
    """

    files: Mapping[str, str]
    tests: tuple[str, ...]


LANGUAGES = {
    "python": Language({}, ("python3", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider")),
    "typescript": Language(
        {
            "package.json": '{\n  "type": "module",\n'
            '  "scripts": { "test": "tsc && node --test build/*.test.js" }\n}\n',
            "tsconfig.json": '{\n  "compilerOptions": {\n    "strict": true,\n    "target": "es2022",\n'
            '    "module": "nodenext",\n    "types": ["node"],\n    "outDir": "build"\n  }\n}\n',
            ".gitignore": "build/\n",
        },
        ("npm", "test", "--silent"),
    ),
    "go": Language({"go.mod": "module example.org/job\n\ngo 1.22\n"}, ("go", "test", "./...")),
}


@dataclass(frozen=True)
class Call:
    """A call of a tool in a trajectory."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class CodingJob:
    """A repository with a failing test.

    `tests` are the files that show the fault and stay as they are; `calls` and `answer` are the replies of a
    model that solves it, one call each.
    """

    name: str
    language: str
    task: str
    tests: tuple[str, ...]
    answer: str
    own_files: Mapping[str, str]
    calls: tuple[Call, ...] = field(repr=False)

    @property
    def files(self) -> Mapping[str, str]:
        """All files of the repository."""
        return {**LANGUAGES[self.language].files, **self.own_files}

    @property
    def fixed_files(self) -> Mapping[str, str]:
        """The files that no solution may change: tests, and how they are run."""
        return {**LANGUAGES[self.language].files, **{path: self.own_files[path] for path in self.tests}}

    @property
    def proof(self) -> tuple[str, ...]:
        """The command that has to end well once the job is done."""
        return LANGUAGES[self.language].tests

    def make(self, folder: Path) -> Path:
        """Make its repository; returns the folder."""
        return repository(folder, self.files)


def load_jobs(names: Collection[str] = ()) -> list[CodingJob]:
    """The jobs of these names, by default all of them. Raises LookupError for a name that there is not."""
    found = {path.stem: path for path in sorted(JOBS.glob("*.toml"))}
    if unknown := sorted({*names} - found.keys()):
        raise LookupError(f"there is no job {', '.join(unknown)}; the jobs are {', '.join(found)}")
    return [_load(path) for name, path in found.items() if not names or name in names]


def _load(path: Path) -> CodingJob:
    table = tomllib.loads(path.read_text())
    calls = tuple(Call(call.pop("tool"), call) for call in table["calls"])
    tests = tuple(table["tests"])
    return CodingJob(
        path.stem, table["language"], table["task"], tests, table["answer"], table["files"], calls
    )


@cache
def tree_settings(language: str) -> dict[str, Any]:
    """The settings of `[trees.NAME]` for a language: what its tests need besides the repository.

    Raises LookupError where that is not installed.
    """
    if language == "python":
        # The plugin of Meshwright itself is not in the box, where it is installed for development.
        return {"read": [sys.prefix], "env": {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}}
    if language == "go":
        go = shutil.which("go")
        if go is None:
            raise LookupError("go is not on PATH")
        root, cache_folder = _output([go, "env", "GOROOT", "GOCACHE"]).splitlines()
        return {"read": [root, cache_folder], "env": {"GOCACHE": cache_folder}}
    installed = subprocess.run(
        [sys.executable, INSTALL, "--where"], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        raise LookupError("the TypeScript compiler is not installed: make tsc")
    return {"read": [f"{installed.stdout.strip()}/node_modules"]}


def fill_cache(folder: Path) -> None:
    """Have Go compile what the tests of a repository import, into the cache that boxes can read."""
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    command = ["go", "test", "-run", "^$", "./..."]
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
