"""JSON that a model wrote nearly right, made right."""

from __future__ import annotations

import re

from pydantic_core import from_json

STRING = r'"(?:[^"\\]|\\.)*+(?:"|\Z)'
BRACES = re.compile(rf"{STRING}|[{{}}]", re.DOTALL)
MENDABLE = re.compile(rf"({STRING})|,(?=\s*+[}}\]])|\b(?:True|False|None)\b", re.DOTALL)
JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
BEGINS_WITHIN = re.compile(r"""(?:["'\]]\s*:|[\[,(])\Z""")  # the object is a part of something else
GOES_ON = re.compile(r"\s*[\]:,)]")


def repaired(text: str) -> str:
    """JSON text that is nearly right, made right where there is one way alone to do so; else as it was.

    Words or a fence around one object are taken off, a comma after the last element too, and Python's True,
    False and None become JSON's. Quotes, brackets and values are never guessed; valid JSON stays as it is.
    """
    if _is_json(text):
        return text
    span = _only_object(text)
    if span is None:
        return text
    mended = MENDABLE.sub(_mended, text[slice(*span)])
    return mended if _is_json(mended) else text


def _is_json(text: str) -> bool:
    try:
        from_json(text, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return True


def _only_object(text: str) -> tuple[int, int] | None:
    """Where the one object of a text begins and ends; None where there is none, or more, or half of one."""
    begin = text.find("{")
    before = text[: max(begin, 0)].rstrip()
    if begin < 0 or "}" in before or BEGINS_WITHIN.search(before):
        return None
    depth = 0
    for mark in BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            rest = text[mark.end() :]
            alone = not ("{" in rest or "}" in rest or GOES_ON.match(rest))
            return (begin, mark.end()) if alone else None
    return None


def _mended(mark: re.Match[str]) -> str:
    if mark[1] is not None:
        return mark[1]
    if mark[0] != ",":
        return JSON_WORDS[mark[0]]
    before = mark.start() - 1
    while mark.string[before].isspace():
        before -= 1
    return "," if mark.string[before] in "{[,:" else ""
