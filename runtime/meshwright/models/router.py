"""Models by LiteLLM's Router inside this process: every provider, from one litellm_config.yaml."""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.errors import ModelError
from meshwright.models.config import LiteLLMConfig, read_config
from meshwright.models.fallbacks import Fallbacks, Step
from meshwright.models.litellm_import import close_clients_of
from meshwright.models.litellm_release import require_litellm
from meshwright.models.litellm_router import (
    OverLimit,
    connection_of,
    discard,
    id_in_file,
)
from meshwright.models.port import (
    STREAM_RESTART,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    OnDelta,
    Unauthorized,
)
from meshwright.models.prices import Prices
from meshwright.models.reasons import Discretion, secrets_in
from meshwright.models.router_setup import build_router, usable_deployments
from meshwright.models.routing import check
from meshwright.models.stream import Pieces, TooMuch
from meshwright.models.translation import SOURCE, ended, over_limit, translated
from meshwright.models.wire import completion_body, not_a_completion, read_completion

MAX_REPLY_CHARS = 4 * 1024 * 1024


class RouterModel:
    """Calls LiteLLM's Router. It is imported at the first call (about two seconds), in a thread.

    A deployment whose key or address is not in the environment is left out. The Router picks a deployment;
    the fallbacks of the file are followed here, and only after errors that another deployment can mend:
    LiteLLM would ask the next one after a bad request too. One attempt a call (fallbacks are a part of it),
    within the request's own deadline. No error holds a key or a prompt: see `reasons`.
    """

    def __init__(
        self,
        config: Path | LiteLLMConfig,
        *,
        environment: Mapping[str, str] | None = None,
        prices: Prices | None = None,
        why: str = "",
    ) -> None:
        """Read and check the file. Raises ConfigError: also without LiteLLM, with another release of it than
        the one that was tested, or with no usable deployment."""
        require_litellm()
        self.environment = os.environ if environment is None else environment
        self.config = read_config(config) if isinstance(config, Path) else config
        self.prices = prices or Prices.of(self.config, None)
        self.deployments = usable_deployments(self.config, self.environment)
        share = f"{len(self.deployments)} of {len(self.config.deployments)} deployments"
        self._discretion = Discretion([*secrets_in(self.deployments), *secrets_in(self.environment)])
        self._fallbacks = Fallbacks(self.config, self.environment, self.deployments)
        self.name = f"router {self.config.path.name} ({f'{why}; ' if why else ''}{share})"
        self._router: Any = None
        self._loading: asyncio.Task[Any] | None = None

    async def load(self) -> Any:
        """Import LiteLLM and build its Router, if that is not done; a call does it by itself. Returns it."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._build))
        self._router = await asyncio.shield(self._loading)  # one cancelled caller stops nobody else's load
        return self._router

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; cancelling it closes its connection. Raises ModelError, or ConfigError."""
        check(self.config, request)
        router = self._router or await self.load()
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                reply = await self._answer(router, request, on_delta)
        except TimeoutError:
            what = f"No reply from model {request.model!r} in {request.timeout_seconds:g} seconds"
            raise ModelTimeout(what) from None
        return reply.model_copy(update={"latency_ms": (time.perf_counter() - begun) * 1000})

    async def close(self) -> None:
        """Unhook the Router from LiteLLM's globals, and close the clients that this event loop uses.

        LiteLLM shares clients between Routers of a loop: another mesh on it makes itself new ones.
        """
        if self._loading is None:
            return
        await asyncio.wait([self._loading])
        loading, self._loading, self._router = self._loading, None, None
        if loading.exception() is None:  # else its callers were told, and there is nothing to close
            discard(loading.result())
            await close_clients_of(asyncio.get_running_loop())

    async def _answer(self, router: Any, request: ModelRequest, on_delta: OnDelta | None) -> ModelReply:
        """Ask the group, then whoever follows after its errors: a fallback's own before its sibling."""
        steps, seen = [Step(request.model)], {request.model}
        errors: list[ModelError] = []
        while steps:
            step = steps.pop(0)
            if errors and on_delta is not None:
                on_delta(STREAM_RESTART)
            try:
                reply = await self._ask(router, step, request, on_delta)
                return reply.model_copy(update={"attempts": len(errors) + 1})
            except ModelError as error:
                errors.append(error)
                following = self._fallbacks.after(step, error, request, seen)
                if not following and not error.retryable:
                    raise
                steps[:0] = following
        raise ended(errors, request)

    async def _ask(
        self, router: Any, step: Step, request: ModelRequest, on_delta: OnDelta | None
    ) -> ModelReply:
        """Have the Router call one deployment."""
        if not self._fallbacks.can_call(step.group):
            raise Unauthorized(f"The key or address of every deployment of model {step.group!r} is missing")
        try:
            return await self._called(router, step, request, on_delta)
        except OverLimit:
            raise over_limit(step.group) from None
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its providers' clients raise
            raise translated(error, step.group, request, self._discretion) from None

    async def _called(
        self, router: Any, step: Step, request: ModelRequest, on_delta: OnDelta | None
    ) -> ModelReply:
        arguments = self._arguments(step, request, stream=on_delta is not None)
        response = await router.acompletion(**arguments)
        if on_delta is None:
            return self._read(whole(response), response, request)
        pieces, connection = Pieces(on_delta, MAX_REPLY_CHARS), connection_of(response)
        try:
            async for chunk in response:
                pieces.add(chunk.model_dump())
        except TooMuch:
            raise ModelError(f"{SOURCE} sent a reply of more than {MAX_REPLY_CHARS:,} characters") from None
        finally:
            await response.aclose()
            if connection is not None:
                await connection.aclose()
        if response.received_finish_reason is None:  # LiteLLM would pass off what was cut off as an answer
            raise ModelUnavailable(f"The provider of model {step.group!r} broke off its reply")
        reply = self._read(pieces.body(), response, request)
        if any(getattr(chunk, "usage", None) for chunk in response.chunks):
            return reply
        return reply.model_copy(update={"cost_source": "estimated"})  # LiteLLM counts what no provider has

    def _read(self, body: dict[str, Any], response: Any, request: ModelRequest) -> ModelReply:
        hidden = response._hidden_params
        deployment = id_in_file(hidden.get("model_id"))
        reply = read_completion(body, model=request.model, source=SOURCE, deployment=deployment)
        if reply.cost_source == "estimated":
            return reply
        cost = self.prices.of_reply(reply, request)
        return reply if cost is None else reply.model_copy(update={"cost_usd": cost, "cost_source": "priced"})

    def _build(self) -> Any:
        router, deployments = build_router(self.config, self.environment, self.deployments)
        self._fallbacks.use(deployments)
        self.prices.load()
        return router

    def _arguments(self, step: Step, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        # A fresh copy: the Router writes into metadata, and would merge one call's tags into the next.
        body = copy.deepcopy(completion_body(request, stream=stream))
        del body["tags"]  # in process the Router routes by metadata.tags; these it would pass on as unknown
        order = {} if step.order is None else {"_target_order": step.order}
        drop_params = self.config.litellm_settings.get("drop_params", False)
        own = {"model": step.group, "num_retries": 0, "max_retries": 0, "drop_params": drop_params}
        return {**body, **own, **order}


def whole(response: Any) -> dict[str, Any]:
    """The body of a reply that LiteLLM has read; its objects are slow to write out, so only what is used."""
    try:
        choice, usage = response.choices[0], response.usage
        message = choice.message
        return {
            "model": response.model,
            "choices": [{"message": message_of(message), "finish_reason": choice.finish_reason}],
            "usage": usage.model_dump() if usage else None,
        }
    except (IndexError, AttributeError, TypeError):
        raise not_a_completion(SOURCE) from None


def message_of(message: Any) -> dict[str, Any]:
    """A message as the wire has it."""
    calls = [
        {"id": call.id, "function": {"name": call.function.name, "arguments": call.function.arguments}}
        for call in message.tool_calls or ()
    ]
    refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
    return {"content": message.content, "tool_calls": calls, "refusal": refusal}
