"""Chooses the tests of a part of the runtime, or of what changed since a revision, by what they import.

A test file is about a part if it imports it, if it is named after it, or if it imports a file of
`tests/support` that is about it and about few others. Parts are the packages and modules below
`runtime/meshwright`, by path or by last name: `ledger`, `services.schedules`, `schedules`.
"""

import ast
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "runtime" / "meshwright"
NEAR, FAR = ("unit", "contract"), ("integration", "acceptance")
FEW = 6
"""A part with fewer near files is tested by the far ones that need no service too."""
MAX_PARTS = 3
"""A file of `tests/support` that imports more is about none of them."""


class Choice(NamedTuple):
    """Files to run, and those that concern the same but are left to the whole run."""

    files: frozenset[Path] = frozenset()
    left_out: frozenset[Path] = frozenset()


def parts() -> Mapping[str, str]:
    """Each name of a part with its path; a last name that several have stands for the outermost."""
    folders = [file.parent for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE]
    modules = [file.with_suffix("") for file in PACKAGE.glob("[a-z]*.py")]
    paths = sorted(".".join(path.relative_to(PACKAGE).parts) for path in (*folders, *modules))
    inner_first = sorted(paths, key=lambda path: -path.count("."))
    return {path.rpartition(".")[2]: path for path in inner_first} | {path: path for path in paths}


def choose(part: str | None, revision: str | None, tests: Path) -> tuple[list[str], tuple[Path, ...]]:
    """The tests of a part, or since a revision, after a line for each reason. Raises ValueError."""
    choices = {part: of_part(part, tests)} if part else since(revision or "HEAD", tests)
    files = sorted(frozenset[Path]().union(*(choice.files for choice in choices.values())))
    reasons = [
        f"{name}: {len(choice.files)} test files import it or are named after it"
        + (f"; {len(choice.left_out)} that take longer are left out" if choice.left_out else "")
        for name, choice in choices.items()
    ]
    return [*reasons, f"{len(files)} test files, without their tests that need a service"], tuple(files)


def of_part(name: str, tests: Path) -> Choice:
    """The tests of a part. Raises ValueError for a name that is none, with those that are."""
    paths = parts()
    if name not in paths:
        raise ValueError(f"no such part: {name}; the parts are {', '.join(sorted(set(paths.values())))}")
    path = paths[name]
    own = re.compile(rf"test_{re.escape(path.rpartition('.')[2].removesuffix('s'))}s?(_.*)?\.py")
    files = test_files(tests)
    direct = {file for file in files if names(file, f"meshwright.{path}") or own.fullmatch(file.name)}
    support = [
        dotted(file, tests.parent)
        for file in (tests / "support").rglob("*.py")
        if is_about(file, f"meshwright.{path}")
    ]
    near = {file for file in direct if tier_of(file) in NEAR}
    far = direct - near
    if len(near) < FEW:
        near |= {file for file in far if tier_of(file) == "integration"}
    near |= {file for file in files if tier_of(file) in NEAR and any(names(file, name) for name in support)}
    return Choice(frozenset(near), frozenset(far - near))


def since(revision: str, tests: Path) -> dict[str, Choice]:
    """For each part, or file elsewhere, that changed since a revision: its tests."""
    choices: dict[str, Choice] = {}
    for file in changed_files(revision):
        if PACKAGE in file.parents:
            path = file.relative_to(PACKAGE)
            part = ".".join(path.parent.parts) or path.stem
            choices.setdefault(part, of_part(part, tests) if part in parts() else Choice())
        elif file.suffix == ".py":
            name = dotted(file, ROOT)
            users = frozenset(test for test in test_files(tests) if test == file or names(test, name))
            near = frozenset(test for test in users if tier_of(test) in NEAR or test == file)
            choices[name] = Choice(near, users - near)
    return choices


def changed_files(revision: str) -> list[Path]:
    """Files that differ from where this branch left a revision, with those that git does not know yet."""

    def git(*arguments: str) -> list[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    try:
        (base,) = git("merge-base", revision, "HEAD")
    except (subprocess.CalledProcessError, ValueError) as error:
        raise ValueError(f"git knows no revision {revision!r} that this branch comes from") from error
    paths = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    return [ROOT / path for path in sorted(set(paths))]


@cache
def imports(file: Path) -> frozenset[str]:
    """The dotted names that a file imports, anywhere in it."""
    dotted_names = set[str]()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            dotted_names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted_names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(dotted_names)


def names(file: Path, module: str) -> bool:
    """Whether a file imports a module, or something of it."""
    return any(f"{name}.".startswith(f"{module}.") for name in imports(file))


def is_about(file: Path, module: str) -> bool:
    packages = {name.split(".")[1] for name in imports(file) if name.startswith("meshwright.")}
    return names(file, module) and len(packages - {"core", "testing"}) <= MAX_PARTS


def test_files(tests: Path) -> Iterable[Path]:
    return sorted(file for file in tests.rglob("test_*.py") if "support" not in file.parts)


def dotted(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts)


def tier_of(file: Path) -> str:
    """The tier of a test: the name of its folder."""
    return file.parent.name
