"""One prompt: its settings, read strictly from front matter, and its text with `{{name}}` for values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import frontmatter
import yaml
from frontmatter.default_handlers import YAMLHandler
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from yaml.events import Event
from yaml.nodes import MappingNode, Node, ScalarNode

from meshwright.core.errors import PromptError, nearest
from meshwright.core.ids import RUN_VARIABLES, SHORT_DIGEST, VARIABLE_PATTERN
from meshwright.core.limits import reserved_param

MAX_PROMPT_BYTES = 65_536
_OTHER_VARIABLES = {"context-service": ("sender", "receiver")}
"""The values for prompts that are of no agent."""
_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
_FIRST_LINE = 2  # of the front matter, below the first boundary
_MAX_DEPTH = 4  # of lists in lists; no field needs more than one
# Whatever opens like a placeholder or a block, so that no slip of the pen goes out to a model as text.
_MARK = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*\}\}|\{\{+[^\n{}]{0,40}|\{%[^\n{}]{0,40}|\{#[^\n{}]{0,40}")
_EXPECTED = {
    "description": "write description as a text, such as: description: Greets people.",
    "model": "write model as the name of a model group, such as: model: default",
    "temperature": "write temperature as a number from 0 to 2, such as: temperature: 0.2",
    "max_tokens": "write max_tokens as a whole number above 0, such as: max_tokens: 1024",
    "params": "write params as names and values of the provider, such as: params: {top_p: 0.9}",
    "tags": "write tags as a list of at least one name, such as: tags: [default]",
    "cache": "write cache as true or false, such as: cache: false",
    "structure": "write structure as native, tool or prompted, such as: structure: tool",
    "variables": "write variables as a list of lower-case names, such as: variables: [agent_name]",
    "inputs": "write inputs as a list of lower-case names, such as: inputs: [instruction]",
}
_Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
_VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]
_ParamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
_Source = Literal["file", "built-in", "agent", "registry"]


def offered_to(name: str, own: Iterable[str] = ()) -> tuple[str, ...]:
    """The variables that the prompt of that name may use; `own` are the variables of its agents' classes."""
    return (*_OTHER_VARIABLES.get(name, RUN_VARIABLES), *own)


class _FrontMatter(BaseModel):
    """The front matter of a prompt file.

    `model` is a group of deployments and `tags` pick one of it; `params` go to the provider as they are;
    `cache` is whether an answer may come from a cache; `structure` is the first output mode for an answer in
    a shape. Names stand in the text as `{{name}}`: `variables` are filled in by the mesh or the agent,
    `inputs` come with each task, as fields of its payload.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    description: str = Field(default="", max_length=1000)
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "default"
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, gt=0, le=1_000_000)
    params: dict[_ParamName, Any] = Field(default_factory=dict, max_length=32)
    tags: list[_Tag] = Field(default=["default"], min_length=1, max_length=32)
    cache: bool = True
    structure: Literal["native", "tool", "prompted"] = "native"
    variables: list[_VariableName] = Field(default_factory=list, max_length=32)
    inputs: list[_VariableName] = Field(default_factory=list, max_length=32)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it is used; `digest` is the SHA-256 of its file, `source` says whether it has one.

    `pieces` is the body cut at its variables: texts at even places, names at odd ones. `path` and `line` are
    those of the body in its file. `version` is recorded
    of each use: `NAME@DIGEST PLACE`, where the place is its file, in a git repository as `git show` takes it
    (`REVISION:PATH`), `registry:vN` or `built-in`; digest and revision have 12 characters.
    """

    name: str
    description: str
    model: str
    temperature: float
    max_tokens: int
    params: Mapping[str, Any]
    tags: tuple[str, ...]
    cache: bool
    structure: Literal["native", "tool", "prompted"]
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    body: str
    pieces: tuple[str, ...]
    path: str
    line: int
    digest: str
    source: _Source
    version: str

    @property
    def names(self) -> set[str]:
        """The names of its variables and inputs."""
        return {*self.variables, *self.inputs}

    def found_in(self, place: str) -> Prompt:
        """The same prompt, with the name of the place where its text is found."""
        return replace(self, version=_version(self.name, self.digest, place))

    def render_from(self, values: Mapping[str, str]) -> str:
        """Fill in variables and inputs from what is offered; what the prompt does not name is left out.

        In one pass: a value is never looked at again. Raises PromptError for a name without a value.
        """
        missing = [name for name in (*self.variables, *self.inputs) if name not in values]
        if missing:
            problem = f"prompt {self.name} needs a value for {', '.join(missing)}"
            remedy = f"there are values for {', '.join(values) or 'nothing'}: use those in the prompt"
            if missing[0] in self.inputs:
                remedy = f"give it as the field {missing[0]} of the payload; {remedy}"
            end = 2 * self.pieces[1::2].index(missing[0]) + 1
            before = "".join(self.pieces[:end])  # names hold no line break
            line = self.line + before.count("\n") if self.path else None
            raise PromptError(problem, remedy=remedy, path=self.path, line=line, field=missing[0])
        return "".join([values[piece] if n % 2 else piece for n, piece in enumerate(self.pieces)])


