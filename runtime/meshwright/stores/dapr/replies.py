"""The reply to a call between workers: its result or its error, as one JSON document.

An error travels as a reply like any other, so that Dapr neither repeats the call nor hides what was wrong,
and the caller raises the same error again.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from meshwright.encoding import encode
from meshwright.errors import MeshError, StoreUnavailable

CALL = "call"
"""The actor method that runs the turn of an encoded message, and answers with such a reply."""
DELIVER = "deliver"
"""The same for a message that may arrive again: its actor drops a repeat."""
MAX_ERROR_CHARACTERS = 4000


def encode_result(result: bytes) -> bytes:
    """Wrap what a turn replied (JSON)."""
    return b'{"result":%s}' % (result or b"null")


def encode_error(error: Exception) -> bytes:
    """Wrap what a turn raised: an error of ours, or of Python where the turn has a defect."""
    ours = error if isinstance(error, MeshError) else MeshError(str(error))
    fields = {
        "type": ours.code if ours is error else type(error).__name__,
        "message": ours.message[:MAX_ERROR_CHARACTERS],
        "remedy": ours.remedy,
        "field": ours.field,
        "status": ours.status,
    }
    return encode({"error": fields})


def decode_reply(data: bytes) -> Any:
    """The result in a reply, as plain data, or the error in it raised again.

    An error that this process does not know comes as a MeshError that names it. StoreUnavailable where the
    data is no such reply: Dapr's HTTP channel may report success for a call that never ran.
    """
    try:
        document = from_json(data)
    except ValueError:
        document = None
    match document:
        case {"result": result}:
            return result
        case {"error": {"type": str(name), "message": str(message), **details}}:
            raise _error(name, message, details)
    raise StoreUnavailable(f"the worker that was called sent no reply, but {data[:200]!r}")


def _error(name: str, message: str, details: dict[str, Any]) -> MeshError:
    known = _errors(MeshError).get(name)
    error = known(message) if known is not None else MeshError(f"{name}: {message}")
    for detail in ("remedy", "field", "status"):
        if detail in details:
            setattr(error, detail, details[detail])
    return error


def _errors(base: type[MeshError]) -> dict[str, type[MeshError]]:
    """The errors that this process knows, by name."""
    errors = {base.__name__: base}
    for error in base.__subclasses__():
        errors |= _errors(error)
    return errors
