"""Prompt sources: the folder of prompt files, watched for changes, and all sources of a mesh together."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from meshwright.agents.prompts.front_matter import MAX_PROMPT_BYTES
from meshwright.agents.prompts.history import Checkout, find_checkout
from meshwright.agents.prompts.prompt import Prompt, names_in, offered_to, parse_prompt
from meshwright.core.errors import PromptError
from meshwright.core.ids import ID_PATTERN, SHORT_DIGEST

_logger = logging.getLogger("meshwright.prompts")


class PromptContext(NamedTuple):
    """The run that needs a prompt, so that a source can choose a version for it."""

    tenant_id: str = "default"
    """The tenant of the task."""
    agent_id: str | None = None
    """The agent that runs. None for a prompt that is read for no run."""
    task_id: str | None = None
    """The task. None for a prompt that is read for no run."""
    thread_id: str | None = None
    """The conversation of the task. None for a prompt that is read for no run."""
    version: int | None = None
    """The version of a registered prompt that an experiment or a test asks for. None: the source chooses."""


NO_RUN = PromptContext()
"""The context of a prompt that is read for no run, such as by a check."""


class PromptSource(Protocol):
    """Knows prompts by name. Its methods are called on the event loop, and must not block."""

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt | None:
        """Returns the prompt of that name for a run, None for a name that this source does not know.

        Called once for each attempt of a task, whose journal keeps the rendered text. An error fails the
        attempt.
        """
        ...

    def names(self) -> list[str]:
        """Returns the names that it knows."""
        ...

    def reload(self) -> list[str]:
        """Reads again what has changed outside the process, and returns the names of what it read.

        Called every `prompts.reload_seconds`, and on SIGHUP.
        """
        ...


class PromptSources:
    """The prompts of a mesh: its sources are asked in order, and the first that knows a name decides."""

    def __init__(self, sources: Sequence[PromptSource]) -> None:
        self._sources = tuple(sources)

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt:
        """Returns the prompt of that name. Raises PromptError where no source has one."""
        for source in self._sources:
            if (prompt := source.resolve(name, context)) is not None:
                return prompt
        raise PromptError(f"No prompt is named {name!r}", remedy="Write it", field="prompt")

    def names(self) -> list[str]:
        """Returns the names of all prompts, sorted."""
        return sorted({name for source in self._sources for name in source.names()})

    def reload(self) -> list[str]:
        """Has each source read again what has changed; a failing source does not keep the others from it."""
        changed: list[str] = []
        for source in self._sources:
            try:
                changed += source.reload()
            except Exception:  # other code's mistake: its earlier prompts stay in use
                _logger.exception("Prompts of %s cannot be reloaded", type(source).__name__)
        return changed


_SUFFIX = ".prompt"
_Version = tuple[int, int]  # a file's time of change in nanoseconds, and its size

GENERIC = """\
---
description: Stands in for a prompt that is missing or broken.
tags: [default]
variables: [agent_name]
---
You are {{agent_name}}, an agent that does tasks for people and for other agents.

