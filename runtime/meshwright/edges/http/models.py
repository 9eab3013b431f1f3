"""The models of the mesh: OpenAI's API, the `/complete` of the llm-service, and probes of the process."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Path, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from meshwright.core import __version__
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import Draining, NotFound, nearest
from meshwright.core.ids import Identifier
from meshwright.core.operations import Input
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import PROBLEM_TYPE
from meshwright.edges.http.errors import JsonLine, asks_as_anthropic, error_shape
from meshwright.edges.http.routing import PROBLEM, STREAM, ReadyMesh, make_router, may, problems
from meshwright.edges.http.sessions import ServerSentEvents
from meshwright.mesh.identity.administration import ModelOperations
from meshwright.mesh.mesh import Mesh
from meshwright.models.errors import ModelTimeout, ModelUnavailable
from meshwright.models.port import CallContext, Model, ModelReply, ModelRequest
from meshwright.models.settings import ModelsSettings
from meshwright.models.wire.chat import TAGS_HEADER, ChatCall, ChatRequest, RequestMessage, read_messages
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.embeddings import EmbeddingCall, EmbeddingRequest
from meshwright.models.wire.errors import ALL_DOWN, new_request_id, retry_after
from meshwright.models.wire.messages import (
    CLAUDE_GROUPS,
    PING_SECONDS,
    CountRequest,
    MessageCall,
    MessageDocument,
    MessagesRequest,
    TokenCount,
    count_tokens,
    request_user,
)
from meshwright.models.wire.port import WireCall, find_group
from meshwright.models.wire.responses import (
    InputTokens,
    ResponseCall,
    ResponseDocument,
    ResponsesRequest,
    count_input,
)
from meshwright.models.wire.stream import StreamedCall

GROUPS = ("default", "quality", "fast")
_COST_HEADER = "x-litellm-response-cost"
"""By this name a LiteLLM proxy tells what a call cost, and so its clients look for it."""
_UNAVAILABLE = {"error": ALL_DOWN}
_ResultT = TypeVar("_ResultT")
_CallerDep = Annotated[ModelOperations, may(ModelOperations.call_model, ModelOperations)]


router = make_router("models")
openai_router = make_router(
    "models",
    errors="openai",
    max_body=("max_payload_bytes", "models.max_request_bytes"),
    counts_streams=False,  # calls_per_minute and budgets limit calls of models
)


anthropic_router = make_router(
    "models",
    errors="anthropic",
    max_body=("max_payload_bytes", "models.max_request_bytes"),
    counts_streams=False,
)


class AgentDirectory(ABC):
    """Agents that are named as models, `agent/ID`: of the component that provides them by this type."""

    prefix = "agent/"

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of all of them."""

    @abstractmethod
    async def answer(
        self, request: Request, body: ChatRequest | ResponsesRequest | MessagesRequest
    ) -> Response:
        """Give the agent that a body names a task, and answer with its outcome."""


class ChatCompletion(BaseModel):
    """An answer, as OpenAI has it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]


class ModelEntry(BaseModel):
    """A model, as OpenAI has it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "meshwright"


class ModelList(BaseModel):
    """The models, as OpenAI has them."""

    object: Literal["list"]
    data: list[ModelEntry]


class CompleteRequest(Input):
    """Messages to be answered, by how good or how fast the model has to be."""

    model: Literal["quality", "fast"]
    messages: list[RequestMessage] = Field(min_length=1)
    tenant_id: Identifier | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)


class CompleteResponse(BaseModel):
    """An answer, the model that gave it, and the tokens read and written."""

    content: str
    model: str
    usage: dict[Literal["prompt_tokens", "completion_tokens"], int]


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[Literal["prompt_tokens", "total_tokens"], int]


@openai_router.get("/v1/models", summary="List models", response_model=ModelList)
async def _list_models(
    request: Request, operations: Annotated[ModelOperations, may(ModelOperations.models, ModelOperations)]
) -> Response:
    """List groups and agents that may be named as `model`; as Anthropic with a header `anthropic-version`."""
    names = list(_groups(request, operations) or GROUPS)
    if (agents := _agent_models(request)) is not None:
        names += [name for name in agents.names() if name not in names]
    if not asks_as_anthropic(request.scope):
        return JsonLine(ModelList(object="list", data=[ModelEntry(id=name) for name in names]))
    ends = {"first_id": names[0], "last_id": names[-1]} if names else {}
    return JsonLine({"data": [_anthropic_entry(name) for name in names], "has_more": False, **ends})


@openai_router.get("/v1/models/{model_id:path}", summary="Describe a model", response_model=ModelEntry)
async def _describe_model(
    request: Request,
    operations: Annotated[ModelOperations, may(ModelOperations.models, ModelOperations)],
    model_id: Annotated[str, Path(min_length=1, max_length=128)],
) -> Response:
    """Describe a group or an agent that may be named as `model`."""
    _require_model(request, operations, model_id)
    if asks_as_anthropic(request.scope):
        return JsonLine(_anthropic_entry(model_id))
    return JsonLine(ModelEntry(id=model_id))


