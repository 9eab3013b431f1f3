"""Problem documents (RFC 9457): how every edge describes an error."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from meshwright.errors import InvalidInput, MeshError
from meshwright.fields import sentence
from meshwright.suggestions import nearest

PROBLEM_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:meshwright:problem:"
_SOURCES = frozenset({"body", "query", "path", "header"})  # where FastAPI says that it found a field


class MalformedJson(InvalidInput):
    """A body that is not JSON."""

    status = 400


class FieldError(BaseModel):
    """One wrong field, as a dotted path, and what is wrong with it."""

    field: str
    message: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it, with what Meshwright adds.

    `code` is the error's stable name, `field` the first field that was wrong, `remedy` what to do, and
    `errors` every wrong field where there may be several. `retry_after_seconds` is as in `Retry-After`.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    remedy: str | None = None
    errors: list[FieldError] | None = None
    retry_after_seconds: float | None = None


class InvalidFields(InvalidInput):
    """A request with wrong fields; `errors` names each."""

    def __init__(self, errors: list[FieldError], *, remedy: str = "") -> None:
        first = errors[0]
        super().__init__(f"{first.field}: {first.message}", remedy=remedy, field=first.field)
        self.errors = errors

    @property
    def code(self) -> str:
        """On the wire it is InvalidInput."""
        return InvalidInput.__name__

    @classmethod
    def of(cls, found: Sequence[Any], model: type[BaseModel] | None = None) -> InvalidFields:
        """Describes the errors of a validation, without repeating what was sent."""
        errors = [FieldError(field=_path(error["loc"]), message=sentence(error)) for error in found]
        unknown = str(found[0]["loc"][-1]) if found[0]["type"] == "extra_forbidden" else ""
        return cls(errors, remedy=_nearest(unknown, model) if unknown and model else "")


def problem_of(error: MeshError) -> Problem:
    """Describes an error that was raised on purpose."""
    return Problem(
        type=_TYPE_PREFIX + error.code,
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        field=error.field or None,
        remedy=error.remedy or None,
        errors=getattr(error, "errors", None),
        retry_after_seconds=getattr(error, "retry_after_seconds", None),
    )


def _path(location: tuple[int | str, ...]) -> str:
    parts = location[1:] if location and location[0] in _SOURCES else location
    return ".".join(map(str, parts)) or "body"


def _nearest(name: str, model: type[BaseModel]) -> str:
    near = nearest(name, model.model_fields, cutoff=0.5)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(model.model_fields)}"
