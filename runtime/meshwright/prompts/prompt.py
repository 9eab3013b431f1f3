"""One prompt: its settings, and its text with `{{name}}` where values go."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meshwright.errors import PromptError
from meshwright.prompts.frontmatter import take_apart

MAX_PROMPT_BYTES = 65_536
RUN_VARIABLES = ("agent_name", "task", "context")
"""What an agent's run has for its prompt: its own id, the request in words, and the compressed context."""
OTHER_VARIABLES = {"context-service": ("sender", "receiver")}
"""What those prompts get that no agent's run fills in."""


def offered_to(name: str) -> tuple[str, ...]:
    """The variables that the prompt of that name may use."""
    return OTHER_VARIABLES.get(name, RUN_VARIABLES)


# Whatever opens like a placeholder or a block, so that no slip of the pen goes out to a model as text.
MARK = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*\}\}|\{\{+[^\n{}]{0,40}|\{%[^\n{}]{0,40}|\{#[^\n{}]{0,40}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it is used; `digest` is the SHA-256 of its file, `source` says whether it has one.

    `pieces` is the body cut at its variables: texts at even places, names at odd ones.
    """

    name: str
    description: str
    model: str
    temperature: float
    max_tokens: int
    tags: tuple[str, ...]
    cache: bool
    structure: Literal["native", "tool", "prompted"]
    variables: tuple[str, ...]
    body: str
    pieces: tuple[str, ...]
    digest: str
    source: Literal["file", "built-in", "agent"]

    def render(self, **values: str) -> str:
        """Fill in the variables, all of them and no others. Raises PromptError."""
        unknown = sorted(values.keys() - set(self.variables))
        if unknown:
            raise PromptError(
                f"prompt {self.name} has no variable {', '.join(unknown)}",
                remedy=f"it has {', '.join(self.variables) or 'none'}",
                field=unknown[0],
            )
        return self.render_from(values)

    def render_from(self, values: Mapping[str, str]) -> str:
        """Fill in the variables from what is offered; what the prompt does not name is left out.

        In one pass: a value is never looked at again. Raises PromptError for a variable without a value.
        """
        missing = [name for name in self.variables if name not in values]
        if missing:
            raise PromptError(
                f"prompt {self.name} needs a value for {', '.join(missing)}",
                remedy=f"there are values for {', '.join(values) or 'nothing'}: use those in the prompt",
                field=missing[0],
            )
        return "".join(values[piece] if n % 2 else piece for n, piece in enumerate(self.pieces))


def parse_prompt(
    name: str,
    data: bytes,
    path: str = "",
    source: Literal["file", "built-in", "agent"] = "file",
    *,
    offered: Sequence[str] | None = None,
) -> Prompt:
    """Read a prompt file, which may use the variables that are `offered`; None for any.

    Raises PromptError with the line that is wrong, and what was expected there.
    """
    text = _decode(data, path)
    fields, lines, body, line = take_apart(text, path)
    if not body:
        remedy = "write it below the front matter"
        raise PromptError("the prompt has no text", path=path, line=line, remedy=remedy)
    pieces = _pieces(body, fields.variables, path, line)
    if offered is not None:
        _check_offered(fields.variables, offered, path, lines.get("variables"))
    _check_used(fields.variables, pieces[1::2], path, lines.get("variables"))
    return Prompt(
        name=name,
        description=fields.description,
        model=fields.model,
        temperature=fields.temperature,
        max_tokens=fields.max_tokens,
        tags=tuple(fields.tags),
        cache=fields.cache,
        structure=fields.structure,
        variables=tuple(fields.variables),
        body=body,
        pieces=pieces,
        digest=hashlib.sha256(data).hexdigest(),
        source=source,
    )


def _decode(data: bytes, path: str) -> str:
    if len(data) > MAX_PROMPT_BYTES:
        raise PromptError(
            f"the file is larger than {MAX_PROMPT_BYTES:,} bytes",
            path=path,
            remedy="shorten it: what changes from task to task belongs into the context",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptError(
            "the file is not UTF-8 text", path=path, line=line, remedy="save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n")


def _pieces(body: str, variables: Sequence[str], path: str, first_line: int) -> tuple[str, ...]:
    pieces: list[str] = []
    end = 0
    for mark in MARK.finditer(body):
        line = first_line + body.count("\n", 0, mark.start())
        if mark[1] is None:
            raise PromptError(
                f"{mark[0].strip()!r} is not a variable",
                path=path,
                line=line,
                remedy="write {{name}} with a lower-case name; there are no blocks, expressions or roles",
            )
        if mark[1] not in variables:
            remedy = f"add it to the list: variables: [{', '.join((*variables, mark[1]))}]"
            raise PromptError(
                f"variable {mark[1]!r} is not declared",
                path=path,
                line=line,
                remedy=remedy,
                field="variables",
            )
        pieces += [body[end : mark.start()], mark[1]]
        end = mark.end()
    return (*pieces, body[end:])


def _check_offered(variables: Sequence[str], offered: Sequence[str], path: str, line: int | None) -> None:
    for name in variables:
        if name not in offered:
            raise PromptError(
                f"nothing fills in variable {name!r}",
                path=path,
                line=line,
                remedy=f"there are {', '.join(offered)}: use those, or write the text itself",
                field="variables",
            )


def _check_used(variables: Sequence[str], used: Sequence[str], path: str, line: int | None) -> None:
    for name in variables:
        if name not in used:
            raise PromptError(
                f"variable {name!r} is declared and not used",
                path=path,
                line=line,
                remedy=f"write {{{{{name}}}}} where its value goes, or take it out of the list",
                field="variables",
            )
