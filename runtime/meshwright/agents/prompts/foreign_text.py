"""Texts of other tools' prompts: Handlebars of dotprompt, Jinja of LiteLLM and Prompty, with their roles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from meshwright.agents.prompts.template import ROLES, Name, Role, RoleMark, escaped_marks, escaped_role_lines
from meshwright.core.errors import PromptError

Format = Literal["dotprompt", "litellm", "prompty"]
_LITELLM_ROLE = re.compile(r"^[ \t]*(System|User|Assistant):", re.MULTILINE)
_PROMPTY_ROLE = re.compile(
    r"^[ \t]*(?:#[ \t]*)?(system|user|assistant|developer|function|tool)(\[[^\]\n]{0,200}\])?[ \t]*:[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_ROLE_LINES: Mapping[Format, re.Pattern[str]] = {"litellm": _LITELLM_ROLE, "prompty": _PROMPTY_ROLE}
_HANDLEBARS_SIGN = re.compile(
    r"""\{\{[~{]*\s*(?:[#/^>!&]|\{|role\s*["']|history\s*\}|media\s|section\s)|\\\{\{"""
)
_JINJA_SIGN = re.compile(r"(?<!\{)\{[%#]|\{\{-|\{\{\s*[\w.]+\s*\|")
_NAME = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")
_ROLE = re.compile(r"""role\s*["']([\w-]+)["']""")
_TEXT = re.compile(r""""([^"\\]*)"|'([^'\\]*)'""")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*(-?)[-+]?%\}")
_PICTURE = re.compile(r"!\[[^\]\n]*\]\([^)\n]+\)")
_TOOL = {"dotprompt": "dotprompt", "litellm": "LiteLLM", "prompty": "Prompty"}
_ROLE_NAMES = {"model": "assistant", "developer": "system"}
_BLOCK = "there are no blocks: write both cases in words, or two prompts"
_OPENINGS = ("{{{{", "{{!--", "{{!", "{{{", "{{")  # of Handlebars, the longest first
_Item = str | Name | RoleMark


class ImportFaults:
    """The parts of a file that cannot be carried over, that are left out, and that are changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.problems: list[PromptError] = []
        self.left_out: list[PromptError] = []
        self.changes: list[PromptError] = []

    def refuse(self, problem: str, line: int, remedy: str) -> None:
        """Note a part without which the text would say something else."""
        self.problems.append(self._error(problem, line, remedy))

    def leave_out(self, problem: str, line: int, remedy: str) -> None:
        """Note a part that the prompt lacks."""
        self.left_out.append(self._error(problem, line, remedy))

    def change(self, problem: str, line: int, remedy: str) -> None:
        """Note a part that means the same in another form."""
        self.changes.append(self._error(problem, line, remedy))

    def _error(self, problem: str, line: int, remedy: str) -> PromptError:
        return PromptError(problem, path=self._path, line=line, remedy=remedy)


class PromptMessage(NamedTuple):
    """A message of a prompt: its role, and its texts and names."""

    role: Role
    items: list[str | Name]
    line: int


def tool_name(format: Format) -> str:
    """The name of a format's tool."""
    return _TOOL[format]


def text_formats(body: str) -> set[Format]:
    """The formats that the signs of a text belong to; none for a text without signs."""
    formats = set[Format]()
    if _HANDLEBARS_SIGN.search(body):
        formats.add("dotprompt")
    if _LITELLM_ROLE.search(body) or _JINJA_SIGN.search(body):
        formats.add("litellm")
    elif _PROMPTY_ROLE.search(body):
        formats.add("prompty")
    return formats


def read_messages(
    body: str, first_line: int, format: Format, faults: ImportFaults, *, is_mustache: bool = False
) -> list[PromptMessage]:
    """The messages of a text. Parts without a counterpart are noted in the faults."""
    messages: list[PromptMessage] = []
    role: str = "user"
    reader = _HandlebarsReader if format == "dotprompt" or is_mustache else _JinjaReader
    for role, line, text in _chunks(body, first_line, format, faults):
        pieces: list[str | Name] = []
        for item in reader(text, line, faults).items():
            if isinstance(item, RoleMark):
                _add(messages, role, pieces, line, faults)
                role, line, pieces = item.role, item.line, list[str | Name]()
            else:
                pieces.append(item)
        _add(messages, role, pieces, line, faults)
    for message in messages:
        _check_roles(message, format, faults)
    if format == "prompty":
        _note_pictures(body, first_line, faults)
    return messages


def write_body(messages: list[PromptMessage], names: dict[str, str]) -> str:
    """The body of a prompt file with these messages; `names` has ours by theirs."""
    parts: list[str] = []
    for number, message in enumerate(messages):
        text = ""
        for item in message.items:
            if isinstance(item, Name):
                backslashes = text[len(text.rstrip("\\")) :]
                text += f"{backslashes}{{{{{names[item.name]}}}}}"
            else:
                text += escaped_marks(item)
        marker = f'{{{{role "{message.role}"}}}}\n' if number or message.role != "system" else ""
        parts.append(marker + escaped_role_lines(text))
    return "\n".join(parts) + "\n"


def _chunks(
    body: str, first_line: int, format: Format, faults: ImportFaults
) -> Iterator[tuple[str, int, str]]:
    """The parts of a text below each of its role lines, with their roles and lines."""
    role, start, line = ("system" if format == "prompty" else "user"), 0, first_line
    pattern = _ROLE_LINES.get(format)
    for match in pattern.finditer(body) if pattern else ():
        yield role, line, body[start : match.start()]
        role, start = match[1].lower(), match.end()
        line = first_line + body.count("\n", 0, match.start())
        if format == "prompty" and match[2]:
            faults.leave_out(f"{match[2]} of a role", line, "say it in the text of the message")
    yield role, line, body[start:]


def _add(
    messages: list[PromptMessage],
    foreign_role: str,
    pieces: list[str | Name],
    line: int,
    faults: ImportFaults,
) -> None:
    if not any(isinstance(piece, Name) or piece.strip() for piece in pieces):
        return
    name = _ROLE_NAMES.get(foreign_role, foreign_role)
    role = next((role for role in ROLES if role == name), None)
    if role is None:
        faults.refuse(
            f"there is no role {foreign_role!r} here", line, f"write it as one of {', '.join(ROLES)}"
        )
    elif role == "system" and messages and messages[-1].role == "system":
        messages[-1].items.extend(["\n\n", *_stripped(pieces)])
    elif role == "system" and messages:
        faults.refuse("a system message stands behind others", line, "move its text to the top")
    else:
        messages.append(PromptMessage(role, _stripped(pieces), line))


def _stripped(pieces: list[str | Name]) -> list[str | Name]:
    """The pieces of a message without the space around it."""
    joined = list(_joined(pieces))
    ends = {0: str.lstrip, len(joined) - 1: str.rstrip}
    if len(joined) == 1:
        ends = {0: str.strip}
    return [ends[n](item) if n in ends and isinstance(item, str) else item for n, item in enumerate(joined)]


def _joined(items: list[str | Name]) -> Iterator[str | Name]:
    """The items with one text where several stand side by side, which may make a mark together."""
    text = ""
    for item in items:
        if isinstance(item, Name):
            yield from (text, item)
            text = ""
        else:
            text += item
    yield text


def _check_roles(message: PromptMessage, format: Format, faults: ImportFaults) -> None:
    """Refuse a role line that only shows once comments are gone, or that a raw block hides."""
    text = "".join("-" if isinstance(item, Name) else item for item in message.items)
    pattern = _ROLE_LINES.get(format)
    if pattern is not None and (match := pattern.search(text)):
        remedy = "begin a line with the role, outside of comments and blocks"
        faults.refuse(f"{match[0].strip()!r} begins a message there", message.line, remedy)


def _note_pictures(body: str, first_line: int, faults: ImportFaults) -> None:
    for match in _PICTURE.finditer(body):
        line = first_line + body.count("\n", 0, match.start())
        faults.leave_out(f"{match[0][:80]} is text here, no picture", line, "send it in files of the payload")


class _TextReader:
    """Reads a text from mark to mark; parts without a counterpart go to the faults."""

    def __init__(self, text: str, first_line: int, faults: ImportFaults) -> None:
        self._text, self._first_line, self._faults = text, first_line, faults
        self._place = 0
        self._trims_next = False

    def _line(self, place: int) -> int:
        return self._first_line + self._text.count("\n", 0, place)

    def _until(self, end: int, *, trimmed: bool = False) -> str:
        """The text from here to a place."""
        text = self._text[self._place : end]
        text = text.lstrip() if self._trims_next else text
        self._trims_next = False
        return text.rstrip() if trimmed else text

    def _close(self, start: int, opening: str, closing: str) -> str | None:
        """The inside of a mark, behind which reading goes on; None for one without end."""
        begin = start + len(opening)
        end = self._text.find(closing, begin)
        if end < 0:
            excerpt = self._text[start : start + 40].partition("\n")[0]
            self._faults.refuse(f"{excerpt!r} does not end", self._line(start), f"write {closing} behind it")
            return None
        self._place = end + len(closing)
        return self._text[begin:end]

    def _drop_line(self, start: int) -> None:
        """Go on in the next line, if the mark that begins at a place was alone in its own."""
        line_start = self._text.rfind("\n", 0, start) + 1
        end = self._text.find("\n", self._place)
        end = len(self._text) if end < 0 else end
        if not self._text[line_start:start].strip() and not self._text[self._place : end].strip():
            self._place = min(end + 1, len(self._text))

    def _refuse(self, mark: str, start: int, remedy: str) -> None:
        self._faults.refuse(
            f"{mark.partition(chr(10))[0][:60]} has no counterpart", self._line(start), remedy
        )


class _HandlebarsReader(_TextReader):
    def items(self) -> Iterator[_Item]:
        """The texts, names and roles."""
        while (start := self._text.find("{{", self._place)) >= 0:
            before = self._text[self._place : start]
            count = len(before) - len(before.rstrip("\\"))
            if count == 1 and self._text.startswith("{{{", start):
                self._refuse("\\{{{", start, "put a space between the braces")
                return
            if count == 1:  # Handlebars' own escape; of more backslashes one is taken away
                yield f"{self._until(start - 1)}{{{{"
                self._place = start + 2
                continue
            opening = next(mark for mark in _OPENINGS if self._text.startswith(mark, start))
            text_end = start - (1 if count else 0)
            trims = self._text.startswith("~", start + len(opening))
            yield self._until(text_end, trimmed=trims)
            if opening == "{{{{":
                self._refuse("{{{{", start, "write the text without it")
                return
            closing = {"{{!--": "--}}", "{{{": "}}}"}.get(opening, "}}")
            inside = self._close(start, opening, closing)
            if inside is None:
                return
            self._trims_next = inside.endswith("~")
            if opening.startswith("{{!"):
                self._drop_line(start)
                continue
            yield from self._item(inside.strip("~").strip(), start)
        yield self._until(len(self._text))

    def _item(self, inside: str, start: int) -> Iterator[Name | RoleMark]:
        line, name = self._line(start), inside.removeprefix("&").strip()
        if role := _ROLE.fullmatch(inside):
            yield RoleMark(role[1], line)
        elif inside == "history":
            self._drop_line(start)
            self._faults.change("{{history}} is left out", line, "earlier turns have messages of their own")
            yield RoleMark("model", line)  # of dotprompt's: the role of a text behind it that has none
        elif inside.partition(" ")[0] in ("media", "section"):
            self._drop_line(start)
            remedy = "files of a task are parts of its request" if inside[0] == "m" else "say it in words"
            self._faults.leave_out(f"{{{{{inside}}}}}", line, remedy)
        elif _NAME.fullmatch(name) and name.partition(".")[0] not in ("this", "else"):
            yield Name(name, line)
        else:
            remedy = "name a field of the payload, as in {{question}}"
            if inside[:1] in ("#", "/", "^") or inside == "else":
                remedy = _BLOCK
            elif inside[:1] == ">":
                remedy = "write the text itself: no prompt brings in another"
            self._refuse(f"{{{{{inside}}}}}", start, remedy)


class _JinjaReader(_TextReader):
    def items(self) -> Iterator[_Item]:
        """The texts and names."""
        opening = re.compile(r"\{[{%#]")
        while (match := opening.search(self._text, self._place)) is not None:
            start, mark = match.start(), match[0]
            yield self._until(start, trimmed=self._text.startswith("-", match.end()))
            inside = self._close(start, mark, {"{{": "}}", "{%": "%}", "{#": "#}"}[mark])
            if inside is None:
                return
            self._trims_next = inside.endswith("-")
            words = inside.strip("-+").strip()
            if mark == "{#":
                self._drop_line(start)
            elif mark == "{{":
                yield from self._value(words, start)
            elif words == "raw":
                yield from self._raw(start)
            else:
                self._refuse(f"{{% {words} %}}", start, _BLOCK)
        yield self._until(len(self._text))

    def _value(self, words: str, start: int) -> Iterator[str | Name]:
        if text := _TEXT.fullmatch(words):
            yield text[1] or text[2] or ""
        elif _NAME.fullmatch(words) and "-" not in words:
            yield Name(words, self._line(start))
        else:
            remedy = "name a field of the payload, as in {{question}}, and prepare its value before"
            self._refuse(f"{{{{ {words} }}}}", start, remedy)

    def _raw(self, start: int) -> Iterator[str]:
        end = _END_RAW.search(self._text, self._place)
        if end is None:
            self._refuse("{% raw %}", start, "write {% endraw %} behind it")
            self._place = len(self._text)
            return
        yield self._until(end.start())
        self._place, self._trims_next = end.end(), bool(end[1])