def parse_prompt(
    name: str, data: bytes, path: str = "", source: _Source = "file", *, offered: Sequence[str] | None = None
) -> Prompt:
    """Read a prompt file, which may use the variables that are `offered`; None for any.

    Raises PromptError with the line that is wrong, and what was expected there.
    """
    text = _decode(data, path)
    fields, lines, body = _front_matter(text, path)
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
    pieces = _pieces(body, variables, inputs, path, line, offered)
    _check_names("variables", variables, pieces, offered, path, lines.get("variables"))
    _check_names("inputs", inputs, pieces, offered, path, lines.get("inputs"))
    settings: dict[str, Any] = {**dict(fields), "tags": tuple(fields.tags), "path": path, "line": line}
    settings |= {"variables": variables, "inputs": inputs}
    digest = hashlib.sha256(data).hexdigest()
    settings |= {"digest": digest, "source": source, "version": _version(name, digest, path or source)}
    return Prompt(name=name, body=body, pieces=pieces, **settings)


def _check_names(
    field: str,
    names: Sequence[str],
    pieces: Sequence[str],
    offered: Sequence[str] | None,
    path: str,
    line: int | None,
) -> None:
    """Raises PromptError for a declared name that nothing fills in, that is none of that field, or unused."""
    for name in names:
        problem = remedy = ""
        is_offered = offered is not None and name in offered
        if field == "inputs" and is_offered:
            problem = f"input {name!r} is filled in by the mesh or the agent"
            remedy = "list it under variables"
        elif field == "variables" and offered is not None and not is_offered:
            problem, remedy = _not_offered(name, offered)
        elif name not in pieces[1::2]:
            problem = f"{field.removesuffix('s')} {name!r} is declared and not used"
            remedy = f"write {{{{{name}}}}} where its value goes, or take it out of the list"
        if problem:
            raise PromptError(problem, path=path, line=line, remedy=remedy, field=field)


def fields_and_body(text: str) -> tuple[dict[str, Any], str]:
    """Returns the fields that the front matter of a prompt names, and its body. Raises PromptError."""
    fields, _, body = _front_matter(text.replace("\r\n", "\n"), "")
    return fields.model_dump(exclude_unset=True), body


