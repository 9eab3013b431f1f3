"""What comes in and goes out: bodies read within limits, headers, and answers written as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from meshwright.api.problems import InvalidFields, MalformedJson
from meshwright.errors import TooLarge
from meshwright.settings import Settings

ModelT = TypeVar("ModelT", bound=BaseModel)
MEDIA_TYPE = "application/json"
ENVELOPE_BYTES = 4096  # what a request may hold around its payload
ENVELOPE_DEPTH = 1
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def answer(document: BaseModel | Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A document as an HTTP response."""
    # Much cheaper than through FastAPI, which would copy, validate and encode it again.
    body = document.model_dump_json() if isinstance(document, BaseModel) else to_json(document).decode()
    return Response(f"{body}\n", status, headers, media_type=MEDIA_TYPE)


class RawRoute(APIRoute):
    """A route whose endpoint takes the request alone: documented as any other, at half the cost."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Skip looking for parameters that there are none of."""
        return self.endpoint


async def read_model(request: Request, model: type[ModelT], settings: Settings) -> ModelT:
    """Read a request's JSON body into a model.

    Raises TooLarge over the limits of size and depth, MalformedJson, or InvalidFields with each field that
    is wrong. No more of a body is read than its limit.
    """
    body = await _read_body(request, settings.max_payload_bytes + ENVELOPE_BYTES)
    _check_json(body, settings.max_payload_depth + ENVELOPE_DEPTH)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise _malformed(str(found[0]["ctx"]["error"])) from None
        raise InvalidFields.of(error, model) from None


async def _read_body(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {max_bytes} bytes",
        remedy="send less, or raise max_payload_bytes in mesh.toml",
        field="body",
    )


def _check_json(body: bytes, max_depth: int) -> None:
    """Refuse what is nested too deep, and numbers that JSON does not have; most bodies pass at a glance."""
    if body.count(b"{") + body.count(b"[") <= max_depth and b"NaN" not in body and b"Infinity" not in body:
        return
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise _too_deep(max_depth) from None
        raise _malformed(str(error)) from None
    if _is_deeper(document, max_depth):
        raise _too_deep(max_depth)


def _is_deeper(document: Any, max_depth: int) -> bool:
    level = _containers([document])
    for _ in range(max_depth):
        level = [child for each in level for child in _containers(_children(each))]
        if not level:
            return False
    return True


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, (dict, list))]


def _children(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _too_deep(max_depth: int) -> TooLarge:
    return TooLarge(
        f"the body is nested deeper than {max_depth} levels",
        remedy="flatten it, or raise max_payload_depth in mesh.toml",
        field="body",
    )


def _malformed(reason: str) -> MalformedJson:
    return MalformedJson(f"the body is not JSON: {reason}", remedy="send one JSON object", field="body")


def traceparent(request: Request) -> str | None:
    """The W3C trace that the caller is in; one that is not well-formed counts as none, as W3C has it."""
    value = request.headers.get("traceparent")
    return value if value and TRACEPARENT.fullmatch(value) else None
