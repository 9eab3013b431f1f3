"""Makes a prompt file of one of another tool: Firebase's dotprompt, LiteLLM's, Prompty of version 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from meshwright.agents.prompts.foreign_text import (
    Format,
    ImportFaults,
    PromptMessage,
    read_messages,
    text_formats,
    tool_name,
    write_body,
)
from meshwright.agents.prompts.front_matter import (
    MAX_PROMPT_BYTES,
    PromptFields,
    first_fault,
    read_yaml,
    write_front_matter,
)
from meshwright.agents.prompts.prompt import decode_prompt, offered_to, parse_prompt
from meshwright.agents.prompts.template import Name
from meshwright.core.errors import PromptError
from meshwright.core.ids import ID_PATTERN, VARIABLE_PATTERN

_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
_BEFORE = re.compile(
    r"(?:[ \t]*(?:#[^\n]*)?\n)*(?=---[ \t]*$)", re.MULTILINE
)  # a licence, as dotprompt has it
_MAX_DEPTH = 32  # of schemas in a front matter
_Path = tuple[str, ...]
_SETTINGS = {
    "temperature": "temperature",
    **dict.fromkeys(
        ("max_tokens", "maxOutputTokens", "max_output_tokens", "max_completion_tokens"), "max_tokens"
    ),
}
_PARAMS = {
    **dict.fromkeys(("top_p", "topP"), "top_p"),
    **dict.fromkeys(("top_k", "topK"), "top_k"),
    **dict.fromkeys(("stop", "stopSequences", "stop_sequences"), "stop"),
    **dict.fromkeys(("frequency_penalty", "frequencyPenalty"), "frequency_penalty"),
    **dict.fromkeys(("presence_penalty", "presencePenalty"), "presence_penalty"),
    **dict.fromkeys(("reasoning_effort", "reasoningEffort"), "reasoning_effort"),
    "seed": "seed",
}
_OWN = ("description", "params", "tags", "cache", "structure")
_PROVIDERS = {"googleai": "gemini", "vertexai": "vertex_ai", "azure_openai": "azure", "foundry": "azure"}
_REMEDIES = {
    "output": "name a pydantic model in the class of the agent: answers = MyAnswer",
    "outputs": "name a pydantic model in the class of the agent: answers = MyAnswer",
    **dict.fromkeys(("tools", "toolDefinitions"), "write tools of the agent's class, or name its toolsets"),
    **dict.fromkeys(("connection", "endpoint", "api_key"), "name servers and keys in litellm_config.yaml"),
    "configuration": "name servers and keys in litellm_config.yaml",
    "sample": "put it into a test, or into a file of questions: mesh evaluate",
    "tags": "tags choose a deployment here",
}


class ForeignPrompt(NamedTuple):
    """A file of another tool, and the prompt file made of it: `text` is "" where none can be made.

    `problems` say why; `left_out` are the parts that the prompt lacks, `changes` those in another form.
    """

    format: Format
    text: str
    problems: Sequence[PromptError]
    left_out: Sequence[PromptError]
    changes: Sequence[PromptError]

    @property
    def tool(self) -> str:
        """The name of the tool."""
        return tool_name(self.format)


def convert_prompt(
    path: Path, data: bytes, name: str, format: Format | None, offered: Sequence[str]
) -> ForeignPrompt:
    """Make the prompt `name` of a file; `offered` are the variables that it may use.

    Without a `format` the file says by its name and text what it is. Raises PromptError for a file that
    cannot be read, that is a prompt file already, or that may be of two tools.
    """
    if format is None:
        _check_foreign(path, data, offered)
    reader = _ForeignReader(path, decode_prompt(data, str(path)), format)
    return reader.convert(name, offered)


def import_prompt(
    path: Path, target: Path, format: Format | None, own: Sequence[str], *, force: bool = False
) -> ForeignPrompt:
    """Write a prompt file from one of another tool, unless a part of its text has no counterpart.

    `target` is the new file, `own` are the variables of the agents that have the prompt. Raises PromptError
    as `convert_prompt` does, for a name that no prompt can have, and for a file that is there, unless it may
    be replaced by `force`.
    """
    name = target.stem
    if not re.fullmatch(ID_PATTERN, name):
        remedy = 'name it by --name, with 1 to 64 letters, digits, "_" and "-"'
        raise PromptError(f"{name!r} cannot be a prompt's name", path=str(path), remedy=remedy, field="name")
    with path.open("rb") as file:
        data = file.read(MAX_PROMPT_BYTES + 1)
    imported = convert_prompt(path, data, name, format, offered_to(name, own))
    if imported.text:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("w" if force else "x", encoding="utf-8", newline="\n") as file:
                file.write(imported.text)
        except FileExistsError:
            remedy = "--force replaces it, --name writes another"
            raise PromptError("there is such a file", path=str(target), remedy=remedy) from None
    return imported


def _check_foreign(path: Path, data: bytes, offered: Sequence[str]) -> None:
    try:
        parse_prompt(path.stem, data, str(path), offered=offered)
    except PromptError:
        return
    if path.suffix == ".prompt":
        remedy = "copy it as it is, or say whose it is: --from dotprompt, litellm or prompty"
        raise PromptError("this is a prompt file of Meshwright", path=str(path), remedy=remedy)


class _ForeignReader:
    """Reads one file. Fields that are carried over are gathered in `_fields`, all else in the faults."""

    def __init__(self, path: Path, text: str, format: Format | None) -> None:
        self._path = str(path)
        self._faults = ImportFaults(self._path)
        self._values, self._lines, self._body, self._first_line = self._split(text)
        self._format: Format = format or self._recognised(path)
        self._fields: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._inputs: dict[str, int] = {}
        self._threads: set[str] = set()

    def convert(self, name: str, offered: Sequence[str]) -> ForeignPrompt:
        """The prompt file made of it. Raises PromptError where the result is none."""
        handlers = {
            "model": self._model,
            "config": self._settings,
            "input": self._input,
            "inputs": self._inputs_field,
            "inputSchema": self._inputs_field,
            "name": self._name,
            "template": self._template,
        }
        is_mustache = False
        for field, value in self._values.items():
            if field in handlers:
                is_mustache |= bool(handlers[field]((field,), value))
            elif field in _OWN and not (field == "tags" and self._format == "prompty"):
                self._take(field, value, (field,))
            elif not (field == "kind" and value == "prompt"):
                self._setting((field,), value)
        self._note_defaults()
        messages = read_messages(
            self._body, self._first_line, self._format, self._faults, is_mustache=is_mustache
        )
        messages = list(self._without_threads(messages))
        names = self._names(messages, offered)
        if not messages and not self._faults.problems:
            self._faults.refuse("the prompt has no text", self._first_line, "write it below the front matter")
        text = "" if self._faults.problems else self._written(name, messages, names, offered)
        faults = self._faults
        return ForeignPrompt(self._format, text, faults.problems, faults.left_out, faults.changes)

    def _split(self, text: str) -> tuple[dict[str, Any], dict[_Path, int], str, int]:
        """The fields of the front matter with their lines, and the text with its first line."""
        before = _BEFORE.match(text)
        begin = before.end() if before else 0
        boundaries = list(_BOUNDARY.finditer(text, begin))
        if not boundaries or boundaries[0].start() != begin or len(boundaries) < 2:
            self._check_plain(text)
            return {}, {}, text, 1
        first, second = boundaries[:2]
        line = text.count("\n", 0, first.end()) + 2
        head = text[first.end() + 1 : second.start()]
        values, lines = read_yaml(head, self._path, line, _MAX_DEPTH)
        if values is not None and not isinstance(values, dict):
            problem = "the front matter is not made of `name: value` lines"
            raise PromptError(problem, path=self._path, line=line, remedy="write `name: value` lines there")
        return values or {}, lines, text[second.end() :], text.count("\n", 0, second.end()) + 1

    def _check_plain(self, text: str) -> None:
        """Raises PromptError for a file without front matter that is none of these tools' either."""
        problem = ""
        if text.startswith(("---", "+++", "{")):
            problem = "its front matter does not end, or is not YAML between two lines `---`"
        else:
            try:
                value, _ = read_yaml(text, self._path, 1, _MAX_DEPTH)
            except PromptError:
                return
            if isinstance(value, dict) and len(value) > 1:
                problem = "this is YAML without a text below it, which none of these tools has"
        if problem:
            remedy = "write the fields between two lines `---`, and the text of the prompt below"
            raise PromptError(problem, path=self._path, line=1, remedy=remedy)

    def _recognised(self, path: Path) -> Format:
        """The format of the file, by its name, its fields and its text. Raises PromptError for doubt."""
        values = self._values
        inputs = values.get("inputs")
        has_models = isinstance(values.get("model"), dict) or (
            isinstance(inputs, list) and any(isinstance(entry, dict) for entry in inputs)
        )
        if path.suffix == ".prompty" or has_models or not values.keys().isdisjoint(("template", "sample")):
            return "prompty"
        formats = text_formats(self._body)
        if "config" in values:
            formats.add("dotprompt")
        if len(formats) > 1:
            tools = " and ".join(sorted(tool_name(format) for format in formats))
            remedy = f"say which it is: {', '.join(f'--from {format}' for format in sorted(formats))}"
            raise PromptError(f"it has signs of {tools}", path=self._path, remedy=remedy)
        is_litellm = "input" in values and not values.keys().isdisjoint(_SETTINGS)
        return next(iter(formats), "litellm" if is_litellm else "dotprompt")

    def _line(self, place: _Path) -> int:
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def _leave_out(self, place: _Path, what: str = "") -> None:
        name = ".".join(place)
        remedy = _REMEDIES.get(place[-1], "say it in the text, or in the class of the agent, if it matters")
        self._faults.leave_out(what or f"the field {name}", self._line(place), remedy)

    def _take(self, field: str, value: Any, place: _Path) -> None:
        """Carry a field over, if ours takes the value. None is for one that is not set."""
        if value is None:
            return
        try:
            PromptFields.model_validate({field: value})
        except ValidationError as error:
            fault = first_fault(error)[1]
            remedy = f"write one that {field} takes: {fault}"
            self._faults.leave_out(f"{'.'.join(place)}: {str(value)[:80]}", self._line(place), remedy)
        else:
            self._fields[field] = value

    def _setting(self, place: _Path, value: Any) -> None:
        """Carry over a setting of the model, under its name here."""
        name = place[-1]
        if name in _SETTINGS:
            self._take(_SETTINGS[name], value, place)
        elif name in _PARAMS:
            self._params |= {_PARAMS[name]: value} if value is not None else {}
        else:
            self._leave_out(place)

    def _settings(self, place: _Path, value: Any) -> None:
        if isinstance(value, dict):
            for name, setting in value.items():
                self._setting((*place, name), setting)
        else:
            self._leave_out(place)

    def _name(self, place: _Path, value: Any) -> None:
        if str(value).casefold() != Path(self._path).stem.casefold():
            problem = f"the name {value} is not taken over"
            self._faults.change(problem, self._line(place), "a prompt has the name of its file, or of --name")

    def _template(self, place: _Path, value: Any) -> bool:
        """Whether the text is written in Mustache."""
        form = value.get("format") if isinstance(value, dict) else value
        kind = form.get("kind") if isinstance(form, dict) else form
        parser = value.get("parser", "prompty") if isinstance(value, dict) else "prompty"
        kinds = (str(kind or "jinja2"), str(parser.get("kind") if isinstance(parser, dict) else parser))
        if kinds[0] not in ("jinja2", "mustache") or kinds[1] != "prompty":
            self._leave_out(place, f"the template {' '.join(kinds)}")
        return kinds[0] == "mustache"

    def _model(self, place: _Path, value: Any) -> None:
        if isinstance(value, dict):
            self._model_table(place, value)
        elif isinstance(value, str):
            provider, slash, model = value.partition("/")
            self._take_model(f"{_PROVIDERS.get(provider, provider)}{slash}{model}", value, place)
        elif value is not None:
            self._leave_out(place)

    def _take_model(self, model: str, foreign: str, place: _Path) -> None:
        if "${" in model:
            self._leave_out(place)
            return
        self._take("model", model, place)
        if model != foreign:
            remedy = "see docs/models.md for the names of models"
            self._faults.change(f"the model {foreign} is {model} here", self._line(place), remedy)

    def _model_table(self, place: _Path, table: Mapping[str, Any]) -> None:
        """The model of Prompty: of version 1 with a configuration, of version 2 with an id."""
        configuration = table.get("configuration")
        configuration = configuration if isinstance(configuration, dict) else {}
        provider = str(table.get("provider") or configuration.get("type") or "")
        model = (
            configuration.get("azure_deployment") or configuration.get("name") or configuration.get("model")
        )
        model = table.get("id") or model
        for name, value in table.items():
            here = (*place, name)
            if name in ("parameters", "options"):
                self._settings(here, value)
            elif name == "configuration" and configuration:
                known = {"type", "azure_deployment", "name", "model"} if model else {"type"}
                for other in [other for other in configuration if other not in known]:
                    self._leave_out((*here, other))
            elif name not in ("id", "provider") and not (name in ("api", "apiType") and value == "chat"):
                self._leave_out(here)
        if model:
            prefix = _PROVIDERS.get(provider, provider)
            full = f"{prefix}/{model}" if prefix and "/" not in str(model) else str(model)
            self._take_model(full, str(model), (*place, "id") if "id" in table else place)

    def _input(self, place: _Path, value: Any) -> None:
        """The inputs of dotprompt and LiteLLM: a schema, and defaults."""
        if not isinstance(value, dict):
            self._leave_out(place)
            return
        for name, part in value.items():
            if name == "schema" and isinstance(part, dict):
                self._inputs_field((*place, name), part)
            elif name == "default" and isinstance(part, dict):
                for field in part:
                    self._leave_out_default((*place, name, field), field)
            else:
                self._leave_out((*place, name))

    def _leave_out_default(self, place: _Path, name: str) -> None:
        self._faults.leave_out(
            f"the default of {name}", self._line(place), f"send the field {name} with each task"
        )

    def _inputs_field(self, place: _Path, value: Any) -> None:
        """Inputs as a list or a mapping, or as the properties of a JSON schema."""
        required: Any = None
        if isinstance(value, dict) and isinstance(value.get("properties"), (dict, list)):
            required, place = value.get("required") or [], (*place, "properties")
            value = value["properties"]
        if isinstance(value, dict):
            for key, about in value.items():
                self._add_input((*place, key), key, about, required)
        elif isinstance(value, list):
            for number, entry in enumerate(value):
                name = entry.get("name") if isinstance(entry, dict) else entry
                self._add_input((*place, str(number)), str(name), entry, required)
        else:
            self._leave_out(place)

    def _add_input(self, place: _Path, key: str, about: Any, required: Any) -> None:
        """Note an input: `guests?` of a schema is optional, `steps(array)` has a type."""
        name, line = re.split(r"[?(]", key, maxsplit=1)[0], self._line(place)
        table = about if isinstance(about, dict) else {}
        kind = key.partition("(")[2] or table.get("type") or table.get("kind") or "string"
        if isinstance(about, str) and about != name:  # `question: string, what is asked`
            kind = about
        kind = re.split(r"[,)]", str(kind), maxsplit=1)[0].strip()
        self._inputs[name] = line
        if kind == "thread":
            self._threads.add(name)
            self._faults.change(f"{name} is left out", line, "earlier turns have messages of their own")
            return
        if kind not in ("string", "any"):
            remedy = "name it in the input_schema of a Capability of the agent"
            self._faults.leave_out(f"the type of {name}, {kind[:40]}", line, remedy)
        is_optional = False in (table.get("required"), table.get("is_required"))
        if "?" in key or is_optional or (isinstance(required, list) and name not in required):
            remedy = f"send the field {name} with each task: one without it fails"
            self._faults.leave_out(f"{name} may be missing there", line, remedy)
        for field in table.keys() & {"default", "sample"}:
            self._leave_out_default((*place, field), name)

    def _names(self, messages: Sequence[PromptMessage], offered: Sequence[str]) -> dict[str, str]:
        """Our names of the inputs that the text uses, by theirs."""
        names: dict[str, str] = {}
        for name in _iter_names(messages):
            if name.name in names:
                continue
            ours = self._own_name(name, offered)
            if ours in names.values():
                self._faults.refuse(
                    f"there are two inputs that are {ours} here", name.line, "rename one of them"
                )
            names[name.name] = ours
        for name, line in () if self._faults.problems else self._inputs.items():
            if name not in self._threads | {used.partition(".")[0] for used in names}:
                remedy = "a task's field of this name goes out with the request"
                self._faults.change(
                    f"the input {name}, which the text does not use, is left out", line, remedy
                )
        return names

    def _note_defaults(self) -> None:
        """Note the settings that are ours where theirs are the provider's."""
        defaults = PromptFields()
        for field in ("temperature", "max_tokens"):
            if field not in self._fields:
                value = getattr(defaults, field)
                self._faults.change(
                    f"{field} is {value} here, if it is not set", 1, f"write {field} to set it"
                )

    def _without_threads(self, messages: Sequence[PromptMessage]) -> Iterator[PromptMessage]:
        """The messages without the places of conversations, which have messages of their own here."""
        for message in messages:
            items = [item for item in message.items if not self._is_thread(item)]
            for before, item in pairwise(items):
                if isinstance(item, Name) and str(before).endswith("{"):
                    problem = f"a brace stands right before {{{{{item.name}}}}}"
                    self._faults.refuse(problem, item.line, "put a space between them")
            if any(isinstance(item, Name) or item.strip() for item in items):
                yield message._replace(items=items)

    def _is_thread(self, item: str | Name) -> bool:
        return isinstance(item, Name) and item.name in self._threads

    def _own_name(self, name: Name, offered: Sequence[str]) -> str:
        ours = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.name)
        ours = re.sub(r"[.-]", "_", ours).lower().strip("_")
        if ours in offered:
            ours = f"input_{ours}"  # the mesh fills in the other
        if not re.match(VARIABLE_PATTERN, ours):
            self._faults.refuse(f"{name.name[:80]} can be no name here", name.line, "use lower-case letters")
        elif ours != name.name:
            remedy = f"tasks send the field {ours}"
            self._faults.change(f"{{{{{name.name}}}}} is {{{{{ours}}}}} here", name.line, remedy)
        return ours

    def _written(
        self, name: str, messages: list[PromptMessage], names: dict[str, str], offered: Sequence[str]
    ) -> str:
        fields = dict(self._fields)
        if self._params:
            fields["params"] = {**fields.get("params", {}), **self._params}
        if names:
            fields["inputs"] = list(names.values())
        text = write_front_matter(fields) + write_body(messages, names)
        try:
            parse_prompt(name, text.encode(), offered=offered)
        except PromptError as error:
            problem = f"no prompt can be made of it: {error.message}"
            raise PromptError(problem, path=self._path, remedy=error.remedy) from error
        return text


def _iter_names(messages: Sequence[PromptMessage]) -> Iterator[Name]:
    for message in messages:
        for item in message.items:
            if isinstance(item, Name):
                yield item
