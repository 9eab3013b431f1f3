"""The routes of deliveries, as far as they are alike. They need no key: signatures say who sends."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request

from meshwright.core.messages import ID_PATTERN

Name = Annotated[str, Path(pattern=ID_PATTERN)]
PROBLEMS = {
    400: "The body is no JSON object.",
    413: "The body is too large, or nested too deep.",
    415: "The body is not sent as application/json.",
    429: "The mesh has as many open tasks as it may: `Retry-After` says when to try again.",
}


def address_of(request: Request) -> str:
    """The address of the sender; empty where the connection has none."""
    return request.client.host if request.client is not None else ""


def body_like(example: dict[str, str]) -> dict[str, Any]:
    """Documents a body that is read as it was sent."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"content": content, "required": True}}
