"""Tasks whose budget is empty fail, wait, ask for more, or go on with a cheaper model."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, Run, Task
from meshwright.core.errors import InvalidInput, NotFound
from meshwright.money.budgets import Budgets
from tests.support.fake_provider import FakeProvider
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh

USAGE = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}
PRICE = {"input": "10", "output": "20"}
TOKEN = "the-admin-token-of-this-test-is-long"
EARNED = Decimal("0.011")  # by the provider, for each call


class Clerk(Agent):
    """Asks three times."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)

    async def run(self, run: Run) -> str:
        for n in range(3):
            await run.ask(f"Question {n}?")
        return "asked"


class Scholar(Clerk):
    """The same, of an expensive model."""

    agent_id = "scholar"
    capabilities = (Capability("studying"),)

    def tags(self, task: Task) -> tuple[str, ...]:
        return "research", "expensive"


class Dean(Agent):
    """Has a scholar ask, on its own purse."""

    agent_id = "dean"
    capabilities = (Capability("heading"),)
    delegates_to = ("scholar",)

    async def run(self, run: Run) -> str:
        return await run.delegate("scholar", "Ask.")


class Chief(Agent):
    """Has four clerks ask at once."""

    agent_id = "chief"
    capabilities = (Capability("leading"),)
    delegates_to = ("clerk",)

    async def run(self, run: Run) -> str:
        answers = await run.gather(*[run.delegate("clerk", f"Ask {n}.") for n in range(4)])
        return " ".join(answers)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(usage=USAGE) as fake:
        yield fake


@pytest.fixture
async def api(tmp_path: Path, fake: FakeProvider) -> AsyncIterator[Api]:
    settings = {"model": "http", "litellm_base_url": fake.url, "default_price": PRICE}
    async with http_mesh(tmp_path, Clerk, Chief, Scholar, Dean, admin_token=TOKEN, **settings) as api:
        yield api


@pytest.fixture
async def admin(api: Api) -> AsyncIterator[Client]:
    async with Client(api.url, api_key=TOKEN) as admin:
        yield admin


async def submitted(api: Api, **fields: Any) -> str:
    return await api.submit(payload={"text": "Go."}, **fields)


async def parked(api: Api, count: int = 1) -> list[dict[str, Any]]:
    """The waits for money, once there are so many."""
    found: list[dict[str, Any]] = []
    async for event in api.client.stream(event_type="task.waiting", after_seq=0):
        if event.payload["kind"] == "money":
            found.append(event.payload)
            if len(found) == count:
                return found
    raise AssertionError


@pytest.mark.parametrize("on_empty", ["ask", "wait"])
async def test_a_task_that_waits_for_money_goes_on_once_its_budget_is_raised(
    api: Api, admin: Client, fake: FakeProvider, on_empty: str
) -> None:
    task_id = await submitted(api, agent_id="clerk", budget_usd="0.0001", on_empty=on_empty)
    [wait] = await parked(api)
    assert wait["subject"] == {
        "budget": "budget_usd",
        "account": f"budget_usd:{task_id}",
        "on_empty": on_empty,
        "of": task_id,
        "cheaper": False,
    }
    assert "$0.00 of $0.0001 spent" in wait["asked"]
    assert (await api.get(f"/tasks/{task_id}"))["status"] == "waiting"
    questions = await api.client.inbox()
    assert [question.task_id for question in questions] == ([task_id] if on_empty == "ask" else [])
    if on_empty == "ask":
        assert f"mesh budgets raise {task_id} USD" in questions[0].question
    view = await admin.raise_budget("1", task_id=task_id)
    assert (view.limit_usd, view.on_empty) == (Decimal("1.0001"), on_empty)
    outcome = await api.client.outcome(task_id)
    assert (outcome.success, outcome.cost_usd, len(fake.calls)) == (True, 3 * EARNED, 3)
    assert await api.client.inbox() == []
    [raised] = (await api.get("/events", event_type="budget.raised"))["items"]
    assert (raised["payload"]["amount_usd"], raised["payload"]["limit_usd"]) == ("1", "1.0001")


async def test_a_raise_wakes_no_task_that_waits_for_another_budget(api: Api, admin: Client) -> None:
    poor, raised = [
        await submitted(api, agent_id="clerk", budget_usd="0.0001", on_empty="ask") for _ in range(2)
    ]
    await parked(api, 2)
    shown = await mesh("budgets", "raise", raised, "1", "--url", api.url, MESH_API_KEY=TOKEN)
    assert shown.status == 0, shown
    assert (await api.client.outcome(raised)).success
    resumed = (await api.get("/events", event_type="task.resumed"))["items"]
    assert {event["task_id"] for event in resumed} == {raised}
    assert (await api.get(f"/tasks/{poor}"))["status"] == "waiting"