def names_in(body: str, offered: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the variables in a body that are offered, and the other names, which are inputs."""
    names = dict.fromkeys(mark[1] for mark in _MARK.finditer(body) if mark[1])
    return [name for name in offered if name in names], [name for name in names if name not in offered]


def _version(name: str, digest: str, place: str) -> str:
    return f"{name}@{digest[:SHORT_DIGEST]} {place}"


def _decode(data: bytes, path: str) -> str:
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
    return text.replace("\r\n", "\n")


def _not_offered(variable: str, offered: Sequence[str]) -> tuple[str, str]:
    if variable == "context":
        return "nothing fills in {{context}}", "take it out: memories have a message of their own"
    close = nearest(variable, offered)
    use = f"did you mean {close!r}? There are" if close else "there are"
    return (
        f"nothing fills in variable {variable!r}",
        f"{use} {', '.join(offered)}: use those, or list it under inputs if tasks have it in their payload",
    )


def _pieces(
    body: str,
    variables: Sequence[str],
    inputs: Sequence[str],
    path: str,
    first_line: int,
    offered: Sequence[str] | None,
) -> tuple[str, ...]:
    pieces: list[str] = []
    end = 0
    for mark in _MARK.finditer(body):
        line = first_line + body.count("\n", 0, mark.start())
        if mark[1] is None:
            problem = f"{mark[0].strip()!r} is not a variable"
            remedy = "write {{name}} with a lower-case name; there are no blocks, expressions or roles"
            raise PromptError(problem, path=path, line=line, remedy=remedy)
        if mark[1] not in variables and mark[1] not in inputs:
            problem = f"variable {mark[1]!r} is not declared"
            remedy = f"add it to the list: variables: [{', '.join((*variables, mark[1]))}]"
            if offered is not None and mark[1] not in offered:
                problem, remedy = _not_offered(mark[1], offered)
            raise PromptError(problem, path=path, line=line, remedy=remedy, field="variables")
        pieces += [body[end : mark.start()], mark[1]]
        end = mark.end()
    return (*pieces, body[end:])


_CORE = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "null"))
"""Kinds of plain scalars other than text: no dates, no merge keys."""


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML: no aliases, which can make a small file huge, no tags, no key twice. Notes keys' lines."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in tagged if tag in _CORE]
        for first, tagged in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.lines: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (*name) is not allowed: write the value again", self.peek_event())
        if self.depth > _MAX_DEPTH:
            raise _refused("it is nested too deep", self.peek_event())
        if getattr(self.peek_event(), "tag", None) is not None:
            raise _refused("a tag (!name) is not allowed: write the plain value", self.peek_event())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _UNPLANNED as error:  # 0b_ looks like a number, and is none
            raise _refused(f"{str(node.value)[:80]!r} is no plain value", node) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            if key.value in lines:
                raise _refused(f"{key.value!r} stands here a second time: keep one", key)
            lines[key.value] = key.start_mark.line
        self.lines = self.lines or lines  # the outermost mapping is constructed first
        return super().construct_mapping(node, deep)


_UNPLANNED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that PyYAML raises in addition to its own."""


def _refused(problem: str, at: Event | Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Handler(YAMLHandler):
    """Loads the front matter of one file, and remembers on which line of the file each field stands."""

    def __init__(self) -> None:
        super().__init__(fm_boundary=_BOUNDARY)
        self.lines: dict[str, int] = {}

    def load(self, fm: str, **kwargs: object) -> Any:
        loader = _StrictLoader(fm.removeprefix("\n"))
        try:
            data = loader.get_single_data()
        except _UNPLANNED as error:
            where = loader.get_mark()
            raise yaml.MarkedYAMLError(problem="there is no such text in YAML", problem_mark=where) from error
        if data is not None and not isinstance(data, dict):
            raise yaml.YAMLError("it is not made of `name: value` lines")
        self.lines.update({key: line + _FIRST_LINE for key, line in loader.lines.items()})
        return data


def _front_matter(text: str, path: str) -> tuple[_FrontMatter, Mapping[str, int], str]:
    if len(_BOUNDARY.findall(text)) < 2 or not _BOUNDARY.match(text):
        problem = "it does not begin with front matter between two lines `---`"
        remedy = "begin it with a line `---`, the fields (tags: [default]), and another line `---`"
        raise PromptError(problem, path=path, line=1, remedy=remedy)
    handler = _Handler()
    lines = handler.lines
    try:
        fields, body = frontmatter.parse(text, handler=handler)
    except yaml.YAMLError as error:
        mark, problem = None, str(error).partition("\n")[0]
        if isinstance(error, yaml.MarkedYAMLError):
            mark, problem = error.problem_mark, error.problem
        problem, line = (
            f"the front matter cannot be read: {problem}",
            _FIRST_LINE + (mark.line if mark else 0),
        )
        remedy = "write plain YAML there: `name: value` lines, texts with a `:` in quotes"
        raise PromptError(problem, path=path, line=line, remedy=remedy) from error
    for name, line in lines.items():
        if name not in _EXPECTED:
            near = nearest(name, _EXPECTED)
            remedy = f"did you mean {near}" if near else f"the fields are {', '.join(_EXPECTED)}"
            raise PromptError(f"unknown field {name!r}", path=path, line=line, remedy=remedy, field=name)
    try:
        return _FrontMatter.model_validate(fields), lines, body
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "front matter"
        problem = f"field {name!r} is missing" if first["type"] == "missing" else f"{name}: {first['msg']}"
        line, remedy = lines.get(name, 1), _EXPECTED.get(name, "")
        raise PromptError(problem, path=path, line=line, remedy=remedy, field=name) from error
