"""Answers what the SDKs of model providers send, each call as a step of one run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.agents.run.sdk_errors import ERROR_HEADER
from meshwright.core.errors import (
    HostError,
    InvalidInput,
    LimitReached,
    MeshError,
    ReplayMismatch,
    RestartDenied,
    Unauthenticated,
)
from meshwright.engine.work import Journal
from meshwright.models.port import CallContext, ModelReply, ModelRequest, OnDelta
from meshwright.models.wire.chat import CHAT
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.errors import UnknownRoute
from meshwright.models.wire.messages import COUNT_PATH, MESSAGES, count_document
from meshwright.models.wire.port import Dialect, WireCall
from meshwright.models.wire.responses import INPUT_TOKENS_PATH, input_document
from meshwright.models.wire.stream import StreamedCall

_JSON = {"content-type": "application/json"}
_COUNTS = {COUNT_PATH: count_document, INPUT_TOKENS_PATH: input_document}
_ENDING = (HostError, LimitReached, ReplayMismatch, RestartDenied)
"""The errors that end the run, whatever its code makes of them."""


@contextmanager
def past_frameworks(journal: Journal) -> Iterator[None]:
    """A block whose errors that end the run pass code which catches every Exception."""
    try:
        yield
    except _ENDING as error:
        raise journal.interrupt(error) from error


def why_closed(journal: Journal) -> str:
    """Why a call of the code that runs now is no step of the run; no text if it may be one."""
    if journal.is_closed:
        return "has ended"
    return "" if journal.is_of_caller else "is another's"


class WireAnswer(NamedTuple):
    """The answer to a request: `body` is a document, or the pieces of a stream, which must be closed."""

    status: int
    headers: dict[str, str]
    body: bytes | AsyncGenerator[bytes]
    error: MeshError | None = None
    """That of a call which was refused or has failed before its answer."""


class WireStep(NamedTuple):
    """A call to be made as a step of the run: the id of its answer, and its time in unix seconds."""

    answer_id: str
    created: int
    complete: Callable[[OnDelta | None], Coroutine[Any, Any, ModelReply]]


class RunWire:
    """The APIs of model providers as one run answers them: with the same replies when it is resumed.

    `step_of` names the step of a request, which makes the call. A call of a client after the run's end, or
    from the code of another run, is refused with 401. Errors that end the run are raised past the sender of
    the request.
    """

    def __init__(self, journal: Journal, step_of: Callable[[ModelRequest], WireStep]) -> None:
        self._journal = journal
        self._wire_step = step_of

    async def answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        restrict: Callable[[ModelRequest], ModelRequest] | None = None,
        on_reply: Callable[[ModelRequest, ModelReply], None] | None = None,
    ) -> WireAnswer:
        """Answer a request; `headers` have lower-case names.

        `restrict` takes fields from a call, and `on_reply` gets it with its reply, before the sender does.
        """
        place = f"/v1/{path.rpartition('/v1/')[2].lstrip('/')}"
        dialect = DIALECTS.get(place)
        try:
            self._check_open()
            if method == "POST" and (count := _COUNTS.get(place)) is not None:
                return WireAnswer(200, _JSON, to_json(count(_document(body))))
            if dialect is None or method != "POST":
                problem = f"A run does not answer {method} {path}"
                raise UnknownRoute(problem, remedy=f"It answers POST to {', '.join(DIALECTS)}")
            call = dialect.read(_document(body), headers)
            request = _make_request(call)
            request = request if restrict is None else restrict(request)
            step = self._wire_step(request)
            if on_reply is not None:
                step = step._replace(complete=_reported(step, request, on_reply))
            call.name(step.answer_id, step.created)
            answer = await (self._streamed(call, step) if call.streams else self._whole(call, step))
            answer.headers[dialect.request_id_header] = f"req_{step.answer_id}"
            return answer
        except MeshError as error:
            return _refusal(dialect or (MESSAGES if "anthropic-version" in headers else CHAT), error)

    def note_thread(self, native_id: int) -> None:
        """Note that code in a thread sends requests. Call it on the event loop."""
        self._journal.note_thread(native_id)

    def _check_open(self) -> None:
        if which := why_closed(self._journal):
            remedy = "Make a client in each run: run.openai() or run.anthropic()"
            raise Unauthenticated(f"The run of this client {which}", remedy=remedy)

    async def _whole(self, call: WireCall, step: WireStep) -> WireAnswer:
        reply = await step.complete(None)
        return WireAnswer(200, {**_JSON}, to_json(call.whole(reply)))

    async def _streamed(self, call: WireCall, step: WireStep) -> WireAnswer:
        streamed = StreamedCall(step.complete, holds_thinking=True)
        try:
            await streamed.begun()
        except BaseException:  # also where the run ends: nothing else would end the call
            await streamed.end()
            raise
        return WireAnswer(200, {"content-type": "text/event-stream"}, _frames(call, streamed))


def _reported(
    step: WireStep, request: ModelRequest, on_reply: Callable[[ModelRequest, ModelReply], None]
) -> Callable[[OnDelta | None], Coroutine[Any, Any, ModelReply]]:
    async def complete(on_delta: OnDelta | None) -> ModelReply:
        reply = await step.complete(on_delta)
        on_reply(request, reply)
        return reply

    return complete


def _make_request(call: WireCall) -> ModelRequest:
    """The request of a call, whose event names what is passed over."""
    return call.request.model_copy(update={"context": CallContext(passed_over=call.passed_over)})


async def _frames(call: WireCall, streamed: StreamedCall) -> AsyncGenerator[bytes]:
    try:
        async for frame in call.frames(streamed):
            yield frame
    finally:
        await streamed.end()


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = from_json(body)
    except ValueError as error:
        raise InvalidInput(f"The body is not JSON: {error}", field="body") from error
    if not isinstance(document, dict):
        raise InvalidInput("The body is no JSON object", field="body")
    return document


def _refusal(dialect: Dialect, error: MeshError) -> WireAnswer:
    """An error as the SDK knows it, which it does not repeat by itself: the mesh has tried what helps."""
    status, headers, document = dialect.error(error)
    headers = {name.lower(): value for name, value in headers.items()}
    headers |= {"content-type": "application/json", "x-should-retry": "false", ERROR_HEADER: error.code}
    return WireAnswer(status, headers, to_json(document), error)
