"""The pages say what is true: their links, the tests they name, the packages they list."""

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tests.support.harness import ON_TURNS

ROOT = Path(__file__).parents[3]
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
REFERENCE = ["cli", "configuration", "http-api", "events", "troubleshooting"]
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")
NAMED_TEST = re.compile(r'\[test\]\((\S+) "(\w+)"\)')


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_promise_names_a_test_that_is_there() -> None:
    named = NAMED_TEST.findall((ROOT / "docs/guarantees.md").read_text())
    assert len(named) >= 14
    for path, name in named:
        defined = {
            getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / "docs" / path).read_text()))
        }
        assert name in defined, f"{path}::{name}"
        assert Path(path).stem not in ON_TURNS, f"{path} is tried on every store"


def test_the_index_has_every_page() -> None:
    index = LINK.findall((ROOT / "docs/README.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(index)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_tables_of_the_reference_are_those_of_the_code(name: str) -> None:
    tool = runpy.run_path(str(ROOT / "tools/reference.py"))
    path = ROOT / f"docs/{name}.md"
    text = path.read_text()
    assert "<!-- reference: " in text
    is_current = tool["page"](path) == text
    assert is_current, f"docs/{name}.md is not what the code says: python tools/reference.py writes it"


def test_every_link_of_the_reference_is_on_a_page() -> None:
    text = "".join((ROOT / f"docs/{name}.md").read_text() for name in REFERENCE)
    for name, target in tomllib.loads((ROOT / "tools/reference.toml").read_text())["links"].items():
        shown = name.split()[-1] if name.startswith("/") else name
        is_table = name.startswith("[")
        assert (f"{name}  # {target}" if is_table else f"[`{shown}`]({target})") in text, name


def test_an_installed_package_is_not_in_the_reference(tmp_path: Path) -> None:
    acme = ROOT / "tests/support/third_party"
    groups = tomllib.loads((acme / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "acme_mesh-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-mesh\nVersion: 1\n")
    lines = [
        [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
        for group, entries in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(chain.from_iterable(lines)))
    command = [sys.executable, str(ROOT / "tools/reference.py"), "--check"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": f"{acme}:{tmp_path}"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_architecture_names_every_package() -> None:
    table = (
        (ROOT / "ARCHITECTURE.md").read_text().partition("## Districts")[2].partition("## Import rules")[0]
    )
    shown = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    package = ROOT / "runtime/meshwright"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    assert shown == packages | modules


@pytest.mark.parametrize("name", ["demo", "districts", "lifecycle"])
def test_a_picture_loads_nothing(name: str) -> None:
    picture = (ROOT / f"docs/images/{name}.svg").read_text()
    assert not re.search(r"<script|@import|@font-face|url\((?!#)|href", picture)