async def test_tasks_that_are_refused_while_their_budget_is_raised_go_on(api: Api, admin: Client) -> None:
    await admin.allow("clerk", "0.0001/day", on_empty="wait")
    await submitted(api, agent_id="clerk")
    await parked(api)
    tasks = [await submitted(api, agent_id="clerk") for _ in range(20)]
    await admin.raise_budget("5", budget="allow-agent-clerk-day")
    outcomes = await asyncio.gather(*map(api.client.outcome, tasks))
    assert all(outcome.success for outcome in outcomes)


async def test_a_start_with_a_larger_budget_lets_waiting_tasks_go_on(
    tmp_path: Path, fake: FakeProvider
) -> None:
    settings = {"model": "http", "litellm_base_url": fake.url, "default_price": PRICE}
    day = {"name": "day", "window": "day", "on_empty": "wait"}
    async with http_mesh(tmp_path, Clerk, budgets=[{**day, "limit_usd": "0.0001"}], **settings) as api:
        task_id = await submitted(api, agent_id="clerk")
        await parked(api)
    async with http_mesh(tmp_path, Clerk, budgets=[{**day, "limit_usd": "5"}], **settings) as api:
        assert (await api.client.outcome(task_id)).success


async def test_the_page_of_a_task_says_what_its_tree_has_spent_of_its_budget(api: Api) -> None:
    task_id = await api.finished(agent_id="chief", payload={"text": "Go."}, budget_usd="5")
    shown = await mesh("task", task_id, "--url", api.url)
    [line] = [line for line in shown.out.splitlines() if line.startswith("budget")]
    assert line.split(maxsplit=1)[1] == "$5.0000, on empty fail: $0.1320 known, $0 estimated, $0 reserved"


async def test_all_children_of_a_tree_go_on_once_its_root_is_raised(
    api: Api, admin: Client, fake: FakeProvider
) -> None:
    task_id = await submitted(api, agent_id="chief", budget_usd="0.0001", on_empty="ask")
    await parked(api, 4)
    await admin.raise_budget("5", task_id=task_id)
    outcome = await api.client.outcome(task_id)
    assert (outcome.success, outcome.cost_usd, len(fake.calls)) == (True, 12 * EARNED, 12)
    await api.mesh.get(Budgets).settled()
    [account] = [view for view in await api.client.budgets() if view.key == task_id]
    assert (account.spent_usd, account.reserved_usd) == (12 * EARNED, 0)


async def test_a_tree_asks_once_for_its_purse_and_a_denial_fails_it_with_the_reason(
    api: Api, admin: Client, fake: FakeProvider
) -> None:
    task_id = await submitted(api, agent_id="chief", budget_usd="0.0001", on_empty="ask")
    await parked(api, 4)
    [question] = await api.client.inbox()
    assert (question.tasks, question.status) == (4, "open")
    listed = await mesh("inbox", "--url", api.url)
    assert listed.out.count("budget_usd") == 1 and "(4 tasks wait)" in listed.out
    approved = await mesh("approve", question.id, "--url", api.url)
    assert (approved.status, "mesh budgets raise" in approved.err) == (1, True)
    denied = await mesh("deny", question.id, "--reason", "not worth it", "--url", api.url)
    assert (denied.status, denied.out.splitlines()[-1]) == (0, "4 tasks fail"), denied.err
    outcome = await api.client.outcome(task_id)
    assert outcome.error is not None and "More money was denied by" in outcome.error.message
    assert "not worth it" in outcome.error.message
    assert (await api.client.inbox(), fake.calls) == ([], [])
    [ended] = await api.client.inbox(ended=True)
    assert ended.status == "closed"


async def test_a_budget_that_was_denied_has_money_again_once_it_is_raised(api: Api, admin: Client) -> None:
    await admin.allow("clerk", "0.0001/day", on_empty="ask")
    task_id = await submitted(api, agent_id="clerk")
    await parked(api)
    [question] = await api.client.inbox()
    await api.client.answer(question, {"approve": False, "reason": "no"})
    assert not (await api.client.outcome(task_id)).success
    await admin.raise_budget("1", budget="allow-agent-clerk-day")
    assert (await api.client.outcome(await submitted(api, agent_id="clerk"))).success


