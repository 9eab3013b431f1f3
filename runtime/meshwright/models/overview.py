"""What `mesh models` shows, as plain data: what there is, where a call goes, and whether each answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.core.errors import MeshError
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO
from meshwright.models.config import LiteLLMConfig
from meshwright.models.errors import Unsupported
from meshwright.models.port import ChatMessage, Model, ModelReply, ModelRequest, PriceList, ToolSpec
from meshwright.models.prices import Prices, Rates
from meshwright.models.routing import WHEN, check, deployment_id, fallbacks_of, missing_of, route, tags_of

Document = dict[str, Any]
_UNKNOWN = {"status": "unknown"}
"""The health of a deployment without calls so far."""
_AT_ONCE = 4
_TOOL = ToolSpec(name="ok", description="Does nothing.", parameters={"type": "object", "properties": {}})
_PROBE = ModelRequest(
    messages=(ChatMessage(role="user", content="Say ok"),),
    user="mesh-models-test",
    max_tokens=16,  # enough for a whole call of the tool: some providers refuse one that is cut off
    timeout_seconds=30.0,
    cache=False,
)


def groups_document(
    config: LiteLLMConfig,
    prices: Prices,
    environment: Mapping[str, str] | None,
    health: Mapping[str, Document],
) -> list[Document]:
    """Every group: its deployments, and which groups follow it after which error."""
    names = sorted(config.groups, key=lambda name: (name != "default", name))
    return [
        {
            "group": name,
            "deployments": [
                {
                    "deployment": deployment_id(each),
                    "model": each["litellm_params"]["model"],
                    "tags": list(tags_of(each)),
                    "weight": each["litellm_params"].get("weight"),
                    "order": each["litellm_params"].get("order"),
                    "price": _price(prices.of_deployment(each)),
                    "missing": list(missing_of(each, environment)),
                    "health": health.get(deployment_id(each), _UNKNOWN),
                }
                for each in config.deployments
                if each["model_name"] == name
            ],
            "fallbacks": {kind: list(fallbacks_of(config, name, kind)) for kind in WHEN},
        }
        for name in names
    ]


def explanation(
    config: LiteLLMConfig, environment: Mapping[str, str] | None, group: str, tags: Sequence[str]
) -> Document:
    """Where a call goes. Raises ModelRefused for a group or a tag that the file does not have."""
    check(config, ModelRequest(model=group, messages=(), tags=tuple(tags), user="mesh models route"))
    return {"tags": list(tags), **route(config, environment, group, tags).document()}


async def probe_all(model: Model, groups: Sequence[str], prices: PriceList) -> list[Document]:
    """Probe each group, some at a time, and return the results in the order of the groups."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(group: str) -> Document:
        async with places:
            return await _probe(model, group, prices)

    return list(await asyncio.gather(*map(one, groups)))


async def _probe(model: Model, group: str, prices: PriceList) -> Document:
    """Call a group as agents do: plainly, streamed, and with a tool, for a few tokens each.

    `usage` and `cost_usd` are of all three, `latency_ms` is the first one's. An error has our name for
    it, with the kind of call that met it, and not raised. `tools` says whether the model takes any.
    """
    plain = _PROBE.model_copy(update={"model": group})
    begun = time.perf_counter()
    kind, took, tools = "", None, True
    replies: list[ModelReply] = []
    try:
        replies.append(await model.complete(plain))
        took = _milliseconds_since(begun)
        kind = "streamed: "
        replies.append(await model.complete(plain, _pass_over))
        kind = "with a tool: "
        try:
            replies.append(await model.complete(plain.model_copy(update={"tools": (_TOOL,)})))
        except Unsupported:  # agents then describe their tools as text
            tools = False
    except MeshError as error:
        return {
            "deployment": group,
            "ok": False,
            "latency_ms": _milliseconds_since(begun) if took is None else took,
            "error": {"type": error.code, "message": f"{kind}{error}"},
        }
    return {
        "deployment": group,
        "ok": True,
        "model": replies[0].model,
        "latency_ms": took,
        "usage": sum((reply.usage for reply in replies), Usage()).model_dump(mode="json"),
        "cost_usd": _cost(replies, plain, prices),
        "tools": tools,
    }


def _pass_over(text: str) -> None: ...


def _milliseconds_since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)


def _cost(replies: Sequence[ModelReply], request: ModelRequest, prices: PriceList) -> str | None:
    """What the calls cost, in dollars: as was reported, else by our prices; None if unknown."""
    costs = [
        prices.of_reply(reply, request)
        if reply.cost_usd is None and reply.cost_source != "estimated"
        else reply.cost_usd
        for reply in replies
    ]
    known = [cost for cost in costs if cost is not None]
    return f"{sum(known, ZERO):f}" if len(known) == len(costs) else None


def _price(rates: Rates | None) -> Document | None:
    """A price in dollars per million tokens, as text; `above` holds for prompts of more tokens than that."""
    if rates is None:
        return None
    above = [{"prompt_tokens": limit, **price.model_dump(mode="json")} for limit, price in rates.above]
    return {**rates.base.model_dump(mode="json"), "source": rates.source, "above": above}
