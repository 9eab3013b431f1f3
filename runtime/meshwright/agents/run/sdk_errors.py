"""Errors of the SDKs of model providers that end a run because their client was not the run's."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from meshwright.core.errors import AgentError, MeshError

RUN_HOST = "run"
"""The host of a run's clients. Nothing answers there: their transport answers before one is looked for."""
ERROR_HEADER = "x-meshwright-error"
"""The header of a refused request: the stable name of the error."""
OWN_CLIENT = "In a run, call models by its own clients: run.openai(), run.anthropic(), run.transport()"
_CLIENTS = (
    *("openai", "anthropic", "google.genai"),
    *("pydantic_ai.providers", "agent_framework._settings", "google.adk.models"),
)
"""Packages of providers, and modules of frameworks that make clients."""
_PREFIXES = tuple(f"{name}." for name in _CLIENTS)
_MAX_ERRORS = 20  # of a chain, which may be a circle


def note_on(error: BaseException, *, has_clients: bool) -> str:
    """A sentence about an error that an SDK raised, for people; no text if it says enough itself.

    `has_clients` says whether the run's code took a client of the run: without any it has called a model
    past the run, which neither pays for such a call nor records it.
    """
    errors = [] if isinstance(error, MeshError) else list(_chain(error))
    sdk_error = next((link for link in errors if _raiser(link.__traceback__).startswith(_PREFIXES)), None)
    if sdk_error is None:
        return ""
    hidden_error = next((link for link in errors if isinstance(link, AgentError)), None)
    if hidden_error is not None:
        return str(hidden_error)
    request: Any = getattr(sdk_error, "request", None)
    is_answered = getattr(sdk_error, "status_code", None) is not None
    has_lost_transport = request is not None and request.url.host == RUN_HOST and not is_answered
    return "" if has_clients and not has_lost_transport else OWN_CLIENT


def error_behind(error: BaseException, refusal: MeshError | None) -> BaseException:
    """The mesh's own error where an SDK or a framework has worded it anew, else the error itself.

    `refusal` is the error of the last call by a client of the run.
    """
    if refusal is None or isinstance(error, MeshError):
        return error
    return refusal if any(_is_of_run(link) for link in _chain(error)) else error


def _is_of_run(error: BaseException) -> bool:
    """Whether an SDK has raised an error because of a run's answer to its request."""
    request: Any = getattr(error, "request", None)
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if getattr(getattr(request, "url", None), "host", None) == RUN_HOST:
        return True
    return headers is not None and ERROR_HEADER in headers  # of a client with an address of its own


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_ERRORS):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _raiser(trace: TracebackType | None) -> str:
    """The module whose code raised an error, with a dot behind it."""
    name = ""
    while trace is not None:
        name, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    return f"{name}."
