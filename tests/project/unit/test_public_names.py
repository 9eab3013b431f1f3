"""All that authors and callers are shown is of the modules that `public` of `[tool.meshwright]` lists."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

from meshwright import toolsets
from meshwright.core.docstrings import field_docstrings

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["meshwright"]["public"]
PYTHON = sorted(
    path
    for folder in ("actors", "examples", "tests/support/third_party")
    for path in (ROOT / folder).rglob("*.py")
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def imported(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "meshwright":
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "meshwright")


def is_public(module: str) -> bool:
    return module in PUBLIC or module.startswith("meshwright.toolsets.")


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_agents_examples_and_packages_import_public_modules_alone(path: Path) -> None:
    assert [module for module in imported(path.read_text()) if not is_public(module)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_import_public_modules_alone(path: Path) -> None:
    lines = re.findall(r"^ *(?:from|import) (meshwright[\w.]*)", path.read_text(), flags=re.MULTILINE)
    assert [module for module in lines if not is_public(module)] == []


# The framework of the other is in an environment of its own, where test_frameworks.py imports it.
@pytest.mark.parametrize("module", sorted({*PUBLIC} - {"meshwright.pydantic_ai"}))
def test_every_public_name_is_there(module: str) -> None:
    names = getattr(import_module(module), "__all__", [])
    assert [name for name in names if not hasattr(import_module(module), name)] == []


def public_classes() -> set[type]:
    names = {*PUBLIC} - {"meshwright.pydantic_ai"}
    names |= {f"meshwright.toolsets.{module.name}" for module in pkgutil.iter_modules(toolsets.__path__)}
    modules = [import_module(name) for name in names]
    offered = [getattr(module, name) for module in modules for name in getattr(module, "__all__", [])]
    return {thing for thing in offered if isinstance(thing, type)}


def own_fields(kind: type) -> set[str]:
    try:
        (tree,) = ast.parse(dedent(inspect.getsource(kind))).body
    except OSError:  # `Settings`, which code makes of the parts
        return set()
    assert isinstance(tree, ast.ClassDef)
    fields = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in fields if isinstance(target, ast.Name)}


def test_every_public_field_has_a_docstring() -> None:
    classes = public_classes()
    fields = {
        f"{kind.__name__}.{name}"
        for kind in classes
        for name in own_fields(kind) - field_docstrings(kind).keys()
        if not name.startswith("_")
        and not getattr(getattr(kind, "model_fields", {}).get(name), "description", None)
    }
    assert len(classes) > 80
    assert fields == set()


@pytest.mark.parametrize("module", ["meshwright", "meshwright.component", "meshwright.kit"])
def test_public_names_are_imported_when_they_are_used(module: str) -> None:
    code = f"import sys, {module}; print({{'fastapi', 'pydantic', 'msgspec', 'click'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_drawing_of_the_districts_is_that_of_the_import_rules() -> None:
    command = [sys.executable, str(ROOT / "tools/districts.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
