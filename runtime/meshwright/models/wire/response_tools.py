"""Tools of the Responses API: each kind that a client runs itself is a function to the model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic_core import from_json

from meshwright.core.errors import InvalidInput
from meshwright.models.port import ToolCall
from meshwright.models.wire.errors import UnsupportedParameter

_MAX_NAME_CHARS = 64  # of a function, by the APIs of OpenAI and Anthropic
_DIGEST_CHARS = 8
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_SHELL, _SEARCH = "local_shell", "tool_search"
_CLIENTS = "Offer function or custom tools: the mesh runs no hosted ones"
_TEXT_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_COMMAND = {
    "type": "object",
    "properties": {
        "command": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The program and its arguments.",
        },
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
}
_ToolKind = Literal["function", "custom", "local_shell", "tool_search"]


class _Origin(NamedTuple):
    """A tool as the client named it."""

    kind: _ToolKind
    name: str
    namespace: str | None = None


class ResponseTools:
    """The tools of a request, as functions for the model; calls come back in the form of their tools.

    `passed_over` are the tools that only a host of OpenAI's can run, each with its field and kind.
    """

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.passed_over: list[tuple[str, str]] = []
        self._origins: dict[str, _Origin] = {}

    def add(self, where: str, tools: Any) -> None:
        """Adds tools; `where` is the field that lists them. Raises InvalidInput for what is no tool."""
        if not isinstance(tools, list):
            raise InvalidInput(f"{where} must be a list", field=where)
        for number, tool in enumerate(tools):
            if not isinstance(tool, Mapping):
                raise InvalidInput(f"{where}.{number} must be an object", field=f"{where}.{number}")
            self._add(f"{where}.{number}", tool)

    def require_some(self) -> None:
        """Raises UnsupportedParameter where tools were offered, and the mesh can call none of them."""
        if self.passed_over and not self.functions:
            where, kind = self.passed_over[0]
            raise UnsupportedParameter(
                f"{where}: {kind!r} is not possible here", remedy=_CLIENTS, field=where
            )

    def choose(self, choice: Any) -> Any:
        """Returns the choice as chat completions have it; a set of allowed tools narrows the tools.

        Raises InvalidInput for a choice that the mesh cannot make.
        """
        if not isinstance(choice, Mapping):
            return choice
        if choice.get("type") != "allowed_tools":
            return {"type": "function", "function": {"name": _chosen("tool_choice", choice)}}
        tools = [(f"tool_choice.tools.{n}", tool) for n, tool in enumerate(choice.get("tools") or ())]
        names = {_chosen(where, tool) for where, tool in tools if _is_clients(tool) or len(tools) == 1}
        self.functions = [tool for tool in self.functions if tool["function"]["name"] in names]
        return choice.get("mode") or "auto"

    def call_item(self, call: ToolCall) -> dict[str, Any]:
        """Returns a call as the item of its tool's kind."""
        origin = self._origins.get(call.name) or _Origin("function", call.name)
        head = {"status": "completed", "call_id": call.id}
        namespace = {"namespace": origin.namespace} if origin.namespace else {}
        match origin.kind:
            case "custom":
                text = _text_input(call.arguments)
                item = {
                    "type": "custom_tool_call",
                    "id": f"ctc_{call.id[:64]}",
                    "name": origin.name,
                    "input": text,
                }
                return {**item, **head, **namespace}
            case "local_shell":
                action = {"type": "exec", "env": dict[str, str](), **_object(call.arguments)}
                return {"type": "local_shell_call", "id": f"lsh_{call.id[:64]}", "action": action, **head}
            case "tool_search":
                arguments = _object(call.arguments)
                search = {"type": "tool_search_call", "id": f"tsc_{call.id[:64]}", "execution": "client"}
                return {**search, "arguments": arguments, **head}
        function = {"type": "function_call", "id": f"fc_{call.id[:64]}", "name": origin.name}
        return {**function, "arguments": call.arguments, **head, **namespace}

    def _add(self, where: str, tool: Mapping[str, Any], namespace: str | None = None) -> None:
        kind = tool.get("type")
        match kind:
            case "function":
                names = ("description", "parameters", "strict")
                fields = {name: tool[name] for name in names if tool.get(name) is not None}
                self._offer(_Origin("function", _tool_name(where, tool), namespace), fields)
            case "custom":
                fields = {"description": _custom_description(tool), "parameters": _TEXT_INPUT}
                self._offer(_Origin("custom", _tool_name(where, tool), namespace), fields)
            case "local_shell":
                fields = {"description": "Runs a command on the user's machine.", "parameters": _COMMAND}
                self._offer(_Origin("local_shell", _SHELL), fields)
            case "tool_search" if tool.get("execution") == "client":
                fields = {name: tool[name] for name in ("description", "parameters") if tool.get(name)}
                self._offer(_Origin("tool_search", _SEARCH), fields)
            case "namespace" if namespace is None:
                name = _tool_name(where, tool)
                members = tool.get("tools")
                for number, member in enumerate(members if isinstance(members, list) else ()):
                    if not isinstance(member, Mapping):
                        field = f"{where}.tools.{number}"
                        raise InvalidInput(f"{field} must be an object", field=field)
                    self._add(f"{where}.tools.{number}", member, name)
            case str() if kind:
                self.passed_over.append((f"{where}.type", str(kind)))
            case _:
                raise InvalidInput(f"{where}.type is missing", field=f"{where}.type")

    def _offer(self, origin: _Origin, fields: Mapping[str, Any]) -> None:
        name = function_name(origin.name, origin.namespace)
        if name not in self._origins:  # a search may find a tool that was offered before
            self._origins[name] = origin
            self.functions.append({"type": "function", "function": {"name": name, **fields}})


