"""Prompts as callers send them and are shown them, and how both become the text of a prompt file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, Field, model_validator

from meshwright.agents.prompts.front_matter import MAX_PROMPT_BYTES, write_front_matter
from meshwright.agents.prompts.prompt import fields_and_body, names_in, offered_to
from meshwright.component import parse_prompt
from meshwright.kit import ChangeBody, Identifier, Input, InvalidInput, PromptError
from meshwright.parts.llmops.table import MatchedVersion, PromptRow

MAX_VERSION = 2**31 - 1


class InvalidPrompt(InvalidInput):
    """A template or parameters that are no prompt; `line` is that of the template."""

    code = InvalidInput.__name__
    line: int | None = None


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it must not hold the character NUL")
    return text


def _template(text: str) -> str:
    if not text.strip():
        raise ValueError("it has no text")
    if text.lstrip().partition("\n")[0].rstrip() == "---":
        raise ValueError("it begins with front matter: send the fields of that as parameters")
    return _storable(text)


Template = Annotated[str, Field(max_length=MAX_PROMPT_BYTES), AfterValidator(_template)]
Message = Annotated[str, Field(max_length=1_000), AfterValidator(_storable)]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]


class PromptChange(ChangeBody):
    """A new version: the body of a `.prompt` file, and the fields of its front matter.

    Unless the parameters name `variables` or `inputs`, names in the template that the mesh or the prompt's
    agents fill in are variables, and all others are inputs. `message` says why it changed. A whole answer may
    be sent back: fields that only answers have are ignored, and `name` must be that of the path.
    """

    facts: ClassVar = frozenset(
        {"prompt_id", "version", "digest", "labels", "author", "created_at", "deleted", "text"}
    )
    name: Identifier = ""
    template: Template
    parameters: dict[str, Any] = Field(default_factory=dict)
    message: Message = ""


class PromptRequest(PromptChange):
    """A new prompt. An agent uses it that has a prompt of this name, once a version has `production`."""

    name: Identifier


class VersionQuery(Input):
    """Which version to show: by its number or by a label, else the newest."""

    version: Version | None = None
    label: Identifier | None = None

    @model_validator(mode="after")
    def _one(self) -> VersionQuery:
        if self.version is not None and self.label is not None:
            raise ValueError("give either version or label")
        return self


class PromptSummary(BaseModel):
    """A version of a prompt, and the versions that the labels of the prompt point at.

    `prompt_id` is the name. `digest` is the SHA-256 of the text, of which events and costs name 12
    characters. `deleted` says whether the prompt is.
    """

    prompt_id: str
    name: str
    version: int
    digest: str
    labels: dict[str, int]
    author: str
    message: str
    created_at: datetime
    deleted: bool

    @classmethod
    def from_match(cls, match: MatchedVersion) -> PromptSummary:
        """The summary of a version."""
        return PromptSummary(**_known(match))


class PromptVersion(PromptSummary):
    """A version with its text: the template, and the parameters that were sent with it.

    `text` is that of a prompt file with both, of which `digest` is the digest.
    """

    text: str
    template: str
    parameters: dict[str, Any]

    @classmethod
    def from_match(cls, match: MatchedVersion) -> PromptVersion:
        """The whole version."""
        parameters, template = fields_and_body(match.row.text)
        fields = _known(match)
        return PromptVersion(**fields, text=match.row.text, template=template, parameters=parameters)


class PromptPage(BaseModel):
    """Some prompts by name, each by its newest version; `cursor` asks for those that follow."""

    items: list[PromptSummary]
    cursor: str | None = None


class PromptVersionPage(BaseModel):
    """Some versions of a prompt, the newest first; `cursor` asks for those before."""

    items: list[PromptSummary]
    cursor: int | None = None


def _known(match: MatchedVersion) -> dict[str, Any]:
    row = match.row
    return {
        "prompt_id": row.name,
        "name": row.name,
        "version": row.version,
        "digest": row.digest,
        "labels": match.labels,
        "author": row.author,
        "message": row.message,
        "created_at": datetime.fromtimestamp(row.created_at, UTC),
        "deleted": match.is_deleted,
    }


def prompt_row(
    tenant_id: str, name: str, change: PromptChange, author: str, now: datetime, own: Iterable[str]
) -> PromptRow:
    """A version without its number yet; `own` are the variables of the agents that have the prompt.

    Raises InvalidPrompt.
    """
    text = _render_text(name, change.template, change.parameters, offered_to(name, own))
    return PromptRow(
        tenant_id=tenant_id,
        name=name,
        version=0,
        text=text,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        author=author,
        message=change.message,
        created_at=now.timestamp(),
    )


def _render_text(name: str, template: str, parameters: Mapping[str, Any], offered: Sequence[str]) -> str:
    """The text of a prompt file. Raises InvalidPrompt."""
    fields = dict(parameters)
    if fields.keys().isdisjoint(("variables", "inputs")):
        names = dict(zip(("variables", "inputs"), names_in(template, offered), strict=True))
        fields |= {field: used for field, used in names.items() if used}
    # Sorted, so that the same parameters give the same digest.
    head = write_front_matter(fields, sort=True)
    text = head + template.replace("\r\n", "\n")
    try:
        parse_prompt(name, text.encode(), offered=offered)
    except PromptError as error:
        raise _refusal(error, head.count("\n")) from None
    return text


def _refusal(error: PromptError, first_line: int) -> InvalidPrompt:
    line = (error.line or 0) - first_line
    if error.line is None or line > 0:
        place = f"template, line {line}" if line > 0 else "template"
        refusal = InvalidPrompt(f"{place}: {error.message}", remedy=error.remedy, field="template")
        refusal.line = line if line > 0 else None
        return refusal
    field = f"parameters.{error.field}" if error.field else "parameters"
    problem = error.message.removeprefix(f"{error.field}: ")
    return InvalidPrompt(f"{field}: {problem}", remedy=error.remedy, field=field)
