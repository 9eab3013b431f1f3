"""Coding agents whose model costs more than there is, or whose provider is away: the task waits."""

from decimal import Decimal

import pytest

from meshwright.core.errors import ModelError
from meshwright.core.messages import Usage
from meshwright.models.errors import ModelUnavailable, RateLimited
from meshwright.models.port import ModelReply
from meshwright.testing import ScriptedModel
from tests.support.coding_agents import Up, data, delegated, proposal_of, up

__all__ = ["data", "up"]
pytestmark = pytest.mark.needs("git", "bwrap")
A_DOLLAR = {"input": 0, "output": Decimal(1_000_000) / 4096}  # a call, whose answer may have 4,096 tokens


@pytest.mark.parametrize(
    "error", [ModelUnavailable("away"), RateLimited("the usage limit is reached", retry_after_seconds=0.2)]
)
async def test_a_provider_that_cannot_answer_parks_the_task_and_the_session_goes_on(
    up: Up, error: ModelError, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedModel("one", error, "two")
    async with up(model=model) as mesh:
        outcome = await delegated(mesh, "Have add() add. [asks model]")
        assert outcome.result["changed"] == ["M calc.py", "A replies.txt"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", "resumed"]
        assert model.unsaid == 0
        assert len(model.requests) == 3  # the first was answered by the journal the second time
        waits = [event.payload["kind"] for event in mesh.events("task.waiting")]
        assert waits == ["provider", "person"]
    assert "Exception in ASGI application" not in caplog.text


async def test_a_task_that_waits_for_long_looks_less_and_less_often(up: Up) -> None:
    model = ScriptedModel("one", *[ModelUnavailable("away")] * 2, "two")
    async with up(model=model) as mesh:
        outcome = await delegated(mesh, "Have add() add. [asks model]")
        assert outcome.result["changed"] == ["M calc.py", "A replies.txt"]
        waits = [event.payload["subject"] for event in mesh.events("task.waiting")]
        assert [wait["pauses"] for wait in waits if "pauses" in wait] == [0, 1]


@pytest.mark.parametrize(("flaws", "how"), [("", "resumed"), ("no-load", "restarted")])
async def test_an_empty_budget_parks_the_task_until_it_is_raised(up: Up, flaws: str, how: str) -> None:
    reply = ModelReply(content="So.", model="m", usage=Usage(completion_tokens=4096))
    model = ScriptedModel(reply, reply)
    async with up(flaws, model=model, settings={"ledger": {"default_price": A_DOLLAR}}) as mesh:
        words = "Have add() add. [asks model]"
        receipt = await mesh.client.submit("fixer", words, budget_usd="1", on_empty="ask")
        [question] = await mesh.questions()
        assert "$1.00 of $1.00 spent" in question.question
        await mesh.client.raise_budget("1", task_id=receipt.task_id)
        await mesh.answer(await proposal_of(mesh, receipt.task_id), {"approve": True})
        outcome = await mesh.client.outcome(receipt.task_id)
        assert (outcome.success, outcome.cost_usd) == (True, 2)
        assert outcome.result["changed"] == ["M calc.py", "A replies.txt"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", how]
    assert len(model.requests) == 2  # no call was made without money, and none twice


async def test_an_empty_budget_that_does_not_wait_is_the_error_of_the_task(up: Up) -> None:
    async with up(model=ScriptedModel(), settings={"ledger": {"default_price": A_DOLLAR}}) as mesh:
        words = "Have add() add. [needs model]"
        receipt = await mesh.client.submit("fixer", words, budget_usd="0.5")
        outcome = await mesh.client.outcome(receipt.task_id)
    assert outcome.error is not None
    assert outcome.error.type == "BudgetExceeded", outcome.error
