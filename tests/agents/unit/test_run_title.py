"""Titles that agents set for their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.access import Role
from meshwright.engine.stores.memory import Faults
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import mesh_for
from tests.support.http_mesh import http_mesh
from tests.support.page import ADMINS
from tests.support.tenants import holder


class Namer(Agent):
    """Sets the titles of its payload."""

    agent_id = "namer"
    capabilities = (Capability("naming"),)
    remembers = False

    async def run(self, run: Run) -> str:
        for title in run.task.payload["titles"]:
            await run.title(title)
        if run.task.payload.get("fail"):
            raise ValueError("no")
        return "named"


async def test_the_last_title_stands_for_the_request() -> None:
    async with mesh_for(Namer) as mesh:
        payload = {"text": "Do it.", "titles": ["  \nRelease 1.4\nof billing", "x" * 200]}
        receipt = await mesh.submit(agent_id="namer", payload=payload)
        await mesh.outcome(receipt.task_id)
        [task] = (await mesh.mesh.log.tasks(tenant_id="default")).items
        assert task.title == f"{'x' * 119}…"
        assert (await mesh.mesh.get(Tasks).task(receipt.task_id)).title == task.title
        titles = [event.payload["title"] for event in mesh.events("run.title", task_id=receipt.task_id)]
        assert titles == ["Release 1.4", task.title]
        [row] = (await mesh.mesh.log.tasks(tenant_id="default", text="DO IT")).items
        assert row.task_id == receipt.task_id
        assert (await mesh.mesh.log.tasks(tenant_id="default", text="xxxx*")).items


@pytest.mark.parametrize("title", ["", " \n "])
async def test_a_title_without_words_fails_with_a_remedy(title: str) -> None:
    async with mesh_for(Namer) as mesh:
        receipt = await mesh.submit(agent_id="namer", payload={"titles": [title]})
        outcome = await mesh.outcome(receipt.task_id)
        assert outcome.error is not None
        assert "run.title is given no words" in outcome.error.message


async def test_a_run_that_begins_again_sets_each_title_once() -> None:
    async with mesh_for(Namer, faults=Faults(restart=0.5)) as mesh:
        receipt = await mesh.submit(agent_id="namer", payload={"titles": ["One", "Two"]})
        await mesh.outcome(receipt.task_id)
        titles = [event.payload["title"] for event in mesh.events("run.title", task_id=receipt.task_id)]
        assert titles == ["One", "Two"]


async def test_a_title_is_redacted_and_hidden_from_viewers(tmp_path: Path) -> None:
    settings: dict[str, Any] = ADMINS
    async with http_mesh(tmp_path, Namer, **settings) as api:
        admin = {"Authorization": f"Bearer {ADMINS['admin_token']}"}
        payload = {"titles": ["Release with password = hunter2hunter2"]}
        request = {"agent_id": "namer", "payload": payload}
        _, receipt = await api.call("POST", "/tasks", json=request, headers=admin)
        await api.mesh.get(Tasks).outcome(receipt["task_id"])
        for role, sees in ((Role.CONTENTS, True), (Role.VIEWER, False)):
            headers = await holder(api, "default", role)
            for path in (f"/tasks/{receipt['task_id']}", "/tasks", "/events?event_type=run.title"):
                status, document = await api.call("GET", path, headers=headers)
                assert status == 200
                assert ("Release with" in str(document)) == sees, (role, path)
                assert sees or "hunter2" not in str(document)
        task = await api.mesh.get(Tasks).task(receipt["task_id"])
        assert task.title is not None and "hunter2" not in task.title
