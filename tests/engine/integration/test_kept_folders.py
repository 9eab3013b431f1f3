"""A data folder of each released format is opened, and its work goes on where it was."""

import tarfile
from pathlib import Path

import pytest

from tests.support.kept_folders import FOLDERS, environment_of
from tests.support.running_mesh import mesh_up


@pytest.mark.parametrize("archive", sorted(FOLDERS.glob("*.tar.gz")), ids=lambda archive: archive.name)
async def test_work_of_an_older_folder_goes_on(archive: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with tarfile.open(archive) as packed:
        packed.extractall(data, filter="data")
    async with mesh_up(data, **environment_of(tmp_path)) as running:
        # Submitted again, each is found by its key; the folder's schedule may have made tasks of its own.
        door, wall = [
            (await running.client.submit("painter", text, idempotency_key=key)).task_id
            for text, key in (("Paint a door.", "ended"), ("Paint a wall.", "open"))
        ]
        assert (await running.client.task(door)).status == "succeeded"
        assert (await running.client.outcome(door)).text == "True red True"
        [question] = [item for item in await running.client.inbox() if item.task_id == wall]
        await running.client.answer(question, "blue")
        outcome = await running.client.outcome(question.task_id)
        assert outcome.text == "True blue True"
        steps = await running.client.steps(question.task_id)
        calls = [
            event for event in await running.story(question.task_id) if event["event_type"] == "model.called"
        ]
        assert len(calls) == 2, "a finished step was made again"
        assert [step.kind for step in steps] == ["context", "model", "step", "model"]
        costs = await running.client.costs("prompt")
        of_prompts = {item.key and item.key.partition("@")[0]: item.calls for item in costs.items}
        assert of_prompts[None if archive.name < "0018" else "painter"] >= 4  # older runs name no prompt
        [schedule] = (await running.get("/schedules")).body["items"]
        assert schedule["id"] == "daily"
        budgets = {budget.budget: budget.limit_usd for budget in await running.client.budgets()}
        assert budgets["purse"] == 8
