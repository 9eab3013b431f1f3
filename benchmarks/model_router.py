"""The Router adapter of the model port beside a bare `Router.acompletion`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, column, compared
from benchmarks.load import drive
from benchmarks.model_http import make_request
from benchmarks.sides import side
from meshwright.models.router import RouterModel

IN_FLIGHT = 32
SECONDS, WARM_UP_SECONDS = 1.5, 0.3
WATCH_SECONDS = 0.002
WHAT = f"model port in process (Router), {IN_FLIGHT} in flight"
STALL = "event loop held up by the Router's first call, at most"
MAX_STALL_MS = 50
CONFIG = """
model_list:
  - model_name: default
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {url}/v1
      api_key: none-needed
      tags: [bench]
router_settings:
  enable_tag_filtering: true
"""


async def measure(bench: Bench) -> list[Row]:
    if importlib.util.find_spec("litellm") is None:
        return [Row(WHAT, "not run: litellm is not installed")]
    async with side("benchmarks.provider:serve") as provider:
        url = (await provider.next())["url"]
        arguments = {"url": url, "seconds": bench.seconds(SECONDS)}
        rounds = await bench.in_turns(
            {
                "ours": partial(bench.side, "benchmarks.model_router:ours", **arguments),
                "floor": partial(bench.side, "benchmarks.model_router:by_hand", **arguments),
            }
        )
        first = await bench.in_turns({"first": partial(bench.side, "benchmarks.model_router:first", url=url)})
    stall = column(first["first"], "stall_ms", "ms")
    return [
        Row(STALL, stall, "", "", f"<= {MAX_STALL_MS} ms", stall.median <= MAX_STALL_MS),
        compared(
            WHAT,
            column(rounds["ours"], "rate", "calls/s"),
            column(rounds["floor"], "rate", "calls/s"),
            target=">= 0.9",
            meets=lambda share, median: share >= 0.9,
        ),
    ]


async def ours(folder: str, url: str, seconds: float) -> dict[str, float]:
    """The adapter."""
    model, request = RouterModel(configured(Path(folder), url)), make_request()
    await model.load()

    async def call() -> None:
        assert (await model.complete(request)).content

    try:
        return await measured(call, seconds)
    finally:
        await model.close()


async def first(folder: str, url: str) -> dict[str, float]:
    """How long the loop stood still while LiteLLM was imported and made its first call, at most."""
    model, gaps = RouterModel(configured(Path(folder), url)), [0.0]
    watching = asyncio.create_task(watch(gaps))
    try:
        await model.complete(make_request())
    finally:
        watching.cancel()
        await model.close()
    return {"stall_ms": max(gaps) * 1000}


async def watch(gaps: list[float]) -> None:
    """Note how much later than it should have each short sleep ended."""
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(WATCH_SECONDS)
        gaps.append(time.perf_counter() - begun - WATCH_SECONDS)


def configured(folder: Path, url: str) -> Path:
    path = folder / "litellm_config.yaml"
    path.write_text(CONFIG.format(url=url))
    return path


async def by_hand(folder: str, url: str, seconds: float) -> dict[str, float]:
    """The Router itself, with the same deployment and settings, and the same call."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import yaml
    from litellm import Router

    from meshwright.models.wire import completion_body

    config = yaml.safe_load(CONFIG.format(url=url))
    router: Any = Router(model_list=config["model_list"], num_retries=0, **config["router_settings"])
    body = completion_body(make_request())
    tags = body.pop("tags")

    async def call() -> None:
        metadata = {**body["metadata"], "tags": list(tags)}  # the Router writes into it
        reply = await router.acompletion(**{**body, "metadata": metadata, "max_retries": 0})
        assert reply.choices[0].message.content

    return await measured(call, seconds)


async def measured(call: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    """The rate, once the clients are made: the first calls take half a second."""
    await asyncio.gather(*(call() for _ in range(IN_FLIGHT)))
    seen = await drive(call, in_flight=IN_FLIGHT, seconds=seconds, warm_up_seconds=WARM_UP_SECONDS)
    return seen.summary()
