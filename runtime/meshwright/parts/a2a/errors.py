"""The errors of A2A, with their codes, statuses and reasons as section 5.4 of the protocol has them."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwright import MeshError
from meshwright.core.errors import Draining
from meshwright.edges.bodies import MalformedJson
from meshwright.kit import HostError

_DOMAIN = "a2a-protocol.org"


class ErrorKind(NamedTuple):
    """A kind of errors in both bindings."""

    code: int
    """The code of JSON-RPC."""
    status: int
    """The status of HTTP."""
    name: str
    """The canonical name of that status."""
    reason: str
    """The reason in its `ErrorInfo`."""


TASK_NOT_FOUND = ErrorKind(-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND")
TASK_NOT_CANCELABLE = ErrorKind(-32002, 400, "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE")
PUSH_NOT_SUPPORTED = ErrorKind(-32003, 400, "FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED")
UNSUPPORTED_OPERATION = ErrorKind(-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION")
CONTENT_TYPE_NOT_SUPPORTED = ErrorKind(-32005, 400, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED")
VERSION_NOT_SUPPORTED = ErrorKind(-32009, 400, "FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED")
INVALID_REQUEST = ErrorKind(-32600, 400, "INVALID_ARGUMENT", "INVALID_REQUEST")
METHOD_NOT_FOUND = ErrorKind(-32601, 404, "NOT_FOUND", "METHOD_NOT_FOUND")
INVALID_PARAMS = ErrorKind(-32602, 400, "INVALID_ARGUMENT", "INVALID_PARAMS")
PARSE_ERROR = ErrorKind(-32700, 400, "INVALID_ARGUMENT", "INVALID_REQUEST")
_INTERNAL = ErrorKind(-32603, 500, "INTERNAL", "INTERNAL_ERROR")
_NAMES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
_SERVER_ERROR = -32000


class ProtocolError(MeshError):
    """A request that A2A has an error for."""

    def __init__(self, kind: ErrorKind, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.kind = kind
        self.status = kind.status


def error_kind(error: MeshError) -> ErrorKind:
    """Returns the kind of any error of the mesh."""
    if isinstance(error, ProtocolError):
        return error.kind
    if isinstance(error, MalformedJson):
        return PARSE_ERROR
    if isinstance(error, HostError) or error.status in (401, 403, 429, 503, 507):
        name = _NAMES.get(error.status, "UNAVAILABLE")
        return ErrorKind(_SERVER_ERROR, error.status, name, name)
    if error.status < 500:
        return INVALID_PARAMS._replace(status=413) if error.status == 413 else INVALID_PARAMS
    return _INTERNAL


def _details(error: MeshError, kind: ErrorKind) -> list[dict[str, Any]]:
    metadata = {"field": error.field, "remedy": error.remedy}
    return [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": kind.reason,
            "domain": _DOMAIN,
            "metadata": {name: text for name, text in metadata.items() if text},
        }
    ]


def rpc_error(error: MeshError) -> dict[str, Any]:
    """Returns an error as JSON-RPC has it."""
    kind = error_kind(error)
    return {"code": kind.code, "message": str(error), "data": _details(error, kind)}


def http_error(error: MeshError) -> dict[str, Any]:
    """Returns an error as the binding HTTP+JSON has it (AIP-193)."""
    kind = error_kind(error)
    fields = {"code": kind.status, "status": kind.name, "message": str(error)}
    return {"error": {**fields, "details": _details(error, kind)}}


def stopping() -> MeshError:
    """Returns the error of a stream whose mesh stops."""
    return Draining("The mesh stops, and the task goes on", remedy="Subscribe to the task again")
