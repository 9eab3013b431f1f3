"""The context-service: the actor that plans by rules, and the client that has a text compressed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from pydantic import BaseModel

from meshwright.actor import Actor, Turn, turn
from meshwright.context import validation
from meshwright.context.plan import DEFAULT_RULES, Rules, plan
from meshwright.context.request import (
    CompressionMethod,
    CompressRequest,
    CompressResponse,
    CompressStats,
    Plan,
)
from meshwright.context.text import count_tokens
from meshwright.envelope import ActorRef
from meshwright.errors import MailboxFull, MeshError
from meshwright.kernel.runtime import Runtime
from meshwright.models.port import CallContext, ChatMessage, Model, ModelReply, ModelRequest
from meshwright.prompts import Prompts

CONTEXT_SERVICE = "context-service"
_COMPRESSION_TAGS = ("compression",)
_COMPRESSION_TIMEOUT_SECONDS = 30.0
_BUSY_SECONDS = 0.01

_ModelSource = Model | Callable[[], Model | None] | None


class NoState(BaseModel):
    """The context-service remembers nothing between requests."""


class ContextService(Actor[NoState]):
    """Plans what a receiver is told. Its type is `context-service`, its id the tenant's."""

    def __init__(self, ref: ActorRef, rules: Rules = DEFAULT_RULES) -> None:
        super().__init__(ref)
        self._rules = rules

    @turn
    def plan(self, turn: Turn, request: CompressRequest) -> Plan:
        """Apply the rules to a request. Changes nothing, so there is nothing to commit."""
        return plan(request, self._rules)


class ContextClient:
    """Has requests compressed: planned by the actor, and over the ceiling shortened by a model.

    `model` is a model, or what gives the one to use now; None is a mesh without a compression model. It is
    called outside of any turn, and given `timeout_seconds`.
    """

    def __init__(
        self,
        host: Runtime,
        model: _ModelSource,
        prompts: Prompts,
        *,
        timeout_seconds: float = _COMPRESSION_TIMEOUT_SECONDS,
    ) -> None:
        self._host = host
        self._model = model
        self._prompts = prompts
        self._timeout_seconds = timeout_seconds

    async def compress(
        self,
        request: CompressRequest,
        *,
        tenant_id: str = "default",
        traceparent: str | None = None,
        context: CallContext | None = None,
    ) -> CompressResponse:
        """Make the context for a request's receiver. `context` is what a call of the model is known by.

        Never fails because of the model: without a valid shorter text the answer is the deterministic one,
        whole, and says why. Raises what `Runtime.call` raises, but waits where the service is too busy.
        """
        started = time.perf_counter()
        made = await self._plan(request, tenant_id, traceparent)
        if not made.over_ceiling:
            return _response(made, started, "deterministic")
        model = self._model() if callable(self._model) else self._model
        if model is None:
            return _response(made, started, "deterministic-fallback", error="there is no compression model")
        known = context or CallContext(tenant_id=tenant_id)
        known_by = known.model_copy(update={"purpose": "compression"})
        ask = partial(self._model_request, made, request, known_by)
        return await self._shortened(made, model, ask, started)

    async def _plan(self, request: CompressRequest, tenant_id: str, traceparent: str | None) -> Plan:
        ref = ActorRef(CONTEXT_SERVICE, tenant_id)
        while True:
            try:
                reply = await self._host.call(ref, "plan", request, traceparent=traceparent)
            except MailboxFull:  # a thousand runs that begin at once all ask the same actor
                await asyncio.sleep(_BUSY_SECONDS)
            else:
                return reply if isinstance(reply, Plan) else Plan.model_validate(reply)

    async def _shortened(
        self, made: Plan, model: Model, ask: Callable[[], ModelRequest], started: float
    ) -> CompressResponse:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await model.complete(ask())
        except Exception as failure:  # noqa: BLE001 an adapter's own mistake must not cost the task its context
            error = f"no model could shorten it{self._reason(failure)}"
        else:
            text = reply.content.strip()
            problem = _unfinished(reply) or validation.problem(text, made)
            if problem is None:
                return _response(made, started, "model", text=text)
            error = f"the model's text is not valid: {problem}"
        return _response(made, started, "deterministic-fallback", error=error)

    def _reason(self, failure: Exception) -> str:
        if isinstance(failure, TimeoutError):
            return f" within {self._timeout_seconds:g} seconds"
        if isinstance(failure, MeshError):
            return f": {failure.code}: {failure.message}"
        return f": {type(failure).__name__}"  # its message may hold a key

    def _model_request(self, made: Plan, request: CompressRequest, context: CallContext) -> ModelRequest:
        prompt = self._prompts.get(CONTEXT_SERVICE)
        values = {"sender": request.sender, "receiver": request.receiver}
        return ModelRequest(
            model=prompt.model,
            messages=(
                ChatMessage(role="system", content=prompt.render_from(values)),
                ChatMessage(role="user", content=made.text),
            ),
            tags=_COMPRESSION_TAGS,
            user=CONTEXT_SERVICE,
            context=context,
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
            timeout_seconds=self._timeout_seconds,
            cache=prompt.cache,
        )


def _unfinished(reply: ModelReply) -> str | None:
    return "it was cut off" if reply.finish_reason == "length" else None


def _response(
    made: Plan,
    started: float,
    method: CompressionMethod,
    *,
    text: str | None = None,
    error: str | None = None,
) -> CompressResponse:
    output_tokens = made.output_tokens if text is None else count_tokens(text)
    # Built here, from checked parts: no second check on the way of every task.
    return CompressResponse.model_construct(
        success=True,
        compressed_context=made.text if text is None else text,
        method=method,
        stats=CompressStats.model_construct(
            input_tokens=made.input_tokens,
            output_tokens=output_tokens,
            ratio=round(output_tokens / made.input_tokens, 4),
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        ),
        validation_passed=method != "deterministic-fallback",
        error=error,
    )
