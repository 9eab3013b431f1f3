"""Several Routers of LiteLLM in one process, and many calls of one: limits, globals and the import."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from meshwright.errors import ModelError
from meshwright.models.litellm_router import LISTS
from meshwright.models.port import AllProvidersDown, RateLimited
from meshwright.models.router import RouterModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.litellm_routers import (
    TIERS,
    Make,
    asked,
    deployment,
    own_router,
    request,
    routers,
    three,
)

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with routers(tmp_path) as make:
        yield make


@pytest.fixture
async def own(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[RouterModel]:
    async with own_router(tmp_path, fake) as model:
        yield model


async def test_deployments_that_cool_down_are_said_to(make: Make, fake: FakeProvider) -> None:
    settings = {"allowed_fails": 0, "cooldown_time": 60}
    deployments = [deployment(fake, "default", model) for model in (TIERS["cheap"], TIERS["medium"])]
    model = make(deployments, router_settings=settings)
    fake.faults.extend(Fault(status=429) for _ in range(2))
    for _ in range(2):
        with pytest.raises(RateLimited):
            await model.complete(request())
    with pytest.raises(AllProvidersDown, match="cooling down") as down:
        await model.complete(request())
    assert down.value.retry_after_seconds and down.value.retry_after_seconds > 0
    assert len(fake.calls) == 2


async def test_a_limit_of_requests_a_minute_holds_though_all_come_at_once(
    make: Make, fake: FakeProvider
) -> None:
    small, big = three(fake)[:2]
    small["model_name"] = big["model_name"] = "default"
    small["litellm_params"]["rpm"], big["litellm_params"]["rpm"] = 2, 5
    model = make([small, big], router_settings={"cooldown_time": 60})
    results = await asyncio.gather(*(model.complete(request()) for _ in range(20)), return_exceptions=True)
    assert [type(each) for each in results if isinstance(each, ModelError)] == [AllProvidersDown] * 13
    assert sorted(asked(fake)) == ["gpt-5.4"] * 5 + ["gpt-5.4-mini"] * 2


@pytest.mark.parametrize("strategy", ["least-busy", "latency-based-routing", "simple-shuffle"])
async def test_two_routers_share_neither_limits_nor_cooldowns(
    make: Make, fake: FakeProvider, strategy: str
) -> None:
    """LiteLLM keeps the checks of all Routers of a process in one list, and asks them all."""
    settings = {"routing_strategy": strategy, "allowed_fails": 0, "cooldown_time": 60}
    limited = deployment(fake, "default", TIERS["medium"], rpm=1)
    one, other = make([limited], router_settings=settings), make([limited])
    assert (await one.complete(request())).content
    with pytest.raises(AllProvidersDown):
        await one.complete(request())
    assert (await other.complete(request())).content
    with pytest.raises(AllProvidersDown):  # its own limit holds as well
        await other.complete(request())
    third, fourth = (make(three(fake), router_settings=settings) for _ in range(2))
    fake.faults.append(Fault(status=429))
    with pytest.raises(RateLimited):
        await third.complete(request(model="quality"))
    with pytest.raises(AllProvidersDown):
        await third.complete(request(model="quality"))
    assert (await fourth.complete(request(model="quality"))).content


async def test_a_closed_router_leaves_nothing_in_litellms_globals(make: Make, fake: FakeProvider) -> None:
    async def left() -> list[int]:
        import litellm

        return [len(getattr(litellm, name)) for name in LISTS if hasattr(litellm, name)]

    settings = {"routing_strategy": "latency-based-routing"}
    first = make([deployment(fake, "default", TIERS["medium"], rpm=9)], router_settings=settings)
    await first.complete(request())
    await first.close()
    before = await left()
    for _ in range(3):
        again = make([deployment(fake, "default", TIERS["medium"], rpm=9)], router_settings=settings)
        await again.complete(request())
        await again.close()
    assert await left() == before


async def test_closing_one_router_leaves_another_at_work(make: Make, fake: FakeProvider) -> None:
    one, other = (make([deployment(fake, "default", TIERS["medium"])]) for _ in range(2))
    await asyncio.gather(one.complete(request()), other.complete(request()))
    await one.close()
    assert (await other.complete(request())).content


async def test_a_caller_who_gives_up_while_litellm_is_imported_stops_nobody_else(own: RouterModel) -> None:
    first, second = (asyncio.create_task(own.complete(request())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).content


def test_importing_the_adapter_imports_no_litellm_and_using_it_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_AN_ENV_FILE=1\n")
    code = """
import asyncio, os, sys, pathlib
from meshwright.models.router import RouterModel
assert "litellm" not in sys.modules
model = RouterModel(pathlib.Path("c.yaml"), environment={"FAKE_KEY": "k"})
assert "litellm" not in sys.modules
asyncio.run(model.load())
assert "litellm" in sys.modules
assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
assert "FROM_AN_ENV_FILE" not in os.environ
"""
    params = {"model": "openai/gpt-5.4-mini", "api_key": "os.environ/FAKE_KEY"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
