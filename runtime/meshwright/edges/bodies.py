"""Bodies of requests: JSON within the mesh's limits, whatever edge they came over."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from meshwright.edges.problems import InvalidFields, MalformedJson
from meshwright.encoding import is_deeper
from meshwright.errors import TooLarge
from meshwright.settings import Settings

ModelT = TypeVar("ModelT", bound=BaseModel)
_ENVELOPE_BYTES = 4096  # what a request may hold around its payload
_ENVELOPE_DEPTH = 1


class AnswerRequest(BaseModel):
    """A person's answer to what a task waits for, under the `key` of its `task.waiting` event."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=512)
    value: Any


def _max_body_bytes(settings: Settings) -> int:
    """Returns how large a body may be."""
    return settings.max_payload_bytes + _ENVELOPE_BYTES


def check_size(size: int, settings: Settings) -> None:
    """Raises TooLarge for a body of so many bytes."""
    if size > _max_body_bytes(settings):
        raise TooLarge(
            f"the body is larger than {_max_body_bytes(settings)} bytes",
            remedy="send less, or raise max_payload_bytes in mesh.toml",
            field="body",
        )


def read_json(body: bytes, settings: Settings) -> Any:
    """Returns a body as plain data. Raises TooLarge, also where it is nested too deep, or MalformedJson."""
    check_size(len(body), settings)
    max_depth = settings.max_payload_depth + _ENVELOPE_DEPTH
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise _too_deep(max_depth) from None
        raise _malformed(str(error)) from None
    if is_deeper([document], max_depth):
        raise _too_deep(max_depth)
    return document


def read_model(body: bytes, model: type[ModelT], settings: Settings) -> ModelT:
    """Reads a body into a model. Raises what `read_json` raises, or InvalidFields with every wrong field."""
    check_size(len(body), settings)
    if _needs_a_look(body, settings.max_payload_depth + _ENVELOPE_DEPTH):
        read_json(body, settings)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise _malformed(str(found[0]["ctx"]["error"])) from None
        raise InvalidFields.of(found, model) from None


def _needs_a_look(body: bytes, max_depth: int) -> bool:
    """Whether a body may be nested too deep, or hold numbers that JSON does not have: most cannot."""
    return body.count(b"{") + body.count(b"[") > max_depth or b"NaN" in body or b"Infinity" in body


def _too_deep(max_depth: int) -> TooLarge:
    return TooLarge(
        f"the body is nested deeper than {max_depth} levels",
        remedy="flatten it, or raise max_payload_depth in mesh.toml",
        field="body",
    )


def _malformed(reason: str) -> MalformedJson:
    return MalformedJson(f"the body is not JSON: {reason}", remedy="send one JSON object", field="body")