async def test_a_question_for_money_says_how_its_budget_is_raised_and_takes_no_answer(api: Api) -> None:
    task_id = await submitted(api, agent_id="clerk", budget_usd="0.0001", on_empty="ask")
    await parked(api)
    [question] = await api.client.inbox()
    with pytest.raises(InvalidInput, match="waits for money") as refused:
        await api.client.answer(question, 5)
    assert "mesh budgets raise" in refused.value.remedy
    shown = await mesh("inbox", question.id, "--url", api.url)
    assert f"mesh budgets raise {task_id} USD" in shown.out and "mesh answer" not in shown.out


async def test_a_task_without_a_budget_cannot_say_what_it_does_when_that_is_empty(api: Api) -> None:
    with pytest.raises(InvalidInput, match="it brings none") as refused:
        await api.client.submit("clerk", "Go.", on_empty="ask")
    assert refused.value.field == "on_empty"


async def test_an_allowance_counts_at_once_and_its_end_lets_tasks_go_on(
    api: Api, admin: Client, fake: FakeProvider
) -> None:
    await admin.allow("clerk", "0.0001/day", on_empty="wait")
    [allowance] = await admin.allowances()
    assert (allowance.scope, allowance.of, allowance.window) == ("agent", "clerk", "day")
    task_id = await submitted(api, agent_id="clerk")
    [wait] = await parked(api)
    assert "It renews at" in wait["asked"]
    [view] = await api.client.budgets()
    assert (view.budget, view.key, view.on_empty) == ("allow-agent-clerk-day", "clerk", "wait")
    await admin.disallow("clerk")
    assert (await api.client.outcome(task_id)).success
    assert await admin.allowances() == []


async def test_a_larger_allowance_lets_a_waiting_task_go_on(api: Api, admin: Client) -> None:
    await admin.allow("agent:clerk", "0.0001", on_empty="ask")
    task_id = await submitted(api, agent_id="clerk")
    await parked(api)
    await admin.allow("clerk", "1")
    assert (await api.client.outcome(task_id)).success


async def test_an_allowance_is_for_a_day_and_keeps_what_it_does_when_it_is_empty(
    api: Api, admin: Client
) -> None:
    shown = await mesh("allow", "clerk", "5", "--on-empty", "wait", "--url", api.url, MESH_API_KEY=TOKEN)
    assert "$5.0000/day" in shown.out and "mesh allow clerk --remove ends it" in shown.err
    assert (await admin.allow("clerk", "6/day")).on_empty == "wait"
    assert (await admin.allow("clerk", "6/hour")).on_empty == "fail"


async def test_an_allowance_of_a_tenant_is_for_that_tenant_alone(api: Api, admin: Client) -> None:
    await admin.allow("clerk", "0/day", tenant_id="acme")
    assert (await api.client.outcome(await submitted(api, agent_id="clerk"))).success


