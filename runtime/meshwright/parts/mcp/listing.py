"""Lists of tools that servers send, each tool read by itself: the library takes all of a page or none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from meshwright.parts.mcp.schemas import repaired_schema

_logger = logging.getLogger("meshwright.mcp")
_MAX_REASON_CHARS = 300


@asynccontextmanager
async def readable_tools(transport: AbstractAsyncContextManager[Any], where: str) -> AsyncIterator[Any]:
    """A transport of the library whose lists of tools hold those alone that the library can read.

    A tool that becomes readable by a repair of its schema is repaired; each other is left out with a warning.
    """
    from anyio import create_memory_object_stream, create_task_group

    async with transport as (incoming, outgoing, *_), create_task_group() as group:
        sender, receiver = create_memory_object_stream[Any](0)

        async def pass_on() -> None:
            async with sender, incoming:
                async for item in incoming:
                    result = getattr(getattr(item, "message", None), "result", None)
                    if isinstance(result, dict) and isinstance(result.get("tools"), list):
                        result["tools"] = [*filter(None, (_read(tool, where) for tool in result["tools"]))]
                    await sender.send(item)

        group.start_soon(pass_on)
        try:
            async with receiver:
                yield receiver, outgoing
        finally:
            group.cancel_scope.cancel()


def _read(tool: Any, where: str) -> Any:
    """A tool as the library can read it; None for one that it cannot."""
    from mcp.types import Tool

    try:
        try:
            Tool.model_validate(tool)
            _check_properties(tool["inputSchema"])
            return tool
        except (ValueError, KeyError):  # a person consents to a tool as it is: others stay so
            repaired = {**tool, "inputSchema": repaired_schema(tool["inputSchema"])}
            Tool.model_validate(repaired)
            return repaired
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        name = tool.get("name") if isinstance(tool, dict) else None
        reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
        _logger.warning("The tool %s of %s is left out: %s", name, where, reason)
        return None


def _check_properties(schema: Any) -> None:
    """Raises ValueError for properties that are no schemas, which the library refuses in some versions."""
    for name, part in (schema.get("properties") or {}).items():
        if not isinstance(part, dict):
            raise ValueError(f"its property {name} is {type(part).__name__}, not a schema")
