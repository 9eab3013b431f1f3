"""The front matter of a prompt file, read strictly: each field known, of its type, and named once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import frontmatter
import yaml
from frontmatter.default_handlers import YAMLHandler
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from yaml.events import Event
from yaml.nodes import MappingNode, Node, ScalarNode

from meshwright.errors import PromptError
from meshwright.suggestions import nearest

_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
_FIRST_LINE = 2  # of the front matter, below the first boundary
MAX_DEPTH = 4  # of lists in lists; no field needs more than one
EXPECTED = {
    "description": "write description as a text, such as: description: Greets whoever asks.",
    "model": "write model as the name of a model group, such as: model: default",
    "temperature": "write temperature as a number from 0 to 2, such as: temperature: 0.2",
    "max_tokens": "write max_tokens as a whole number above 0, such as: max_tokens: 1024",
    "tags": "write tags as a list of at least one name, such as: tags: [default]",
    "cache": "write cache as true or false, such as: cache: false",
    "structure": "write structure as native, tool or prompted, such as: structure: tool",
    "variables": "write variables as a list of lower-case names, such as: variables: [context]",
}
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
_VariableName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _renamed(structure: object) -> object:
    return "prompted" if structure == "instruction" else structure  # as earlier versions called it


class FrontMatter(BaseModel):
    """What a prompt file says besides its text.

    `model` is a group of deployments and `tags` pick one of it; `cache` is whether an answer may come from a
    cache; `structure` is how an answer in a shape is asked for first; `variables` are the names that stand in
    the text as `{{name}}`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    description: str = Field(default="", max_length=1000)
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "default"
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, gt=0, le=1_000_000)
    tags: list[Tag] = Field(min_length=1, max_length=32)
    cache: bool = True
    structure: Annotated[Literal["native", "tool", "prompted"], BeforeValidator(_renamed)] = "native"
    variables: list[_VariableName] = Field(default_factory=list, max_length=32)


class Parts(NamedTuple):
    """A prompt file taken apart: its fields and their lines, its text and the line on which that begins."""

    fields: FrontMatter
    lines: Mapping[str, int]
    body: str
    body_line: int


CORE = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "null"))
"""Kinds of plain scalars besides text: no dates, no merge keys."""


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML: no aliases, which can make a small file huge, no tags, no key twice. Notes keys' lines."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in known if tag in CORE]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.lines: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (*name) is not allowed: write the value again", self.peek_event())
        if self.depth > MAX_DEPTH:
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
"""What PyYAML raises besides its own errors."""


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
        self.lines = {key: line + _FIRST_LINE for key, line in loader.lines.items()}
        return data


def take_apart(text: str, path: str) -> Parts:
    """Split a prompt file and check its front matter. Raises PromptError with the line that is wrong."""
    if len(_BOUNDARY.findall(text)) < 2 or not _BOUNDARY.match(text):
        raise PromptError(
            "it does not begin with front matter between two lines `---`",
            path=path,
            line=1,
            remedy="begin it with a line `---`, the fields (tags: [default]), and another line `---`",
        )
    handler = _Handler()
    try:
        fields, body = frontmatter.parse(text, handler=handler)
    except yaml.YAMLError as error:
        raise _not_yaml(error, path) from error
    for name, line in handler.lines.items():
        if name not in EXPECTED:
            raise _unknown(name, line, path)
    try:
        checked = FrontMatter.model_validate(fields)
    except ValidationError as error:
        raise _not_valid(error, handler.lines, path) from error
    return Parts(checked, handler.lines, body, _line_of(body, text))


def _line_of(body: str, text: str) -> int:
    return text.count("\n", 0, len(text.rstrip()) - len(body)) + 1


def _not_yaml(error: yaml.YAMLError, path: str) -> PromptError:
    mark, problem = None, str(error).partition("\n")[0]
    if isinstance(error, yaml.MarkedYAMLError):
        mark, problem = error.problem_mark, error.problem
    return PromptError(
        f"the front matter cannot be read: {problem}",
        path=path,
        line=_FIRST_LINE + (mark.line if mark else 0),
        remedy="write plain YAML there: `name: value` lines, texts with a `:` in quotes",
    )


def _unknown(name: str, line: int, path: str) -> PromptError:
    near = nearest(name, EXPECTED)
    remedy = f"did you mean {near}" if near else f"the fields are {', '.join(EXPECTED)}"
    return PromptError(f"unknown field {name!r}", path=path, line=line, remedy=remedy, field=name)


def _not_valid(error: ValidationError, lines: Mapping[str, int], path: str) -> PromptError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "front matter"
    problem = f"field {name!r} is missing" if first["type"] == "missing" else f"{name}: {first['msg']}"
    return PromptError(problem, path=path, line=lines.get(name, 1), remedy=EXPECTED.get(name, ""), field=name)
