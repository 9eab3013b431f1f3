"""One skill: the front matter of its SKILL.md, read as the specification of Agent Skills says.

Every scalar of the YAML is text, as in the reference library, and so is all that stands below an entry of
metadata. Fields that the specification does not have are warnings, since many skills that were written for
one product have some.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from meshwright.agents.skills.files import SkillFile, hash_files, read_files
from meshwright.core.errors import ConfigError, nearest

FILE_NAMES = ("SKILL.md", "skill.md")
MAX_NAME_CHARS, MAX_DESCRIPTION_CHARS, MAX_COMPATIBILITY_CHARS = 64, 1_024, 500
MAX_FILE_BYTES = 200_000  # of SKILL.md
_MAX_TOOLS = 64
_MAX_OTHER_CHARS = 1_000
FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_LIKE = 0.8  # of a file name to skill.md, for it to be a slip of the pen
_MAX_DEPTH, _MAX_NAMED = 3, 3  # folders below one that are looked into, and skills there that an error names
_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
_FIRST_LINE = 2  # of the front matter, below the first boundary


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill as its folder was read. `source` is the entry point of its package, "" for the project's.

    `name` is that of the front matter; agents and the model use `title`, which begins with the source.
    `files` are the paths of all its files; `digest` is over all of them.
    """

    name: str
    description: str
    license: str
    compatibility: str
    metadata: Mapping[str, str]
    allowed_tools: tuple[str, ...]
    folder: Path
    file: str
    """The name of its SKILL.md."""
    digest: str
    files: tuple[str, ...]
    source: str = ""
    package: str = ""
    """The name of the package that `source` is of."""
    is_outside: bool = False
    """Whether strangers wrote it: it is of a package that the settings do not trust."""
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)

    @property
    def title(self) -> str:
        """Its name among all skills: `pdf`, or `acme:pdf` of a package."""
        return f"{self.source}:{self.name}" if self.source else self.name

    @property
    def copy_name(self) -> str:
        """The name of the folder with a copy of this version."""
        return f"{self.title.replace(':', '.')}-{self.digest}"

    @property
    def path(self) -> str:
        """The path of its SKILL.md."""
        return str(self.folder / self.file)


class LoadedSkill(NamedTuple):
    """A skill with the contents of its files."""

    skill: Skill
    files: Mapping[str, SkillFile]


def is_skill(folder: Path) -> bool:
    """Whether a folder holds a SKILL.md."""
    return any((folder / name).is_file() for name in FILE_NAMES)


