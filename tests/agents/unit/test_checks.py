"""Checks of tools and of an author's steps, in a mesh that is stopped in the middle of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, CheckResult, Run, TaskRequest, tool
from meshwright.core.errors import ConfigError, ToolFailed
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from meshwright.tools import ToolContext, collect_tools
from tests.agents.unit.test_agent_mistakes import agent_with, failed
from tests.support.interrupted_mesh import kept, told_of

KEY = "zK8vQ2mXw7Rt4LpN9bYc3HsJ6dFgA1eU5iTo"


class Bank:
    """A bank that pays once for each key, which a test can hold."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.began = asyncio.Event()
        self.holds = True

    async def pay(self, key: str) -> str:
        self.paid.append(key)
        if self.holds:
            self.began.set()
            await asyncio.Event().wait()
        return "receipt 2"


def payer(bank: Bank, find: Callable[[], Any], **options: Any) -> type[Agent]:
    """An agent that pays by a tool, which has a check."""

    class Payer(Agent):
        agent_id = "payer"
        capabilities = (Capability("paying"),)
        prompt_text = "Pay."
        remembers = False

        @tool(check="_was_paid", **options)
        async def pay(self, to: str, context: ToolContext, amount: int = 1) -> str:
            """Pay somebody."""
            return await bank.pay(context.step_id)

        async def _was_paid(self, to: str, amount: int, step_id: str) -> CheckResult:
            bank.asked.append((f"{to} {amount}", step_id))
            return find()

    return Payer


async def interrupted(folder: Path, bank: Bank, agent: type[Agent], *replies: Any) -> str:
    """Stop a mesh in the middle of a payment; the task of it."""
    async with kept(folder, agent, model=ScriptedModel(tool_call("pay", to="eve"))) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="payer", payload={"text": "Pay."}))
        await bank.began.wait()
    bank.holds = False
    return receipt.task_id


