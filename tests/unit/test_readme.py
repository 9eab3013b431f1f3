"""The pages at the root say what is true: their agent, links, the tests they name, the rooms they list."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")
NAMED_TEST = re.compile(r'\[test\]\((\S+) "(\w+)"\)')


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_agent_of_the_readme_is_the_one_that_its_page_tests() -> None:
    page = BLOCK.findall((ROOT / "docs/writing-an-agent.md").read_text())
    shown = BLOCK.findall(README)
    assert [text for language, text in shown if language == "python"] == [
        text for language, text in page if language == "python"
    ][:2]
    prompt = next(text for language, text in page if text.startswith("---\n"))
    assert ("", prompt) in shown


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
    named = NAMED_TEST.findall(README)
    assert len(named) == 7
    for path, name in named:
        defined = {getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / path).read_text()))}
        assert name in defined, f"{path}::{name}"


def test_the_index_has_every_page() -> None:
    index = LINK.findall((ROOT / "docs/README.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(index)


def test_the_architecture_has_every_room_in_the_order_of_the_import_rules() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Rooms")[2].partition("## Import rules")[0]
    shown = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M)]
    layers = re.findall(r'^    "(\(.*\))",$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    order = [
        room for layer in reversed(layers) for room in re.findall(r"\((\w+)\)", layer) if room in rooms()
    ]
    row_of = {room: number for number, row in enumerate(shown) for room in row}
    assert row_of.keys() == rooms()
    assert [row_of[room] for room in order] == sorted(row_of[room] for room in order)


def rooms() -> set[str]:
    """The modules and packages of the runtime."""
    package = ROOT / "runtime/meshwright"
    found = {path.parent.name for path in package.glob("*/__init__.py")}
    return found | {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}


@pytest.mark.parametrize("name", ["demo", "road"])
def test_a_picture_loads_nothing(name: str) -> None:
    picture = (ROOT / f"docs/images/{name}.svg").read_text()
    assert not re.search(r"<script|@import|@font-face|url\((?!#)|href", picture)
