"""A task is nobody's to change: not its sender's, not its agent's, not a reader's."""

from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.messages import TaskRequest
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel
from tests.support.settings import load_settings

GIVEN = {"text": "given", "parts": [1, 2]}


class Vandal(Agent):
    """Changes all that it is given."""

    agent_id = "vandal"
    capabilities = (Capability("breaking"),)
    prompt_text = "Answer."

    async def run(self, run: Run) -> str:
        run.task.payload["text"] = "changed"
        run.task.payload["parts"].append(3)
        await run.step("look", self.look)
        return run.task.text

    async def look(self) -> str:
        return "seen"


@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_nobody_changes_the_record_of_a_task(tmp_path: Path, store: str) -> None:
    settings = load_settings(tmp_path, store=store, data_dir=tmp_path / "data")
    async with build_mesh(settings, project=tmp_path, agents=[Vandal], model=ScriptedModel()) as mesh:
        request = TaskRequest(agent_id="vandal", payload={"text": "given", "parts": [1, 2]})
        receipt = await mesh.get(Tasks).submit(request)
        request.payload["parts"].append(4)  # type: ignore[union-attr]
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
        assert outcome.text == "changed"
        seen = await mesh.get(Tasks).task(receipt.task_id)
        assert seen.payload == GIVEN
        seen.payload["parts"].append(5)
        assert seen.outcome is not None
        assert seen.outcome.result is not None
        seen.outcome.result["text"] = "changed again"
        seen_again = await mesh.get(Tasks).task(receipt.task_id)
        assert seen_again.payload == GIVEN
        assert seen_again.outcome is not None
        assert seen_again.outcome.text == "changed"


async def test_the_record_is_what_was_given_also_after_a_restart(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, data_dir=tmp_path / "data")
    async with build_mesh(settings, project=tmp_path, agents=[Vandal], model=ScriptedModel()) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="vandal", payload=dict(GIVEN)))
        await mesh.get(Tasks).outcome(receipt.task_id)
    async with build_mesh(settings, project=tmp_path, agents=[Vandal], model=ScriptedModel()) as mesh:
        assert (await mesh.get(Tasks).task(receipt.task_id)).payload == GIVEN
