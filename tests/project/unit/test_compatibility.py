"""Each source that docs/compatibility.md names is there: a test, or a script that shows the behaviour."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/compatibility.md").read_text()
SPANS = set(re.findall(r"`([^`]+)`", PAGE))


def test_each_test_of_the_page_is_there() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {span for span in SPANS if span.startswith("test_")}
    assert named and {name for name in named if f"def {name.partition('[')[0]}(" not in tests} == set()


def test_each_file_of_the_page_is_there() -> None:
    named = {span for span in SPANS if span.startswith(("tests/", "findings/"))}
    named |= set(re.findall(r"\]\(\.\./([^)#]+)", PAGE))
    assert named and {name for name in named if not (ROOT / name).exists()} == set()


def test_each_finding_is_a_row_of_the_page() -> None:
    scripts = {path.name for path in (ROOT / "findings").glob("*.sh")}
    assert scripts and {name for name in scripts if f"(../findings/{name})" not in PAGE} == set()
