"""The front matter of a prompt file: YAML that is read strictly, with the line of each field, and written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import frontmatter
import yaml
from frontmatter.default_handlers import YAMLHandler
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from yaml.events import Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from meshwright.core.errors import PromptError, nearest, sentence
from meshwright.core.ids import VARIABLE_PATTERN

MAX_PROMPT_BYTES = 65_536
_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
_FIRST_LINE = 2  # of the front matter, below the first boundary
_MAX_DEPTH = 4  # of lists in lists; no field needs more than one
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
_PLAIN = "write plain YAML there: `name: value` lines, texts with a `:` in quotes"
_FOREIGN = {"authors", "config", "input", "metadata", "name", "output", "sample", "template", "version"}
"""Fields of dotprompt, of LiteLLM and of Prompty."""
_TAG_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
_PARAM_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
_PATTERNS = {
    VARIABLE_PATTERN: "must begin with a lower-case letter, and may use those, digits and _, at most 64",
    _TAG_PATTERN: "may use letters, digits and _ . : -, at most 64",
    _PARAM_PATTERN: "must begin with a letter, and may use letters, digits and _ . -, at most 64",
}
_Tag = Annotated[str, StringConstraints(pattern=_TAG_PATTERN)]
_VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]
_ParamName = Annotated[str, StringConstraints(pattern=_PARAM_PATTERN)]


class PromptFields(BaseModel):
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


class FrontMatter(NamedTuple):
    """The front matter of a prompt file, the line of each of its fields, and the text below it."""

    fields: PromptFields
    lines: Mapping[str, int]
    body: str


def read_front_matter(text: str, path: str) -> FrontMatter:
    """Split a prompt file, and read its fields. Raises PromptError, with the line."""
    if len(_BOUNDARY.findall(text)) < 2 or not _BOUNDARY.match(text):
        problem = "it does not begin with front matter between two lines `---`"
        remedy = "begin it with a line `---`, the fields (tags: [default]), and another line `---`"
        raise PromptError(problem, path=path, line=1, remedy=remedy)
    handler = _Handler(path)
    values, body = frontmatter.parse(text, handler=handler)
    lines = handler.lines
    for name, line in lines.items():
        if name not in _EXPECTED:
            near = nearest(name, _EXPECTED)
            remedy = f"did you mean {near}" if near else f"the fields are {', '.join(_EXPECTED)}"
            if name in _FOREIGN or not near:
                remedy += ". `mesh prompts import FILE` makes a prompt of a file of another tool"
            raise PromptError(f"unknown field {name!r}", path=path, line=line, remedy=remedy, field=name)
    return FrontMatter(_checked(values, lines, path), lines, body)


def _checked(values: Mapping[str, Any], lines: Mapping[str, int], path: str) -> PromptFields:
    try:
        return PromptFields.model_validate(values)
    except ValidationError as error:
        name, fault = first_fault(error)
        problem = f"{name or 'front matter'}: {fault}"
        line, remedy = lines.get(name, 1), _EXPECTED.get(name, "")
        raise PromptError(problem, path=path, line=line, remedy=remedy, field=name) from error


def first_fault(error: ValidationError) -> tuple[str, str]:
    """The name of the field that is wrong first, and what is wrong with it, as a sentence."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    pattern = (first.get("ctx") or {}).get("pattern")
    fault = _PATTERNS.get(str(pattern), sentence(first))
    return name, fault if len(first["loc"]) < 2 else f"{str(first['input'])[:80]!r} {fault}"


def write_front_matter(fields: Mapping[str, Any], *, sort: bool = False) -> str:
    """The front matter with these fields and its two lines `---`; read again, it has the same values."""
    head = yaml.dump(
        dict(fields), Dumper=_FrontMatterDumper, allow_unicode=True, sort_keys=sort, width=MAX_PROMPT_BYTES
    )
    return f"---\n{head if fields else ''}---\n"


