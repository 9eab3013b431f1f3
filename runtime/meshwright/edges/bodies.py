"""The bodies of all edges: JSON within the mesh's limits, and problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import from_json

from meshwright.core.encoding import is_deeper
from meshwright.core.errors import InvalidInput, MeshError, TooLarge, field_faults, nearest
from meshwright.core.operations import Input
from meshwright.core.settings import Settings

PROBLEM_TYPE = "application/problem+json"
BodyLimit = int | tuple[str, ...]
"""How many bytes a body may have: a number, or the settings of which the largest counts."""
PAYLOAD = ("max_payload_bytes",)
"""The limit of bodies that hold the payload of a task or an event."""
_TYPE_PREFIX = "urn:meshwright:problem:"
_SOURCES = frozenset({"body", "query", "path", "header"})  # where FastAPI says that it found a field
_ENVELOPE_BYTES = 4096  # what a request may hold around its payload
_ENVELOPE_DEPTH = 1
_ModelT = TypeVar("_ModelT", bound=BaseModel)


class ChangeBody(Input):
    """Base of bodies that may be a whole answer."""

    facts: ClassVar[frozenset[str]] = frozenset()
    """Fields that only answers have: they are ignored."""

    @model_validator(mode="before")
    @classmethod
    def _without_facts(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if name not in cls.facts}


class InternalError(MeshError):
    """A fault of ours."""

    @classmethod
    def from_exception(cls, error: Exception) -> MeshError:
        """Returns an error that was raised on purpose as it is; of any other its name alone."""
        if isinstance(error, MeshError):
            return error
        return cls(f"An unexpected {type(error).__name__}", remedy="The log of the mesh says more")


class MalformedJson(InvalidInput):
    """A body that is not JSON."""

    status = 400


def max_size(settings: Settings, limit: BodyLimit = PAYLOAD) -> int:
    """Returns how many bytes a body may have."""
    if limit is PAYLOAD:
        return settings.max_payload_bytes + _ENVELOPE_BYTES
    return limit if isinstance(limit, int) else max([attrgetter(name)(settings) for name in limit])


def too_large(settings: Settings, limit: BodyLimit = PAYLOAD) -> TooLarge:
    """The error for a body of more bytes."""
    remedy = "Send less" + ("" if isinstance(limit, int) else f", or raise {limit[-1]} in mesh.toml")
    message = f"The body is larger than {max_size(settings, limit):,} bytes"
    return TooLarge(message, remedy=remedy, field="body")


def read_json(body: bytes, settings: Settings, limit: BodyLimit = PAYLOAD) -> Any:
    """Returns a body as plain data. Raises TooLarge, also where it is nested too deep, or MalformedJson."""
    if len(body) > max_size(settings, limit):
        raise too_large(settings, limit)
    return parse_json(body, settings.max_payload_depth + _ENVELOPE_DEPTH)


def parse_json(body: bytes, max_depth: int) -> Any:
    """Returns a body of any size as plain data. Raises TooLarge for one nested deeper, or MalformedJson."""
    document: Any = None
    try:
        document = from_json(body, allow_inf_nan=False)
        is_too_deep = is_deeper([document], max_depth)
    except ValueError as error:
        if "recursion limit" not in str(error):
            raise _malformed(str(error)) from None
        is_too_deep = True
    if is_too_deep:
        raise TooLarge(
            f"The body is nested deeper than {max_depth} levels",
            remedy="Flatten it, or raise max_payload_depth in mesh.toml",
            field="body",
        )
    return document


def read_model(body: bytes, model: type[_ModelT], settings: Settings) -> _ModelT:
    """Reads a body into a model. Raises what `read_json` raises, or InvalidFields with every wrong field."""
    if len(body) > max_size(settings):
        raise too_large(settings)
    max_depth = settings.max_payload_depth + _ENVELOPE_DEPTH
    # Most bodies can neither be nested too deep nor hold numbers that JSON does not have.
    if body.count(b"{") + body.count(b"[") > max_depth or b"NaN" in body or b"Infinity" in body:
        read_json(body, settings)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise _malformed(str(errors[0]["ctx"]["error"])) from None
        raise InvalidFields.from_problems(errors, model) from None


def _malformed(reason: str) -> MalformedJson:
    return MalformedJson(f"The body is not JSON: {reason}", remedy="Send one JSON object", field="body")


# Problems


class FieldError(BaseModel):
    """One wrong field, as a dotted path, and what is wrong with it."""

    field: str
    message: str


class Problem(BaseModel):
    """A problem, as RFC 9457 has it, with the fields that Meshwright adds.

    `code` is the error's stable name, `field` the first wrong field, `remedy` the thing to do, and
    `errors` every wrong field where there may be several. `retry_after_seconds` is as in `Retry-After`;
    `budget` names the budget that has no room for a call, `line` is that of a text with a mistake.
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
    budget: str | None = None
    line: int | None = None


class InvalidFields(InvalidInput):
    """A request with wrong fields; `errors` names each."""

    code = InvalidInput.__name__

    def __init__(self, errors: list[FieldError], *, remedy: str = "") -> None:
        first = errors[0]
        super().__init__(f"{first.field}: {first.message}", remedy=remedy, field=first.field)
        self.errors = errors

    @classmethod
    def from_problems(cls, problems: Sequence[Any], model: type[BaseModel] | None = None) -> InvalidFields:
        """Describes the errors of a validation, without repeating what was sent."""
        in_body = [{**problem, "loc": _in_body(problem["loc"])} for problem in problems]
        errors = [FieldError(field=field, message=fault) for field, fault in field_faults(in_body)]
        remedy = "" if model is None else _remedy(in_body, model)
        return cls(errors, remedy=remedy)


def _remedy(problems: Sequence[Any], model: type[BaseModel]) -> str:
    """The field that the first problem misses, and the fields that there are in place of an unknown one."""
    sentences = []
    first = problems[0]
    *place, name = first["loc"] or ("",)
    if first["type"] == "missing" and (field := _fields_at(model, place).get(str(name))) is not None:
        sentences += [f"{name}: {field.description}"] if field.description else []
    unknown = next((problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"), None)
    if unknown is not None and (fields := _fields_at(model, unknown[:-1])):
        near = nearest(str(unknown[-1]), fields)
        of = "" if unknown == first["loc"] else f" for {unknown[-1]!r}"
        sentences.append(f"Did you mean {near!r}{of}?" if near else f"Known are {', '.join(fields)}")
    return " ".join(sentences)


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> Mapping[str, FieldInfo]:
    """The fields of the object at a place within a model; none where that is no object of known fields."""
    fields: Mapping[str, FieldInfo] = model.model_fields
    for step in location:
        if isinstance(step, str) and step in fields:
            inner = next(_models_in(fields[step].annotation), None)
            fields = {} if inner is None else inner.model_fields
        elif isinstance(step, str):
            return {}
    return fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def describe_problem(error: MeshError) -> Problem:
    """Describes an error that was raised on purpose."""
    return Problem(
        type=_TYPE_PREFIX + error.code,
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        field=error.field or None,
        remedy=error.remedy or None,
        **{name: getattr(error, name, None) for name in ("errors", "retry_after_seconds", "budget", "line")},
    )


def _in_body(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return location[1:] if location and location[0] in _SOURCES else location
