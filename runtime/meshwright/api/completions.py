"""OpenAI's API over the mesh's models: chat completions, whole or streamed, and the list of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from meshwright.api.callers import account, identity_of
from meshwright.api.chat import ChatRequest, model_request
from meshwright.api.chat_answers import Completion
from meshwright.api.model_examples import CHAT, COMPLETION, MODELS
from meshwright.api.openapi import SERVER_SENT, Responses, answers, reads
from meshwright.api.problems import MEDIA_TYPE as PROBLEM
from meshwright.api.refusals import error_body, refused
from meshwright.api.wire import RawRoute, answer, read_model
from meshwright.errors import Draining, MeshError, NotFound
from meshwright.mesh import Mesh
from meshwright.models.port import STREAM_RESTART, Model, ModelReply, ModelRequest, ModelUnavailable

GROUPS = ("default", "quality", "fast")
COST_HEADER = "x-litellm-response-cost"
"""By this name a LiteLLM proxy tells what a call cost, and so its clients look for it."""
GONE = 499  # what nobody is told who has gone
DONE = b"data: [DONE]\n\n"
ResultT = TypeVar("ResultT")


class ChatError(BaseModel):
    """What went wrong, as OpenAI has it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ChatErrorBody(BaseModel):
    """An error as OpenAI's API answers it."""

    error: ChatError


class ChatCompletion(BaseModel):
    """An answer, as OpenAI has it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]


class ModelList(BaseModel):
    """The models, as OpenAI has them."""

    object: Literal["list"]
    data: list[dict[str, Any]]


def chat_errors() -> Responses:
    """Document errors of OpenAI's shape; what the framework refuses is a problem here too."""
    content = {PROBLEM: {"schema": {"type": "object"}}}
    return {"default": {"model": ChatErrorBody, "description": "As OpenAI tells errors.", "content": content}}


class ClientGone(Exception):
    """Whoever asked is not there any more."""


class CompletionRoutes:
    """OpenAI's API. `groups` are the models that may be asked for; None where only the server knows."""

    def __init__(self, mesh: Mesh, groups: tuple[str, ...] | None = None) -> None:
        self._mesh = mesh
        self._groups = groups

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        responses = answers(ChatCompletion, COMPLETION)
        responses[200]["content"]["text/event-stream"] = {"schema": SERVER_SENT}
        app.router.add_api_route(
            "/v1/chat/completions",
            self.complete,
            route_class_override=RawRoute,
            methods=["POST"],
            summary="Complete a chat, as OpenAI's API does",
            tags=["models"],
            responses={**responses, **chat_errors()},
            openapi_extra=reads(ChatRequest, CHAT),
        )
        app.router.add_api_route(
            "/v1/models",
            self.models,
            route_class_override=RawRoute,
            summary="List the models, as OpenAI's API does",
            tags=["models"],
            responses={**answers(ModelList, MODELS), **chat_errors()},
        )

    async def models(self, request: Request) -> Response:
        """List the groups that may be named as `model`."""
        items = [
            {"id": group, "object": "model", "created": 0, "owned_by": "meshwright"}
            for group in self._groups or GROUPS
        ]
        return answer({"object": "list", "data": items})

    async def complete(self, request: Request) -> Response:
        """Have a model answer. A client that goes away ends the call, and closes its connection."""
        try:
            asked, wanted = await self._read(request)
            if asked.stream:
                return await self._stream(request, asked, wanted)
            reply = await unless_gone(request, self._mesh.model.complete(wanted))
        except MeshError as error:
            return refused(error)
        except ClientGone:
            return Response(status_code=GONE)
        return answer(Completion(wanted.model).whole(reply), headers=cost_header(reply))

    async def _read(self, request: Request) -> tuple[ChatRequest, ModelRequest]:
        if not self._mesh.ready:
            raise Draining("the mesh is starting or stopping", remedy="ask again in a moment")
        asked = await read_model(request, ChatRequest, self._mesh.settings)
        if self._groups is not None and asked.model not in self._groups:
            raise NotFound(
                f"The model {asked.model[:80]!r} does not exist",
                remedy=f"there are {', '.join(self._groups)}",
                field="model",
            )
        caller = account(identity_of(request), tenant_id=asked.tenant_id, user=asked.user)
        return asked, model_request(asked, user=caller.user, context=caller.context)

    async def _stream(self, request: Request, asked: ChatRequest, wanted: ModelRequest) -> Response:
        """Stream the answer, once it has begun: what fails before has the status of its error."""
        call = StreamedCall(self._mesh.model, wanted)
        try:
            await unless_gone(request, call.begun())
        except BaseException:  # also where the server ends: nobody else would end the call
            await call.end()
            raise
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return CompletionStream(call, Completion(wanted.model), with_usage=with_usage)