def read_yaml(
    text: str, path: str, first_line: int, max_depth: int
) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The value of a YAML text, and the line of each key by its path. Raises PromptError, with the line.

    `first_line` is that of the text in its file.
    """
    try:
        node, value = _loaded(text, max_depth)
    except yaml.YAMLError as error:
        line, fault, remedy = 0, str(error).partition("\n")[0], None
        if isinstance(error, yaml.MarkedYAMLError):
            fault, remedy = error.problem or fault, error.note
            line = error.problem_mark.line if error.problem_mark else 0
        elif isinstance(error, ReaderError):  # of a character that YAML does not allow
            line = text.count("\n", 0, error.position)
        raise PromptError(
            f"the front matter cannot be read: {fault}",
            path=path,
            line=first_line + line,
            remedy=remedy or _PLAIN,
        ) from error
    return value, {} if node is None else {key: line + first_line for key, line in _key_lines(node)}


def _loaded(text: str, max_depth: int) -> tuple[Node | None, Any]:
    loader = _StrictLoader(text, max_depth)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except _UNPLANNED as error:
        where = loader.get_mark()
        raise yaml.MarkedYAMLError(problem="there is no such text in YAML", problem_mark=where) from error


def _key_lines(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            place = (*path, str(key.value))
            yield place, key.start_mark.line
            yield from _key_lines(value, place)
    elif isinstance(node, SequenceNode):
        for number, value in enumerate(node.value):
            place = (*path, str(number))
            yield place, value.start_mark.line
            yield from _key_lines(value, place)


_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = f"{_TAG}ambiguous"
# The scalars of YAML 1.2. One that versions of YAML read differently has a tag of its own, and is refused.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ("", *"~nN")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("ambiguous", r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|[-+]?0[0-9_]*[0-9]", "yYnNoO-+0"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_RESOLVERS = {
    first: [
        (f"{_TAG}{kind}", re.compile(rf"(?:{pattern})\Z"))
        for kind, pattern, firsts in _SCALARS
        if first in tuple(firsts)
    ]
    for first in {first for _, _, firsts in _SCALARS for first in firsts}
}


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML: no aliases, which can make a small file huge, no tags, no key twice, one reading."""

    yaml_implicit_resolvers = _RESOLVERS

    def __init__(self, stream: str, max_depth: int = _MAX_DEPTH) -> None:
        super().__init__(stream)
        self._max_depth = max_depth
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (*name) is not allowed: write the value again", self.peek_event())
        if self._depth > self._max_depth:
            raise _refused("it is nested too deep", self.peek_event())
        if getattr(self.peek_event(), "tag", None) is not None:
            raise _refused("a tag (!name) is not allowed: write the plain value", self.peek_event())
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _UNPLANNED as error:  # 0b_ looks like a number, and is none
            raise _refused(f"{str(node.value)[:80]!r} is no plain value", node) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            if key.value in names:
                raise _refused(f"{key.value!r} stands here a second time: keep one", key)
            names.add(key.value)
            key.tag = self.DEFAULT_SCALAR_TAG  # a name is a text, also `on`
        return super().construct_mapping(node, deep)

    def construct_number(self, node: ScalarNode) -> int | float:
        """An int as Python writes it, which a float may be too, but for `.inf` and `.nan`."""
        text = str(self.construct_scalar(node))
        if node.tag.endswith("int"):
            return int(text, 0)
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            raise _refused(f"{text!r} cannot be sent to a model: write a number", node)
        return number

    def construct_ambiguous(self, node: ScalarNode) -> Any:
        """Refuse a value that versions of YAML read differently."""
        text = node.value
        if text[-1].isdigit():
            number = text.lstrip("+-0_") or "0"
            remedy = f'write {number} for the number, or "{text}" in quotes for the text'
            raise _refused(f"{text} is octal for some readers of YAML and decimal for others", node, remedy)
        value = "true" if text.lower() in ("yes", "on") else "false"
        remedy = f'write {value}, or "{text}" in quotes for the text'
        raise _refused(f"{text} is {value} for some readers of YAML and a text for others", node, remedy)


_StrictLoader.add_constructor(f"{_TAG}int", _StrictLoader.construct_number)
_StrictLoader.add_constructor(f"{_TAG}float", _StrictLoader.construct_number)
_StrictLoader.add_constructor(_AMBIGUOUS, _StrictLoader.construct_ambiguous)


class _FrontMatterDumper(yaml.SafeDumper):
    """Puts in quotes what the strict loader would not read as text."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> Node:
        """A text; line ends of other kinds, which quotes alone do not keep, are written as escapes."""
        style = '"' if _ODD_LINE_ENDS.search(text) else None
        return self.represent_scalar(self.DEFAULT_SCALAR_TAG, text, style=style)


_FrontMatterDumper.add_representer(str, _FrontMatterDumper.represent_text)


_ODD_LINE_ENDS = re.compile(r"[\r\x85\u2028\u2029]")
_UNPLANNED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that PyYAML raises in addition to its own."""


def _refused(problem: str, at: Event | Node, remedy: str | None = None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark, note=remedy)


class _Handler(YAMLHandler):
    """Loads the front matter of one file, and remembers on which line of the file each field stands."""

    def __init__(self, path: str) -> None:
        super().__init__(fm_boundary=_BOUNDARY)
        self._path = path
        self.lines: dict[str, int] = {}

    def load(self, fm: str, **kwargs: object) -> Any:
        values, lines = read_yaml(fm.removeprefix("\n"), self._path, _FIRST_LINE, _MAX_DEPTH)
        if values is not None and not isinstance(values, dict):
            problem = "the front matter cannot be read: it is not made of `name: value` lines"
            raise PromptError(problem, path=self._path, line=_FIRST_LINE, remedy=_PLAIN)
        self.lines.update({key[0]: line for key, line in lines.items() if len(key) == 1})
        return values
