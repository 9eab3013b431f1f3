"""One contract for the agents of every framework: kill -9 at each boundary of a run, and nothing is lost.

In one mesh there is a task for each boundary, which is held there: in each call of a model, in each call of a
tool before and after its effect, at the approval. Then the mesh is killed, the code of one shop changes, and
another mesh goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Outcome
from meshwright.engine.events.inbox import Question
from tests.run import DAPR
from tests.support.frameworks.shop_mesh import COST, SCRIPT, ShopMesh, TextProvider

PROMPT = "You sell things."
PLACES = (
    "model:0",
    "stock:lamp",
    "stock:rug",
    "model:2",
    "charge:before",
    "charge:after",
    "model:3",
    "approval",
    "ship:before",
    "ship:after",
    "model:4",
)
"""The boundaries of a run, in their order. Two items are looked up side by side."""
AFTER_APPROVAL = ("ship:before", "ship:after", "model:4", "late")
DEPLOYED = {"early": "stock:rug", "late": "ship:after", "cut": "model:2", "denied": "model:3"}
"""Tasks whose code changes while they are in a tool, before anything was changed and after, or in a call."""
PLACE_OF = {**DEPLOYED, "rich": "model:2"}
SOLD_EFFECTS = {"stock lamp": 1, "stock rug": 1, "charge 500": 1}
EFFECTS = {**SOLD_EFFECTS, "ship lamp": 1}
EXAMPLES = (
    "pydantic_ai_shop",
    "pydantic_ai_durability",
    "openai_agents_shop",
    "langgraph_shop",
    "agent_framework_shop",
    "google_adk_shop",
)
if "FRAMEWORK_SHOP" in os.environ:  # a recipe's, whose framework FRAMEWORK_PYTHON has
    EXAMPLES = ("own_shop",)
ELSEWHERE = (("pydantic_ai_shop", "postgres"), ("langgraph_shop", "dapr"))
"""On the other stores, in CI."""
_SOAK = pytest.mark.soak("the same on SQLite; the turns and claims of each store have tests of their own")
CASES = [
    pytest.param(
        example,
        store,
        marks=[
            *([] if store == "sqlite" or (example, store) in ELSEWHERE else [_SOAK]),
            *([pytest.mark.needs(*DAPR)] if store == "dapr" else []),
        ],
    )
    for store in ("sqlite", "postgres", "dapr")
    for example in EXAMPLES
]


def text_of(name: str) -> str:
    return f"{name}: Sell the lamp. hold={PLACE_OF.get(name, name)}."


class Sale:
    """A mesh of shops, and its tasks: one held at each boundary, by name."""

    def __init__(self, mesh: ShopMesh, provider: TextProvider) -> None:
        self.mesh, self.provider = mesh, provider
        self.tasks: dict[str, str] = {}
        self.questions: dict[str, set[str]] = {}
        """The questions that each task has asked, by their keys."""
        self.outcomes: dict[str, Outcome] = {}

    async def submit(self, agent_id: str, *names: str) -> None:
        for name in names:
            task_id = await self.mesh.running.submit(text_of(name), agent_id=agent_id, capability="selling")
            self.tasks[name], self.questions[name] = task_id, set()

    async def open_questions(self) -> list[tuple[str, Question]]:
        """The open questions, each with the name of its task."""
        names = {task_id: name for name, task_id in self.tasks.items()}
        questions = [
            (names[question.task_id], question) for question in await self.mesh.running.client.inbox()
        ]
        for name, question in questions:
            self.questions[name].add(question.wait_id)
        return questions

    def is_held(self, name: str, waiting: set[str]) -> bool:
        if name in ("approval", "poor"):
            return name in waiting
        text, effects = text_of(name), self.mesh.effects(text_of(name))
        is_beside_done = not name.startswith("stock") or effects["stock lamp"] + effects["stock rug"] == 1
        return is_beside_done and self.provider.held[text] + effects["held"] == 1

    async def until_held(self) -> None:
        """Approve what has to go past the approval, until each task is where it is held."""
        to_approve, waiting = {*AFTER_APPROVAL}, set[str]()
        while not all(self.is_held(name, waiting) for name in self.tasks):
            ended = [task for task in await self.mesh.running.client.tasks() if task.completed_at is not None]
            assert not ended, [(task.status, task.error) for task in ended]
            questions = await self.open_questions()
            approvals = [question for name, question in questions if name != "poor"]
            texts = [question.question for question in approvals]
            assert all(f"{one.agent_id} wants to run ship(item=" in one.question for one in approvals), texts
            assert all(question.subject["does"] == "Ship an item." for question in approvals)
            waiting = {name for name, _ in questions}
            for name, question in questions:
                if name in to_approve:
                    to_approve.discard(name)
                    await self.mesh.running.client.answer(question, {"approve": True})
            await asyncio.sleep(0.02)

    async def go_on(self) -> None:
        """Answer each question until all tasks have ended."""
        ends = asyncio.gather(*(self.mesh.running.client.outcome(task) for task in self.tasks.values()))
        while not ends.done():
            for name, question in await self.open_questions():
                await self.mesh.running.client.answer(question, answer_to(name, question))
            await asyncio.sleep(0.02)
        self.outcomes = dict(zip(self.tasks, ends.result(), strict=True))


def answer_to(name: str, question: Question) -> dict[str, Any]:
    """The answer of a person who looks: nothing that took effect is repeated."""
    if question.subject.get("kind") == "restart":
        return {"approve": False, "reason": "It was sold."}
    is_in_doubt = question.answer_schema is not None and "result" in question.answer_schema["properties"]
    if is_in_doubt and name.endswith(":after"):
        return {"approve": False, "result": "It was done before."}
    return {"approve": True}


@pytest.mark.parametrize(("example", "store"), CASES)
async def test_agents_of_frameworks_go_on_after_a_kill_at_each_boundary(
    example: str, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if store == "postgres" else None
    async with TextProvider(SCRIPT) as provider, ShopMesh(example, store, tmp_path, url, provider) as mesh:
        sale = Sale(mesh, provider)
        await sale.submit("seller", *PLACES)
        await sale.submit("poor", "poor")
        await sale.submit("deployed", *DEPLOYED)
        await sale.submit("deployed-rich", "rich")
        await sale.until_held()
        mesh.release()
        mesh.deploy(PROMPT, "You sell things, and are polite.")
        await mesh.kill()
        await mesh.running.client.raise_budget(Decimal(1), budget="poor", key="poor")
        await sale.go_on()
        calls = {name: await mesh.calls(task_id) for name, task_id in sale.tasks.items()}
        client, sold_last = mesh.running.client, sale.tasks["model:4"]
        called = await client.events(task_id=sold_last, event_type="tool.called")
    assert sorted(event.fields["tool"] for event in called) == ["charge", "ship", "stock", "stock"]
    for name in (*PLACES, "poor"):
        check_sold(sale, name)
    for name, outcome in sale.outcomes.items():
        asked = sum(provider.asked_of(text_of(name)).values())
        assert (name, len(calls[name])) == (name, asked), "the ledger has other calls than the provider"
        assert sum(Decimal(call["cost_usd"]) for call in calls[name]) == asked * COST
        assert (name, outcome.cost_usd) == (name, asked * COST)
    check_deployed(sale)


def check_sold(sale: Sale, name: str) -> None:
    """A task that was killed at a boundary: nothing twice, but the call of a model that was cut off."""
    text, outcome = text_of(name), sale.outcomes[name]
    assert (name, outcome.text) == (name, "The lamp is sold."), outcome.error
    assert (name, sale.mesh.effects(text) - Counter(held=1)) == (name, EFFECTS)
    cut = [("", int(name.removeprefix("model:")))] if name.startswith("model:") else []
    assert sale.provider.asked_of(text) == Counter([*SCRIPT, *cut]), f"{name}: a call is repeated"
    doubts = name.partition(":")[0] in ("charge", "ship")
    assert (name, len(sale.questions[name])) == (name, 1 + doubts + (name == "poor"))


def check_deployed(sale: Sale) -> None:
    """The rules of a deploy: work begins anew where it changed nothing, else a person is asked."""
    for name in ("early", "cut", "rich"):
        outcome, effects = sale.outcomes[name], sale.mesh.effects(text_of(name))
        assert (name, outcome.text, outcome.attempt) == (name, "The lamp is sold.", 2)
        assert (name, effects["charge 500"], effects["ship lamp"]) == (name, 1, 1)
    for name, effects in {"late": EFFECTS, "denied": SOLD_EFFECTS}.items():
        error = sale.outcomes[name].error
        assert error is not None and (name, error.type) == (name, "RestartDenied")
        assert (name, sale.mesh.effects(text_of(name)) - Counter(held=1)) == (name, effects)