class StreamedCall:
    """A call under way, and the pieces of its answer. Whoever makes one ends it."""

    def __init__(self, model: Model, request: ModelRequest) -> None:
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._first: str | None = None
        self._sent = ""
        self._anew: str | None = None
        self._parted = False
        self._task = asyncio.create_task(model.complete(request, self._take), name="streamed-call")
        self._task.add_done_callback(lambda _: self._pieces.put_nowait(None))

    async def begun(self) -> None:
        """Wait for the first piece, or for the end of the call. Raises the error that it ended with."""
        self._first = await self._pieces.get()
        if self._first is None:
            await self.reply()

    async def pieces(self) -> AsyncGenerator[str]:
        """The text, as it comes; without a stream below, all of it at the end. Raises ModelError."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()
        reply = await self.reply()
        if reply.content and not self._sent:
            yield reply.content

    async def reply(self) -> ModelReply:
        """The whole answer. Raises ModelError."""
        if self._parted:
            raise ModelUnavailable("the stream broke off, and another attempt answers in other words")
        return await asyncio.shield(self._task)

    async def end(self) -> None:
        """Break off what is under way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _take(self, text: str) -> None:
        if text == STREAM_RESTART:
            self._anew = ""
        elif self._anew is None:
            self._tell(text)
        else:
            self._repeat(self._anew + text)

    def _repeat(self, anew: str) -> None:
        """Another attempt: what was told cannot be taken back, so it has to say the same, and then go on."""
        self._anew = anew
        if anew.startswith(self._sent):
            self._tell(anew[len(self._sent) :])
            self._anew = None
        elif not self._sent.startswith(anew):
            self._parted = True
            self._task.cancel()

    def _tell(self, text: str) -> None:
        if text:
            self._sent += text
            self._pieces.put_nowait(text)


class CompletionStream(StreamingResponse):
    """An answer as server-sent events. When the client has gone, the call is broken off."""

    media_type = "text/event-stream"

    def __init__(self, call: StreamedCall, completion: Completion, *, with_usage: bool) -> None:
        self._call = call
        self._completion = completion
        self._with_usage = with_usage
        self._body = self._frames()
        super().__init__(self._body, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()
            await self._call.end()

    async def _frames(self) -> AsyncGenerator[bytes]:
        yield frame(self._completion.piece({"role": "assistant", "content": ""}))
        try:
            async for text in self._call.pieces():
                yield frame(self._completion.piece({"content": text}))
            for document in self._end(await self._call.reply()):
                yield frame(document)
        except MeshError as error:
            yield frame(error_body(error))
            return
        yield DONE

    def _end(self, reply: ModelReply) -> Iterator[dict[str, Any]]:
        yield from self._completion.last(reply)
        if self._with_usage:
            yield self._completion.usage(reply)


def frame(document: dict[str, Any]) -> bytes:
    """A document as a server-sent event."""
    return b"data: %s\n\n" % to_json(document)


def cost_header(reply: ModelReply) -> dict[str, str]:
    """What the answer cost, where that is known."""
    return {} if reply.cost_usd is None else {COST_HEADER: f"{reply.cost_usd:f}"}


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Do the work while the client is there to hear of it. Raises ClientGone."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Wait until the client has closed its connection; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
