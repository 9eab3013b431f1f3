"""What the OpenAPI document says beside types: examples, problems, streams."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from meshwright.edges.problems import PROBLEM_TYPE, Problem

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """
Give tasks to a mesh of agents, follow them, and read what happened.

A task is durable once it was answered with 202. Every error is a problem document (RFC 9457) that names the
`field` that was wrong and the `remedy`. Streams are server-sent events and resume by `Last-Event-ID`.
"""
_FILE = files("meshwright.edges.http").joinpath("pages", "examples.json")
EXAMPLES: dict[str, Any] = json.loads(_FILE.read_text())
"""An example of every request and answer, by the name of its model."""
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
SERVER_SENT = {
    "type": "object",
    "description": "one server-sent event of the stream",
    "required": ["data"],
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
}
BODY_PROBLEMS = {
    400: "The body is not JSON.",
    401: "The mesh requires a key.",
    413: "The body is too large, or nested too deep.",
    422: "A field is wrong, and `field` names it.",
}
ANY_PROBLEM: Responses = {
    "default": {
        "model": Problem,
        "description": "A problem, as RFC 9457 has it.",
        "content": {PROBLEM_TYPE: {**_PROBLEM, "example": EXAMPLES["Problem"]}},
    }
}
"""What every operation may answer instead."""


def takes(name: str) -> dict[str, Any]:
    """Documents the body of an operation by an example."""
    return {"requestBody": {"content": {"application/json": {"example": EXAMPLES[name]}}}}


def problems(reasons: dict[int, str]) -> Responses:
    """Documents the problems that an operation answers with, by status."""
    return {
        status: {"description": reason, "content": {PROBLEM_TYPE: _PROBLEM}}
        for status, reason in reasons.items()
    }


def answers(name: str, refusals: dict[int, str] | None = None, *, status: int = 200) -> Responses:
    """Documents the answer of an operation by an example, and the problems that it answers with."""
    answer = {"content": {"application/json": {"example": EXAMPLES[name]}}}
    return {status: answer, **problems(refusals or {})}


def streams(responses: Responses) -> Responses:
    """Documents that an operation also answers with a stream of events."""
    stream = {"text/event-stream": {"schema": SERVER_SENT, "example": EXAMPLES["EventStream"]}}
    known = responses.get(200, {})
    return {**responses, 200: {**known, "content": {**known.get("content", {}), **stream}}}
