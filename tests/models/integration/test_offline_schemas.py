"""Schemas that callers send to `/v1`: what is no schema, or too large a one, is refused by name."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import ScriptedModel
from tests.support.model_api import HELLO, service

NAMES = list("abcdefghij")
CIRCLE = {"type": "object", "properties": {name: {"$ref": "#"} for name in NAMES}, "required": NAMES}
NO_SCHEMAS: list[Any] = [
    {"type": "array", "items": 5},
    {"type": "object", "properties": [1]},
    {"type": "integer", "minimum": "x"},
    {"allOf": [{"$ref": "#"}]},
    {"$ref": "#/$defs/nowhere"},
    {"$ref": "https://example.org/schema"},
    {"type": "thing"},
    {"type": "string", "minLength": -1},
    CIRCLE,
]
TOO_LARGE: list[Any] = [
    {"type": "array", "minItems": 100_000_000, "items": {"type": "string"}},
    {"type": "string", "minLength": 1_000_000_000},
    {"type": "integer", "minimum": 1e300, "multipleOf": 1e-300},
    {"type": "object", "required": [f"field_{number}" for number in range(9_000)]},
]


def asking(schema: Any) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"model": "default", "messages": HELLO, "response_format": shape}


@pytest.mark.parametrize("schema", [*NO_SCHEMAS, *TOO_LARGE], ids=str)
async def test_a_schema_that_cannot_be_filled_is_refused_quickly(tmp_path: Path, schema: Any) -> None:
    async with service(tmp_path) as there, asyncio.timeout(240):
        began = time.thread_time()
        status, body = await there.post("/v1/chat/completions", asking(schema))
        assert (status, body["error"]["param"]) == (400, "response_format"), body
        assert time.thread_time() - began < 1


@pytest.mark.parametrize("schema", NO_SCHEMAS, ids=str)
async def test_what_is_no_schema_reaches_no_model(tmp_path: Path, schema: Any) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there:
        status, body = await there.post("/v1/chat/completions", asking(schema))
        assert (status, body["error"]["param"]) == (400, "response_format"), body


async def test_a_tool_whose_parameters_are_no_schema_is_refused(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "sum", "parameters": {"properties": [1]}}}
    async with service(tmp_path) as there:
        body = {"model": "default", "messages": HELLO, "tools": [tool]}
        status, answer = await there.post("/v1/chat/completions", body)
        assert (status, answer["error"]["param"]) == (400, "tools.0.function.parameters")


async def test_a_large_question_leaves_the_loop_to_others(tmp_path: Path) -> None:
    async with service(tmp_path) as there:
        body = {"model": "default", "messages": [{"role": "user", "content": "a-" * 50_000}]}
        async with asyncio.timeout(240):
            status, _ = await there.post("/v1/chat/completions", body)
        assert status == 200
