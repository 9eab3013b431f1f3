"""Mistakes in an agent's code: found in the run, and named with file and line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.agents.agent import Agent
from meshwright.agents.tools.limited_work import author_place, is_of_an_author
from meshwright.core.errors import AgentError, MeshError
from meshwright.core.messages import Fault
from meshwright.core.redaction import redact

_MAX_FAULTS_NAMED = 3  # of a group
_MAX_NOTED = 16  # calls, until those that have begun are dropped


class UnawaitedCalls:
    """The calls that an agent's code made of its run, to find those that it forgot to await."""

    def __init__(self) -> None:
        self._not_begun: list[tuple[Coroutine[Any, Any, Any], str]] = []
        self._max_noted = _MAX_NOTED

    def note(self, call: Coroutine[Any, Any, Any], where: str) -> None:
        """Note a call, and the file and line that made it."""
        if len(self._not_begun) >= self._max_noted:  # at twice as many as then: many may begin side by side
            self._not_begun = [noted for noted in self._not_begun if _is_not_begun(noted[0])]
            self._max_noted = 2 * len(self._not_begun) + _MAX_NOTED
        self._not_begun.append((call, where))

    def check(self, cause: Exception | None = None) -> None:
        """Raise AgentError for a call that was never awaited; it may be what led to the `cause`."""
        forgotten = [noted for noted in self._not_begun if _is_not_begun(noted[0])]
        self._not_begun = []
        for call, _ in forgotten:
            call.close()
        if forgotten:
            call, where = forgotten[0]
            name = f"run.{call.__name__}"
            raise AgentError(
                f"{where}: {name}(...) is called and never awaited",
                remedy=f"Write `await {name}(...)`",
                field=where,
            ) from cause


_MethodT = TypeVar("_MethodT", bound=Callable[..., Coroutine[Any, Any, Any]])


def noted(method: _MethodT) -> _MethodT:
    """Note each call of an async method, with the line that makes it, in the `_unawaited` of its object."""

    @wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        call = method(self, *args, **kwargs)
        caller = sys._getframe(1)  # kept in no variable of a coroutine: that would be a circle
        self._unawaited.note(call, f"{caller.f_code.co_filename}:{caller.f_lineno}")
        return call

    return cast("_MethodT", call)


def plain_result(answer: Any) -> dict[str, Any] | None:
    """An agent's answer as plain data. Raises AgentError where it is neither text nor an object of JSON."""
    if inspect.iscoroutine(answer):
        answer.close()
        raise AgentError("run returns a coroutine", remedy="Write `return await ...`")
    data = plain_data({"text": answer} if isinstance(answer, str) else answer, "run returns")
    if data is not None and not isinstance(data, dict):
        raise AgentError(f"run returns {_a(answer)}", remedy="Return text, or an object (a dict)")
    return data


def plain_data(value: Any, what: str) -> Any:
    """A value as plain JSON data. Raises AgentError, which begins with `what`, where it is not."""
    try:
        return from_json(to_json(value))
    except (PydanticSerializationError, ValueError) as error:
        raise AgentError(
            f"{what} {_a(value)} that cannot be written as JSON: {error}",
            remedy="Return text or plain data; a File is attached by run.attach",
        ) from error


async def awaited(run: Callable[[], Any], name: str) -> Any:
    """The result of a step's function as JSON data. Raises AgentError where it is no async function."""
    if not callable(run):
        if inspect.iscoroutine(run):
            run.close()
        raise AgentError(
            f"step {name!r} is given {_a(run)}, not a function",
            remedy=f"Write run.step({name!r}, lambda: ...) with the call inside",
        )
    work = run()
    if not inspect.isawaitable(work):
        raise AgentError(
            f"the function of step {name!r} is not async: it returns {_a(work)}",
            remedy="Give run.step an async function",
        )
    return plain_data(await work, f"step {name!r} returns")


def attempt_fault(agent: Agent, error: BaseException, note: str = "") -> Fault:
    """The fault of an attempt that ended with an error; one of the agent's own code names file and line.

    That of a TaskGroup is its first error that the mesh knows, else all of them. A `note` stands behind it.
    """
    kind, message = type(error).__name__, str(error)
    if isinstance(error, BaseExceptionGroup):
        errors = list(_leaves(error))
        mesh_error = next((leaf for leaf in errors if isinstance(leaf, MeshError)), None)
        if mesh_error is not None:
            kind, message = mesh_error.code, str(mesh_error)
        else:
            names = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in errors[:_MAX_FAULTS_NAMED])
            more = f"; and {len(errors) - _MAX_FAULTS_NAMED} more" if len(errors) > _MAX_FAULTS_NAMED else ""
            kind, message = "AgentError", f"tasks of a group failed: {names}{more}"
        message = f"{_place(agent, error)}: {message}"
    elif isinstance(error, MeshError):
        kind = error.code
        if isinstance(error, AgentError) and not error.field:
            message = f"{_place(agent, error)}: {message}"
    elif (place := author_place(error)) is not None:
        message = f"{message} ({place.short})".lstrip()
    if note:
        message = f"{message.rstrip('.')}. {note}"
    # Whatever an agent raises may quote a secret, or half of a character, which JSON cannot hold.
    return Fault(type=kind, message=redact(message).encode(errors="replace").decode())


def _place(agent: Agent, error: BaseException) -> str:
    """The last line of the author's code that an error passed through, else where its `run` begins."""
    code = inspect.unwrap(type(agent).run).__code__
    is_own = is_of_an_author(code.co_filename)
    beginning = f"{code.co_filename}:{code.co_firstlineno}" if is_own else f"agent {agent.agent_id}"
    return str(author_place(error) or beginning)


def _is_not_begun(call: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(call) == inspect.CORO_CREATED


def _leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _a(value: Any) -> str:
    """The type of a value in words: `a list`, `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
