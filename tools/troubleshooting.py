"""Writes docs/troubleshooting.md from the error classes of the code: `python tools/troubleshooting.py`.

The cause of an error is the first paragraph of its docstring. tools/troubleshooting.toml has the cures, and
the causes of errors without a class. A class without a cure, and a cure without a class, stop it.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
SOURCE = ROOT / "runtime/meshwright"
BASE = "MeshError"


class Error(NamedTuple):
    """A class of errors; `status` is 0 where its base says it."""

    name: str
    base: str
    cause: str
    status: int


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Returns the page, as the code and the cures make it. Exits where they do not agree."""
    written = tomllib.loads((ROOT / "tools/troubleshooting.toml").read_text(encoding="utf-8"))
    errors, internal = known_errors(), set(written.pop("internal"))
    intro, sections = written.pop("intro"), written
    cured = {name for section in sections.values() for name in section["cures"]}
    without_class = {name for section in sections.values() for name in section.get("causes", {})} - set(
        errors
    )
    if problems := sorted((set(errors) | without_class) ^ (cured | internal) | (cured & internal)):
        sys.exit(f"Error without a cure, or cure without an error: {', '.join(problems)}")
    parts = [intro.strip()]
    for title, section in sections.items():
        columns = ["error", "HTTP", "cause", "cure"] if section.get("http") else ["error", "cause", "cure"]
        table = [line(columns), "|---" * len(columns) + "|", *(line(row) for row in rows(section, errors))]
        parts += [f"## {title}", section["about"].strip(), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def rows(section: dict[str, Any], errors: dict[str, Error]) -> Iterator[list[str]]:
    """Yields the cells of each error of a section, by name."""
    for name, cure in sorted(section["cures"].items()):
        cause = section.get("causes", {}).get(name) or errors[name].cause
        status = [str(status_of(name, errors))] if section.get("http") else []
        yield [f"`{name}`", *status, cause, cure]


def line(cells: list[str]) -> str:
    """Returns a line of a table."""
    return f"| {' | '.join(cells)} |"


def status_of(name: str, errors: dict[str, Error]) -> int:
    """Returns the HTTP status of an error, its own or the one of the nearest base that has one."""
    return errors[name].status or status_of(errors[name].base, errors)


def known_errors() -> dict[str, Error]:
    """Returns the errors of the code by the names that users see."""
    found = {error.name: error for path in sorted(SOURCE.rglob("*.py")) for error in errors_of(path)}
    known = {BASE}
    while more := {name for name, error in found.items() if error.base in known} - known:
        known |= more
    return {name: found[name] for name in known}


def errors_of(path: Path) -> Iterator[Error]:
    """Yields the classes of a file that have a base and no code of their own."""
    source = path.read_text(encoding="utf-8")
    if "class " not in source:
        return
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
            values = {
                target.id: getattr(statement.value, "value", None)
                for statement in node.body
                if isinstance(statement, ast.Assign)
                for target in statement.targets
                if isinstance(target, ast.Name)
            }
            if "code" not in values:
                cause = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                status = values.get("status")
                number = status if isinstance(status, int) else 0
                yield Error(node.name.lstrip("_"), node.bases[0].id.lstrip("_"), cause, number)


if __name__ == "__main__":
    main()
