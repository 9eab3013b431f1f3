"""Markdown at a terminal: headings, lists, tables, code and links, as the page shows them (`markdown.js`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any
from unicodedata import combining, east_asian_width
from urllib.parse import urlsplit

import click

from meshwright.console.output import for_terminal, styled
from meshwright.core.display import visible

_MAX_CHARS = 100_000
_MAX_DEPTH = 8
_MIN_ROOM = 8
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)(?: #+)?\s*$")
_RULE = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)]) +(.*)$")
_MARKS = re.compile(
    r"^ {0,3}(#{1,6} |[-*+] |\d{1,9}[.)] |> |```|~~~)|\*\*\S|`[^`\n]+`|\[[^\[\]\n]*\]\(", re.MULTILINE
)
_JSON = re.compile(r"\s*(\{|\[\s*[\"{\[\d])")
_INLINE = re.compile(  # code, an escape, a link or picture, and texts that are strong, struck or emphasized
    r"(`+)(?P<code>[^`\n]+)\1(?!`)"
    r"|\\(?P<escape>[\\`*_{}\[\]()#+.!|<>~-])"
    r"|!?\[(?P<label>[^\[\]\n]*)\]\((?P<target>[^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)?)(?: +\"[^\"\n]*\")?\)"
    r"|(?P<address>https?://[^\s<>\"'()\[\]]+)"
    r"|\*\*(?=\S)(?P<strong>(?:(?!\*\*)[^\n])+)\*\*|(?<!\w)__(?=\S)(?P<strong2>(?:(?!__)[^\n])+)__(?!\w)"
    r"|~~(?=\S)(?P<struck>(?:(?!~~)[^\n])+)~~"
    r"|\*(?=[^\s*])(?P<em>[^*\n]+)\*|(?<!\w)_(?=[^\s_])(?P<em2>[^_\n]+)_(?!\w)"
)


_STYLES: Mapping[str, Mapping[str, Any]] = {
    "strong": {"bold": True},
    "strong2": {"bold": True},
    "em": {"italic": True},
    "em2": {"italic": True},
    "struck": {"strikethrough": True},
}
_WORD, _BAR = re.compile(r"\S+"), re.compile(r"(?<!\\)\|")


def rendered(text: str, width: int) -> str:
    """A text for a terminal of that width, drawn if it is Markdown; nothing of it steers the terminal."""
    plain = for_terminal(visible(text.replace("\r\n", "\n"))).replace("\t", "    ")
    is_markdown = len(text) <= _MAX_CHARS and not _JSON.match(text)
    if not (is_markdown and (_MARKS.search(text) or any(map(_is_rule, text.split("\n"))))):
        return for_terminal(text)
    return "\n".join(_blocks(plain.split("\n"), max(width, _MIN_ROOM)))


def _is_rule(line: str) -> bool:
    """Whether a line stands between the head and the rows of a table."""
    return "|" in line and "-" in line and not line.strip(" |:-")


def _blocks(lines: Sequence[str], width: int, depth: int = 0) -> list[str]:
    drawn: list[str] = []
    at = 0
    while at < len(lines):
        start, line = at, lines[at]
        at += 1
        if not line.strip():
            continue
        block: list[str]
        if fence := _FENCE.match(line):
            at = _end(lines, at, lambda place: not _closes(lines[place], fence[1]))
            block = [f"  {styled(code, fg='cyan')}" if code else "" for code in lines[start + 1 : at]]
            at += 1
        elif heading := _HEADING.match(line):
            block = _wrap(_inline(heading[2], bold=True, underline=len(heading[1]) == 1), width)
        elif _RULE.match(line):
            block = [styled("─" * min(width, 40), dim=True)]
        elif _QUOTE.match(line) and depth < _MAX_DEPTH:
            at = _end(lines, at, lambda place: _QUOTE.match(lines[place]) is not None)
            quoted = [_QUOTE.sub("", one, count=1) for one in lines[start:at]]
            block = [f"{styled('│', dim=True)} {one}" for one in _blocks(quoted, width - 2, depth + 1)]
        elif _begins_table(lines, start):
            at = _end(lines, at + 1, lambda place: "|" in lines[place])
            block = list(_table([_cells(one) for one in (line, *lines[start + 2 : at])], width))
        elif (item := _ITEM.match(line)) and depth < _MAX_DEPTH:
            at = _end(lines, at, lambda place: _is_inside(lines, place, len(item[1])))
            inset = len(item[1]) + len(item[2]) + 1
            inner = [item[3], *(re.sub(f"^ {{0,{inset}}}", "", one) for one in lines[start + 1 : at])]
            mark = f"{item[2] if item[2][0].isdigit() else '•'} "
            own = _blocks(inner, width - len(mark), depth + 1) or [""]
            block = [f"{' ' * len(mark) if number else mark}{one}" for number, one in enumerate(own)]
        else:
            at = _end(lines, at, lambda place: not _begins_block(lines, place))
            block = [part for one in lines[start:at] for part in _wrap(_inline(one.strip()), width)]
        is_tight = start and lines[start - 1].strip() and (_ITEM.match(line) or depth)
        drawn += [*([""] if drawn and not is_tight else []), *block]
    return drawn


def _end(lines: Sequence[str], at: int, goes_on: Callable[[int], bool]) -> int:
    while at < len(lines) and goes_on(at):
        at += 1
    return at


def _closes(line: str, fence: str) -> bool:
    return line.strip().startswith(fence) and not line.strip(" `~")


def _begins_table(lines: Sequence[str], at: int) -> bool:
    return "|" in lines[at] and at + 1 < len(lines) and _is_rule(lines[at + 1])


def _begins_block(lines: Sequence[str], at: int) -> bool:
    line = lines[at]
    shapes = (_FENCE, _HEADING, _RULE, _QUOTE, _ITEM)
    return not line.strip() or any(shape.match(line) for shape in shapes) or _begins_table(lines, at)


def _is_inside(lines: Sequence[str], at: int, indent: int) -> bool:
    """Whether a line belongs to the item of a list that is so far in."""
    line = lines[at] if lines[at].strip() else lines[at + 1] if at + 1 < len(lines) else ""
    return len(line) - len(line.lstrip()) > indent


def _inline(text: str, depth: int = 0, **style: Any) -> str:
    """A text with its styles, each word for itself, so that lines may end between them."""
    parts, at = list[str](), 0
    for match in _INLINE.finditer(text) if depth <= _MAX_DEPTH else ():
        parts.append(_words(text[at : match.start()], style))
        fields, at = match.groupdict(), match.end()
        if (kind := match.lastgroup or "") == "code":
            parts.append(_words(fields["code"], {**style, "fg": "cyan"}))
        elif kind == "target":
            parts.append(_link(fields["label"], fields["target"], depth, style))
        elif kind in _STYLES:
            parts.append(_inline(fields[kind], depth + 1, **{**style, **_STYLES[kind]}))
        else:
            parts.append(_words(fields["escape"] or fields["address"], style))
    return "".join([*parts, _words(text[at:], style)])


def _words(text: str, style: Mapping[str, Any]) -> str:
    return _WORD.sub(lambda word: styled(word[0], **style), text) if style else text


def _link(label: str, target: str, depth: int, style: Mapping[str, Any]) -> str:
    """The words of a link and its address, which begins with the host that it leads to."""
    address = target
    with suppress(ValueError):
        parts = urlsplit(target)
        if parts.scheme in ("http", "https") and parts.hostname:
            address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    words = _inline(label or address, depth + 1, **{**style, "underline": True})
    return words if label in ("", address) else f"{words} {_words(f'({address})', {'dim': True})}"


def _width(text: str) -> int:
    return sum(
        0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in click.unstyle(text)
    )


def _wrap(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words, and within one that is too long."""
    lines, room = [""], width
    for word in text.split(" "):
        size = _width(word)
        if lines[-1] and size + 1 > room:
            lines, room = [*lines, ""], width
        if size > width and click.unstyle(word) == word:
            *pieces, word = (word[at : at + width] for at in range(0, len(word), width))
            lines, room, size = [*lines[:-1], *filter(None, [lines[-1]]), *pieces, ""], width, _width(word)
        lines[-1] += f" {word}" if lines[-1] else word
        room -= size + (room != width)
    return lines


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in _BAR.split(inner)]


def _table(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    count = len(rows[0])
    drawn = [
        [_inline(cell, **({} if number else {"bold": True})) for cell in (*row, *[""] * count)[:count]]
        for number, row in enumerate(rows)
    ]
    sizes = [max(map(_width, column)) for column in zip(*drawn, strict=True)]
    while sum(sizes) + 2 * (count - 1) > width and max(sizes) > _MIN_ROOM:
        sizes[sizes.index(max(sizes))] -= 1
    for number, row in enumerate(drawn):
        cells = [_wrap(cell, size) for cell, size in zip(row, sizes, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (part + " " * (size - _width(part)) for part, size in zip(parts, sizes, strict=True))
            yield "  ".join(padded).rstrip()
        if not number:
            yield styled("  ".join("─" * size for size in sizes), dim=True)
