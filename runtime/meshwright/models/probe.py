"""Trying each deployment once: does it answer, how fast, and what did that cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from meshwright.errors import MeshError
from meshwright.models.config import LiteLLMConfig
from meshwright.models.groups import deployment_id
from meshwright.models.port import ChatMessage, Model, ModelReply, ModelRequest
from meshwright.models.prices import Prices

AT_ONCE = 4
TIMEOUT_SECONDS = 30.0
PROMPT = (ChatMessage(role="user", content="Say ok"),)
USER = "mesh-models-test"


def each_alone(config: LiteLLMConfig, deployments: Iterable[dict[str, Any]]) -> LiteLLMConfig:
    """A configuration in which each deployment is a group of its own, named by its id, without fallbacks."""
    alone = tuple(
        {
            **each,
            "model_name": deployment_id(each),
            "litellm_params": {
                name: value for name, value in each["litellm_params"].items() if name != "tags"
            },
        }
        for each in deployments
    )
    shared = {
        name: value for name, value in config.litellm_settings.items() if not name.endswith("fallbacks")
    }
    return replace(config, deployments=alone, router_settings={}, litellm_settings=shared, lines={})


async def probe_all(model: Model, groups: Sequence[str], prices: Prices) -> list[dict[str, Any]]:
    """Call each group once, some at a time, and say what came of it, in the order of the groups."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(group: str) -> dict[str, Any]:
        async with places:
            return await probe(model, group, prices)

    return list(await asyncio.gather(*map(one, groups)))


async def probe(model: Model, group: str, prices: Prices) -> dict[str, Any]:
    """Call a group once, for one token. An error is told by our name for it, and raised by nobody."""
    request = ModelRequest(
        model=group, messages=PROMPT, user=USER, max_tokens=1, timeout_seconds=TIMEOUT_SECONDS, cache=False
    )
    begun = time.perf_counter()
    try:
        reply = await model.complete(request)
    except MeshError as error:
        return {
            "deployment": group,
            "ok": False,
            "latency_ms": milliseconds_since(begun),
            "error": {"type": error.code, "message": str(error)},
        }
    return {
        "deployment": group,
        "ok": True,
        "model": reply.model,
        "latency_ms": milliseconds_since(begun),
        "usage": reply.usage.model_dump(mode="json"),
        "cost_usd": text_of_cost(reply, request, prices),
    }


def milliseconds_since(begun: float) -> float:
    """How long ago that was."""
    return round((time.perf_counter() - begun) * 1000, 1)


def text_of_cost(reply: ModelReply, request: ModelRequest, prices: Prices) -> str | None:
    """What the call cost, in dollars: as was reported, else by our prices; None where nobody knows."""
    cost = reply.cost_usd if reply.cost_usd is not None else prices.of_reply(reply, request)
    return None if cost is None else f"{cost:f}"
