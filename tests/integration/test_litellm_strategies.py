"""Strategies and limits of `router_settings`, by LiteLLM's real Router: who gets how many calls."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.models.litellm_router import LISTS
from meshwright.models.port import AllProvidersDown, ChatMessage, ModelRequest
from meshwright.models.router import RouterModel
from tests.support.fake_provider import TOKENS, FakeProvider

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
BY_USAGE = ["usage-based-routing", "usage-based-routing-v2"]
STRATEGIES = ["simple-shuffle", "least-busy", "latency-based-routing", "cost-based-routing", *BY_USAGE]
CALL = TOKENS["total_tokens"]
TOLD_SECONDS = 0.1  # LiteLLM tells of an answer's tokens after its end, from a queue
Make = Callable[..., RouterModel]


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def make(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes Routers of one group; its deployments are those named, all at the fake."""
    made: list[RouterModel] = []

    def make(strategy: str, deployments: dict[str, dict[str, Any]], **settings: Any) -> RouterModel:
        path = tmp_path / f"config{len(made)}.yaml"
        model_list = [deployment(fake, name, **params) for name, params in deployments.items()]
        router_settings = {"routing_strategy": strategy, **settings}
        path.write_text(yaml.safe_dump({"model_list": model_list, "router_settings": router_settings}))
        made.append(RouterModel(path, environment={}))
        return made[-1]

    yield make
    for model in made:
        await model.close()


def deployment(fake: FakeProvider, name: str, **params: Any) -> dict[str, Any]:
    common = {"model": f"openai/{name}", "api_base": f"{fake.at(name)}/v1", "api_key": "sk-fake"}
    return {"model_name": "default", "litellm_params": {**common, **params}}


async def calls(model: RouterModel, count: int, pause: float = 0, **fields: Any) -> Counter[str]:
    """Make calls one after the other; how many of each kind came of them."""
    came: Counter[str] = Counter()
    for _ in range(count):
        came[await call(model, **fields)] += 1
        await asyncio.sleep(pause)
    return came


async def call(model: RouterModel, *, stream: bool = False, tags: tuple[str, ...] = ()) -> str:
    request = ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="me", tags=tags)
    try:
        reply = await model.complete(request, unheard if stream else None)
    except AllProvidersDown as down:
        assert down.retry_after_seconds and down.retry_after_seconds < 61 - time.time() % 60
        return "refused"
    assert reply.content
    return "answered"


def unheard(text: str) -> None: ...


async def a_minute_with(seconds: float) -> None:
    """Wait until as much is left of this minute: the counts begin anew with the next one."""
    left = 60 - time.time() % 60
    if left < seconds:
        await asyncio.sleep(left)


def shares(fake: FakeProvider) -> dict[str, int]:
    return dict(Counter(call.of for call in fake.calls))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_as_many_calls_a_minute_get_through_as_rpm_says_and_none_more(
    make: Make, fake: FakeProvider, strategy: str
) -> None:
    for at_once in (False, True):
        fake.calls.clear()
        model = make(strategy, {"small": {"rpm": 2}, "big": {"rpm": 5}})
        await model.load()
        await a_minute_with(10)
        came = (
            Counter(await asyncio.gather(*(call(model) for _ in range(12))))
            if at_once
            else await calls(model, 12)
        )
        assert came == {"answered": 7, "refused": 5}
        assert shares(fake) == {"small": 2, "big": 5}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_no_call_begins_once_a_minutes_tokens_are_used(
    make: Make, fake: FakeProvider, strategy: str, stream: bool
) -> None:
    model = make(strategy, {"small": {"tpm": 2 * CALL}, "big": {"tpm": 4 * CALL}})
    await model.load()
    await a_minute_with(10)
    assert await calls(model, 9, TOLD_SECONDS, stream=stream) == {"answered": 6, "refused": 3}
    assert shares(fake) == {"small": 2, "big": 4}


@pytest.mark.parametrize("strategy", BY_USAGE)
async def test_calls_go_where_the_fewest_tokens_were_used(
    make: Make, fake: FakeProvider, strategy: str
) -> None:
    model = make(strategy, {"one": {}, "other": {}})
    await model.load()
    await a_minute_with(10)
    assert await calls(model, 6, TOLD_SECONDS) == {"answered": 6}
    assert shares(fake) == {"one": 3, "other": 3}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_tags_pick_whatever_the_strategy(make: Make, fake: FakeProvider, strategy: str) -> None:
    tagged = {"plain": {"tags": ["default"]}, "frugal": {"tags": ["cheap"]}}
    model = make(strategy, tagged, enable_tag_filtering=True)
    assert await calls(model, 6, tags=("cheap",)) == {"answered": 6}
    assert shares(fake) == {"frugal": 6}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_model_may_have_a_colon_in_its_name(make: Make, strategy: str) -> None:
    model = make(strategy, {"mistral": {"model": "openai/mistral:7b", "rpm": 2}})
    await model.load()
    await a_minute_with(10)
    assert await calls(model, 3) == {"answered": 2, "refused": 1}


@pytest.mark.parametrize("strategy", BY_USAGE)
async def test_a_group_may_have_a_strategy_of_its_own(make: Make, fake: FakeProvider, strategy: str) -> None:
    groups = [{"group_name": "even", "models": ["default"], "routing_strategy": strategy}]
    model = make("simple-shuffle", {"one": {}, "other": {}}, routing_groups=groups)
    await model.load()
    await a_minute_with(10)
    assert await calls(model, 8, TOLD_SECONDS) == {"answered": 8}
    assert shares(fake) == {"one": 4, "other": 4}


async def test_a_limit_is_counted_once_though_the_file_asks_litellm_to_enforce_it(
    make: Make, fake: FakeProvider
) -> None:
    enforced = {"optional_pre_call_checks": ["enforce_model_rate_limits"]}
    model = make("usage-based-routing-v2", {"small": {"rpm": 2}}, **enforced)
    await model.load()
    await a_minute_with(10)
    assert await calls(model, 3) == {"answered": 2, "refused": 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_strategy_leaves_neither_callbacks_nor_loops_behind(make: Make, strategy: str) -> None:
    def left() -> tuple[int, int]:
        import litellm

        gc.collect()
        loops = sum(isinstance(each, asyncio.AbstractEventLoop) for each in gc.get_objects())
        return sum(len(getattr(litellm, name, [])) for name in LISTS), loops

    kept = []
    for _ in range(3):
        model = make(strategy, {"small": {"rpm": 9}})
        assert await calls(model, 1) == {"answered": 1}
        await model.close()
        kept.append(left())
    assert kept[1:] == kept[:1] * 2
