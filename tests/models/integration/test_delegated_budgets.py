"""A task's budget holds for all that it delegates: at a provider that counts what it has earned."""

from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.models.errors import BudgetExceeded
from tests.support.fake_provider import FakeProvider
from tests.support.http_mesh import Api, http_mesh

USAGE = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}
PRICE = {"input": "10", "output": "20"}
EARNED = Decimal("0.011")  # by the provider, for each call
BUDGET = Decimal("0.25")


class Spender(Agent):
    """Asks until its budget refuses."""

    agent_id = "spender"
    capabilities = (Capability("spending"),)
    most = 30

    async def run(self, run: Run) -> str:
        for n in range(self.most):
            await run.ask(f"Question {n}?")
        return "spent"


class Modest(Spender):
    """Asks twice."""

    agent_id = "modest"
    capabilities = (Capability("saving"),)
    most = 2


class Broker(Agent):
    """Has all of it done by others, then spends what is left."""

    agent_id = "broker"
    capabilities = (Capability("brokering"),)
    delegates_to = ("spender", "modest")

    async def run(self, run: Run) -> str:
        await run.ask("Who?")
        await run.delegate("modest", "Ask.")
        with suppress(ToolFailed):
            await run.delegate("spender", "Spend.")
        with suppress(BudgetExceeded):
            await run.ask("And now?")
        return "done"


class Failing(Broker):
    """Fails once another has spent."""

    agent_id = "failing"
    capabilities = (Capability("brokering", preferred=True),)

    async def run(self, run: Run) -> str:
        await run.delegate("modest", "Ask.")
        raise ToolFailed("not today")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(usage=USAGE) as fake:
        yield fake


@pytest.fixture
async def api(tmp_path: Path, fake: FakeProvider) -> AsyncIterator[Api]:
    agents = Spender, Modest, Broker, Failing
    settings = {"model": "http", "litellm_base_url": fake.url, "default_price": PRICE}
    async with http_mesh(tmp_path, *agents, **settings) as api:
        yield api


async def children_of(api: Api, task_id: str) -> list[dict[str, Any]]:
    tasks = (await api.get("/tasks"))["items"]
    ids = [task["task_id"] for task in tasks if task["parent_task_id"] == task_id]
    return [await api.get(f"/tasks/{child_id}") for child_id in ids]


async def test_a_task_and_all_that_it_delegates_stay_within_its_budget(api: Api, fake: FakeProvider) -> None:
    task_id = await api.finished(agent_id="broker", payload={"text": "Go."}, budget_usd=str(BUDGET))
    outcome = (await api.get(f"/tasks/{task_id}"))["outcome"]
    earned = EARNED * len(fake.calls)
    assert BUDGET / 2 < earned <= BUDGET
    assert Decimal(outcome["cost_usd"]) == earned
    assert outcome["usage"]["completion_tokens"] == 500 * len(fake.calls)
    spent = {child["outcome"]["agent_id"]: child["outcome"] for child in await children_of(api, task_id)}
    assert Decimal(spent["modest"]["cost_usd"]) == 2 * EARNED
    assert spent["spender"]["error"]["type"] == "BudgetExceeded"
    [account] = [each for each in (await api.get("/budgets"))["items"] if each["key"] == task_id]
    assert (Decimal(account["spent_usd"]), Decimal(account["limit_usd"])) == (earned, BUDGET)


async def test_another_attempt_has_only_what_the_first_left(api: Api, fake: FakeProvider) -> None:
    task_id = await api.finished(capability="brokering", payload={"text": "Go."}, budget_usd=str(BUDGET))
    view = await api.get(f"/tasks/{task_id}")
    earned = EARNED * len(fake.calls)
    assert [attempt["agent_id"] for attempt in view["attempts"]] == ["failing", "broker"]
    assert Decimal(view["attempts"][0]["cost_usd"]) == 2 * EARNED
    assert BUDGET / 2 < earned <= BUDGET
    assert Decimal(view["outcome"]["cost_usd"]) == earned


async def test_a_child_draws_on_the_budget_of_its_root_and_has_none_of_its_own(api: Api) -> None:
    task_id = await api.finished(agent_id="broker", payload={"text": "Go."}, budget_usd=str(BUDGET))
    dispatched = (await api.get("/events", event_type="task.dispatched"))["items"]
    given = {event["agent_id"]: event["payload"]["task"] for event in dispatched}
    assert given["broker"]["budget_usd"] == str(BUDGET)
    for child in ("modest", "spender"):
        assert given[child].get("budget_usd") is None
        [above] = given[child]["budgets_above"]
        assert (above["task_id"], above["limit_usd"]) == (task_id, str(BUDGET))
