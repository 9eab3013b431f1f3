"""Tokens that no provider has counted are estimated: they cost something, and hard budgets hold."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright.engine.events.filter import EventFilter
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, Service, service
from tests.support.running_mesh import mesh

PRICE = {"input": 100, "output": 100}
LIMIT = Decimal("0.05")
CALLS = 40
CONFIG = """\
model_list:
  - model_name: default
    litellm_params:
      model: openai/house-model
      api_key: none
      api_base: FAKE_URL
      input_cost_per_token: 1.0e-4
      output_cost_per_token: 1.0e-4
"""
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


@pytest.fixture(params=["http", "router"])
def adapter(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def calling(
    adapter: str, folder: Path, fake: FakeProvider, *budgets: dict[str, Any]
) -> AsyncIterator[Service]:
    (folder / "litellm_config.yaml").write_text(CONFIG.replace("FAKE_URL", f"{fake.url}/v1"))
    chosen = {"model": adapter, "litellm_base_url": fake.url, "default_price": PRICE, "budgets": [*budgets]}
    async with service(folder, **chosen) as there:
        yield there


async def status_of(there: Service, *, streamed: bool) -> int:
    """Make one call, read its answer to the end, and return its status."""
    body = {"model": "default", "messages": HELLO, "max_tokens": 50, "stream": streamed}
    async with there.session.post("/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status


async def costs_of(there: Service, calls: int) -> dict[str, Any]:
    tail = there.mesh.log.tail(EventFilter(event_type="model.called", after_seq=0))
    async for _ in tail:
        calls -= 1
        if not calls:
            break
    async with there.session.get("/costs") as response:
        return (await response.json())["total"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_hard_budget_holds_where_no_tokens_are_counted(
    adapter: str, streamed: bool, tmp_path: Path, fake: FakeProvider
) -> None:
    fake.usage = {}
    budget = {"name": "all", "limit_usd": str(LIMIT), "window": "total"}
    async with calling(adapter, tmp_path, fake, budget) as there:
        statuses = [await status_of(there, streamed=streamed) for _ in range(CALLS)]
        total = await costs_of(there, len(fake.calls))
    assert set(statuses) == {200, 429} and statuses.count(200) == len(fake.calls)
    assert LIMIT / 2 < Decimal(total["cost_usd"]) <= LIMIT
    assert total["estimated_usd"] == total["cost_usd"]
    assert total["prompt_tokens"] and total["completion_tokens"]


async def test_a_call_with_counted_tokens_is_not_estimated(
    adapter: str, tmp_path: Path, fake: FakeProvider
) -> None:
    async with calling(adapter, tmp_path, fake) as there:
        assert [await status_of(there, streamed=streamed) for streamed in (False, True)] == [200, 200]
        total = await costs_of(there, 2)
    assert (total["prompt_tokens"], total["completion_tokens"]) == (22, 14)
    assert (total["cost_usd"], total["estimated_usd"]) == ("0.0036", "0")


async def test_a_stream_that_broke_off_is_paid_though_the_next_answered(
    adapter: str, tmp_path: Path, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(kind="drop"))
    async with calling(adapter, tmp_path, fake) as there:
        assert await status_of(there, streamed=True) == 200
        total = await costs_of(there, 1)
    assert (len(fake.calls), total["prompt_tokens"]) == (2, 22)
    assert total["completion_tokens"] > 7
    assert Decimal(total["cost_usd"]) == Decimal(total["estimated_usd"]) > Decimal("0.0018")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -90_000_000, "completion_tokens": 0},
        {"prompt_tokens": 10**12, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 1e30},
        {"prompt_tokens": 5, "completion_tokens": 5, "cost": -810},
    ],
    ids=["negative", "huge", "float", "cost"],
)
async def test_absurd_usage_is_estimated_and_named_in_the_log(
    adapter: str, usage: dict[str, Any], streamed: bool, tmp_path: Path, fake: FakeProvider
) -> None:
    fake.usage = usage
    budget = {"name": "all", "limit_usd": "5", "window": "total"}
    async with calling(adapter, tmp_path, fake, budget) as there:
        assert [await status_of(there, streamed=streamed) for _ in range(3)] == [200, 200, 200]
        total = await costs_of(there, 3)
        async with there.session.get("/budgets") as response:
            [spent] = (await response.json())["items"]
        events = await there.mesh.log.query(EventFilter(event_type="model.called"))
        lines = (await mesh("events", "--type", "model.called", "--url", there.url)).out
    assert spent["spent_usd"] == total["cost_usd"] == total["estimated_usd"] == spent["estimated_usd"]
    assert 0 < Decimal(spent["spent_usd"]) < Decimal("0.1")
    assert all("cannot be" in event.fields["reason"] for event in events)
    assert lines.count("cannot be") == 3


async def test_an_absurd_cost_of_a_proxy_is_estimated(tmp_path: Path, fake: FakeProvider) -> None:
    fake.headers = {"x-litellm-response-cost": "999999"}
    budget = {"name": "all", "limit_usd": "5", "window": "total"}
    async with calling("http", tmp_path, fake, budget) as there:
        assert [await status_of(there, streamed=False) for _ in range(3)] == [200, 200, 200]
        total = await costs_of(there, 3)
    assert (total["cost_usd"], total["estimated_usd"]) == ("0.0054", "0.0054")


async def test_estimated_costs_are_marked_on_the_command_line(tmp_path: Path, fake: FakeProvider) -> None:
    fake.usage = {}
    async with calling("http", tmp_path, fake) as there:
        await status_of(there, streamed=False)
        told = await mesh("costs", "--url", there.url)
    heads, *_, total = [line.split() for line in told.out.splitlines()]
    costs = dict(zip(heads, total, strict=True))
    assert costs["known"] == "$0"
    assert costs["estimated"].startswith("$0.0")
