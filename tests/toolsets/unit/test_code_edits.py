"""Edits: exactly one place, and only files that still parse."""

import pytest

from meshwright.core.errors import ToolFailed
from meshwright.toolsets.code import check, edited

TEXT = "def add(a, b):\n    return a - b\n"


def test_an_edit_replaces_the_one_place() -> None:
    assert edited("calc.py", TEXT, "a - b", "a + b") == "def add(a, b):\n    return a + b\n"


def test_an_edit_that_was_made_is_already_so() -> None:
    assert edited("calc.py", TEXT, "a * b", "a - b") is None


def test_lines_of_windows_stay_as_they_are() -> None:
    assert edited("a.txt", "one\r\ntwo\r\nthree\r\n", "one\ntwo\n", "1\n2\n") == "1\r\n2\r\nthree\r\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("a", "c", "occurs 3 times.*Give more of the lines"),
        ("a / b", "a + c", "occurs 0 times.*View the file first"),
        ("return  a - b", "return 1", "occurs 0 times.*white space differs"),
        ("", "x", "old is empty"),
        ("a - b", "a - b", "the same as new"),
        ("a - b", "a +", "would not parse"),
    ],
)
def test_an_edit_that_is_not_clear_changes_nothing(old: str, new: str, complaint: str) -> None:
    with pytest.raises(ToolFailed, match=complaint):
        edited("calc.py", TEXT, old, new)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", "def f(:\n"),
        ("a.PY", "x = '\n"),
        ("a.json", '{"a": 1,}'),
        ("a.toml", "a = \n"),
        ("a.yaml", "a: [1\n"),
        ("deep.py", f"x = {'-' * 200_000}1\n"),
        ("deep.json", "[" * 200_000),
        ("null.py", "x = 1\0\n"),
    ],
)
def test_a_file_that_would_not_parse_is_refused(path: str, text: str) -> None:
    with pytest.raises(ToolFailed, match="would not parse"):
        check(path, text)


@pytest.mark.parametrize(
    ("path", "before", "text"),
    [
        ("chart.yaml", "a: {{ .Values.a }}\n", "a: {{ .Values.b }}\n"),
        ("old.py", "print 'Python 2'\n", "print 'still'\n"),
        ("notes.md", None, "((("),
        ("bomb.yaml", None, "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        ("odd.py", None, "x = '\\d'\n"),
    ],
)
def test_files_that_cannot_be_judged_are_written(path: str, before: str | None, text: str) -> None:
    check(path, text, before=before)
