"""Which failures count against an agent: its own, live and after a restart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.errors import MeshError, TaskLimitReached, ToolFailed
from meshwright.core.messages import Fault, Outcome
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.scoring import classify_fault, counts
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import BudgetExceeded, ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.port import ModelReply
from meshwright.testing import ScriptedModel, mesh_for
from tests.agents.unit.test_attempts import holding
from tests.support.interrupted_mesh import kept


class Asker(Agent):
    """Asks its model."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "fail":
            raise ToolFailed("as it was asked to")
        return await run.ask("What is it?")


class Other(Asker):
    """Could do it as well."""

    agent_id = "other"
    capabilities = (Capability("asking", weight=0.5),)


OTHERS_FAULTS = [
    BudgetExceeded("no room", budget="budget_usd"),
    ModelUnavailable("the provider is down"),
    RateLimited("slow down"),
    ModelRefused("400", remedy="change it"),
]


@pytest.mark.parametrize("error", OTHERS_FAULTS, ids=lambda error: error.code)
async def test_faults_of_others_lower_no_score(tmp_path: Path, error: MeshError) -> None:
    model = ScriptedModel(*[error] * 6)
    async with kept(tmp_path, Asker, model=model) as mesh:
        request = TaskRequest(agent_id="asker", payload={"text": "Ask."})
        outcome = await mesh.get(Tasks).outcome((await mesh.get(Tasks).submit(request)).task_id)
        assert outcome.error is not None
        assert outcome.error.type == error.code
        assert [card.success for card in mesh.get(Registry).scores("asking")] == [1.0]
    async with kept(tmp_path, Asker) as mesh:
        assert [card.success for card in mesh.get(Registry).scores("asking")] == [1.0]


def ended(error: str) -> Outcome:
    """The failed end of an attempt."""
    return Outcome(
        task_id="t",
        agent_id="asker",
        status="failed",
        success=False,
        error=Fault(type=error, message="It failed"),
        completed_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("error", "fault_class"),
    [
        ("ValueError", "agent"),
        ("EmptyReply", "agent"),
        ("ToolFailed", "agent"),
        ("Timeout", "agent"),
        ("TaskTimeout", "caller"),
        ("BudgetExceeded", "caller"),
        ("ContextTooLong", "caller"),
        ("LimitReached", "agent"),
        ("TaskLimitReached", "caller"),
        ("ModelRefused", "provider"),
        ("AllProvidersDown", "provider"),
        ("Overloaded", "mesh"),
        ("BrokeOff", "mesh"),
    ],
)
def test_faults_are_classed_and_the_agents_own_alone_count(error: str, fault_class: str) -> None:
    outcome = ended(error)
    assert (classify_fault(outcome), counts(outcome)) == (fault_class, fault_class == "agent")


async def test_a_failed_attempt_says_whose_fault_it_was() -> None:
    async with mesh_for(Asker, model=ScriptedModel(ModelRefused("400"))) as mesh:
        receipt = await mesh.submit(agent_id="asker", payload={"text": "Ask."})
        await mesh.outcome(receipt.task_id)
        [event] = mesh.events("attempt.failed", task_id=receipt.task_id)
    assert event.payload["fault"] == "provider"


@pytest.mark.parametrize("reply", ["fail", "empty"])
async def test_faults_of_its_own_lower_an_agents_score(tmp_path: Path, reply: str) -> None:
    model = ScriptedModel(*[ModelReply(model="m")] * 3)
    async with kept(tmp_path, Asker, model=model) as mesh:
        request = TaskRequest(agent_id="asker", payload={"text": reply})
        assert not (await mesh.get(Tasks).outcome((await mesh.get(Tasks).submit(request)).task_id)).success
        assert [card.success for card in mesh.get(Registry).scores("asking")] == [0.0]
    async with kept(tmp_path, Asker) as mesh:
        assert [card.success for card in mesh.get(Registry).scores("asking")] == [0.0]


async def test_a_timeout_that_its_caller_chose_lowers_no_score() -> None:
    holder, _, _ = holding()
    async with mesh_for(holder) as mesh:
        receipt = await mesh.submit(agent_id="holder", payload={"text": "Hold."}, timeout=0.01, deadline=60)
        assert (await mesh.outcome(receipt.task_id)).status == "timed_out"
        assert [card.success for card in mesh.mesh.get(Registry).scores("holding")] == [1.0]


async def test_a_cancelled_task_lowers_no_score(tmp_path: Path) -> None:
    holder, began, _ = holding()
    async with kept(tmp_path, holder) as mesh:
        request = TaskRequest(agent_id="holder", payload={"text": "Hold."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await began.wait()
        await mesh.get(Tasks).cancel(task_id)
        assert (await mesh.get(Tasks).outcome(task_id)).status == "cancelled"
        assert [card.success for card in mesh.get(Registry).scores("holding")] == [1.0]
    async with kept(tmp_path, holder) as mesh:
        assert [card.success for card in mesh.get(Registry).scores("holding")] == [1.0]


@pytest.mark.parametrize(
    "error", [BudgetExceeded("no room", budget="budget_usd"), TaskLimitReached("used up", limit="max_usd")]
)
async def test_no_other_agent_tries_again_what_a_budget_or_a_limit_of_the_task_refuses(
    error: MeshError,
) -> None:
    class First(Asker):
        async def run(self, run: Run) -> str:
            raise error

    model = ScriptedModel("From the other.")
    async with mesh_for(First, Other, model=model) as mesh:
        receipt = await mesh.submit(capability="asking", payload={"text": "Ask."})
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.error is not None
    assert (outcome.error.type, outcome.attempt, model.unsaid) == (error.code, 1, 1)


async def test_a_delegated_task_that_fails_counts_against_its_own_agent_alone() -> None:
    class Boss(Agent):
        agent_id = "boss"
        capabilities = (Capability("leading"),)
        delegates_to = ("asker",)

        async def run(self, run: Run) -> str:
            return await run.delegate("asker", run.task.text)

    async with mesh_for(Boss, Asker) as mesh:
        outcome = await mesh.ask("boss", "fail")
        scores = [mesh.mesh.get(Registry).scores(name)[0].success for name in ("leading", "asking")]
    assert outcome.error is not None
    assert (outcome.error.type, scores) == ("DelegationFailed", [1.0, 0.0])
