"""The routing in front of the HTTP adapter, beside a bare HTTP client."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column
from benchmarks.model_http import at_each, make_request
from benchmarks.sides import run_side, side
from meshwright.models.picker import Picker

SECONDS = 1.0
MAX_ADDED_MS = 0.2
CONFIG = """
model_list:
  - model_name: default
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "{url}/v1", api_key: none, tags: [bench]}}
  - model_name: default
    litellm_params: {{model: openai/gpt-4o, api_base: "{url}/v1", api_key: none, tags: [bench]}}
router_settings:
  enable_tag_filtering: true
"""


async def measure(bench: Bench) -> list[Row]:
    async with side("benchmarks.provider:serve") as provider:
        url = (await provider.next())["url"]
        arguments = {"url": url, "seconds": bench.seconds(SECONDS)}
        rounds = await bench.in_turns(
            {
                "ours": partial(bench.side, "benchmarks.model_picker:ours", **arguments),
                "floor": partial(run_side, "benchmarks.model_http:by_hand", **arguments),
            }
        )
    return [added_row(rounds["ours"], rounds["floor"])]


def added_row(ours: list[dict[str, Any]], floor: list[dict[str, Any]]) -> Row:
    """What a call takes more of the CPU than the bare client's."""
    mine, theirs = (column(rounds, "cpu_ms_32", "ms CPU", 3) for rounds in (ours, floor))
    added = Figure([a - b for a, b in zip(mine.values, theirs.values, strict=True)], "ms", 3)
    return Row(
        "routing in process, a call",
        mine,
        theirs,
        f"+{added.median:.3f} ms",
        f"<= +{MAX_ADDED_MS} ms",
        added.median <= MAX_ADDED_MS,
    )


async def ours(folder: str, url: str, seconds: float) -> dict[str, float]:
    """The picker and the adapter."""
    path = Path(folder) / "litellm_config.yaml"
    path.write_text(CONFIG.format(url=url))
    model = Picker(path, environment={})
    request = make_request()

    async def call() -> None:
        assert (await model.complete(request)).content

    try:
        return await at_each(call, seconds)
    finally:
        await model.close()