@openai_router.post(
    "/v1/chat/completions",
    summary="Complete a chat",
    response_model=ChatCompletion,
    responses={200: {"content": STREAM}},
)
async def _complete_chat(
    request: Request, mesh: ReadyMesh, operations: _CallerDep, body: ChatRequest
) -> Response:
    """Have a model answer, or an agent as a task.

    A client that goes away ends the call of a model, and closes its connection; a task goes on.
    """
    if (agents := _find_agents(request, operations, body.model)) is not None:
        return await agents.answer(request, body)
    group = _resolve_group(request, operations, body.model)
    context = await operations.call_model(**_caller_fields(request, body))
    call = ChatCall(body, request.headers.get(TAGS_HEADER, ""))
    return await _answer(request, mesh, call, context, group)


@openai_router.post(
    "/v1/responses",
    summary="Make a response",
    response_model=ResponseDocument,
    responses={200: {"content": STREAM}},
)
async def _respond(
    request: Request, mesh: ReadyMesh, operations: _CallerDep, body: ResponsesRequest
) -> Response:
    """Have a model answer, in the shape of the Responses API, or an agent as a task.

    Nothing is stored of the answer of a model.
    """
    if (agents := _find_agents(request, operations, body.model)) is not None:
        return await agents.answer(request, body)
    group = _resolve_group(request, operations, body.model)
    context = await operations.call_model(**_caller_fields(request, body))
    call = ResponseCall(body, request.headers.get(TAGS_HEADER, ""))
    return await _answer(request, mesh, call, context, group)


@openai_router.post("/v1/responses/input_tokens", summary="Count the tokens of a response's input")
async def _count_input(request: Request, operations: _CallerDep, body: ResponsesRequest) -> InputTokens:
    """Say about how many tokens a request has, rather too many. No model is called."""
    _require_model(request, operations, body.model)
    return count_input(body)


@anthropic_router.post(
    "/v1/messages",
    summary="Make a message",
    response_model=MessageDocument,
    responses={200: {"content": STREAM}},
)
async def _make_message(
    request: Request, mesh: ReadyMesh, operations: _CallerDep, body: MessagesRequest
) -> Response:
    """Have a model answer, in the shape of Anthropic's Messages API, or an agent as a task.

    Nothing is stored of the answer of a model.
    """
    if (agents := _find_agents(request, operations, body.model)) is not None:
        return await agents.answer(request, body)
    group = _resolve_group(request, operations, body.model)
    caller = {"tenant_id": body.tenant_id, "user": request_user(body), "traceparent": _traceparent(request)}
    context = await operations.call_model(**caller)
    call = MessageCall(body, request.headers)
    return await _answer(request, mesh, call, context, group, begins_within=PING_SECONDS)


@anthropic_router.post("/v1/messages/count_tokens", summary="Count the tokens of a prompt")
async def _count_tokens(request: Request, operations: _CallerDep, body: CountRequest) -> TokenCount:
    """Say about how many tokens a prompt has, rather too many. No model is called."""
    _require_model(request, operations, body.model)
    return TokenCount(input_tokens=count_tokens(body))


@openai_router.post("/v1/embeddings", summary="Embed texts", response_model=EmbeddingList)
async def _embed(
    request: Request, mesh: ReadyMesh, operations: _CallerDep, body: EmbeddingRequest
) -> Response:
    """Make texts vectors. A client that goes away ends the call, and closes its connection."""
    group = _resolve_group(request, operations, body.model)
    call = EmbeddingCall(body)
    context = await operations.call_model(**_caller_fields(request, body))
    fields = {"model": group, "context": context, "user": context.agent_id or LLM_SERVICE}
    call_request = call.request.model_copy(update=fields)
    reply = await _unless_gone(request, mesh.get(Model).complete(call_request))
    return JsonLine(call.whole(reply), headers=_request_id(request) | _cost_header(reply))


@router.post(
    "/complete",
    summary="Call a model",
    response_model=CompleteResponse,
    responses=problems(
        {
            400: "The body is not JSON, or holds other than text.",
            402: "A budget has no room for the call.",
            403: "The key is another tenant's.",
            429: "The providers want us to wait, or the tenant has made its calls: see `Retry-After`.",
        }
    )
    | {
        503: {
            "description": "No provider answers, or the mesh is stopping.",
            "content": {PROBLEM_TYPE: PROBLEM, "application/json": {"example": _UNAVAILABLE}},
        }
    },
)
async def _complete(
    request: Request, mesh: ReadyMesh, operations: _CallerDep, body: CompleteRequest
) -> Response:
    """Have the best or the fastest model answer some messages. A client that goes away ends the call."""
    context = await operations.call_model(tenant_id=body.tenant_id, traceparent=_traceparent(request))
    call_request = ModelRequest(
        model=body.model,
        messages=read_messages(body.messages),
        user=context.agent_id or LLM_SERVICE,
        context=context,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
    )
    try:
        reply = await _unless_gone(request, mesh.get(Model).complete(call_request))
    except (ModelUnavailable, ModelTimeout) as error:
        return JsonLine(_UNAVAILABLE, 503, retry_after(error.retry_after_seconds))
    used = reply.usage
    usage = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
    return JsonLine({"content": reply.content, "model": reply.model, "usage": usage})


