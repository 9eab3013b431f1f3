"""Lists of tools that servers send, each tool read by itself: the library takes all of a page or none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from pydantic import ValidationError

from meshwright.core.errors import sentence
from meshwright.core.redaction import foreign_words
from meshwright.parts.mcp.schemas import repaired_schema

_MAX_NAME_CHARS, _MAX_REASON_CHARS = 128, 300
_METHOD = "tools/list"


@asynccontextmanager
async def readable_tools(
    transport: AbstractAsyncContextManager[Any], left_out: dict[str, str]
) -> AsyncIterator[Any]:
    """A transport of the library whose lists of tools hold those alone that the library can read.

    A tool that becomes readable by a repair of its schema is repaired; each other is `left_out` by its name,
    with the reason.
    """
    from anyio import create_memory_object_stream, create_task_group

    async with transport as (incoming, outgoing, *_), create_task_group() as group:
        sender, receiver = create_memory_object_stream[Any](0)

        async def pass_on() -> None:
            async with sender, incoming:
                async for item in incoming:
                    result = getattr(getattr(item, "message", None), "result", None)
                    if isinstance(result, dict) and isinstance(result.get("tools"), list):
                        result["tools"] = _readable(result, left_out)
                    await sender.send(item)

        group.start_soon(pass_on)
        try:
            async with receiver:
                yield receiver, outgoing
        finally:
            group.cancel_scope.cancel()


def _readable(page: Mapping[str, Any], left_out: dict[str, str]) -> list[Any]:
    """The tools of a page that the library can read, in each version of the protocol that it may be of."""
    from mcp_types.methods import SERVER_RESULTS, validate_server_result

    def check(version: str, tools: Sequence[Any]) -> None:
        validate_server_result(_METHOD, version, {**page, "tools": tools})

    versions = []
    for method, version in SERVER_RESULTS:
        if method == _METHOD:
            with suppress(ValueError):
                check(version, [])
                versions.append(version)
    tools = []
    for tool in page["tools"]:
        try:
            try:
                _check(tool, versions, check)
            except (ValueError, KeyError):  # a person consents to a tool as it is: others stay so
                tool = {**tool, "inputSchema": repaired_schema(tool["inputSchema"])}
                _check(tool, versions, check)
            tools.append(tool)
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            name = tool.get("name") if isinstance(tool, dict) else None
            left_out[foreign_words(str(name), max_chars=_MAX_NAME_CHARS)] = _reason(error)
    return tools


def _reason(error: Exception) -> str:
    """Why a tool cannot be read, as a clause."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][2:]))  # behind "tools", and which of the page it is
        text = f"{place or 'the tool'}: {sentence(first)}"
    elif isinstance(error, KeyError):
        text = f"it has no {error.args[0]}"
    return foreign_words(" ".join(text.split()), max_chars=_MAX_REASON_CHARS)


def _check(tool: Any, versions: Sequence[str], check: Callable[[str, Sequence[Any]], None]) -> None:
    """Raises ValueError for a tool that the library refuses, or whose properties are no schemas."""
    for version in versions:
        check(version, [tool])
    repaired_schema(tool["inputSchema"])