async def result_for(folder: Path, agent: type[Agent], task_id: str) -> str:
    """The last result of a tool that the model got, in the mesh that goes on."""
    model = ScriptedModel("Done.")
    async with kept(folder, agent, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "Done."
    return model.requests[-1].messages[-1].content


async def test_a_call_that_happened_is_not_made_again(tmp_path: Path) -> None:
    bank = Bank()
    agent = payer(bank, lambda: CheckResult.happened({"receipt": 8}, f"the bank lists it, key {KEY}"))
    task_id = await interrupted(tmp_path, bank, agent)
    model = ScriptedModel("Done.")
    async with kept(tmp_path, agent, model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        checked = await told_of(mesh, "step.checked")
        [transcript] = await mesh.get(Tasks).transcripts(task_id)
    assert model.requests[-1].messages[-1].content == '{"receipt": 8}'
    assert bank.asked == [("eve 1", bank.paid[0])] and len(bank.paid) == 1
    assert outcome.changed  # for those who take over
    assert checked.payload["outcome"] == "happened" and KEY not in str(checked.payload)
    [step] = [step for step in map(transcript.summary, transcript.paths) if step.name == "check pay"]
    assert step.summary.startswith("happened: the bank lists it") and KEY not in step.summary


async def test_a_call_that_did_not_happen_is_made_again_with_the_same_key(tmp_path: Path) -> None:
    bank = Bank()
    agent = payer(bank, CheckResult.did_not_happen)
    task_id = await interrupted(tmp_path, bank, agent)
    assert await result_for(tmp_path, agent, task_id) == "receipt 2"
    assert len(bank.paid) == 2 and len({*bank.paid}) == 1


def raise_(error: Exception) -> Any:
    raise error


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown": (lambda: CheckResult.unknown("the bank is away"), "the bank is away"),
    "failed": (lambda: raise_(ToolFailed("the bank is away")), "The check failed: the bank is away"),
    "raised": (lambda: raise_(KeyError("x")), "The check failed: KeyError: 'x' (unit/test_checks.py:"),
    "no result": (lambda: True, "_was_paid returned a bool, not a CheckResult (unit/test_checks.py:"),
    "no json": (lambda: CheckResult.happened(object()), "The check failed: "),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_person_is_asked_where_the_check_cannot_tell(tmp_path: Path, wrong: str) -> None:
    bank, (find, evidence) = Bank(), WRONG[wrong]
    agent = payer(bank, find)
    task_id = await interrupted(tmp_path, bank, agent)
    model = ScriptedModel("Done.")
    async with kept(tmp_path, agent, model=model) as mesh:
        waiting = await told_of(mesh, "task.waiting")
        assert evidence in waiting.payload["subject"]["check"]
        await mesh.get(Tasks).answer(task_id, waiting.payload["key"], {"approve": False, "result": "paid"})
        await mesh.get(Tasks).outcome(task_id)
    assert model.requests[-1].messages[-1].content == "paid"
    assert len(bank.paid) == len(bank.asked) == 1


async def test_a_check_has_the_time_of_its_tool(tmp_path: Path) -> None:
    bank = Bank()

    class Slow(payer(bank, lambda: None)):  # type: ignore[misc]
        async def _was_paid(self, to: str, amount: int, step_id: str) -> CheckResult:
            await asyncio.Event().wait()
            return CheckResult.happened()

    slow: Any = Slow
    task_id = await interrupted(tmp_path, bank, slow)
    async with kept(tmp_path, slow, tools={"timeout_seconds": 0.01}) as mesh:
        waiting = await told_of(mesh, "task.waiting")
        assert "check of pay did not end within 0.01 seconds" in waiting.payload["subject"]["check"]
        await mesh.get(Tasks).cancel(task_id)


async def test_an_idempotent_tool_runs_again_where_its_check_cannot_tell(tmp_path: Path) -> None:
    bank = Bank()
    agent = payer(bank, lambda: CheckResult.unknown("the bank is away"), idempotent=True)
    task_id = await interrupted(tmp_path, bank, agent)
    assert await result_for(tmp_path, agent, task_id) == "receipt 2"
    assert len(bank.paid) == 2 and len(bank.asked) == 1


async def test_an_idempotent_tool_is_not_made_again_where_it_happened(tmp_path: Path) -> None:
    bank = Bank()
    agent = payer(bank, lambda: CheckResult.happened("receipt 8"), idempotent=True)
    task_id = await interrupted(tmp_path, bank, agent)
    assert await result_for(tmp_path, agent, task_id) == "receipt 8"
    assert len(bank.paid) == 1


# Calls without a reply


class LosingBank(Bank):
    """Pays, and its reply is lost."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def pay(self, key: str) -> str:
        self.paid.append(key)
        raise self._error


async def paid_by(folder: Path, agent: type[Agent], outcome: str = "", **settings: Any) -> str:
    """The result of the payment that the model got; `outcome` is the one of its check."""
    model = ScriptedModel(tool_call("pay", to="eve"), "Done.")
    async with kept(folder, agent, model=model, **settings) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="payer", payload={"text": "Pay."}))
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).success
        if outcome:
            assert (await told_of(mesh, "step.checked")).payload["outcome"] == outcome
    return model.requests[-1].messages[-1].content


@pytest.mark.parametrize(
    ("find", "content", "outcome"),
    [
        (lambda: CheckResult.happened({"receipt": 8}), '{"receipt": 8}', "happened"),
        (
            lambda: CheckResult.did_not_happen("the bank refused it"),
            "reset. Its check says that it did not happen: the bank refused it",
            "did_not_happen",
        ),
        (
            lambda: raise_(ToolFailed("away")),
            "reset. Its check cannot tell: The check failed: away",
            "unknown",
        ),
    ],
    ids=["happened", "did not happen", "unknown"],
)
async def test_a_call_without_a_reply_is_checked_at_once(
    tmp_path: Path, find: Callable[[], Any], content: str, outcome: str
) -> None:
    bank = LosingBank(ToolFailed.without_reply("reset"))
    assert content in await paid_by(tmp_path, payer(bank, find), outcome)
    assert bank.asked == [("eve 1", bank.paid[0])] and len(bank.paid) == 1


async def test_an_exception_of_a_tool_is_a_missing_reply(tmp_path: Path) -> None:
    bank = LosingBank(ConnectionError("reset"))
    agent = payer(bank, lambda: CheckResult.happened("receipt 8"))
    assert await paid_by(tmp_path, agent) == "receipt 8"


async def test_a_call_that_is_given_up_is_checked(tmp_path: Path) -> None:
    bank = Bank()
    agent = payer(bank, lambda: CheckResult.happened("receipt 8"))
    assert await paid_by(tmp_path, agent, tools={"timeout_seconds": 0.01}) == "receipt 8"
    assert len(bank.paid) == 1


async def test_a_call_that_was_refused_is_not_checked(tmp_path: Path) -> None:
    bank = LosingBank(ToolFailed("no funds"))
    assert "no funds" in await paid_by(tmp_path, payer(bank, CheckResult.happened))
    assert bank.asked == []


# Steps of an author


def charger(bank: Bank, find: Callable[[], Any]) -> type[Agent]:
    async def run(self: Agent, run: Run) -> str:
        async def was_paid(step_id: str) -> CheckResult:
            bank.asked.append(("", step_id))
            return find()

        return f"charged: {await run.step('charge', lambda: bank.pay(run.step_id), check=was_paid)}"

    return agent_with(run)


@pytest.mark.parametrize(
    ("find", "text", "payments"),
    [
        (lambda: CheckResult.happened("receipt 8"), "charged: receipt 8", 1),
        (CheckResult.did_not_happen, "charged: receipt 2", 2),
        (lambda: CheckResult.unknown("nobody answers"), "charged: by hand", 1),
        (lambda: "yes", "charged: by hand", 1),
    ],
    ids=["happened", "did not happen", "unknown", "no result"],
)
async def test_a_step_of_the_author_is_settled_by_its_check(
    tmp_path: Path, find: Callable[[], Any], text: str, payments: int
) -> None:
    bank = Bank()
    agent = charger(bank, find)
    async with kept(tmp_path, agent) as mesh:
        request = TaskRequest(agent_id="author", payload={"text": "Pay."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await bank.began.wait()
    bank.holds = False
    async with kept(tmp_path, agent) as mesh:
        if text.endswith("by hand"):
            key = (await told_of(mesh, "task.waiting")).payload["key"]
            await mesh.get(Tasks).answer(task_id, key, {"approve": False, "result": "by hand"})
        assert (await mesh.get(Tasks).outcome(task_id)).text == text
    assert len(bank.paid) == payments
    assert {step_id for _, step_id in bank.asked} == {*bank.paid}


# Mistakes


def sync_check(step_id: str) -> CheckResult:
    return CheckResult.happened()


async def no_parameter() -> CheckResult:
    return CheckResult.happened()


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (sync_check, "the check of step 'pay' is not async"),
        (no_parameter, "does not take the step's id"),
        ("was_paid", "is given 'was_paid' as its check, not a function"),
    ],
    ids=["sync", "no parameter", "no function"],
)
async def test_a_step_refuses_what_cannot_be_its_check(check: Any, problem: str) -> None:
    async def run(self: Agent, run: Run) -> str:
        return await run.step("pay", Bank().pay, check=check)  # type: ignore[arg-type]

    outcome = await failed(agent_with(run))
    assert outcome.error is not None
    assert problem in outcome.error.message and "test_checks.py:" in outcome.error.message


class Owner:
    """Has checks that cannot be ones."""

    def sync(self, to: str) -> CheckResult:
        return CheckResult.happened()

    async def greedy(self, to: str, account: str) -> CheckResult:
        return CheckResult.happened()

    async def untyped(self, to: str):  # type: ignore[no-untyped-def]
        return CheckResult.happened()


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ("sync", "has the check 'sync', which is no async function of its owner"),
        ("nothing", "has the check 'nothing', which is no async function of its owner"),
        (Owner.sync, "has the check 'sync', which is no async function of its owner"),
        ("greedy", "has the check 'greedy', which takes 'account': no parameter of the tool"),
        ("untyped", "has the check 'untyped', which does not say that it returns a CheckResult"),
    ],
    ids=["sync", "nothing", "sync function", "greedy", "untyped"],
)
def test_a_tool_refuses_what_cannot_be_its_check(check: Any, problem: str) -> None:
    class Payer(Owner):
        @tool(check=check)
        async def pay(self, to: str) -> str:
            """Pay."""
            return to

    with pytest.raises(ConfigError, match=r"test_checks\.py:\d+: tool 'pay' ") as caught:
        collect_tools(Payer())
    assert problem in str(caught.value)


async def test_a_check_may_be_a_function_of_the_class(tmp_path: Path) -> None:
    class Payer:
        async def _was_paid(self, to: str, context: ToolContext) -> CheckResult:
            return CheckResult.happened(f"{to} {context.step_id}")

        @tool(check=_was_paid)
        async def pay(self, to: str) -> str:
            """Pay."""
            return to

    class Context:
        step_id = "s1"

    [pay] = collect_tools(Payer())
    context: Any = Context()
    assert pay.has_check
    assert await pay.check('{"to": "eve"}', context) == CheckResult.happened("eve s1")
