"""A deploy in the middle of a wait: a card is charged once, whatever has changed, but for an explicit yes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import InvalidInput
from meshwright.engine.events.inbox import Question
from tests.support.running_mesh import Done, RunningMesh, mesh, mesh_up
from tests.support.simulated_mesh import SimulatedMesh
from tests.support.simulator.scenario import Scenario
from tests.support.simulator.server import Simulator

BUYER = """
from pathlib import Path
from meshwright import Agent, Capability, tool

CHARGES = Path(__file__).parent.parent / "charges"


class Buyer(Agent):
    agent_id = prompt = "simulated"
    capabilities = (Capability("work"),)
    remembers = False

    async def run(self, run):
        # first
        return await run.converse()

    @tool
    async def charge(self, order: str) -> str:
        \"\"\"Charge the card.\"\"\"
        with CHARGES.open("a") as file:
            file.write(order)
        return "charged"

    @tool(needs_approval=True)
    async def ship(self, order: str, carrier: str = "post") -> str:
        \"\"\"Ship an order.\"\"\"
        return f"shipped by {carrier}"
"""
ITEM = "item-1"
STEP = ("# first", 'await run.step("look", lambda: run.progress("looked"))')
IDEMPOTENT = ("@tool\n", "@tool(idempotent=True)\n")
MORE = '    @tool\n    async def more(self) -> str:\n        """More."""\n\n    @tool\n'
TEMPERATURE = ("max_tokens: 1024", "max_tokens: 1024\ntemperature: 0.1")


class Shop(SimulatedMesh):
    """A mesh whose agent buys, and is deployed again."""

    def deploy(self, *edits: tuple[str, str]) -> None:
        """Write the agent and its prompt, with these texts replaced."""
        for path, text in (("actors/simulated.py", BUYER), ("prompts/simulated.prompt", self._prompt)):
            for old, new in edits:
                text = text.replace(old, new)
            (self.data.parent / path).write_text(text)

    @property
    def charges(self) -> int:
        """How often the card was charged."""
        return (self.data.parent / "charges").read_text().count(ITEM)

    @property
    def _prompt(self) -> str:
        return "---\nmodel: default\nmax_tokens: 1024\ntags: [default]\n---\nYou buy.\n"

    async def run(self, *command: str) -> Done:
        """Run a `mesh` command on it."""
        return await mesh(*command, "--data", str(self.data), **self.environment)


async def question_of(running: RunningMesh, kind: str) -> Question:
    """Wait for a question of a kind."""
    await running.until(
        lambda event: (
            event["event_type"] == "task.waiting" and event["payload"]["subject"].get("kind") == kind
        )
    )
    while True:
        for question in await running.client.inbox():
            if question.subject["kind"] == kind:
                return question


async def approve(running: RunningMesh, question: Question, *, approve: bool = True) -> None:
    await running.client.answer(question, {"approve": approve})


@asynccontextmanager
async def deployed(tmp_path: Path, *edits: tuple[str, str], before: Any = ()) -> AsyncIterator[Any]:
    """A mesh that was deployed anew with these edits, while its task waited for an approval of `ship`."""
    async with Simulator(Scenario("deploys", "a deploy while a task waits", "buyer")) as simulator:
        shop = Shop(simulator, tmp_path)
        shop.deploy(*before)
        async with mesh_up(shop.data, **shop.environment) as running:
            [task_id] = await shop.submit(running)
            await question_of(running, "approval")
        shop.deploy(*before, *edits)
        async with mesh_up(shop.data, **shop.environment) as running:
            await approve(running, await question_of(running, "approval"))
            yield shop, running, task_id


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param([("Charge the card.", "Charge a card, once.")], id="docstring"),
        pytest.param([("    @tool\n", MORE)], id="new tool"),
        pytest.param([("async def charge(", "async def pay(")], id="tool gone"),
        pytest.param([("@tool(needs_approval=True)", "@tool(idempotent=True)")], id="rule gone"),
        pytest.param([("You buy.", "You buy with care."), TEMPERATURE], id="prompt"),
    ],
)
async def test_a_deploy_while_a_task_waits_repeats_nothing_and_keeps_the_approval(
    edits: list[tuple[str, str]], tmp_path: Path
) -> None:
    async with deployed(tmp_path, *edits) as (shop, running, task_id):
        outcome = await running.client.outcome(task_id)
        assert (outcome.text, outcome.attempt) == (f"Done: {ITEM} is shipped by post.", 1)
    assert shop.charges == 1


async def test_a_default_that_changes_while_a_task_waits_is_asked_about_alone(tmp_path: Path) -> None:
    async with deployed(tmp_path, ('"post"', '"courier"')) as (shop, running, task_id):
        await running.until(lambda event: "courier" in str(event["payload"].get("subject")))
        question = await question_of(running, "approval")
        assert question.subject["arguments"] == {"order": ITEM, "carrier": "courier"}
        await approve(running, question)
        assert (await running.client.outcome(task_id)).text == f"Done: {ITEM} is shipped by courier."
    assert shop.charges == 1


async def test_a_no_to_a_restart_ends_the_task_and_repeats_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path, STEP) as (shop, running, task_id):
        warned = "1 open task of simulated began with other code; 1 with steps that are not idempotent"
        await running.errors.until(f"{warned} (mesh tasks --agent simulated)")
        checked = await shop.run("agents", "check")
        assert (checked.status, checked.out.strip()) == (1, warned), checked.err
        question = await question_of(running, "restart")
        assert "The agent's code has changed since this task started" in question.question
        assert question.subject["steps"] == ["tool charge"]
        with pytest.raises(InvalidInput, match=r"approve") as refused:
            await running.client.answer(question, "no, do not repeat it")
        assert '"approve": true or false' in refused.value.remedy
        done = await shop.run("deny", task_id, "--reason", "paid is paid")
        assert done.status == 0, done.err
        outcome = await running.client.outcome(task_id)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.type, outcome.attempt) == ("failed", "RestartDenied", 1)
        assert "paid is paid" in outcome.error.message
        assert await running.stop() == 0
        shop.deploy()
        async with mesh_up(shop.data, **shop.environment) as former:  # with the code that the task began with
            again = await former.client.retry(task_id)
            assert (again.begin, again.generation) == ("journal", 2)
            outcome = await former.client.outcome(task_id)
    assert outcome.text == f"Done: {ITEM} is shipped by post."
    assert shop.charges == 1


async def test_a_yes_to_a_restart_repeats_the_steps_and_keeps_the_approval(tmp_path: Path) -> None:
    async with deployed(tmp_path, STEP) as (shop, running, task_id):
        await question_of(running, "restart")
        done = await shop.run("approve", task_id)
        assert done.status == 0, done.err
        outcome = await running.client.outcome(task_id)
        kept = await running.client.events(task_id=task_id, event_type="answer.kept")
    assert (outcome.text, outcome.attempt) == (f"Done: {ITEM} is shipped by post.", 2)
    assert [event.payload["asked"] for event in kept] == ["approve ship"]
    assert shop.charges == 2


async def test_a_run_of_idempotent_steps_starts_over_with_the_answers_it_had(tmp_path: Path) -> None:
    async with deployed(tmp_path, STEP, before=[IDEMPOTENT]) as (_, running, task_id):
        outcome = await running.client.outcome(task_id)
        waits = await running.client.events(task_id=task_id, event_type="task.waiting")
    assert (outcome.text, outcome.attempt) == (f"Done: {ITEM} is shipped by post.", 2)
    assert len(waits) == 1, "a person is asked again"


async def test_changed_code_is_told_of_before_work_goes_on(tmp_path: Path) -> None:
    async with Simulator(Scenario("deploys", "a deploy in the middle of a step", "buyer")) as simulator:
        shop = Shop(simulator, tmp_path)
        shop.deploy(("# first", 'await run.step("look", lambda: __import__("asyncio").sleep(3_600))'))
        async with mesh_up(shop.data, **shop.environment) as running:
            await shop.submit(running)
            await running.until(lambda event: event["event_type"] == "task.started")
            await running.kill()
        shop.deploy()
        types: list[str] = []
        async with mesh_up(shop.data, **shop.environment) as running:
            async for event in running.stream():
                types.append(event["event_type"])
                if types[-1] == "task.resumed":
                    break
    assert "agent.code_changed" in types
