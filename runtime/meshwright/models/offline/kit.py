"""The tools of a request, by what they are for: told from their names, parameters and descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshwright.models.offline.talk import MAX_ASKED_CHARACTERS, paths_in, urls_in
from meshwright.models.offline.terms import terms
from meshwright.models.port import ToolSpec

# What a tool is for, by a word of its name; the first that fits counts.
PURPOSES = {
    "delegate": ("delegate", "handoff", "hand", "assign"),
    "remember": ("remember", "memorize", "memorise", "memory", "note"),
    "fetch": ("fetch", "browse", "url", "page", "http", "download"),
    "log": ("log", "commits", "history"),
    "diff": ("diff", "changes"),
    "search": ("search", "grep", "find", "query", "lookup"),
    "read": ("read", "open", "cat", "load"),
    "list": ("list", "ls", "dir"),
}
# What a parameter wants, by its name.
WANTS = {
    "url": ("url", "uri", "link", "address"),
    "agent": ("agent_id", "agent", "assignee", "worker"),
    "path": ("path", "file", "filename", "file_path"),
    "query": ("query", "q", "search", "keywords", "terms", "term"),
    "pattern": ("pattern", "glob"),
    "folder": ("folder", "directory", "dir"),
    "start": ("start_line", "first_line", "offset"),
    "count": ("max_lines", "limit", "max_count", "max_results", "count"),
    "text": ("text", "task", "question", "message", "request", "prompt", "content", "fact", "input"),
}
HYPHENATED = re.compile(r"[\w-]+")
ROLES = frozenset({"agent", "coder", "tester", "manager", "monitor", "tracker", "deployer"})
FOLDER = re.compile(
    r"\b(?:in|under|below|of)\s+(?:the\s+)?(?:folder\s+|directory\s+)?[`'\"]?([\w.-]+(?:/[\w.-]+)*)"
)
ANYWHERE = frozenset(
    {"this", "the", "that", "repository", "workspace", "project", "here", "it", "your", "our", "all"}
)
NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?\b")


def purpose_of(name: str) -> str:
    """What a tool of this name is for, or nothing known."""
    words = re.split(r"[_\W]+", name.lower())
    return next((each for each, names in PURPOSES.items() if not set(names).isdisjoint(words)), "")


def want_of(name: str) -> str:
    """What a parameter wants, or nothing known."""
    return next((want for want, names in WANTS.items() if name.lower() in names), "")


def by_purpose(tools: Sequence[ToolSpec], purpose: str) -> ToolSpec | None:
    """The first tool for a purpose."""
    return next((tool for tool in tools if purpose_of(tool.name) == purpose), None)


def folder_in(text: str) -> str | None:
    """The folder that a text names, if it names one."""
    names = (name.rstrip(".") for name in FOLDER.findall(text))
    return next((name for name in names if name.lower() not in ANYWHERE), None)


def filled(tool: ToolSpec, known: Mapping[str, Any], question: str) -> dict[str, Any] | None:
    """Arguments for a tool: what is known by want, the rest from the question; None where one is missing.

    Parameters that are not required are filled only with what is known.
    """
    arguments: dict[str, Any] = {}
    required = tool.parameters.get("required", ())
    for name, schema in tool.parameters.get("properties", {}).items():
        value = schema.get("const", known.get(want_of(name)))
        if value is None and name in required:
            value = guessed(want_of(name), schema, question)
            if value is None:
                return None
        if value is not None and fits(value, schema):
            arguments[name] = value
        elif name in required:
            return None
    return arguments


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is among those that a schema lists, if it lists any."""
    return "enum" not in schema or value in schema["enum"]


def guessed(want: str, schema: Mapping[str, Any], question: str) -> Any:
    """A value for a required parameter, out of the question."""
    asked = question[:MAX_ASKED_CHARACTERS]
    if "enum" in schema:
        return nearest(schema["enum"], asked)
    kind = schema.get("type", "string")
    if kind in ("integer", "number"):
        return number_in(asked, schema, kind)
    if kind == "boolean":
        return False
    if kind != "string":
        return None
    finders = {"url": urls_in, "path": paths_in, "agent": agents_in}
    if want in finders or schema.get("format") in ("uri", "url"):
        return next(iter(finders.get(want, urls_in)(asked)), None)
    return question if want in ("text", "query", "pattern") else named_value(asked)


def nearest(values: Sequence[Any], question: str) -> Any:
    """The value that the question names, or shares most words with, else the first."""
    asked = set(terms(question))
    return max(values, key=lambda value: len(asked.intersection(terms(str(value)))), default=None)


def number_in(question: str, schema: Mapping[str, Any], kind: str) -> float | int:
    """The first number of the question, else the least that the schema allows."""
    match = NUMBER.search(question)
    value = float(match[0]) if match else schema.get("default", schema.get("minimum", 1))
    if not isinstance(value, (int, float)):
        return 1
    return int(value) if kind == "integer" else value


def agents_in(text: str) -> list[str]:
    """The agents that a text names, each once."""
    return list(dict.fromkeys(filter(_is_agent, HYPHENATED.findall(text))))


def _is_agent(word: str) -> bool:
    """Whether a word ends in a role, as `researcher-agent` does."""
    name, _, role = word.rpartition("-")
    return role in ROLES and name.replace("-", "").isalpha() and name.islower()


def named_value(question: str) -> str | None:
    """What a question names: something in quotes, a name in capitals, else its last telling word."""
    quoted = re.search(r"[\"“`']([^\"”`']{1,100})[\"”`']", question)
    if quoted:
        return quoted[1]
    names = list(capitalised(question))
    words = re.findall(r"[\w-]+", question)
    return names[-1] if names else (words[-1] if words else None)


def capitalised(question: str) -> Iterator[str]:
    """The runs of capitalised words after the first word."""
    for match in re.finditer(r"(?<=[\w,] )[A-Z][\w-]*(?: [A-Z][\w-]*)*", question):
        yield match[0]
