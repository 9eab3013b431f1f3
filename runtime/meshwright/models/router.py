"""Models by LiteLLM's Router inside this process: every provider, from one litellm_config.yaml."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from meshwright.errors import ConfigError, ModelError
from meshwright.models.config import FALLBACKS, LiteLLMConfig, missing_names, read_config, resolved
from meshwright.models.litellm_router import (
    OverLimit,
    close_clients_of,
    connection_of,
    discard,
    id_in_file,
    import_litellm,
    make_router,
)
from meshwright.models.port import (
    BEGIN_ANEW,
    ContentRefused,
    ContextTooLong,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    OnDelta,
    Unauthorized,
)
from meshwright.models.prices import Prices
from meshwright.models.routing import check, deployments_of, next_groups, route
from meshwright.models.stream import Pieces, TooMuch
from meshwright.models.translation import SOURCE, ended, over_limit, translated
from meshwright.models.wire import completion_body, not_a_completion, read_completion

MEND = "fallbacks"
MAX_REPLY_CHARS = 4 * 1024 * 1024
# Settings of the file's other section that the Router takes as arguments.
SHARED = ("allowed_fails",)
# What the Router would do by itself, and the mesh does: fall back, retry, and cache for each tenant apart.
OURS = frozenset(
    {*FALLBACKS, "default_fallbacks", "max_fallbacks", "num_retries", "retry_policy"}
    | {"model_group_retry_policy", "enable_weighted_failover", "cache_responses", "caching_groups"}
)


class Step(NamedTuple):
    """Deployments that are asked together: a group's, or those of it with one `order`."""

    group: str
    order: int | None = None


