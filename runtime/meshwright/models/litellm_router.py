"""LiteLLM's Router, confined: what it does in secret, and for other Routers, is switched off here."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.models.litellm_limits import BY_USAGE, counting_class, counts, usage_of

ENFORCE = "enforce_model_rate_limits"
LISTS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
"""Where LiteLLM keeps what it calls on each call of the process, of whichever Router it is."""
COUNTER = itertools.count(1)


class OverLimit(Exception):
    """No deployment has a call left in this minute by the file's own limits; none was made."""


def make_router(deployments: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Any:
    """Make a Router that only picks a deployment and calls it, once; imported LiteLLM is at hand.

    It neither retries, nor falls back, nor caches: who calls it does that. The limits of the file (rpm, tpm)
    hold whatever the strategy. Raises what LiteLLM raises for a value that it does not accept.
    """
    arguments = copy.deepcopy(dict(settings))
    checks = arguments.get("optional_pre_call_checks") or []
    arguments["optional_pre_call_checks"] = [each for each in checks if each != ENFORCE]  # it is ours below
    if arguments.get("routing_strategy") in BY_USAGE:
        arguments["routing_strategy"] = "usage-based-routing-v2"  # for the older one LiteLLM ignores tags
    name = str(next(COUNTER))
    router = confined_class()(model_list=[prepared(each, name) for each in deployments], **arguments)
    router.usage = usage_of(router) if counts(deployments, arguments) else None
    router.own = adopted(router, name)
    return router


def discard(router: Any) -> None:
    """Take everything of a Router out of LiteLLM's globals."""
    import litellm

    router.discard()
    for name in LISTS:
        callbacks = getattr(litellm, name, [])
        callbacks[:] = [each for each in callbacks if not holds(router.own, each)]


def prepared(deployment: Mapping[str, Any], router: str) -> dict[str, Any]:
    """A deployment as the Router gets it.

    Its id is of this Router alone, since the process's Routers hear of one another's calls and tell them
    apart by id only. The mesh owns the retries.
    """
    params = {**deployment["litellm_params"], "max_retries": 0, "num_retries": 0}
    info = {**deployment.get("model_info", {})}
    return {**deployment, "litellm_params": params, "model_info": {**info, "id": f"{info['id']}@{router}"}}


def id_in_file(deployment: str | None) -> str | None:
    """The id that the file gives a deployment, of that which a Router gave it."""
    return deployment.rpartition("@")[0] if deployment else None


def confined_class() -> Any:
    """The class of our Routers: LiteLLM's, without what reaches over into others of the process."""
    counting: Any = counting_class()

    class ConfinedRouter(counting):
        """Heeds its own limits and strategy alone: LiteLLM asks those of every Router of the process."""

        own: tuple[Any, ...] = ()
        """The callbacks that this Router has made."""

        async def async_get_available_deployment(
            self, model: str, request_kwargs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            """Pick a deployment that has a call left in this minute. Raises OverLimit."""
            order = request_kwargs.get("_target_order")
            for _ in self.model_list:
                picked = await super().async_get_available_deployment(model, request_kwargs, *args, **kwargs)
                if self.usage is None or await self.usage.takes_a_call(picked):
                    return picked
                request_kwargs |= {} if order is None else {"_target_order": order}
            raise OverLimit

        async def async_routing_strategy_pre_call_checks(self, *args: Any, **kwargs: Any) -> None:
            """Ask nobody: our limits were counted when the deployment was picked, others' are not ours."""

        async def async_callback_filter_deployments(
            self,
            model: str,
            healthy_deployments: list[Any],
            messages: Any,
            parent_otel_span: Any,
            request_kwargs: Any = None,
            logging_obj: Any = None,
        ) -> list[Any]:
            """Let our own checks alone narrow the choice."""
            for each in self.own:
                healthy_deployments = await each.async_filter_deployments(
                    model=model,
                    healthy_deployments=healthy_deployments,
                    messages=messages,
                    request_kwargs=request_kwargs,
                    parent_otel_span=parent_otel_span,
                )
            return healthy_deployments

        async def async_function_with_fallbacks_common_utils(
            self, e: Exception, *args: Any, **kwargs: Any
        ) -> Any:
            """Fall back to nothing: LiteLLM would for a bad request too, and within a stream."""
            raise e

        async def _acompletion_streaming_iterator(
            self, model_response: Any, messages: Any, initial_kwargs: Any
        ) -> Any:
            """Hand out the stream itself: LiteLLM has the next model write on where it broke."""
            return model_response

    return ConfinedRouter


def connection_of(stream: Any) -> Any:
    """The reply that a stream is read from, where LiteLLM does not close it: it reads its lines alone.

    To be asked for before the first is read. None where the stream closes it itself.
    """
    lines = getattr(stream.completion_stream, "streaming_response", None)
    frame = getattr(lines, "ag_frame", None)
    return frame.f_locals.get("self") if frame else None


def adopted(router: Any, name: str) -> tuple[Any, ...]:
    """The callbacks that a Router has made, and have LiteLLM call them.

    It leaves out one that looks like another Router's, so each is given a name in its looks.
    """
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    made = [*vars(router).values(), *(router.optional_callbacks or [])]
    made += [each for group in router._group_selectors.values() for each in group.values()]
    own: dict[int, Any] = {id(each): each for each in made if isinstance(each, CustomLogger)}
    for each in own.values():
        each.router_name = name
        if not holds(litellm.callbacks, each):
            litellm.callbacks.append(each)
    return tuple(own.values())


def holds(callbacks: Iterable[Any], callback: Any) -> bool:
    """Whether this very callback is among them."""
    return any(each is callback for each in callbacks)
