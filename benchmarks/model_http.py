"""The HTTP adapter of the model port beside its HTTP client, on a provider that answers at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp
from pydantic_core import from_json, to_json

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column, compared
from benchmarks.instant import QUESTION
from benchmarks.load import drive
from benchmarks.sides import run_side, side
from meshwright.models.openai import ProxyCompletions
from meshwright.models.port import CallContext, ChatMessage, ModelRequest
from meshwright.models.server import HttpModel

SECONDS, WARM_UP_SECONDS = 1.0, 0.3
CONCURRENCY = (32, 128)
MAX_ADDED_MS, MIN_SHARE = 0.15, 0.8


async def measure(bench: Bench) -> list[Row]:
    async with side("benchmarks.provider:serve") as provider:
        arguments = {"url": (await provider.next())["url"], "seconds": bench.seconds(SECONDS)}
        rounds = await bench.in_turns(
            {
                "ours": partial(run_side, "benchmarks.model_http:ours", **arguments),
                "floor": partial(run_side, "benchmarks.model_http:by_hand", **arguments),
            }
        )
    ours, floor = rounds["ours"], rounds["floor"]
    rows = [
        compared(
            f"model port over HTTP, {count} in flight",
            column(ours, f"rate_{count}", "calls/s"),
            column(floor, f"rate_{count}", "calls/s"),
            target=">= 0.8",
            meets=lambda share, median: share >= MIN_SHARE,
        )
        for count in CONCURRENCY
    ]
    return [*rows, added_row(ours, floor)]


def added_row(ours: list[dict[str, Any]], floor: list[dict[str, Any]]) -> Row:
    """What a call takes more of the CPU than the bare client's."""
    mine, theirs = (column(rounds, "cpu_ms_32", "ms CPU", 3) for rounds in (ours, floor))
    added = Figure([a - b for a, b in zip(mine.values, theirs.values, strict=True)], "ms", 3)
    return Row(
        "model port over HTTP, a call",
        mine,
        theirs,
        f"+{added.median:.3f} ms",
        "<= +0.15 ms",
        added.median <= MAX_ADDED_MS,
    )


async def ours(url: str, seconds: float) -> dict[str, float]:
    """The adapter."""
    model, request = HttpModel(url), make_request()

    async def call() -> None:
        assert (await model.complete(request)).content

    try:
        return await at_each(call, seconds)
    finally:
        await model.close()


async def by_hand(url: str, seconds: float) -> dict[str, float]:
    """The bare client: encode, post, decode."""
    body = ProxyCompletions().body(make_request(), stream=False)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call() -> None:
            async with session.post(f"{url}/v1/chat/completions", data=to_json(body)) as response:
                assert from_json(await response.read())["choices"][0]["message"]["content"]

        return await at_each(call, seconds)


async def at_each(call: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    """The rate and the CPU of a call at each number in flight."""
    results: dict[str, float] = {}
    for count in CONCURRENCY:
        used = time.process_time()
        seen = await drive(call, in_flight=count, seconds=seconds, warm_up_seconds=WARM_UP_SECONDS)
        results[f"rate_{count}"] = seen.summary()["rate"]
        results[f"cpu_ms_{count}"] = (time.process_time() - used) / seen.total * 1000
    return results


def make_request() -> ModelRequest:
    """A call as an agent makes it."""
    return ModelRequest(
        model="default",
        messages=(
            ChatMessage(role="system", content="You are an agent that does tasks for people. " * 20),
            ChatMessage(role="user", content=QUESTION),
        ),
        tags=("bench",),
        user="bench-agent",
        context=CallContext(task_id="01J0000000000000000000TASK", attempt=1, step=2),
    )