class RouterModel:
    """Calls LiteLLM's Router. It is imported at the first call (about two seconds), in a thread.

    A deployment whose key or address is not in the environment is left out. The Router picks a deployment;
    the fallbacks of the file are followed here, and only after errors that another deployment can mend:
    LiteLLM would ask the next one after a bad request too. One attempt a call (fallbacks are a part of it),
    within the request's own deadline. No error holds a key or a prompt.
    """

    def __init__(
        self,
        config: Path | LiteLLMConfig,
        *,
        environment: Mapping[str, str] | None = None,
        prices: Prices | None = None,
        why: str = "",
    ) -> None:
        """Read and check the file. Raises ConfigError: also without LiteLLM, or with no usable deployment."""
        if not litellm_is_installed():
            raise ConfigError(
                "The in-process router needs LiteLLM, which is not installed",
                remedy="In a checkout of Meshwright: pip install -e '.[litellm]'",
                field="model",
            )
        self.environment = os.environ if environment is None else environment
        self.config = read_config(config) if isinstance(config, Path) else config
        self.prices = prices or Prices.of(self.config, None)
        self.deployments = usable_deployments(self.config, self.environment)
        share = f"{len(self.deployments)} of {len(self.config.deployments)} deployments"
        self._usable = {each["model_info"]["id"] for each in self.deployments}
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
                on_delta(BEGIN_ANEW)
            try:
                reply = await self._ask(router, step, request, on_delta)
                return reply.model_copy(update={"attempts": len(errors) + 1})
            except ModelError as error:
                errors.append(error)
                following = self._following(step, error, request, seen)
                if not following and not error.retryable:
                    raise
                steps[:0] = following
        raise ended(errors, request)

    def _following(self, step: Step, error: ModelError, request: ModelRequest, seen: set[str]) -> list[Step]:
        """Who is asked after an error: the group's next order, then its fallbacks for this kind of error."""
        kind = kind_of(error)
        if kind == MEND and not error.retryable and self._can_call(step.group):
            return []
        orders = self._orders_after(step, request) if kind == MEND else []
        groups = [each for each in next_groups(self.config, step.group, kind) if each not in seen]
        seen.update(groups)
        return [*orders, *map(Step, groups)]

    def _can_call(self, group: str) -> bool:
        deployments = deployments_of(self.config, group) or ()
        return any(each["model_info"]["id"] in self._usable for each in deployments)

    def _orders_after(self, step: Step, request: ModelRequest) -> list[Step]:
        if step.order is not None:  # its siblings wait already
            return []
        asked = route(self.config, self.environment, step.group, request.tags).asked
        orders = sorted({each.order for each in asked if each.order is not None})
        return [Step(step.group, order) for order in orders[1:]]

    async def _ask(
        self, router: Any, step: Step, request: ModelRequest, on_delta: OnDelta | None
    ) -> ModelReply:
        """Have the Router call one deployment."""
        if not self._can_call(step.group):
            raise Unauthorized(f"The key or address of every deployment of model {step.group!r} is missing")
        try:
            return await self._called(router, step, request, on_delta)
        except OverLimit:
            raise over_limit(step.group) from None
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its providers' clients raise
            raise translated(error, step.group, request.tags) from None

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
        return self._read(pieces.body(), response, request)

    def _read(self, body: dict[str, Any], response: Any, request: ModelRequest) -> ModelReply:
        hidden = response._hidden_params
        deployment = id_in_file(hidden.get("model_id"))
        reply = read_completion(body, model=request.model, source=SOURCE, deployment=deployment)
        cost = self.prices.of_reply(reply, request)
        return reply if cost is None else reply.model_copy(update={"cost_usd": cost, "cost_source": "priced"})

    def _build(self) -> Any:
        try:
            litellm = import_litellm()
        except ImportError as error:
            remedy = "Install it anew: pip install --force-reinstall litellm"
            raise ConfigError(f"LiteLLM cannot be imported: {error}", remedy=remedy) from error
        settings = {**shared_settings(self.config), **self.config.router_settings}
        if unknown := sorted(settings.keys() - set(litellm.Router.get_valid_args())):
            raise self._refusal(f"LiteLLM's Router knows no {unknown[0]!r}", unknown[0])
        if missing := sorted(missing_names(settings, self.environment)):
            raise self._refusal(f"{missing[0]} is not set in the environment")
        deployments = [each for each in self.deployments if has_keys(each, litellm.validate_environment)]
        if not deployments:
            raise no_deployment(self.config, set())
        self._usable = {each["model_info"]["id"] for each in deployments}
        self.prices.load()
        kept = {name: value for name, value in settings.items() if name not in OURS}
        try:
            return make_router(deployments, resolved(kept, self.environment))
        except Exception as error:  # noqa: BLE001 - of a value that it does not accept, it raises anything
            raise self._refusal(f"LiteLLM's Router does not accept them ({type(error).__name__})") from None

    def _refusal(self, message: str, setting: str = "") -> ConfigError:
        # No word of LiteLLM's own: it may quote a deployment, and with it the key.
        line = self.config.lines.get(setting) or self.config.lines.get("")
        return ConfigError(f"router_settings: {message}", path=str(self.config.path), line=line)

    def _arguments(self, step: Step, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        # A fresh copy: the Router writes into metadata, and would merge one call's tags into the next.
        body = copy.deepcopy(completion_body(request, stream=stream))
        del body["tags"]  # in process the Router routes by metadata.tags; these it would pass on as unknown
        order = {} if step.order is None else {"_target_order": step.order}
        drop_params = self.config.litellm_settings.get("drop_params", False)
        own = {"model": step.group, "num_retries": 0, "max_retries": 0, "drop_params": drop_params}
        return {**body, **own, **order}


def kind_of(error: ModelError) -> str:
    """The kind of fallbacks in the file that an error leads to."""
    if isinstance(error, ContextTooLong):
        return "context_window_fallbacks"
    return "content_policy_fallbacks" if isinstance(error, ContentRefused) else MEND


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


def litellm_is_installed() -> bool:
    """Whether the extra is there; asks without importing it."""
    return importlib.util.find_spec("litellm") is not None


def usable_deployments(config: LiteLLMConfig, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The deployments of which every reference is set, resolved. Raises ConfigError if there are none."""
    usable = [
        resolved(each, environment) for each in config.deployments if not missing_names(each, environment)
    ]
    if not usable:
        raise no_deployment(config, missing_names(list(config.deployments), environment))
    return usable


def no_deployment(config: LiteLLMConfig, missing: set[str]) -> ConfigError:
    """The error for a configuration of which nothing can be called."""
    names = f"one of {', '.join(sorted(missing))}" if missing else "the keys of its providers"
    return ConfigError(
        "the key or address of every deployment is missing", path=str(config.path), remedy=f"Set {names}"
    )


def has_keys(deployment: Mapping[str, Any], validate_environment: Any) -> bool:
    """Whether LiteLLM finds the provider's key; a missing one would later look like a server's fault."""
    params = deployment["litellm_params"]
    given = {name: params.get(name) for name in ("api_key", "api_base")}
    return bool(given["api_key"]) or not validate_environment(params["model"], **given)["missing_keys"]


def shared_settings(config: LiteLLMConfig) -> dict[str, Any]:
    """The Router's arguments that a file may also give under `litellm_settings`."""
    settings = config.litellm_settings
    shared = {name: settings[name] for name in SHARED if name in settings}
    return {**shared, "timeout": settings["request_timeout"]} if "request_timeout" in settings else shared
