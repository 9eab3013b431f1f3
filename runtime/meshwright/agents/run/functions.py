"""Tools as async functions that a framework can read: with parameters, annotations and a docstring."""

from __future__ import annotations

import inspect
import keyword
import types
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import WithJsonSchema
from pydantic_core import to_json

from meshwright.agents.tools.chain import ToolWrapper
from meshwright.agents.tools.functions import FunctionTool
from meshwright.agents.tools.tool import Tool, ToolContext, tool_parameters
from meshwright.core.encoding import plain
from meshwright.core.errors import AgentError

_TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
    "null": None,
}
_PLAIN = (str, int, float, bool, list, dict, Any, type(None))
"""The types of a result that are plain JSON data already."""
_LITERAL: Any = Literal  # of values and types that are known at run time alone
_UNION: Any = Union
_UNIONS = (Union, types.UnionType)


def tool_function(tool: Tool, call: Callable[[str], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The tool as an async function; `call` makes the call, with its arguments as JSON text.

    Raises AgentError for a parameter whose name Python does not take.
    """
    method = _tool_method(tool)
    meanings = _meanings(tool)
    signature = _schema_signature(tool) if method is None else _method_signature(method, meanings)
    docstring = _tool_docstring(tool, meanings) if method is None else method.__doc__ or ""
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}

    async def function(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        arguments = {
            name: value for name, value in bound.items() if not (value is None and defaults[name] is None)
        }
        return await call(to_json(arguments, inf_nan_mode="constants", fallback=plain).decode())

    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    function.__name__ = function.__qualname__ = tool.name
    function.__doc__ = inspect.cleandoc(docstring)
    function.__annotations__ = {**annotations, "return": signature.return_annotation}
    function.__dict__["__signature__"] = signature
    return function


def _tool_method(tool: Tool) -> Callable[..., Any] | None:
    """The method that a tool is made of, where it takes the same as the tool; None for any other tool."""
    inner = tool
    while isinstance(inner, ToolWrapper):
        inner = inner.inner
    is_same = isinstance(inner, FunctionTool) and inner.parameters == tool.parameters
    return inner.function if isinstance(inner, FunctionTool) and is_same else None


def _method_signature(method: Callable[..., Any], meanings: Mapping[str, str]) -> inspect.Signature:
    """The signature for callers: types resolved, without the context, and with a result of plain data."""
    hints = get_type_hints(method, include_extras=True)
    parameters = [
        parameter.replace(annotation=_described(hints[name], meanings.get(name, "")))
        for name, parameter in tool_parameters(method).items()
        if hints[name] is not ToolContext
    ]
    result = hints.get("return", Any)
    return inspect.Signature(parameters, return_annotation=result if _is_plain(result) else Any)


def _described(kind: Any, meaning: str) -> Any:
    """The type, its description before other metadata: Haystack takes the first for a description."""
    metadata = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    if not metadata or isinstance(metadata[0], str):
        return kind
    described: Any = Annotated
    return described[(get_args(kind)[0], meaning, *metadata)]


def _is_plain(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (*_PLAIN, *_UNIONS) and all(map(_is_plain, get_args(kind)))


def _schema_signature(tool: Tool) -> inspect.Signature:
    """The signature that a JSON schema describes: what is required first."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = set(tool.parameters.get("required", ()))
    for name in properties:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise AgentError(
                f"the tool {tool.name} has the parameter {name!r}, which Python cannot name",
                remedy=f'Leave it out of run.functions, and call it by run.call("{tool.name}", **arguments)',
            )
    names = sorted(properties, key=lambda name: name not in required)
    parameters = [_parameter(name, properties[name], is_required=name in required) for name in names]
    return inspect.Signature(parameters, return_annotation=Any)


def _parameter(name: str, schema: Any, *, is_required: bool) -> inspect.Parameter:
    kind = _schema_type(schema)
    default = inspect.Parameter.empty
    if not is_required:
        default = schema.get("default") if isinstance(schema, Mapping) else None
        kind = _UNION[kind, None] if default is None else kind
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)


def _schema_type(schema: Any) -> Any:
    """The type of the values that fit a schema; with the schema itself where no type says as much."""
    if not isinstance(schema, Mapping):
        return Any
    if "enum" in schema or "const" in schema:
        values: list[Any] = schema.get("enum", [schema.get("const")])
        is_plain = all(isinstance(value, str | int | None) for value in values)
        return _LITERAL[tuple(values)] if is_plain and values else Any
    kinds = schema.get("type")
    if isinstance(kinds, list) or "anyOf" in schema:
        choices = schema.get("anyOf") or [{**schema, "type": kind} for kind in kinds or ()]
        return _UNION[tuple(map(_schema_type, choices))]
    if kinds == "array" and "items" in schema:
        return list[_schema_type(schema["items"])]  # type: ignore[misc]
    kind = _TYPES.get(str(kinds), Any)
    if kinds == "object" and "properties" in schema and "$ref" not in str(schema):
        return Annotated[kind, WithJsonSchema(dict(schema))]
    return kind


def _meanings(tool: Tool) -> dict[str, str]:
    """The descriptions of the parameters that have one, each on one line."""
    return {
        name: " ".join(str(schema["description"]).split())
        for name, schema in tool.parameters.get("properties", {}).items()
        if isinstance(schema, Mapping) and schema.get("description")
    }


def _tool_docstring(tool: Tool, meanings: Mapping[str, str]) -> str:
    """The description of a tool, and those of its parameters as frameworks read them."""
    lines = [f"    {name}: {meaning}" for name, meaning in meanings.items()]
    return "\n".join([tool.description, *(["", "Args:", *lines] if lines else [])])