def function_name(name: str, namespace: Any = None) -> str:
    """Returns the name that a tool has for the model: with its namespace, within the limits of providers."""
    if not isinstance(namespace, str) or not namespace:
        return name
    separator = "" if namespace.endswith("__") else "__"
    whole = _NOT_IN_NAMES.sub("_", f"{namespace}{separator}{name}")
    if len(whole) <= _MAX_NAME_CHARS:
        return whole
    digest = hashlib.sha256(f"{namespace}\n{name}".encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{whole[: _MAX_NAME_CHARS - _DIGEST_CHARS - 1]}_{digest}"


def past_call(item: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a call of any kind, as its client sends it back, in the form of chat completions."""
    match item.get("type"):
        case "custom_tool_call":
            name, arguments = item.get("name"), json.dumps({"input": item.get("input") or ""})
        case "local_shell_call":
            name, arguments = _SHELL, json.dumps(item.get("action") or {})
        case "tool_search_call":
            name, arguments = _SEARCH, json.dumps(item.get("arguments") or {})
        case _:
            name, arguments = item.get("name"), item.get("arguments") or "{}"
    if isinstance(name, str):
        name = function_name(name, item.get("namespace"))
    call_id = item.get("call_id") or item.get("id")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _is_clients(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") in get_args(_ToolKind)


def _chosen(where: str, choice: Any) -> str:
    """The function of a tool that a choice names."""
    if not _is_clients(choice):
        kind = choice.get("type") if isinstance(choice, Mapping) else None
        raise _hosted(f"{where}.type", kind)
    if choice["type"] in (_SHELL, _SEARCH):
        return choice["type"]
    return function_name(_tool_name(where, choice), choice.get("namespace"))


def _hosted(where: str, kind: Any) -> UnsupportedParameter:
    return UnsupportedParameter(f"{where}: {kind!r} is not possible here", remedy=_CLIENTS, field=where)


def _tool_name(where: str, tool: Mapping[str, Any]) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{where}.name is missing", field=f"{where}.name")
    return name


def _custom_description(tool: Mapping[str, Any]) -> str:
    text, form = str(tool.get("description") or ""), tool.get("format")
    if not isinstance(form, Mapping) or form.get("type") != "grammar":
        return f"{text}\n\n`input` is free text.".strip()
    grammar = f"`input` is text in this grammar ({form.get('syntax')}):\n{form.get('definition')}"
    return f"{text}\n\n{grammar}".strip()


def _text_input(arguments: str) -> str:
    """The text of a call of a custom tool; all of it where the model wrote no JSON."""
    text = _object(arguments).get("input")
    return text if isinstance(text, str) else arguments


def _object(arguments: str) -> dict[str, Any]:
    try:
        value = from_json(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
