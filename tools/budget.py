"""Holds each package to `[tool.meshwright.budget]` in pyproject.toml: lines, files, sentences and names.

python tools/budget.py            # fails for packages above their budget
python tools/budget.py --names    # lists the bare names
python tools/budget.py --lower    # writes today's figures into pyproject.toml where they are lower

A foreign sentence is one of a docstring that begins with What, Whose, Who, Where or Whoever. A bare name
says how its author came by a thing and not what it is: `found`, `known`, `class Asked`, `for each in tasks`.
No class name stands twice in the runtime, beyond those that `[tool.meshwright] doubled_class_names` counts.
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
BARE = re.compile(
    "found|given|made|known|wanted|said|told|kept|left|shown|asked|begun|held|named|gone|taken|seen|brought"
    "|lost|read|written|passed|meant|tried|done|ended|each"
)
"""Names that are no names of variables and arguments."""
BARE_CLASS = re.compile(
    r"_*(?:[A-Z][a-z]+ed|Found|Given|Made|Known|Said|Told|Kept|Left|Shown|Begun|Held|Gone|Taken|Seen|Brought"
    r"|Lost|Sent|Read|Meant|Built|Spent|Again)"
)
FOREIGN = re.compile(r"(?:^|[.!?]\s+|\n\s*\n\s*)(?:What|Whose|Who|Where|Whoever)\b")


class Size(NamedTuple):
    """Lines count docstrings and blank lines."""

    lines: int
    files: int
    foreign: int
    bare: int

    def __str__(self) -> str:
        sentences = f"{self.foreign} foreign sentences, {self.bare} bare names"
        return f"{self.lines} lines, {self.files} files, {sentences}"


def files_of(package: str) -> list[Path]:
    if package == "modules":
        return sorted(PACKAGES.glob("*.py"))
    return sorted((ROOT / package if package == "tests" else PACKAGES / package).rglob("*.py"))


def foreign_sentences(file: Path) -> list[str]:
    """Where a file has them, as path:line."""
    places = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            text = node.value.value
            lines = [node.lineno + text.count("\n", 0, match.end()) for match in FOREIGN.finditer(text)]
            places += [f"{file.relative_to(ROOT)}:{line}" for line in lines]
    return places


def bare_names(file: Path) -> list[str]:
    """Where a file binds them, as path:line name."""
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and BARE.fullmatch(node.id):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.arg) and BARE.fullmatch(node.arg):
            names.append((node.lineno, node.arg))
        elif isinstance(node, ast.ClassDef) and BARE_CLASS.fullmatch(node.name):
            names.append((node.lineno, node.name))
    return [f"{file.relative_to(ROOT)}:{line} {name}" for line, name in sorted(names)]


def doubled_classes() -> dict[str, list[str]]:
    """The files of each class name that stands in several of the runtime."""
    places: dict[str, list[str]] = {}
    for file in sorted(PACKAGES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(file.relative_to(PACKAGES)))
    return {name: files for name, files in places.items() if len(files) > 1}


def size_of(package: str) -> Size:
    files = files_of(package)
    lines = sum(len(file.read_bytes().splitlines()) for file in files)
    foreign = sum(len(foreign_sentences(file)) for file in files)
    return Size(lines, len(files), foreign, sum(len(bare_names(file)) for file in files))


def excesses(budget: dict[str, Size]) -> list[str]:
    packages = {folder.parent.name for folder in PACKAGES.glob("*/__init__.py")}
    problems = [f"{package} has no budget" for package in sorted(packages - budget.keys())]
    for package, allowed in budget.items():
        size = size_of(package)
        if any(has > may for has, may in zip(size, allowed, strict=True)):
            problems.append(f"{package} has {size}; it may have {allowed}")
        if size.foreign > allowed.foreign:
            problems += [f"  {place}" for file in files_of(package) for place in foreign_sentences(file)]
        if size.bare > allowed.bare:
            places = [place for file in files_of(package) for place in bare_names(file)]
            problems.append(f"  {places[-1]} and {len(places) - 1} more: python tools/budget.py --names")
    return problems


def lower(budget: dict[str, Size], allowed_doubles: int, doubles: int) -> None:
    text = PROJECT.read_text()
    fewer = min(doubles, allowed_doubles)
    text = text.replace(f"\ndoubled_class_names = {allowed_doubles}\n", f"\ndoubled_class_names = {fewer}\n")
    for package, allowed in budget.items():
        size = size_of(package)
        rounded = size._replace(lines=-(-size.lines // STEP) * STEP)
        new = [min(pair) for pair in zip(rounded, allowed, strict=True)]
        text = text.replace(f"\n{package} = {list(allowed)}\n", f"\n{package} = {new}\n")
    PROJECT.write_text(text)


def main() -> int:
    allowed = tomllib.loads(PROJECT.read_text())["tool"]["meshwright"]
    budget = {name: Size(*figures) for name, figures in allowed["budget"].items()}
    if sys.argv[1:] == ["--names"]:
        print(
            "\n".join(place for package in budget for file in files_of(package) for place in bare_names(file))
        )
        return 0
    doubled = doubled_classes()
    if sys.argv[1:] == ["--lower"]:
        lower(budget, allowed["doubled_class_names"], len(doubled))
        return 0
    problems = excesses(budget)
    if len(doubled) > allowed["doubled_class_names"]:
        problems += [f"class {name} stands in {', '.join(files)}" for name, files in doubled.items()]
    if problems:
        print("\n".join(problems))
        print("Make room, or raise the budget in pyproject.toml: raising it is a commit of its own.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