@pytest.mark.parametrize(
    ("whose", "allowance", "said"),
    [
        ("clerk", "5/week", "one of hour, day, month, total"),
        ("clerk", "-1/day", "expected dollars"),
        ("team:x", "5/day", "cannot have an allowance"),
        ("agent:", "5/day", "cannot have an allowance"),
        ("clark", "5/day", "has no agent 'clark'"),
        ("agent:nope", "5/day", "has no agent 'nope'"),
        ("clerk", "five", "allowance: expected dollars"),
    ],
)
async def test_what_cannot_be_allowed_is_refused(
    api: Api, admin: Client, whose: str, allowance: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        await admin.allow(whose, allowance)


async def test_an_allowance_for_a_misspelled_agent_names_the_likely_one(api: Api, admin: Client) -> None:
    with pytest.raises(InvalidInput) as refused:
        await admin.allow("clark", "5/day")
    assert refused.value.field == "whose" and "Did you mean 'clerk'?" in refused.value.remedy
    assert await admin.allowances() == []


async def test_the_command_removes_no_allowance_of_whom_it_is_not_told(api: Api) -> None:
    removed = await mesh("allow", "--remove", "--url", api.url)
    assert (removed.status, removed.out) == (2, "")


async def test_an_agent_that_only_a_key_has_can_have_an_allowance(api: Api, admin: Client) -> None:
    await admin.create_key(name="partner")
    assert (await admin.allow("partner", "5/day")).of == "partner"


async def test_nobody_can_wait_for_an_allowance_that_never_renews(api: Api, admin: Client) -> None:
    with pytest.raises(InvalidInput, match="never renews"):
        await admin.allow("clerk", "5/total", on_empty="wait")


async def test_what_is_not_there_cannot_be_raised_or_removed(api: Api, admin: Client) -> None:
    with pytest.raises(NotFound, match="no budget 'x'"):
        await admin.raise_budget("1", budget="x")
    with pytest.raises(NotFound, match="has no allowance"):
        await admin.disallow("clerk")
    task_id = await submitted(api, agent_id="clerk")
    with pytest.raises(InvalidInput, match="has no budget of its own"):
        await admin.raise_budget("1", task_id=task_id)
    for named in ({}, {"budget": "x", "task_id": task_id}):
        with pytest.raises(InvalidInput, match="named"):
            await admin.raise_budget("1", **named)
    with pytest.raises(InvalidInput, match="amount_usd"):
        await admin.raise_budget("0", task_id=task_id)
    await api.client.outcome(task_id)


async def test_an_estimate_says_what_such_tasks_have_cost_and_when_nobody_knows(
    api: Api, admin: Client
) -> None:
    nothing = await api.client.estimate(agent_id="clerk")
    assert (nothing.tasks, nothing.median_usd) == (0, None)
    tasks = [await submitted(api, agent_id="clerk") for _ in range(3)]
    await asyncio.gather(*map(api.client.outcome, tasks))
    for whose in ({"agent_id": "clerk"}, {"capability": "clerking"}):
        found = await api.client.estimate(**whose)
        assert (found.tasks, found.median_usd, found.p90_usd) == (3, 3 * EARNED, 3 * EARNED)
    with pytest.raises(InvalidInput, match="neither a capability nor an agent"):
        await api.client.estimate()
    for misspelled in ({"agent_id": "clerc"}, {"capability": "clerkin"}):
        with pytest.raises(InvalidInput, match="clerk"):
            await api.client.estimate(**misspelled)


# Cheaper models


async def test_tasks_that_wait_for_a_budget_go_on_with_cheaper_models(api: Api, admin: Client) -> None:
    await admin.allow("tag:expensive", "0/day", on_empty="ask")
    task_id = await submitted(api, agent_id="dean", budget_usd="5", on_empty="ask")
    [wait] = await parked(api)
    assert (wait["subject"]["of"], wait["subject"]["cheaper"]) == ("expensive", True)
    view = await admin.raise_budget(cheaper=True, budget="allow-tag-expensive-day")
    assert (view.cheaper, view.limit_usd, view.on_empty) == (True, 0, "ask")
    assert (await api.client.outcome(task_id)).success
    calls = (await api.get("/costs", by="tag"))["items"]
    assert {one["key"]: one["calls"] for one in calls} == {"research": 3, "cheap": 3}
    [raised] = (await api.get("/events", event_type="budget.raised"))["items"]
    assert (raised["payload"]["cheaper"], raised["payload"]["amount_usd"]) == (True, "0")


@pytest.mark.parametrize("on_empty", ["ask", "wait"])
async def test_a_tree_is_made_cheaper_and_asks_again_where_that_is_too_dear(
    api: Api, admin: Client, on_empty: str
) -> None:
    task_id = await submitted(api, agent_id="dean", budget_usd="0.0001", on_empty=on_empty)
    [wait] = await parked(api)
    assert (wait["subject"]["of"], wait["subject"]["cheaper"]) == (task_id, True)
    assert f"mesh budgets raise {task_id} USD, or --cheaper in place of USD" in wait["asked"]
    made = await mesh("budgets", "raise", task_id, "--cheaper", "--url", api.url, MESH_API_KEY=TOKEN)
    assert made.status == 0, made.err
    [_, again] = await parked(api, 2)
    assert (again["subject"]["on_empty"], again["subject"]["cheaper"]) == (on_empty, False)
    assert "--cheaper" not in again["asked"]
    shown = await mesh("task", task_id, "--url", api.url)
    assert f"on empty cheaper models, then {on_empty}:" in shown.out
    await admin.raise_budget("1", task_id=task_id)
    assert (await api.client.outcome(task_id)).success


async def test_nothing_to_add_and_nothing_cheaper_is_refused(api: Api, admin: Client) -> None:
    task_id = await submitted(api, agent_id="clerk", budget_usd="5")
    with pytest.raises(InvalidInput, match="give an amount_usd"):
        await admin.raise_budget(task_id=task_id)
    done = await mesh("budgets", "raise", task_id, "--url", api.url)
    assert (done.status, "--cheaper" in done.err) == (2, True)
    await api.client.outcome(task_id)
