"""The OpenAPI document: bodies that are read by hand, answers written by hand, problems, examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from meshwright import __version__
from meshwright.api.examples import EVENT_STREAM, Example
from meshwright.api.problems import MEDIA_TYPE, Problem

REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """
Give tasks to a mesh of agents, follow them, and read what happened.

A task is durable once it was answered with 202. Every error is a problem document (RFC 9457) that names the
`field` that was wrong and the `remedy`. Streams are server-sent events and resume by `Last-Event-ID`.
"""
NO_AGENT: Example = {
    "type": "urn:meshwright:problem:NoAgentAvailable",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "no agent has the capability 'painting'",
    "code": "NoAgentAvailable",
    "field": "capability",
    "remedy": "known are architecture-review, deep-research, general-query",
}

Responses = dict[int | str, dict[str, Any]]


def reads(model: type[BaseModel], example: Example) -> dict[str, Any]:
    """Document the JSON body of an operation that reads it itself."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    body = {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
    return {"requestBody": body}


def answers(
    model: type[BaseModel], example: Example, *, status: int = 200, description: str = "OK"
) -> Responses:
    """Document the answer of an operation that writes it itself."""
    content = {"application/json": {"example": example}}
    return {status: {"model": model, "description": description, "content": content}}


SERVER_SENT = {
    "type": "object",
    "description": "one server-sent event of the stream",
    "required": ["data"],
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
}


def streams(responses: Responses) -> Responses:
    """Document that an operation also answers with a stream of events."""
    content = {"text/event-stream": {"schema": SERVER_SENT, "example": EVENT_STREAM}}
    known = responses.get(200, {"description": "OK"})
    return {**responses, 200: {**known, "content": {**known.get("content", {}), **content}}}


def problems(reasons: dict[int, str]) -> Responses:
    """Document problems that an operation answers with, by status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model=Problem.__name__)}}}
    return {status: {"description": reason, "content": content} for status, reason in reasons.items()}


def any_problem() -> Responses:
    """Document what every operation may answer instead."""
    media = {"schema": {"$ref": REFERENCE.format(model=Problem.__name__)}, "example": NO_AGENT}
    return {"default": {"description": "A problem, as RFC 9457 has it.", "content": {MEDIA_TYPE: media}}}


def make_document(app: FastAPI, *models: type[BaseModel]) -> dict[str, Any]:
    """Make the OpenAPI document, once, with the models that FastAPI does not see."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="Meshwright", version=__version__, description=DESCRIPTION.strip(), routes=app.routes
        )
        _, schema = models_json_schema(
            [(model, "validation") for model in (Problem, *models)], ref_template=REFERENCE
        )
        made.setdefault("components", {}).setdefault("schemas", {}).update(schema["$defs"])
        app.openapi_schema = made
    return app.openapi_schema
