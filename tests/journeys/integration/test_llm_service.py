"""The llm-service by need, its keys, its worker, its agent and its client."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from meshwright import Agent
from meshwright.agents.loader import load_agents
from meshwright.core.errors import Draining, ModelError
from meshwright.core.messages import Usage
from meshwright.edges.http.app import create_llm_app
from meshwright.mesh.app import process_role
from meshwright.models.errors import (
    AllProvidersDown,
    BudgetExceeded,
    ContextTooLong,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
)
from meshwright.models.port import ModelReply
from meshwright.money.costs import CostQuery
from meshwright.money.keys import Keys
from meshwright.money.spending import Spending
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, Failing, Service, service
from tests.support.settings import Settings

PRICE = {"input": 1, "output": 30}  # dollars per million tokens: a call may cost three cents
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def there(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, model="http", litellm_base_url=fake.url) as running:
        yield running


# By need


async def test_complete_answers_by_how_good_the_model_has_to_be(there: Service, fake: FakeProvider) -> None:
    asked = {"model": "quality", "messages": HELLO, "tenant_id": "acme"}
    status, document = await there.post("/complete", asked)
    assert status == 200
    assert document.keys() == {"content", "model", "usage"}
    assert document["usage"] == {"prompt_tokens": 11, "completion_tokens": 7}
    [call] = fake.calls
    assert (call.body["model"], call.body["user"]) == ("quality", "llm-service")
    assert call.body["metadata"]["tenant_id"] == "acme"


@pytest.mark.parametrize(
    "error", [AllProvidersDown("gone"), ModelUnavailable("gone"), ModelTimeout("late")], ids=type
)
async def test_complete_says_that_all_providers_are_down(tmp_path: Path, error: ModelError) -> None:
    async with service(tmp_path, answering=Failing(error)) as there:
        answer = await there.post("/complete", {"model": "fast", "messages": HELLO})
    assert answer == (503, {"error": "All providers unavailable"})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BudgetExceeded("empty", budget="day"), 402),
        (RateLimited("slow", retry_after_seconds=200), 429),
        (ContextTooLong("long"), 502),
    ],
)
async def test_complete_tells_other_errors_as_problems(
    tmp_path: Path, error: ModelError, status: int
) -> None:
    async with service(tmp_path, answering=Failing(error)) as there:
        found, document = await there.post("/complete", {"model": "fast", "messages": HELLO})
    assert (found, document["code"]) == (status, error.code)


async def test_complete_knows_two_models(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there:
        status, document = await there.post("/complete", {"model": "best", "messages": HELLO})
    assert (status, document["field"]) == (422, "model")


async def test_a_client_that_leaves_complete_closes_the_providers_connection(
    there: Service, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(kind="hang"))
    asking = asyncio.create_task(there.post("/complete", {"model": "fast", "messages": HELLO}))
    await fake.arrived.wait()
    asking.cancel()
    await asyncio.wait_for(fake.abandoned.wait(), 60)


# Keys


async def test_without_a_key_only_this_machine_is_let_in_and_only_while_there_is_none(tmp_path: Path) -> None:
    asked = {"model": "fast", "messages": HELLO}
    async with service(tmp_path, answering=ScriptedModel("one", "two")) as there:
        assert (await there.post("/complete", asked))[0] == 200
        for name in ("X-Forwarded-For", "Forwarded", "Via"):
            assert (await there.post("/complete", asked, **{name: "1.1.1.1"}))[0] == 401
        made = await there.mesh.get(Keys).create("helper")
        assert (await there.post("/complete", asked))[0] == 401
        with pytest.raises(openai.AuthenticationError) as raised:
            async with there.client("none") as client:
                await client.models.list()
        assert raised.value.code == "invalid_api_key"
        assert (await there.post("/complete", asked, Authorization=f"Bearer {made.key}"))[0] == 200
        await there.mesh.get(Keys).revoke(made.key_id)
        for shown in ({}, {"Authorization": f"Bearer {made.key}"}):
            assert (await there.post("/complete", asked, **shown))[0] == 401


async def test_a_key_says_whose_call_it_is(tmp_path: Path) -> None:
    model = ScriptedModel("one", "two")
    async with service(tmp_path, answering=model, default_price=PRICE) as there:
        made = await there.mesh.get(Keys).create("helper", tenant_id="acme", budget="5.00/day")
        async with there.client(made.key) as client:
            create = partial(client.chat.completions.create, model="fast", messages=HELLO)
            await create(user="somebody-else")
            await create(extra_body={"tenant_id": "acme"})
            with pytest.raises(openai.PermissionDeniedError):
                await create(extra_body={"tenant_id": "other"})
        status, _ = await there.post(
            "/complete",
            {"model": "fast", "messages": HELLO, "tenant_id": "other"},
            Authorization=f"Bearer {made.key}",
        )
        requests = model.requests
    assert status == 403
    assert {(request.user, request.context.tenant_id) for request in requests} == {("helper", "acme")}
    assert requests[0].context.key_id == made.key_id
    assert requests[0].context.budgets == (made.budget,)


async def test_a_key_spends_no_more_than_its_budget(tmp_path: Path) -> None:
    used = Usage(prompt_tokens=20, completion_tokens=666)
    reply = ModelReply(content="Hello!", model="m", usage=used, cost_usd=Decimal("0.02"))
    model = ScriptedModel(*[reply] * 20)
    async with service(tmp_path, answering=model, default_price=PRICE) as there:
        made = await there.mesh.get(Keys).create("helper", budget="0.10/day")
        free = await there.mesh.get(Keys).create("helper")
        async with there.client(made.key) as client:
            create = partial(client.chat.completions.create, model="fast", messages=HELLO, max_tokens=1024)
            calls = [create() for _ in range(10)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
        refused = [end for end in ends if isinstance(end, openai.RateLimitError)]
        assert {end.code for end in refused} == {"insufficient_quota"}
        assert all(made.key_id.lower() in str(end) for end in refused)
        assert 1 <= len(model.requests) == 10 - len(refused) <= 5
        async with there.client(free.key) as client:
            await client.chat.completions.create(model="fast", messages=HELLO)


async def test_every_call_is_in_the_ledger_of_its_tenant_also_one_that_was_left(
    there: Service, fake: FakeProvider
) -> None:
    made = await there.mesh.get(Keys).create("helper", tenant_id="acme")
    fake.faults.append(Fault(kind="stall"))
    async with there.client(made.key) as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await fake.abandoned.wait()
        await client.chat.completions.create(model="fast", messages=HELLO)
    while (costs := await there.mesh.get(Spending).costs(CostQuery("acme"))).total.calls < 2:
        await asyncio.sleep(0.01)  # a call is logged while its answer is on its way
    assert [(cost.key, cost.calls, cost.failed) for cost in costs.items] == [("helper", 2, 1)]
    assert (await there.mesh.get(Spending).costs(CostQuery("default"))).total.calls == 0


# Its own worker


async def test_the_worker_of_the_llm_service_serves_models_and_nothing_else(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel("Hello!"), make_app=create_llm_app) as there:
        for path, expected in (("/health", 200), ("/readyz", 200), ("/v1/models", 200), ("/tasks", 404)):
            async with there.session.get(path) as response:
                assert response.status == expected, path
                if path == "/health":
                    assert await response.json() == {"status": "ok"}
        assert (await there.post("/complete", {"model": "fast", "messages": HELLO}))[0] == 200


def test_the_app_llm_service_has_its_agent_and_no_other_part() -> None:
    role = process_role(Settings(), "llm-service", ["simple-agent", "llm-service"])
    assert (role.apps, role.is_front) == ({"llm-service"}, False)


async def test_a_mesh_that_stops_takes_no_calls(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there, there.client(max_retries=0) as client:
        there.mesh.ready = False
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO)
    assert (raised.value.status_code, raised.value.code) == (503, Draining.__name__)
    assert raised.value.response.headers["retry-after"] == "1"


# Its agent


@pytest.fixture(scope="module")
def agent() -> type[Agent]:
    [agent] = [each for each in load_agents(ROOT / "actors") if each.agent_id == "llm-service"]
    return agent


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        ({"text": "Hello?"}, "Hello?"),
        ({"messages": HELLO}, "Hello?"),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": "Yes."},
                    {"role": "user", "content": "So?"},
                ]
            },
            "user: Hello?\n\nassistant: Yes.\n\nuser: So?",
        ),
    ],
)
async def test_the_agent_answers_by_one_plain_call(
    agent: type[Agent], payload: dict[str, Any], asked: str
) -> None:
    model = ScriptedModel("Hello!")
    async with mesh_for(agent, model=model, project=ROOT) as mesh:
        receipt = await mesh.submit(capability="completion", payload=payload)
        outcome = await mesh.outcome(receipt.task_id)
    [request] = model.requests
    assert (outcome.text, request.messages[-1].content) == ("Hello!", asked)
    assert (request.model, request.tools, request.user) == ("quality", (), "llm-service")


@pytest.mark.parametrize(
    "payload", [{}, {"messages": []}, {"messages": ["Hello?"]}, {"messages": [{"role": "user"}]}]
)
async def test_the_agent_says_what_it_needs(agent: type[Agent], payload: dict[str, Any]) -> None:
    async with mesh_for(agent, project=ROOT, orchestration={"max_attempts": 1}) as mesh:
        receipt = await mesh.submit(capability="completion", payload=payload)
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.error is not None
    assert "payload.messages" in outcome.error.message
