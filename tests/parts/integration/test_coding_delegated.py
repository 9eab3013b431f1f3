"""project-manager delegates to a coding agent by capability, and proposes what that has changed."""

from pathlib import Path

import pytest

from meshwright.testing import ScriptedModel, mesh_for
from tests.support.coding_agents import PROGRAM
from tests.support.repositories import repository
from tests.support.shipped_agents import (
    ARCHITECT,
    MANAGER,
    ROOT,
    TESTER,
    goal,
    plan,
    review,
    shipped,
    verdict,
)

pytestmark = pytest.mark.needs("git", "bwrap")


async def test_project_manager_has_a_coding_agent_do_a_part_and_proposes_the_change(tmp_path: Path) -> None:
    model = ScriptedModel()
    model.replies(goal(), plan(), to=MANAGER)
    model.replies(verdict(), to=TESTER)
    model.replies(review(), to=ARCHITECT)
    trees = {"calc": {"repository": str(repository(tmp_path / "calc"))}}
    coder = {"program": "acp", "command": str(PROGRAM), "capabilities": ["bug-fix"]}
    agents = shipped(MANAGER, TESTER, ARCHITECT)
    async with mesh_for(*agents, model=model, project=ROOT, trees=trees, coding={"fixer": coder}) as mesh:
        receipt = await mesh.submit(agent_id=MANAGER, payload={"text": "Have add() add."}, repository="calc")
        [question] = await mesh.questions()
        assert "+    return a + b" in question.subject["effect"]
        await mesh.answer(question, {"approve": True})
        outcome = await mesh.outcome(receipt.task_id)
        assert outcome.result["state"] == "ACCEPTED"
        assert outcome.result["branch"] == f"mesh/{receipt.task_id}"
        turns = mesh.events("coding.turn")
        assert [event.agent_id for event in turns] == ["fixer"]
        assert turns[0].task_id != receipt.task_id
        assert len(mesh.events("task.waiting").payloads) >= 1
    assert model.unsaid == 0
