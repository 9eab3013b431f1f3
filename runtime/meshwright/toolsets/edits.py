"""Edits of a text: exactly one place, and only such that a file which could be parsed still can be."""

from __future__ import annotations

import ast
import json
import tomllib
import warnings
from collections.abc import Callable
from pathlib import PurePath

from meshwright.core.errors import ToolFailed

ALREADY = "already so: the file has the new text, and not the old one"
_TOO_DEEP = (RecursionError, MemoryError)


def edited(path: str, text: str, old: str, new: str) -> str | None:
    """The text with its one `old` place replaced; None where only the `new` text is in it.

    Raises ToolFailed where `old` is not there exactly once, or the file would not parse any more.
    """
    if "\r\n" in text and "\r" not in old:  # a model writes lines as it saw them
        old, new = (part.replace("\n", "\r\n") for part in (old, new))
    if not old or old == new:
        raise ToolFailed("old is empty, or the same as new", remedy="Give the text to replace as it is now")
    count = text.count(old)
    if count == 0 and new and new in text:
        return None
    if count != 1:
        raise ToolFailed(f"old occurs {count} times in {path}", remedy=_remedy(text, old, count))
    made = text.replace(old, new)
    check(path, made, before=text)
    return made


def check(path: str, text: str, *, before: str | None = None) -> None:
    """Raise ToolFailed where a file that could be parsed, or is new, could not be parsed with this text."""
    parse = _PARSERS.get(PurePath(path).suffix.lower())
    if parse is None or (before is not None and _problem(parse, before)):
        return
    if problem := _problem(parse, text):
        raise ToolFailed(f"{path} was not written: it would not parse: {problem}", remedy="Correct the text")


def _remedy(text: str, old: str, count: int) -> str:
    if count:
        return "Give more of the lines around the place"
    is_spaced = " ".join(old.split()) in " ".join(text.split())
    return "Only its white space differs: view the file and copy it" if is_spaced else "View the file first"


def _problem(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except (SyntaxError, ValueError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    except _TOO_DEEP:
        return "it is nested too deep"
    return ""


def _parse_python(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the file are no matter of ours
        return ast.parse(text)


def _parse_yaml(text: str) -> object:
    import yaml

    try:
        return sum(1 for _ in yaml.parse(text, Loader=yaml.SafeLoader))  # events: aliases are not expanded
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    ".py": _parse_python,
    ".pyi": _parse_python,
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
