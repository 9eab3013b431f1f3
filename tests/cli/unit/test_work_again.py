"""Work that is done again: each task below keeps its own answer, and no change is repeated unasked."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from meshwright import Agent, Capability, Delegation, Run, ToolContext, tool
from meshwright.core.messages import Outcome
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call

YES, NO = {"approve": True}, {"approve": False}


class World:
    """Counts payments, and has the state that makes agents fail or succeed."""

    def __init__(self) -> None:
        self.payments: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.request: dict[str, str] = {}


def family(world: World) -> tuple[type[Agent], ...]:
    class Clerk(Agent):
        """Pays, asks a person if the request says so, and fails while its account is broken."""

        agent_id = "clerk"
        capabilities = (Capability("paying"),)

        @tool()
        async def pay(self, account: str) -> str:
            """Pay."""
            world.payments[account] += 1
            return "paid"

        async def run(self, run: Run) -> dict[str, Any]:
            account = run.task.payload["account"]
            await run.call("pay", account=account)
            if run.task.payload.get("asks"):
                await run.ask_person(f"May {account}?")
            if account in world.broken:
                raise ValueError(f"{account} is broken")
            return {"account": account}

    class Chief(Agent):
        """Delegates payments side by side."""

        agent_id = "chief"
        capabilities = (Capability("managing"),)
        delegates_to = ("clerk", "chief2")

        async def run(self, run: Run) -> dict[str, Any]:
            payload = run.task.payload
            if payload.get("corrected"):
                return {"done": await run.delegate("clerk", payload=world.request, shape=dict[str, Any])}
            below = [self.delegation(one) for one in payload["below"]]
            return {"done": await run.delegate_all(below)}

        def delegation(self, request: dict[str, Any]) -> Delegation[dict[str, Any]]:
            to = "chief2" if "below" in request else "clerk"
            return Delegation(to, payload=request, shape=dict[str, Any])

    class SecondChief(Chief):
        """The same, one step below."""

        agent_id = "chief2"
        capabilities = (Capability("managing-below"),)
        delegates_to = ("clerk",)

    return Clerk, Chief, SecondChief


def done(*accounts: str) -> dict[str, Any]:
    return {"done": [{"account": account} for account in accounts]}


async def answered(mesh: MeshUnderTest, task_id: str, *answers: Any) -> Outcome:
    """Give the answers to as many questions, and wait for the outcome."""
    for question, answer in zip(await mesh.questions(len(answers)), answers, strict=True):
        await mesh.answer(question, answer)
    return await mesh.outcome(task_id)


ASKS = [("a",), ("b",), ("c",), ("a", "c"), ("a", "b"), ("b", "c"), ("a", "b", "c")]


@pytest.mark.parametrize("asking", ASKS, ids="".join)
async def test_a_retry_gives_each_delegation_its_own_answer(asking: tuple[str, ...]) -> None:
    world = World()
    below = [{"account": account, "asks": account in asking} for account in "abc"]
    async with mesh_for(*family(world)) as mesh:
        receipt = await mesh.submit("chief", payload={"below": below})
        await mesh.questions(len(asking))
        await mesh.client.cancel(receipt.task_id)
        assert (await mesh.outcome(receipt.task_id)).status == "cancelled"
        await mesh.client.retry(receipt.task_id)
        outcome = await answered(mesh, receipt.task_id, *["yes"] * len(asking))
    assert outcome.result == done(*"abc")
    assert world.payments == Counter("abc")


async def test_a_retry_of_a_tree_of_121_pays_each_account_once() -> None:
    world = World()
    accounts = [f"a{n}" for n in range(110)]
    requests = [{"account": account, "asks": account in ("a3", "a44", "a109")} for account in accounts]
    below = [{"below": requests[n : n + 11]} for n in range(0, 110, 11)]
    async with mesh_for(*family(world)) as mesh:
        receipt = await mesh.submit("chief", payload={"below": below})
        await mesh.questions(3)
        await mesh.client.cancel(receipt.task_id)
        await mesh.outcome(receipt.task_id)
        async with asyncio.timeout(60):
            while await mesh.client.inbox():  # follows the log
                await asyncio.sleep(0.005)
        await mesh.client.retry(receipt.task_id)
        outcome = await answered(mesh, receipt.task_id, *["yes"] * 3)
        tasks = await mesh.client.tasks(limit=200)
    assert outcome.result == {"done": [done(*accounts[n : n + 11]) for n in range(0, 110, 11)]}
    assert world.payments == Counter(accounts)
    assert len(tasks) == 121


async def test_a_corrected_request_is_delegated_as_it_is_now() -> None:
    world = World()
    world.request, world.broken = {"account": "wrong"}, {"wrong"}
    async with mesh_for(*family(world)) as mesh:
        outcome = await mesh.outcome((await mesh.submit("chief", payload={"corrected": True})).task_id)
        assert not outcome.success
        world.request = {"account": "right"}
        await mesh.client.retry(outcome.task_id)
        outcome = await mesh.outcome(outcome.task_id)
    assert outcome.result == {"done": {"account": "right"}}
    assert world.payments == Counter(["wrong", "right"])


@pytest.mark.parametrize(("answer", "payments"), [(YES, 2), (NO, 1)])
async def test_a_task_below_that_starts_over_asks_before_it_pays_again(answer: Any, payments: int) -> None:
    world = World()
    world.broken = {"a"}
    async with mesh_for(*family(world)) as mesh:
        outcome = await mesh.outcome(
            (await mesh.submit("chief", payload={"below": [{"account": "a"}]})).task_id
        )
        assert not outcome.success
        world.broken = set()
        await mesh.client.retry(outcome.task_id, begin="journal")
        [question] = await mesh.questions()
        assert "repeat these steps: pay" in question.question
        assert world.payments == Counter("a")
        outcome = await answered(mesh, outcome.task_id, answer)
    assert world.payments["a"] == payments
    assert outcome.success == answer["approve"]


async def test_a_retry_after_a_cancel_still_asks_before_it_pays_again() -> None:
    world = World()
    world.broken = {"a"}
    async with mesh_for(*family(world)) as mesh:
        outcome = await mesh.outcome((await mesh.submit("clerk", payload={"account": "a"})).task_id)
        world.broken = set()
        await mesh.client.retry(outcome.task_id)
        await mesh.questions()
        await mesh.client.cancel(outcome.task_id)
        assert (await mesh.outcome(outcome.task_id)).status == "cancelled"
        await mesh.client.retry(outcome.task_id)
        outcome = await answered(mesh, outcome.task_id, NO)
    assert not outcome.success
    assert world.payments == Counter("a")


async def test_a_retry_that_names_the_start_asks_no_one() -> None:
    world = World()
    world.broken = {"a"}
    async with mesh_for(*family(world)) as mesh:
        outcome = await mesh.outcome((await mesh.submit("clerk", payload={"account": "a"})).task_id)
        world.broken = set()
        await mesh.client.retry(outcome.task_id, begin="start")
        outcome = await mesh.outcome(outcome.task_id)
    assert outcome.success
    assert world.payments == Counter({"a": 2})


async def test_a_retry_that_changes_nothing_again_asks_no_one() -> None:
    failing = [True]

    class Reader(Agent):
        """Reads, then fails once."""

        agent_id = "reader"
        capabilities = (Capability("reading"),)

        @tool(effect="read")
        async def look(self) -> str:
            """Look."""
            return "seen"

        async def run(self, run: Run) -> str:
            await run.call("look")
            if failing.pop():
                raise ValueError("a bug")
            return "done"

    failing.insert(0, False)
    async with mesh_for(Reader) as mesh:
        outcome = await mesh.ask("reader", "Look.")
        await mesh.client.retry(outcome.task_id)
        assert (await mesh.outcome(outcome.task_id)).text == "done"


def deployer(effects: list[str], keys: list[str]) -> type[Agent]:
    class Deployer(Agent):
        """Deploys what a person has approved."""

        agent_id = "deployer"
        capabilities = (Capability("deploying"),)

        @tool(needs_approval=True)
        async def deploy(self, version: str, context: ToolContext) -> str:
            """Deploy a version."""
            effects.append(version)
            keys.append(context.step_id)
            return f"deployed {version}"

    return Deployer


async def test_a_fork_at_any_step_asks_again() -> None:
    effects: list[str] = []
    keys: list[str] = []
    two = [tool_call("deploy", version="1"), tool_call("deploy", version="2")]
    model = ScriptedModel(two, tool_call("deploy", version="1"), "done", *["done"] * 200)
    async with mesh_for(deployer(effects, keys), model=model) as mesh:
        receipt = await mesh.submit("deployer", "Deploy.")
        for asked in (2, 1):
            for question in await mesh.questions(asked):
                await mesh.answer(question, YES)
        assert (await mesh.outcome(receipt.task_id)).success
        assert len(effects) == 3
        steps = await mesh.client.steps(receipt.task_id)
        forks: list[str] = []
        for step in steps:
            forked = await mesh.mesh.get(Tasks).fork(receipt.task_id, step.path)
            assert forked.task_id is not None
            forks.append(forked.task_id)
            await quiet(mesh, forked.task_id)
        again = [await mesh.mesh.get(Tasks).fork(fork, "1") for fork in await ended(mesh, forks)]
        for fork in again:
            assert fork.task_id is not None
            await quiet(mesh, fork.task_id)
    assert len(effects) == 3
    assert len(set(keys)) == 3


async def quiet(mesh: MeshUnderTest, task_id: str) -> None:
    """Wait until a task waits for a person, or has ended."""
    async with asyncio.timeout(60):
        while (task := await mesh.client.task(task_id)).outcome is None and not task.waits:
            await asyncio.sleep(0.005)


async def ended(mesh: MeshUnderTest, task_ids: list[str]) -> list[str]:
    return [task_id for task_id in task_ids if (await mesh.client.task(task_id)).outcome is not None]
