"""The tools of a run by the Model Context Protocol: streamable HTTP, without sessions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from meshwright import MeshError, Run
from meshwright.core import __version__
from meshwright.engine.work import LifeCall
from meshwright.parts.coding.known_calls import KnownCalls
from meshwright.tools import Tool

_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
_NO_METHOD, _WRONG_PARAMS, _NO_JSON = -32601, -32602, -32700
_TREE = "workspace"  # the origin of tools that read the tree: the agent has that itself


class McpAnswers:
    """Answers the messages of MCP clients. Each call of a tool is a step of the run, by `run.call`."""

    def __init__(self, run: Run, known: KnownCalls | None = None) -> None:
        self.goes_on = False
        """Whether the session goes on where it was: then no call is one that it has made before."""
        self._run = run
        self._known = known
        self._counts: Counter[str] = Counter()
        """How often the program has called a tool with the same arguments."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools that are offered: those of the run that do not work on its tree."""
        return {name: tool for name, tool in self._run.tools.data.items() if tool.origin != _TREE}

    async def answer(self, method: str, body: bytes) -> tuple[int, Any]:
        """The status and the document of an answer to one HTTP request."""
        if method != "POST":
            return 405, {"error": "The tools of a run are asked by POST"}
        try:
            message = from_json(body, allow_inf_nan=False)
        except ValueError:
            return 400, _error(None, _NO_JSON, "this is no JSON")
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return 400, _error(None, _NO_JSON, "this is no message")
        if "id" not in message:
            return 202, None
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        result: dict[str, Any]
        match message["method"]:
            case "initialize":
                result = self._initialized(params)
            case "ping":
                result = {}
            case "tools/list":
                result = {"tools": [_listed(tool) for tool in self.tools.values()]}
            case "tools/call":
                name = params.get("name")
                if not isinstance(name, str) or name not in self.tools:
                    names = ", ".join(self.tools) or "none"
                    return 200, _error(
                        message["id"], _WRONG_PARAMS, f"there is no such tool; there are {names}"
                    )
                result = await self._called(name, params.get("arguments"))
            case unknown:
                return 200, _error(message["id"], _NO_METHOD, f"{unknown[:100]} is not offered")
        return 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _initialized(self, params: Mapping[str, Any]) -> dict[str, Any]:
        version = params.get("protocolVersion")
        return {
            "protocolVersion": version if version in _VERSIONS else _VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "meshwright", "version": __version__},
        }

    async def _called(self, name: str, arguments: Any) -> dict[str, Any]:
        call_id = self._number(name, arguments)
        is_error = False
        try:
            result = await self._run.call(name, **(arguments if isinstance(arguments, dict) else {}))
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        except MeshError as error:
            text, is_error = str(error), True
        if self._known is not None:
            self._known.end(call_id, text)
        return _content(text, is_error=is_error)

    def _number(self, name: str, arguments: Any) -> str:
        """Number the call that follows among equal ones; returns the id that a model gave it, if known."""
        if self.tools[name].effect == "read":
            self._run.begin_life_call(LifeCall(None))
            return ""
        call_id, nth = ("", None) if self._known is None else self._known.lost(name, arguments)
        if not self.goes_on:
            self._counts[call := json.dumps([name, arguments], sort_keys=True)] += 1
            nth = self._counts[call]

        def begin(number: int) -> None:
            if self._known is not None:
                self._known.begin(name, arguments, number, call_id)

        in_life = not self.goes_on
        self._run.begin_life_call(LifeCall(nth, is_again=True, in_life=in_life, numbered=begin))
        return call_id


def _listed(tool: Tool) -> dict[str, Any]:
    spec = tool.spec
    return {"name": spec.name, "description": spec.description, "inputSchema": dict(spec.parameters)}


def _content(text: str, *, is_error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def _error(number: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
