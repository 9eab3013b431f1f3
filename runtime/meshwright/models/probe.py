"""Trying each deployment: does it answer, stream and call tools, how fast, and what did that cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from meshwright.errors import MeshError
from meshwright.messages import Usage
from meshwright.models.port import (
    ChatMessage,
    Model,
    ModelReply,
    ModelRequest,
    PriceList,
    ToolSpec,
    Unsupported,
)
from meshwright.money import ZERO

AT_ONCE = 4
TIMEOUT_SECONDS = 30.0
MAX_TOKENS = 16  # enough for a whole call of the tool: some providers refuse one that is cut off
PROMPT = (ChatMessage(role="user", content="Say ok"),)
TOOL = ToolSpec(name="ok", description="Does nothing.", parameters={"type": "object", "properties": {}})
USER = "mesh-models-test"


async def probe_all(model: Model, groups: Sequence[str], prices: PriceList) -> list[dict[str, Any]]:
    """Probe each group, some at a time, and say what came of it, in the order of the groups."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(group: str) -> dict[str, Any]:
        async with places:
            return await probe(model, group, prices)

    return list(await asyncio.gather(*map(one, groups)))


async def probe(model: Model, group: str, prices: PriceList) -> dict[str, Any]:
    """Call a group as agents do: plainly, streamed, and with a tool, for a few tokens each.

    `usage` and `cost_usd` are of all three, `latency_ms` is the first one's. An error is told by our name for
    it, with the kind of call that met it, and not raised. `tools` says whether the model takes any.
    """
    plain = ModelRequest(
        model=group,
        messages=PROMPT,
        user=USER,
        max_tokens=MAX_TOKENS,
        timeout_seconds=TIMEOUT_SECONDS,
        cache=False,
    )
    begun = time.perf_counter()
    kind, took, tools = "", None, True
    replies: list[ModelReply] = []
    try:
        replies.append(await model.complete(plain))
        took = milliseconds_since(begun)
        kind = "streamed: "
        replies.append(await model.complete(plain, _pass_over))
        kind = "with a tool: "
        try:
            replies.append(await model.complete(plain.model_copy(update={"tools": (TOOL,)})))
        except Unsupported:  # agents then describe their tools in words
            tools = False
    except MeshError as error:
        return {
            "deployment": group,
            "ok": False,
            "latency_ms": milliseconds_since(begun) if took is None else took,
            "error": {"type": error.code, "message": f"{kind}{error}"},
        }
    return {
        "deployment": group,
        "ok": True,
        "model": replies[0].model,
        "latency_ms": took,
        "usage": sum((reply.usage for reply in replies), Usage()).model_dump(mode="json"),
        "cost_usd": text_of_cost(replies, plain, prices),
        "tools": tools,
    }


def _pass_over(text: str) -> None:
    """Take a piece of a streamed answer."""


def milliseconds_since(begun: float) -> float:
    """How long ago that was."""
    return round((time.perf_counter() - begun) * 1000, 1)


def text_of_cost(replies: Iterable[ModelReply], request: ModelRequest, prices: PriceList) -> str | None:
    """What the calls cost, in dollars: as was reported, else by our prices; None where nobody knows."""
    costs = [
        prices.of_reply(reply, request)
        if reply.cost_usd is None and reply.cost_source != "estimated"
        else reply.cost_usd
        for reply in replies
    ]
    known = [cost for cost in costs if cost is not None]
    return f"{sum(known, ZERO):f}" if len(known) == len(costs) else None
