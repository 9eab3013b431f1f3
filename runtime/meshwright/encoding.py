"""JSON that never fails: whatever is to be kept can be written, and what was written can be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.errors import InvalidInput, TooLarge

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""How large a record may be as JSON where no setting says otherwise."""
MAX_DEPTH = 100  # of a payload that has to be mended


class Json(bytes):
    """A value as JSON, encoded once: what it was made of may change, and this does not."""

    __slots__ = ()


def as_json(source: object, value: Any) -> Json:
    """A value as JSON. Raises InvalidInput where what `source` sends is no JSON and cannot become it."""
    if type(value) is Json:
        return value
    try:
        plain = from_json(value) if isinstance(value, bytes) else value
        return Json(to_json(plain, inf_nan_mode="null"))
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput(f"{source} sends what cannot be written as JSON: {error}") from error


def too_large(what: str, size: int, max_bytes: int) -> TooLarge:
    """The error of a record that has more bytes than it may."""
    return TooLarge(
        f"{what} has {size:,} bytes, and {max_bytes:,} are allowed",
        remedy="store less, or a reference instead, or raise max_record_bytes",
    )


def encode(payload: Any) -> bytes:
    """A value as JSON. Never fails: what JSON cannot hold is replaced by something that says so."""
    if type(payload) is Json:
        return payload
    try:
        return to_json(payload, inf_nan_mode="null", serialize_unknown=True)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises, the rest must be kept
        return to_json(_mended(payload, ()))


def decode(data: bytes) -> Any:
    """Read `encode` back as plain data; JSON nested too deep to read is given as its text."""
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


def is_deeper(values: Iterable[Any], levels: int) -> bool:
    """Whether containers among some values are nested deeper than that. No depth can overflow the stack."""
    containers = [value for value in values if isinstance(value, (dict, list, tuple))]
    while containers:
        if levels <= 0:
            return True
        levels -= 1
        containers = [
            inner
            for value in containers
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list, tuple))
        ]
    return False


def _mended(value: Any, above: tuple[int, ...]) -> Any:
    """The same value without halves of characters, bytes that are no text, circles and foreign objects."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if id(value) in above or len(above) == MAX_DEPTH:
        return "<circular>" if id(value) in above else "<nested too deep>"
    inside = (*above, id(value))
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {_mended(str(key), ()): _mended(each, inside) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_mended(each, inside) for each in value]
    return _leaf(value)


def _leaf(value: Any) -> Any:
    try:
        return from_json(to_json(value, inf_nan_mode="null"))
    except Exception:  # noqa: BLE001 - as above: only its type can be kept
        return f"<{type(value).__name__}>"
