"""Holds each package to `[tool.meshwright.budget]` in pyproject.toml: lines, files and foreign sentences.

python tools/budget.py            # fails for packages above their budget
python tools/budget.py --lower    # writes today's figures into pyproject.toml where they are lower

A foreign sentence is one of a docstring that begins with What, Whose, Who, Where or Whoever.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
PACKAGES = ROOT / "runtime" / "meshwright"
STEP = 50
"""Lines are rounded up to a multiple of it."""
FOREIGN = re.compile(r"(?:^|[.!?]\s+|\n\s*\n\s*)(?:What|Whose|Who|Where|Whoever)\b")


class Size(NamedTuple):
    """Lines count docstrings and blank lines."""

    lines: int
    files: int
    foreign: int

    def __str__(self) -> str:
        return f"{self.lines} lines, {self.files} files, {self.foreign} foreign sentences"


def files_of(package: str) -> list[Path]:
    if package == "modules":
        return sorted(PACKAGES.glob("*.py"))
    return sorted((ROOT / package if package == "tests" else PACKAGES / package).rglob("*.py"))


def foreign_sentences(file: Path) -> list[str]:
    """Where a file has them, as path:line."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            text = node.value.value
            lines = [node.lineno + text.count("\n", 0, match.end()) for match in FOREIGN.finditer(text)]
            found += [f"{file.relative_to(ROOT)}:{line}" for line in lines]
    return found


def size_of(package: str) -> Size:
    files = files_of(package)
    lines = sum(len(file.read_bytes().splitlines()) for file in files)
    return Size(lines, len(files), sum(len(foreign_sentences(file)) for file in files))


def excesses(budget: dict[str, Size]) -> list[str]:
    packages = {folder.parent.name for folder in PACKAGES.glob("*/__init__.py")}
    found = [f"{package} has no budget" for package in sorted(packages - budget.keys())]
    for package, allowed in budget.items():
        size = size_of(package)
        if any(has > may for has, may in zip(size, allowed, strict=True)):
            found.append(f"{package} has {size}; it may have {allowed}")
        if size.foreign > allowed.foreign:
            found += [f"  {place}" for file in files_of(package) for place in foreign_sentences(file)]
    return found


def lower(budget: dict[str, Size]) -> None:
    text = PROJECT.read_text()
    for package, allowed in budget.items():
        size = size_of(package)
        rounded = size._replace(lines=-(-size.lines // STEP) * STEP)
        new = [min(pair) for pair in zip(rounded, allowed, strict=True)]
        text = text.replace(f"\n{package} = {list(allowed)}\n", f"\n{package} = {new}\n")
    PROJECT.write_text(text)


def main() -> int:
    project = tomllib.loads(PROJECT.read_text())
    budget = {name: Size(*figures) for name, figures in project["tool"]["meshwright"]["budget"].items()}
    if sys.argv[1:] == ["--lower"]:
        lower(budget)
    elif found := excesses(budget):
        print("\n".join(found))
        print("Make room, or raise the budget in pyproject.toml: raising it is a commit of its own.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