Do what the request asks. Use the tools you have where they help. Say what you do not know rather than making
it up. Answer in plain text, the result first.
"""

CONTEXT_SERVICE = """\
---
description: Stands in for the context-service's prompt.
tags: [compression]
max_tokens: 400
---
Shorten the context below to under 300 tokens, and NEVER invent anything: use its own words only.
Keep its form: the line METADATA: with each of its lines as they are, the line DOMAIN_CONTEXT: with entries
that begin with "- ", then each other section that it has. Copy CONSTRAINTS word for word. Keep every name,
version and number as written; leave out ids, scores and times. Answer with the shortened context alone.
"""

BUILT_IN: Mapping[str, str] = {"context-service": CONTEXT_SERVICE}


@dataclass(frozen=True, slots=True)
class CodePrompt:
    """A prompt in the code of an agent: `where` names its class, `path` the file of that.

    Text without front matter gets the default fields, and may use every variable of its agent.
    """

    text: str
    where: str
    path: str

    def parsed(self, name: str, offered: Sequence[str] | None) -> Prompt:
        """The prompt, which may use the variables that are `offered`; None for any.

        Raises PromptError, which says where it stands.
        """
        text, added = inspect.cleandoc(self.text), ""
        if not text.startswith("---"):
            used, others = names_in(text, offered_to(name) if offered is None else offered)
            used += others if offered is None else []
            added = f"---\ntags: [default]\nvariables: [{', '.join(used)}]\n---\n"
        lines_added = added.count("\n")
        try:
            prompt = parse_prompt(name, (added + text).encode(), source="agent", offered=offered)
        except PromptError as error:
            raise self._located(error, lines_added) from error
        notes = tuple(self._located(note, lines_added) for note in prompt.notes)
        prompt = replace(prompt, notes=notes)
        return _placed(prompt, Path(self.path), find_checkout(Path(self.path).parent))

    def _located(self, error: PromptError, lines_added: int) -> PromptError:
        line = f" (line {error.line - lines_added} of the text)" if error.line else ""
        problem = f"prompt_text of {self.where}: {error.message}{line}"
        return PromptError(problem, path=self.path, remedy=error.remedy)


def _placed(prompt: Prompt, file: Path, checkout: Checkout | None) -> Prompt:
    """The prompt with the place of its file, in a git repository with the commit as well."""
    if checkout is None:
        return prompt.found_in(f"{file.parent.name}/{file.name}")
    commit = f"{checkout.revision[:SHORT_DIGEST]}:" if checkout.revision else ""
    return prompt.found_in(f"{commit}{checkout.git_name(file)}")


@dataclass(slots=True)
class _LoadedPrompt:
    prompt: Prompt
    version: _Version | None
    rejected: bool = False
    """Whether the prompt is an earlier one than its file."""


class Prompts:
    """The prompts of a folder, by name: `architect-agent` is the file `architect-agent.prompt`.

    A file that breaks leaves the last good prompt in use: `prompt.rejected {name, path, line, error, remedy}`
    goes to `on_event`, once for each version of the file. Only where it never was good does the built-in
    prompt of that name, or a generic one, stand in: `prompt.fallback` with the same fields. Prompts with a
    text in the code of agents, `in_code`, need no file, though one is stronger. Each may use the variables of
    its agents' classes, `own`; any, where those are None.
    """

    def __init__(
        self,
        directory: Path,
        *,
        in_code: Mapping[str, CodePrompt] = MappingProxyType({}),
        own: Mapping[str, Sequence[str] | None] = MappingProxyType({}),
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.directory = directory
        self._in_code = in_code
        self._own = own
        self._tell = on_event or (lambda event_type, payload: None)
        self._loaded: dict[str, _LoadedPrompt] = {}
        self._checkout = find_checkout(directory)

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt:
        """Returns the prompt of that name, the same for every run, parsed once.

        Raises PromptError only for what can be no file's name.
        """
        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._loaded[name] = self._load(name)
        return loaded.prompt

    def reload(self) -> list[str]:
        """Read again what has changed on disk since it was read, and return the names.

        Each usable one leaves an event `prompt.reloaded {name, path, digest}`.
        """
        if (checkout := find_checkout(self.directory)) != self._checkout:
            self._checkout = checkout
            for name, loaded in self._loaded.items():
                if loaded.prompt.source == "file":
                    loaded.prompt = _placed(loaded.prompt, self._path(name), checkout)
        changed = [name for name, loaded in self._loaded.items() if loaded.version != self._version(name)]
        for name in changed:
            self._loaded[name] = loaded = self._load(name, self._loaded[name].prompt)
            if loaded.prompt.source == "file" and not loaded.rejected:
                self._tell(
                    "prompt.reloaded",
                    {"name": name, "path": str(self._path(name)), "digest": loaded.prompt.digest},
                )
        return changed

    def names(self) -> list[str]:
        """The names of all prompts, sorted: of the folder's files, and in the code of agents."""
        files = [path.stem for path in self.directory.glob(f"*{_SUFFIX}")]
        return sorted({*files, *self._in_code})

    def notes(self) -> list[PromptError]:
        """Notes on texts that other tools read otherwise, and on files that are not read."""
        notes: list[PromptError] = []
        for name in self.names():
            with suppress(PromptError):  # `check` says what is wrong
                notes += self._read(name).notes
        return [*notes, *map(self._note_on_unread, self._unread())]

    def _unread(self) -> list[Path]:
        """The files that may be meant as prompts, and that are none: of other tools, or in folders below."""
        folders = ("", "[!._]*/", "[!._]*/[!._]*/")  # not those of packages, which may be huge
        patterns = [f"{folder}*{_SUFFIX}*" for folder in folders]
        paths = [path for pattern in patterns for path in self.directory.glob(pattern) if path.is_file()]
        here = {self.directory / f"{path.stem}{_SUFFIX}" for path in paths}
        return sorted(path for path in paths if path not in here and path.name[-1] != "~")

    def _note_on_unread(self, path: Path) -> PromptError:
        remedy = f"name it NAME{_SUFFIX}" if path.suffix != _SUFFIX else f"move it into {self.directory}"
        if path.suffix == ".prompty":
            remedy = f"make a prompt of it: mesh prompts import {path}"
            if (own := path.with_suffix(_SUFFIX)).is_file():
                remedy = f"{own.name} is read in its place: move it elsewhere"
        return PromptError("this file is not read", path=str(path), remedy=remedy)

    def check(self, needed: Mapping[str, str] = MappingProxyType({})) -> list[PromptError]:
        """The faults of the prompts, at most one of each.

        `needed` maps the name of a prompt to the agent that has to have it.
        """
        names = self.names()
        problems = [problem for name in names if (problem := self._problem(name))]
        remedy = "write it"
        if not self.directory.is_dir():
            remedy += ", or name another folder in mesh.toml (prompts.dir) or PROMPT_DIR"
        for name in sorted(needed.keys() - set(names)):
            path = self.directory / f"{name}{_SUFFIX}"
            own = self._remedy_of_missing(path) or remedy
            problems.append(PromptError(f"{needed[name]} has no prompt", path=str(path), remedy=own))
        return problems

    @staticmethod
    def _remedy_of_missing(path: Path) -> str:
        other = path.with_suffix(".prompty")
        return f"make it of {other.name}: mesh prompts import {other}" if other.is_file() else ""

    def _problem(self, name: str) -> PromptError | None:
        try:
            self._read(name)
        except PromptError as error:
            return error
        return None

    def _load(self, name: str, last: Prompt | None = None) -> _LoadedPrompt:
        version = self._version(name)  # before the content: a change in between is seen by the next reload
        if version is None and name in BUILT_IN and name not in self._in_code:  # no project has to have it
            return _LoadedPrompt(parse_prompt(name, BUILT_IN[name].encode(), source="built-in"), version)
        try:
            return _LoadedPrompt(self._read(name), version)
        except PromptError as error:
            usable = last if last is not None and last.source != "built-in" else None
            self._tell(
                "prompt.rejected" if usable else "prompt.fallback",
                {
                    "name": name,
                    "path": error.path or str(self._path(name)),
                    "line": error.line,
                    "error": error.message,
                    "remedy": error.remedy,
                },
            )
        stand_in = usable or parse_prompt(name, BUILT_IN.get(name, GENERIC).encode(), source="built-in")
        return _LoadedPrompt(stand_in, version, rejected=usable is not None)

    def _read(self, name: str) -> Prompt:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PROMPT_BYTES + 1)
            prompt = parse_prompt(name, data, str(path), offered=self._offered(name))
            return _placed(prompt, path, self._checkout)
        except FileNotFoundError:
            if name in self._in_code:
                return self._in_code[name].parsed(name, self._offered(name))
            remedy = self._remedy_of_missing(path) or "write it"
            raise PromptError("there is no such file", path=str(path), remedy=remedy) from None
        except PromptError:
            raise
        except Exception as error:  # one odd file must not stop the others from being read
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            remedy = "make it readable" if isinstance(error, OSError) else "write it again"
            raise PromptError(f"the file cannot be read: {reason}", path=str(path), remedy=remedy) from error

    def _offered(self, name: str) -> Sequence[str] | None:
        own = self._own.get(name, ())
        return None if own is None else offered_to(name, own)

    def _version(self, name: str) -> _Version | None:
        try:
            status = self._path(name).stat()
        except OSError:
            return None  # reading it says why
        return status.st_mtime_ns, status.st_size

    def _path(self, name: str) -> Path:
        if not re.fullmatch(ID_PATTERN, name):
            problem = f"{name!r} cannot be a prompt's name"
            remedy = 'use 1 to 64 letters, digits, "_" and "-"'
            raise PromptError(problem, remedy=remedy, path=str(self.directory), field="prompt")
        return self.directory / f"{name}{_SUFFIX}"