def _groups(request: Request, operations: ModelOperations) -> tuple[str, ...] | None:
    """The models that may be named here; None where only the model's server knows."""
    return request.app.state.groups or operations.models()


def _agent_models(request: Request) -> AgentDirectory | None:
    return request.app.state.agent_models


def _find_agents(request: Request, operations: ModelOperations, name: str) -> AgentDirectory | None:
    """The agents, where a client names one of them; None for another model. Raises NotFound."""
    agents = _agent_models(request)
    if agents is None or not name.startswith(agents.prefix) or name in (_groups(request, operations) or ()):
        return None
    if name not in (names := agents.names()):
        close = nearest(name, names)
        remedy = f"Did you mean {close}?" if close else "GET /v1/models lists those there are"
        raise NotFound(f"The model {name[:80]!r} does not exist", remedy=remedy, field="model")
    return agents


def _require_model(request: Request, operations: ModelOperations, name: str) -> None:
    """Raises NotFound for a name that no model and no agent has."""
    if _find_agents(request, operations, name) is None:
        _resolve_group(request, operations, name)


def _resolve_group(request: Request, operations: ModelOperations, name: str) -> str:
    """The group that a client means; a name goes on as it is where only the model's server knows."""
    groups = _groups(request, operations)
    if groups is None:
        return name
    aliases = request.app.state.mesh.settings[ModelsSettings].aliases
    if error_shape(request.scope) == "anthropic":
        aliases = {**aliases, **{key: of for key, of in CLAUDE_GROUPS.items() if key not in aliases}}
    group = find_group(name, groups, aliases)
    if group is None:
        raise NotFound(
            f"The model {name[:80]!r} does not exist", remedy=f"There are {', '.join(groups)}", field="model"
        )
    return group


def _anthropic_entry(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _caller_fields(
    request: Request, body: ChatRequest | ResponsesRequest | EmbeddingRequest
) -> dict[str, Any]:
    return {"tenant_id": body.tenant_id, "user": body.user, "traceparent": _traceparent(request)}


def _traceparent(request: Request) -> str | None:
    return valid_trace(request.headers.get("traceparent"))


def _cost_header(reply: ModelReply) -> dict[str, str]:
    return {} if reply.cost_usd is None else {_COST_HEADER: f"{reply.cost_usd:f}"}


def _request_id(request: Request) -> dict[str, str]:
    """The header that names a request, as the API of its path has it."""
    return {DIALECTS[request.url.path].request_id_header: new_request_id()}


async def _answer(
    request: Request,
    mesh: Mesh,
    call: WireCall,
    context: CallContext,
    group: str,
    *,
    begins_within: float | None = None,
) -> Response:
    """Make the call for its caller, and answer as its wire does.

    A stream begins with the first word of the model, or after `begins_within` seconds.
    """
    user = context.agent_id or LLM_SERVICE
    context = context.model_copy(update={"passed_over": call.passed_over})
    call_request = call.request.model_copy(update={"context": context, "user": user, "model": group})
    complete = partial(mesh.get(Model).complete, call_request)
    headers = _request_id(request)
    if call.streams:
        streamed = await _begun(request, StreamedCall(complete), begins_within)
        return ServerSentEvents(call.frames(streamed), streamed.end, headers)
    reply = await _unless_gone(request, complete())
    return JsonLine(call.whole(reply), headers=headers | _cost_header(reply))


async def _begun(request: Request, call: StreamedCall, seconds: float | None) -> StreamedCall:
    """The call once its answer begins to stream: an error before that has its own status."""
    try:
        await _unless_gone(request, call.begun(seconds))
    except BaseException:  # also where the server ends: nothing else would end the call
        await call.end()
        raise
    return call


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Do the work while the client is there to read the answer. Raises ClientDisconnect."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Wait until the client has closed its connection; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Probes

probes = make_router("health", is_open=True)


@probes.get("/healthz", summary="Is the process alive?")
async def _alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok", "version": __version__}


@probes.get(
    "/readyz",
    summary="Does it take tasks?",
    responses=problems({503: "It is starting, stopping or draining, or its store is away."}),
)
async def _ready(mesh: ReadyMesh) -> dict[str, str]:
    """Answer with 200 while the mesh takes tasks."""
    if mesh.state == "draining":
        raise Draining("This process begins no more work", remedy="Stop it, or release it: mesh release")
    if not mesh.takes_tasks:
        raise Draining(
            "The store of this mesh is away, or its lease was lost", remedy="Ask again in a moment"
        )
    return {"status": "ready"}


@probes.get("/health", summary="Is a model available?")
async def _llm_alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok"}
