r"""The text of a prompt: values in `{{name}}`, messages below `{{role "user"}}`, and `\` before what is text.

    You are {{agent_name}}.
    {{role "user"}}
    Translate into {{language}}: {{text}}

The text above the first role is the system message. A backslash makes text of a mark (`\{{`, `\{%`, `\{#`)
and of a role line (`\User:`); two before a mark are one backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from meshwright.core.errors import PromptError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
# Whatever opens like a placeholder or a block, so that no slip of the pen goes out to a model as text. A run
# of backslashes is looked at once, from its beginning.
_MARK = re.compile(
    r"""(?<!\\)(?P<escapes>\\*)(?:\{\{\s*(?P<name>[a-z][a-z0-9_]*)\s*\}\}"""
    r"""|\{\{\s*role\s*["'](?P<role>[^"'\n{}]{0,40})["']\s*\}\}"""
    r"""|(?P<other>\{\{+|\{%|\{\#))"""
)
_EXCERPT = re.compile(r"\{+[^\n{}]{0,40}")
_OPENING = re.compile(r"(?<!\\)(\\*)(\{\{+|\{%|\{#)")
# LiteLLM's `User: ...`, and Prompty's `user:` alone in its line.
_ROLE_LINE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<escapes>\\*)(?P<text>(?:System|User|Assistant):"
    r"|(?:#[ \t]*)?(?i:system|user|assistant|developer)(?:\[[^\]\n]{0,200}\])?[ \t]*:(?=[ \t]*$))",
    re.MULTILINE,
)
_BRACED = re.compile(r"(?<![\w$}\\{/%#])\{([A-Za-z_]\w{0,63})\}(?!\})")
_ADVICE = (
    (r"\{\{\s*role\b", 'write {{role "user"}}, or "system" or "assistant"'),
    (r"\{\{\s*media\b", "take it out: files of a task are parts of its request"),
    (r"\{\{+\s*>", "write the text itself: no prompt brings in another"),
    (r"\{\{!|\{#", "take the comment out"),
    (r"\{\{\{\s*[a-z][a-z0-9_]*$", "write it with two braces: values are put in as they are"),
    (r"\{\{[-~]?\s*[a-z][a-z0-9_]*\s*[-~]?$", "write {{name}} alone"),
    (r"\{\{\s*[A-Za-z_]\w*\s*$", "write the name in lower case, as in {{user_name}}"),
    (r"\{\{\s*[a-z]\w*\.", "name a field of the payload itself, as in {{user}}"),
    (r"\{\{[#^/]|\{%|\{\{\s*else\b", "there are no blocks: write both cases in words, or two prompts"),
    (r"", "write {{name}} with a lower-case name: there are no expressions"),
)


class Name(NamedTuple):
    """A name in the text of a prompt, whose value goes there."""

    name: str
    line: int


class RoleMark(NamedTuple):
    """A place in a text at which a message begins."""

    role: str
    line: int


@dataclass(frozen=True, slots=True)
class Section:
    """One message of a prompt: texts, and names whose values go between them."""

    role: Role
    pieces: tuple[str | Name, ...]
    line: int

    @property
    def text(self) -> str:
        """Its text, with `{{name}}` for values."""
        return "".join(f"{{{{{piece.name}}}}}" if isinstance(piece, Name) else piece for piece in self.pieces)

    @property
    def names(self) -> set[str]:
        """The names in it."""
        return {piece.name for piece in self.pieces if isinstance(piece, Name)}


class Template(NamedTuple):
    """The messages of a text, and notes on what may not be meant as it is written."""

    sections: tuple[Section, ...]
    notes: tuple[PromptError, ...]
    escaped: tuple[Name, ...]
    """The names that are text, since a backslash is before them."""

    @property
    def names(self) -> list[Name]:
        """The names in all messages, in their order."""
        return [piece for section in self.sections for piece in section.pieces if isinstance(piece, Name)]


def marked_names(body: str) -> list[str]:
    """The names that a text has, each once, whatever else is wrong with it."""
    marks = _MARK.finditer(body)
    return list(dict.fromkeys(mark["name"] for mark in marks if mark["name"] and _is_mark(mark)))


def escaped(text: str) -> str:
    """A text as the body of a prompt has it, so that nothing in it is a mark or a role line."""
    return escaped_role_lines(escaped_marks(text))


def escaped_marks(text: str) -> str:
    """A text as a part of a body, so that nothing in it is a mark."""
    return _OPENING.sub(lambda match: f"{match[1] * 2}\\{match[2]}", text)


def escaped_role_lines(body: str) -> str:
    """A body in which no line is a role line."""
    return _ROLE_LINE.sub(lambda match: f"{match['indent']}\\{match['escapes']}{match['text']}", body)


def read_template(body: str, path: str, first_line: int) -> Template:
    """Cut the body of a prompt file at its roles and names. Raises PromptError, with the line."""
    reader = _TemplateReader(path, first_line)
    sections = reader.sections(reader.read_role_lines(body))
    for section in sections:
        reader.note_braces(section)
    return Template(sections, tuple(reader.notes), tuple(reader.escaped))


def _is_mark(mark: re.Match[str]) -> bool:
    return len(mark["escapes"]) % 2 == 0


class _TemplateReader:
    """Reads one body; its errors and notes name the line."""

    def __init__(self, path: str, first_line: int) -> None:
        self._path, self._first_line = path, first_line
        self.notes: list[PromptError] = []
        self.escaped: list[Name] = []

    def read_role_lines(self, body: str) -> str:
        """The body without the backslashes before role lines. Raises PromptError for a line without one."""
        for match in _ROLE_LINE.finditer(body):
            text, line = match["text"], self._first_line + body.count("\n", 0, match.start())
            word = re.sub(r"\W.*", "", text.lstrip("# \t")).lower()
            role = "system" if word == "developer" else word
            begin = f'write {{{{role "{role}"}}}} if a message begins here'
            if match["indent"] and not match["escapes"]:
                self._note(f"{text!r} is sent as text", line, begin)
            elif not match["escapes"]:
                remedy = f"{begin}, or \\{text} if it is text; `mesh prompts import FILE` does it for a file"
                self._refuse(f"{text!r} looks like the beginning of a message", line, remedy)
        return _ROLE_LINE.sub(lambda match: f"{match['indent']}{match['escapes'][1:]}{match['text']}", body)

    def sections(self, body: str) -> tuple[Section, ...]:
        """The messages; only the first may be the system message. Raises PromptError."""
        sections: list[Section] = []
        opening, pieces = RoleMark("system", self._first_line), list[str | Name]()
        is_first = True
        for item in (*self._items(body), None):
            if item is not None and not isinstance(item, RoleMark):
                pieces.append(item)
                continue
            section = self._section(opening, pieces, has_others=bool(sections))
            if section is not None:
                sections.append(section)
            elif not is_first:
                remedy = "write it below the role, or take the role out"
                self._refuse(f"the {opening.role} message has no text", opening.line, remedy)
            if item is not None:
                opening, pieces, is_first = item, list[str | Name](), False
        return tuple(sections)

    def _section(
        self, opening: RoleMark, pieces: Sequence[str | Name], *, has_others: bool
    ) -> Section | None:
        role = next((role for role in ROLES if role == opening.role), None)
        if role is None:
            remedy = f"the roles are {', '.join(ROLES)}"
            if opening.role == "model":
                remedy = 'write {{role "assistant"}}'
            self._refuse(f"there is no role {opening.role!r}", opening.line, remedy)
        if role == "system" and has_others:
            remedy = "move its text to the top: the text above the first role is that message"
            self._refuse("the system message comes first, and once", opening.line, remedy)
        texts, line = list(pieces), opening.line
        if texts and isinstance(texts[0], str):
            text = texts[0].lstrip()
            line += texts[0].count("\n", 0, len(texts[0]) - len(text))
            texts[0] = text
        if texts and isinstance(texts[-1], str):
            texts[-1] = texts[-1].rstrip()
        return Section(role, tuple(filter(None, texts)), line) if any(texts) else None

    def _items(self, body: str) -> Iterator[str | Name | RoleMark]:
        """The texts, names and roles of a body; texts without the backslashes that mark them."""
        text, end = "", 0
        for mark in _MARK.finditer(body):
            line = self._first_line + body.count("\n", 0, mark.end("escapes"))
            text += body[end : mark.start()] + "\\" * (len(mark["escapes"]) // 2)
            end = mark.end()
            if not _is_mark(mark):
                text += mark[0][len(mark["escapes"]) :]
                if mark["name"]:
                    self.escaped.append(Name(mark["name"], line))
                continue
            yield text
            text = ""
            if mark["other"]:
                self._refuse_mark(_EXCERPT.match(body, mark.end("escapes")), line)
            yield self._item(mark, line)
        yield text + body[end:]

    def _item(self, mark: re.Match[str], line: int) -> Name | RoleMark:
        if mark["role"] is not None:
            return RoleMark(mark["role"], line)
        if mark["escapes"]:
            name = f"{{{{{mark['name']}}}}}"
            remedy = f"write three if {name} is text"
            self._note(f"two backslashes before {name} are one backslash and the value", line, remedy)
        return Name(mark["name"], line)

    def _refuse_mark(self, excerpt: re.Match[str] | None, line: int) -> NoReturn:
        text = excerpt[0].strip() if excerpt else ""
        advice = next(advice for pattern, advice in _ADVICE if re.match(pattern, text))
        self._refuse(f"{text!r} is not a variable", line, f"{advice}. If it is text, write \\{text[:12]}")

    def note_braces(self, section: Section) -> None:
        """Note names in single braces, which are text, though other tools fill them in."""
        line = section.line
        for piece in section.pieces:
            if isinstance(piece, Name):
                line = piece.line
                continue
            for match in _BRACED.finditer(piece):
                remedy = f"write {{{{{match[1].lower()}}}}}, and list it under inputs, if a value goes there"
                self._note(f"{match[0]} is sent as text", line + piece.count("\n", 0, match.start()), remedy)
            line += piece.count("\n")

    def _note(self, problem: str, line: int, remedy: str) -> None:
        self.notes.append(PromptError(problem, path=self._path, line=line, remedy=remedy))

    def _refuse(self, problem: str, line: int, remedy: str) -> NoReturn:
        raise PromptError(problem, path=self._path, line=line, remedy=remedy)
