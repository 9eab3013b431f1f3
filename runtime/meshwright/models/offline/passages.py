"""Texts and tool results cut into passages that can be quoted: sentences, lines, records."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import PurePosixPath
from typing import Any

from meshwright.models.offline.terms import terms

MAX_PASSAGES = 2_000
MAX_QUOTE_CHARACTERS = 320
FRAGMENT_WEIGHT = 0.5
REST_WEIGHT = 0.7
MARKDOWN = (".md", ".markdown", "")  # where a line that begins with `#` is a heading, elsewhere a comment
WRAPPED = (*MARKDOWN, ".txt", ".rst", ".adoc")  # where a paragraph goes on to the next blank line
FILES = (
    (re.compile(r"(?:^|/)tests?/|test_|\.lock$|requirements"), 0.4),
    (re.compile(r"(?:^|/)(?:LICENSE|NOTICE|COPYING)|(?:^|/)\.\w|\.(?:svg|css|csv)$"), 0.1),
    (re.compile(r"\.(?:md|rst|txt|adoc)$"), 1.5),
)
SOURCE_KEYS = ("file", "path", "url", "source", "title", "name")
TEXT_KEYS = ("text", "content", "body", "snippet", "summary", "message", "answer", "output", "description")
LINE_KEYS = ("line", "start_line", "line_number")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'`(\[*]*[A-Z0-9])")
STRUCTURE = re.compile(r"^\s*(?:#{1,6}\s|[-*+•]\s|\d+[.)]\s|>|\||```|\"\"\"|'''|@|//|/\*|<|\{|\}|$)")
CODE = re.compile(
    r"[({\[,;=\\]$|^\s*(?:def|class|import|from|return|async|await|if|for|while|raise|assert|elif|else|try|with)\b"
    r"|\s[=!+-]?=\s|->|::|\)\s*:$"
)
INLINE_CODE = re.compile(r"`[^`]+`")
FENCE = ("```", "~~~")
COMMENT = re.compile(r"^[ \t]*(?:#|//)[ \t]+(?=\S)", re.MULTILINE)
MARKS = re.compile(r"^[\s#>*+•│├└─-]+|^\d+[.)]\s+|^\W*\"\"\"|\"\"\"$")

Line = tuple[int, str]  # its number, from 0, and its text


@dataclass(frozen=True)
class Passage:
    """A piece of material: its text, where it stands, and how much it counts."""

    text: str
    source: str = ""
    line: int | None = None
    weight: float = 1.0

    @cached_property
    def terms(self) -> list[str]:
        """The terms of its text."""
        return terms(self.text)

    @property
    def citation(self) -> str:
        """Where it stands: `docs/design.md:12`, or nothing."""
        return f"{self.source}:{self.line}" if self.source and self.line else self.source


def passages_of(text: str, source: str = "", first_line: int | None = None) -> Iterator[Passage]:
    """Cut a text into sentences, wrapped lines joined; code and headings stay lines, and count less."""
    if PurePosixPath(source).suffix not in MARKDOWN:
        text = COMMENT.sub("", text)
    joined = PurePosixPath(source).suffix in WRAPPED
    for lines, prose in blocks(text, joined):
        for number, piece in sentences(lines) if prose else lines:
            if cleaned := MARKS.sub("", piece.strip()).strip():
                line = None if first_line is None else first_line + number
                yield Passage(cleaned, source, line, weight_of(cleaned, prose))


def sentences(lines: Sequence[Line]) -> Iterator[Line]:
    """The sentences of a paragraph, each with the number of the line that it starts on."""
    text = " ".join(line for _, line in lines)
    ends = list(accumulate(len(line) + 1 for _, line in lines))
    start = 0
    for end in [*SENTENCE_END.finditer(text), None]:
        number = lines[bisect_right(ends, start)][0]
        yield number, text[start : end.start() if end else None]
        start = end.end() if end else start


def weight_of(text: str, is_prose: bool) -> float:
    """How much a passage counts: less where it is no sentence, or only the rest of one."""
    return (1.0 if is_prose else FRAGMENT_WEIGHT) * (REST_WEIGHT if text[0].islower() else 1.0)


def file_weight(path: str) -> float:
    """How well a kind of file answers questions: what is written to be read first."""
    return next((weight for pattern, weight in FILES if pattern.search(path)), 1.0)


def blocks(text: str, joined: bool) -> Iterator[tuple[list[Line], bool]]:
    """The paragraphs and list entries that are prose, and all other lines: each with whether it is prose.

    `joined`: a line belongs to the paragraph before it though it is no prose alone, as in Markdown.
    """
    for group in groups(text):
        if joined and is_prose(INLINE_CODE.sub("code", " ".join(line for _, line in group))):
            yield group, True
        else:
            yield from runs(group)


def groups(text: str) -> Iterator[list[Line]]:
    """The lines between those that begin something, with their numbers; in a fence each line alone."""
    held: list[Line] = []
    fenced = False
    for number, line in enumerate(text.splitlines()):
        fence = line.lstrip().startswith(FENCE)
        if held and (fenced or STRUCTURE.match(line) or held[0][1].startswith("#")):
            yield held
            held = []
        fenced ^= fence
        if line.strip():
            held.append((number, line.strip()))
    if held:
        yield held


def runs(group: Sequence[Line]) -> Iterator[tuple[list[Line], bool]]:
    """The runs of lines that are prose, and each other line alone."""
    for prose, lines in groupby(group, key=lambda each: is_prose(each[1])):
        run = list(lines)
        yield from [(run, True)] if prose else [([each], False) for each in run]


def is_prose(line: str) -> bool:
    """Whether a line reads like part of a sentence."""
    bare = MARKS.sub("", line.strip())
    if line.lstrip().startswith(("#", "|", "```")) or CODE.search(bare):
        return False
    return bare.count(" ") >= 2 and sum(each.isalpha() or each == " " for each in bare) > 0.7 * len(bare)


def passages_in(value: Any, source: str = "", line: int | None = None) -> Iterator[Passage]:
    """Cut a tool's result, JSON data or text, into passages, each with the place that its record names."""
    if isinstance(value, str):
        yield from passages_of(value, source, line)
    elif isinstance(value, dict):
        yield from passages_in_record(value, source, line)
    elif isinstance(value, list):
        for each in value:
            yield from passages_in(each, source, line)


def passages_in_record(record: Mapping[str, Any], source: str, line: int | None) -> Iterator[Passage]:
    """Cut one record; one without any text is a passage as a whole."""
    where = first_of(record, SOURCE_KEYS, str) or source
    at = first_of(record, LINE_KEYS, int) or line
    texts = [record[key] for key in TEXT_KEYS if isinstance(record.get(key), str)]
    inner = [each for each in record.values() if isinstance(each, (dict, list))]
    for part in [*texts, *inner]:
        yield from passages_in(part, where, at)
    if not texts and not inner and record:
        yield Passage(record_line(record))


def first_of(record: Mapping[str, Any], keys: tuple[str, ...], kind: type) -> Any:
    """The first of these fields that holds a value of the kind."""
    return next((record[key] for key in keys if isinstance(record.get(key), kind) and record[key]), None)


def record_line(record: Mapping[str, Any]) -> str:
    """A flat record as a line: its values, in their order."""
    return "  ".join(str(each) for each in record.values() if each not in (None, ""))


def quote(text: str, max_characters: int = MAX_QUOTE_CHARACTERS) -> str:
    """A text on one line, cut after a word where it is too long."""
    line = " ".join(text.split())
    if len(line) <= max_characters:
        return line
    return f"{line[:max_characters].rsplit(' ', 1)[0]} …"
