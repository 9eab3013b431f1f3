"""The arguments of tool calls as providers take them back: always a JSON object."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from meshwright.models.port import ToolCall


def arguments_object(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object: text that is no JSON as `invalid`, another value as `value`."""
    return _parsed(call)[0]


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as the text of an object: as the model wrote them, if they are one.

    Servers parse the arguments of earlier calls, and refuse the whole conversation for any that is no object,
    some with a status that blames the server.
    """
    arguments, is_as_written = _parsed(call)
    return call.arguments if is_as_written else to_json(arguments).decode()


def _parsed(call: ToolCall) -> tuple[dict[str, Any], bool]:
    if not call.arguments.strip():
        return {}, False
    try:
        arguments = from_json(call.arguments.encode(), allow_inf_nan=False)
    except ValueError:  # also for lone halves of characters, which no request can hold
        return {"invalid": call.arguments.encode(errors="replace").decode()}, False
    return (arguments, True) if isinstance(arguments, dict) else ({"value": arguments}, False)
