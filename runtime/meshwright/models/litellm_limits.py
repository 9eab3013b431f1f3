"""What deployments have used in this minute: by it the limits of the file hold, and the least used is known.

LiteLLM's own counting forgets the tokens of streams. Its strategy by usage counts tokens twice where there
are limits, stops one call short of `rpm`, cannot call a model with a colon in its name, and starts an event
loop that nobody ends.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

LIMITS = ("rpm", "tpm")
BY_USAGE = frozenset({"usage-based-routing", "usage-based-routing-v2"})


def counts(deployments: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> bool:
    """Whether a Router has to count: for a limit of a deployment, or for its strategy."""
    groups = settings.get("routing_groups") or []
    strategies = {each.get("routing_strategy") for each in (settings, *groups)}
    return bool(strategies & BY_USAGE) or any(limited(each) for each in deployments)


def limited(deployment: Mapping[str, Any]) -> bool:
    """Whether the file limits how often a deployment is called."""
    places = (deployment, deployment["litellm_params"], deployment.get("model_info") or {})
    return any(place.get(name) is not None for place in places for name in LIMITS)


def counting_class() -> Any:
    """LiteLLM's Router, which asks our count where it goes by usage."""
    from litellm import Router

    class CountingRouter(Router):
        """The same, but for its strategies by usage."""

        usage: Any = None
        """What counts for it, where that is needed."""

        def _build_strategy_selector(self, strategy: Any, *args: Any, **kwargs: Any) -> Any:
            if strategy in BY_USAGE:
                return None
            return super()._build_strategy_selector(strategy, *args, **kwargs)

        async def _select_deployment_async(
            self, *, strategy: str | None, healthy_deployments: list[Any], **rest: Any
        ) -> Any:
            if strategy in BY_USAGE:
                return await self.usage.least_used(healthy_deployments)
            return await super()._select_deployment_async(
                strategy=strategy, healthy_deployments=healthy_deployments, **rest
            )

    return CountingRouter


def usage_of(router: Any) -> Any:
    """What counts for a Router, in its cache; imported LiteLLM is at hand."""
    from litellm import RateLimitError
    from litellm.router_utils.pre_call_checks.model_rate_limit_check import (
        ModelRateLimitingCheck,
        RoutingArgs,
    )
    from litellm.utils import get_utc_datetime

    def minute() -> str:
        return get_utc_datetime().strftime("%H-%M")

    class Usage(ModelRateLimitingCheck):
        """Calls are counted as they begin, tokens when LiteLLM tells of an answer: soon after its end."""

        def _get_cache_keys(self, deployment: dict[str, Any], current_minute: str) -> tuple[str, str]:
            # By the id alone: LiteLLM does not tell the model of a stream.
            name = deployment["model_info"]["id"]
            return f"{name}:tpm:{current_minute}", f"{name}:rpm:{current_minute}"

        async def async_log_success_event(
            self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            """Count the tokens of an answer."""
            told = kwargs.get("standard_logging_object") or {}
            if told.get("model_id") and told.get("total_tokens"):
                key, _ = self._get_cache_keys({"model_info": {"id": told["model_id"]}}, minute())
                await self.dual_cache.async_increment_cache(key, told["total_tokens"], ttl=RoutingArgs.ttl)

        async def takes_a_call(self, deployment: dict[str, Any]) -> bool:
            """Count a call of a deployment; one that has none left rests until the next minute."""
            try:
                await self.async_pre_call_check(deployment, None)
            except RateLimitError as error:
                name, left = deployment["model_info"]["id"], 60 - time.time() % 60
                router.cooldown_cache.add_deployment_to_cooldown(name, error, 429, left)
                return False
            return True

        async def least_used(self, deployments: Sequence[dict[str, Any]]) -> dict[str, Any]:
            """The deployment that used the fewest tokens; chance decides among equals."""
            now = minute()
            keys = [self._get_cache_keys(each, now)[0] for each in deployments]
            known = await self.dual_cache.async_batch_get_cache(keys) or [None] * len(keys)
            used = [tokens or 0 for tokens in known]
            least = min(used)
            return random.choice(
                [each for each, tokens in zip(deployments, used, strict=True) if tokens == least]
            )

    return Usage(router.cache)