def misplaced(folder: Path) -> ConfigError | None:
    """The error of a folder without SKILL.md that has it under another name, or in folders of its own."""
    names: list[str] = []
    inner: list[str] = []
    with suppress(OSError):  # a folder that cannot be read has none
        names = [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        inner = [
            str(one.relative_to(folder)) for one in islice(_inner_skills(folder, _MAX_DEPTH), _MAX_NAMED)
        ]
    if (misspelt := nearest("skill.md", [name.casefold() for name in names], cutoff=_LIKE)) is not None:
        path = next(folder / name for name in names if name.casefold() == misspelt)
        problem = f"the file is called {path.name}, and is passed over"
        return ConfigError(problem, path=str(path), remedy="Rename it to SKILL.md")
    if not inner:
        return None
    problem = f"it holds skills in folders of its own, which are passed over: {', '.join(inner)}"
    remedy = f"Move them beside {folder.name}, or add that folder to [skills] dirs"
    return ConfigError(problem, path=str(folder), remedy=remedy)


def _inner_skills(folder: Path, depth: int) -> Iterator[Path]:
    """The folders below one that hold a SKILL.md, without those inside of a skill."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "_")) or not entry.is_dir(follow_symlinks=False):
            continue
        if is_skill(inner := Path(entry.path)):
            yield inner
        elif depth > 1:
            yield from _inner_skills(inner, depth - 1)


def load_skill(folder: Path, source: str = "", *, package: str = "", is_outside: bool = False) -> LoadedSkill:
    """Read a skill with all its files. Raises ConfigError, with file and line, for one without use."""
    if not folder.is_dir():
        problem = "it is a file" if folder.exists() else "there is no such folder"
        raise ConfigError(problem, path=str(folder), remedy="Name the folder of a skill")
    files = read_files(folder)
    name = next((name for name in FILE_NAMES if name in files), None)
    if name is None:
        remedy = "Write it, with name and description between two lines `---`"
        raise misplaced(folder) or ConfigError("there is no SKILL.md", path=str(folder), remedy=remedy)
    reader = _SkillReader(folder, name)
    text = reader.decoded(files[name].data)
    fields = reader.fields(text)
    skill = Skill(
        name=reader.name(fields),
        description=reader.required(fields, "description", MAX_DESCRIPTION_CHARS),
        license=reader.text(fields, "license", _MAX_OTHER_CHARS),
        compatibility=reader.text(fields, "compatibility", MAX_COMPATIBILITY_CHARS),
        metadata=dict(reader.entries(fields)),
        allowed_tools=tuple(reader.tools(fields)),
        folder=folder,
        file=name,
        digest=hash_files(files),
        files=tuple(files),
        source=source,
        package=package,
        is_outside=is_outside,
        warnings=tuple(reader.unusable(fields)),
    )
    return LoadedSkill(skill, files)


class _Loader(yaml.BaseLoader):
    """Every scalar is text. Aliases and tags, which no field needs, are refused."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            problem = "an alias (*name) is not allowed: write the value again"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            problem = "a tag (!name) is not allowed: write the plain value"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Fields = Mapping[str, tuple[int, Node]]
"""The fields by name, each with its line and its node."""


class _SkillReader:
    """Reads the SKILL.md of a folder; its errors name the line."""

    def __init__(self, folder: Path, file: str) -> None:
        self._folder = folder
        self._path = str(folder / file)

    def decoded(self, data: bytes) -> str:
        if len(data) > MAX_FILE_BYTES:
            remedy = "Move what is not always needed to files of its own, and name them"
            self._refuse(f"the file has more than {MAX_FILE_BYTES:,} bytes", None, remedy)
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._refuse("the file is not UTF-8 text", line, "Save it as UTF-8")

    def fields(self, text: str) -> _Fields:
        boundaries = list(_BOUNDARY.finditer(text))
        if len(boundaries) < 2 or boundaries[0].start() != 0:
            remedy = "Begin the file with a line `---`, name and description, and another line `---`"
            self._refuse("it does not begin with front matter between two lines `---`", 1, remedy)
        front = text[boundaries[0].end() + 1 : boundaries[1].start()]
        try:
            node = _Loader(front).get_single_node()
        except RecursionError:
            self._refuse("the front matter is nested too deeply", _FIRST_LINE, "Write it flatter")
        except yaml.YAMLError as error:
            mark, problem = None, str(error).partition("\n")[0]
            if isinstance(error, yaml.MarkedYAMLError):
                mark, problem = error.problem_mark, error.problem or problem
            line = _FIRST_LINE + (mark.line if mark else 0)
            remedy = "Write plain YAML there: `name: value` lines, texts with a `:` in quotes"
            self._refuse(f"the front matter cannot be read: {problem}", line, remedy)
        if not isinstance(node, MappingNode):
            remedy = "Write name and description there, as `name: value`"
            self._refuse("the front matter is not made of `name: value` lines", _FIRST_LINE, remedy)
        return self._pairs(node)

    def _pairs(self, node: MappingNode) -> dict[str, tuple[int, Node]]:
        pairs: dict[str, tuple[int, Node]] = {}
        for key, value in node.value:
            line = key.start_mark.line + _FIRST_LINE
            if not isinstance(key, ScalarNode):
                self._refuse("a name in the front matter is no text", line, "Write `name: value` lines")
            if key.value in pairs:
                self._refuse(f"{key.value!r} stands here a second time", line, "Keep one", key.value)
            pairs[key.value] = line, value
        return pairs

    def name(self, fields: _Fields) -> str:
        name = unicodedata.normalize("NFKC", self.required(fields, "name", MAX_NAME_CHARS))
        line, problem = fields["name"][0], ""
        if name != name.lower():
            problem = "has capitals"
        elif name.startswith("-") or name.endswith("-") or "--" in name:
            problem = "begins or ends with a hyphen, or has two in a row"
        elif not all(character.isalnum() or character == "-" for character in name):
            problem = "has other characters than letters, digits and hyphens"
        if problem:
            remedy = "Write lower-case letters, digits and single hyphens, such as pdf-forms"
            self._refuse(f"the name {name!r} {problem}", line, remedy, "name")
        if unicodedata.normalize("NFKC", self._folder.name) != name:
            remedy = f"Rename the folder to {name}, or name the skill {self._folder.name}"
            problem = f"the name {name!r} is not that of the folder, {self._folder.name!r}"
            self._refuse(problem, line, remedy, "name")
        return name

    def required(self, fields: _Fields, field: str, max_chars: int) -> str:
        if field not in fields:
            remedy = f"Add a line: {field}: ..."
            self._refuse(f"field {field!r} is missing", 1, remedy, field)
        text = self.text(fields, field, max_chars)
        if not text:
            self._refuse(f"{field} is empty", fields[field][0], "Write a text", field)
        return text

    def text(self, fields: _Fields, field: str, max_chars: int) -> str:
        if field not in fields:
            return ""
        line, node = fields[field]
        if not isinstance(node, ScalarNode):
            self._refuse(f"{field} is not a text", line, f"Write one text: {field}: ...", field)
        text = node.value.strip()
        if len(text) > max_chars:
            problem = f"{field} has {len(text):,} characters, and may have {max_chars:,}"
            self._refuse(problem, line, "Shorten it", field)
        return text

    def entries(self, fields: _Fields) -> Iterator[tuple[str, str]]:
        _, node = fields.get("metadata", (0, None))
        if isinstance(node, MappingNode):
            for name, (_, value) in self._pairs(node).items():
                yield name, str(self._plain(value))

    def _plain(self, node: Node) -> Any:
        if isinstance(node, MappingNode):
            return {name: self._plain(value) for name, (_, value) in self._pairs(node).items()}
        return [self._plain(one) for one in node.value] if isinstance(node, SequenceNode) else node.value

    def tools(self, fields: _Fields) -> Sequence[str]:
        if "allowed-tools" not in fields:
            return ()
        line, node = fields["allowed-tools"]
        is_list = isinstance(node, SequenceNode) and all(isinstance(one, ScalarNode) for one in node.value)
        if is_list and len(node.value) <= _MAX_TOOLS:
            return [one.value for one in node.value]
        if not isinstance(node, ScalarNode):
            remedy = "Write them in one line with spaces between, or as a list of texts"
            self._refuse("allowed-tools is neither a text nor a list of texts", line, remedy, "allowed-tools")
        return self.text(fields, "allowed-tools", _MAX_OTHER_CHARS).split()

    def unusable(self, fields: _Fields) -> Iterator[ConfigError]:
        """Warnings of what is passed over."""
        line, node = fields.get("metadata", (0, None))
        if node is not None and node.value and not isinstance(node, MappingNode):
            problem = "metadata is not made of `name: value` lines, and is passed over"
            remedy = "Write lines `name: value` below it"
            yield ConfigError(problem, path=self._path, line=line, remedy=remedy, field="metadata")
        for name, (line, _) in fields.items():
            if name not in FIELDS:
                near = nearest(name, FIELDS)
                remedy = f"Did you mean {near}?" if near else f"The fields are {', '.join(FIELDS)}"
                problem = f"unknown field {name!r}, which is passed over"
                yield ConfigError(problem, path=self._path, line=line, remedy=remedy, field=name)

    def _refuse(self, problem: str, line: int | None, remedy: str, field: str = "") -> NoReturn:
        raise ConfigError(problem, path=self._path, line=line, remedy=remedy, field=field)
