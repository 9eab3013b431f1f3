"""One prompt: its settings, read strictly from front matter, and its text with `{{name}}` for values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from meshwright.agents.prompts.front_matter import MAX_PROMPT_BYTES, read_front_matter
from meshwright.agents.prompts.template import Name, Section, Template, marked_names, read_template
from meshwright.core.errors import PromptError, nearest
from meshwright.core.ids import RUN_VARIABLES, SHORT_DIGEST
from meshwright.core.limits import reserved_param
from meshwright.models.port import ChatMessage

_OTHER_VARIABLES = {"context-service": ("sender", "receiver")}
"""The values for prompts that are of no agent."""
_Source = Literal["file", "built-in", "agent", "registry"]


def offered_to(name: str, own: Iterable[str] = ()) -> tuple[str, ...]:
    """The variables that the prompt of that name may use; `own` are the variables of its agents' classes."""
    return (*_OTHER_VARIABLES.get(name, RUN_VARIABLES), *own)


class RenderedPrompt(NamedTuple):
    """The messages of a prompt with their values.

    `system` is "" without a system message; `examples` are the messages between it and `request`, which is
    the last one, if that is of the user's role, else "".
    """

    system: str
    examples: tuple[ChatMessage, ...] = ()
    request: str = ""

    def messages(self, question: str) -> list[ChatMessage]:
        """System message and examples, then a question in place of the request."""
        system = [ChatMessage(role="system", content=self.system)] if self.system else []
        return [*system, *self.examples, ChatMessage(role="user", content=question)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it is used."""

    name: str
    """Its name: that of the file without `.prompt`, or of the registered prompt."""
    description: str
    """One line for people."""
    model: str
    """The group of models that is asked."""
    temperature: float
    """The temperature of its model calls, 0 to 2."""
    max_tokens: int
    """The tokens that a reply may have."""
    params: Mapping[str, Any]
    """Further parameters of its model calls, in OpenAI's words."""
    tags: tuple[str, ...]
    """The tags that pick a deployment of the group."""
    cache: bool
    """Whether an answer from the cache will do."""
    structure: Literal["native", "tool", "prompted"]
    """How a structured answer is asked for first: `native`, `tool` or `prompted`."""
    variables: tuple[str, ...]
    """Names in the template that the mesh or the agent's class fills in."""
    inputs: tuple[str, ...]
    """Names in the template that the payload of the task fills in."""
    body: str
    """The template: the file without its front matter."""
    sections: tuple[Section, ...]
    """The messages of the body."""
    path: str
    """The file of the body. "" without one."""
    line: int
    """The line of that file on which the body begins."""
    digest: str
    """The SHA-256 of the file, in hexadecimal."""
    source: _Source
    """Its origin: `file`, `built-in`, `agent` (its code) or `registry`."""
    version: str
    """Recorded of each use: `NAME@DIGEST PLACE`. The place is its file, in a git repository as `git show`
    takes it (`REVISION:PATH`), `registry:vN` or `built-in`; digest and revision have 12 characters."""
    notes: tuple[PromptError, ...] = field(default=(), compare=False)
    """Remarks on text that this mesh reads otherwise than other tools do."""

    @property
    def names(self) -> set[str]:
        """The names of its variables and inputs."""
        return {*self.variables, *self.inputs}

    @property
    def request_names(self) -> set[str]:
        """The names in the message that begins the request; none without that message."""
        last = self.sections[-1]
        return last.names if last.role == "user" else set()

    def found_in(self, place: str) -> Prompt:
        """The same prompt, with the name of the place where its text is found."""
        return replace(self, version=_version(self.name, self.digest, place))

    def render_from(self, values: Mapping[str, str]) -> RenderedPrompt:
        """Fill in variables and inputs from what is offered; what the prompt does not name is left out.

        In one pass: a value is never looked at again. Raises PromptError for a name without a value.
        """
        missing = [name for name in (*self.variables, *self.inputs) if name not in values]
        if missing:
            self._refuse_without(missing, values)
        messages = [(section.role, _filled(section, values)) for section in self.sections]
        system = messages.pop(0)[1] if messages[0][0] == "system" else ""
        request = messages.pop()[1] if messages and messages[-1][0] == "user" else ""
        examples = tuple(ChatMessage(role=role, content=text) for role, text in messages if text.strip())
        return RenderedPrompt(system, examples, request)

    def _refuse_without(self, missing: Sequence[str], values: Mapping[str, str]) -> None:
        problem = f"prompt {self.name} needs a value for {', '.join(missing)}"
        remedy = f"there are values for {', '.join(values) or 'nothing'}: use those in the prompt"
        if missing[0] in self.inputs:
            remedy = f"give it as the field {missing[0]} of the payload; {remedy}"
        pieces = (piece for section in self.sections for piece in section.pieces)
        lines = (piece.line for piece in pieces if isinstance(piece, Name) and piece.name == missing[0])
        line = next(lines, None) if self.path else None
        raise PromptError(problem, remedy=remedy, path=self.path, line=line, field=missing[0])


def _filled(section: Section, values: Mapping[str, str]) -> str:
    pieces = section.pieces
    if len(pieces) == 1 and isinstance(pieces[0], str):  # most prompts are a text without names
        return pieces[0]
    return "".join([values[piece.name] if isinstance(piece, Name) else piece for piece in pieces])


def parse_prompt(
    name: str, data: bytes, path: str = "", source: _Source = "file", *, offered: Sequence[str] | None = None
) -> Prompt:
    """Read a prompt file, which may use the variables that are `offered`; None for any.

    Raises PromptError with the line that is wrong, and what was expected there.
    """
    text = decode_prompt(data, path)
    fields, lines, body = read_front_matter(text, path)
    line = text.count("\n", 0, len(text.rstrip()) - len(body)) + 1
    if not body:
        remedy = "write it below the front matter"
        raise PromptError("the prompt has no text", path=path, line=line, remedy=remedy)
    if reserved := reserved_param(fields.params):
        raise PromptError(
            f"params cannot hold {reserved!r}",
            path=path,
            line=lines.get("params"),
            remedy="say it in a field of its own (temperature, max_tokens, tags), or in litellm_config.yaml",
            field="params",
        )
    variables, inputs = tuple(fields.variables), tuple(fields.inputs)
    template = read_template(body, path, line)
    _check_used(template, variables, inputs, path, offered)
    _check_names("variables", variables, template, offered, path, lines.get("variables"))
    _check_names("inputs", inputs, template, offered, path, lines.get("inputs"))
    settings: dict[str, Any] = {**dict(fields), "tags": tuple(fields.tags), "path": path, "line": line}
    settings |= {"variables": variables, "inputs": inputs}
    digest = hashlib.sha256(data).hexdigest()
    settings |= {"digest": digest, "source": source, "version": _version(name, digest, path or source)}
    notes = (*template.notes, *_notes_on_escaped(template, (*variables, *inputs), path))
    return Prompt(
        name=name,
        body=body,
        sections=template.sections,
        notes=tuple(sorted(notes, key=lambda note: note.line or 0)),
        **settings,
    )


def _check_names(
    field: str,
    names: Sequence[str],
    template: Template,
    offered: Sequence[str] | None,
    path: str,
    line: int | None,
) -> None:
    """Raises PromptError for a declared name that nothing fills in, that is none of that field, or unused."""
    used_names = {name for name, _ in template.names}
    escaped_names = {name for name, _ in template.escaped}
    for name in names:
        problem = remedy = ""
        is_offered = offered is not None and name in offered
        if field == "inputs" and is_offered:
            problem = f"input {name!r} is filled in by the mesh or the agent"
            remedy = "list it under variables"
        elif field == "variables" and offered is not None and not is_offered:
            problem, remedy = _not_offered(name, offered)
        elif name not in used_names:
            problem = f"{field.removesuffix('s')} {name!r} is declared and not used"
            remedy = f"write {{{{{name}}}}} where its value goes, or take it out of the list"
            if name in escaped_names:
                remedy += f"; \\{{{{{name}}}}} is text"
        if problem:
            raise PromptError(problem, path=path, line=line, remedy=remedy, field=field)


def _check_used(
    template: Template,
    variables: Sequence[str],
    inputs: Sequence[str],
    path: str,
    offered: Sequence[str] | None,
) -> None:
    """Raises PromptError for a name in the text that is not declared."""
    for name, line in template.names:
        if name in variables or name in inputs:
            continue
        problem = f"variable {name!r} is not declared"
        remedy = f"add it to the list: variables: [{', '.join((*variables, name))}]"
        if offered is not None and name not in offered:
            problem, remedy = _not_offered(name, offered)
        raise PromptError(problem, path=path, line=line, remedy=remedy, field="variables")


def _notes_on_escaped(template: Template, names: Sequence[str], path: str) -> list[PromptError]:
    return [
        PromptError(
            f"\\{{{{{name}}}}} is the text {{{{{name}}}}}, not its value",
            path=path,
            line=line,
            remedy=f"write \\\\{{{{{name}}}}} for a backslash and the value",
        )
        for name, line in template.escaped
        if name in names
    ]


def fields_and_body(text: str) -> tuple[dict[str, Any], str]:
    """Returns the fields that the front matter of a prompt names, and its body. Raises PromptError."""
    fields, _, body = read_front_matter(decode_prompt(text.encode(), ""), "")
    return fields.model_dump(exclude_unset=True), body


def names_in(body: str, offered: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the variables in a body that are offered, and the other names, which are inputs."""
    names = marked_names(body)
    return [name for name in offered if name in names], [name for name in names if name not in offered]


def _version(name: str, digest: str, place: str) -> str:
    return f"{name}@{digest[:SHORT_DIGEST]} {place}"


def decode_prompt(data: bytes, path: str) -> str:
    """The text of a file, with line ends as on Unix. Raises PromptError."""
    if len(data) > MAX_PROMPT_BYTES:
        remedy = "shorten it: what changes from task to task belongs into the task"
        raise PromptError(f"the file is larger than {MAX_PROMPT_BYTES:,} bytes", remedy=remedy, path=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptError(
            "the file is not UTF-8 text", path=path, line=line, remedy="save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_offered(variable: str, offered: Sequence[str]) -> tuple[str, str]:
    if variable in ("context", "history"):
        what = "memories have a message" if variable == "context" else "earlier turns have messages"
        return f"nothing fills in {{{{{variable}}}}}", f"take it out: {what} of their own"
    close = nearest(variable, offered)
    use = f"did you mean {close!r}? There are" if close else "there are"
    return (
        f"nothing fills in variable {variable!r}",
        f"{use} {', '.join(offered)}: use those, or list it under inputs if tasks have it in their payload",
    )
