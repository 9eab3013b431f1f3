"""The sessions of a coding agent in the view of its task, by the command line and in exports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from meshwright.core.access import Role
from meshwright.testing import ScriptedModel
from tests.support.coding_agents import PROGRAM, Fixer
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import PRICED, SHOTS, TOKEN, open_view, priced_reply
from tests.support.repositories import repository
from tests.support.running_mesh import mesh
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium", "git", "bwrap")
WORDS = "Have add() add. [dies once] [asks model] [runs tests] [asks]"


@asynccontextmanager
async def worked_mesh(folder: Path) -> AsyncIterator[tuple[Api, str]]:
    """A mesh whose coding agent has died, was permitted an edit, and has delivered it; and the task."""
    settings = {
        "trees": {"code": {"repository": str(repository(folder / "source"))}},
        "coding": {"fixer": {"program": "acp", "command": str(PROGRAM), "permissions": "ask"}},
        "ledger": PRICED,
        "admin_token": TOKEN,
    }
    script = ScriptedModel(*[priced_reply("So.")] * 4)
    async with http_mesh(folder, Fixer, script=script, **settings) as api:
        task_id = await api.submit(agent_id="fixer", payload={"text": WORDS})
        async for event in api.client.follow(task_id):
            if event.event_type == "task.waiting":
                [question] = await api.client.inbox()
                await api.client.answer(question, {"approve": True})
        yield api, task_id


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
async def test_a_task_shows_sessions_commands_and_exit_codes(
    tmp_path: Path, browser: Browser, width: int, scheme: Any
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with (
        worked_mesh(tmp_path) as (api, task_id),
        open_view(browser, api, f"task/{task_id}", **look) as page,
    ):
        rows = page.get_by_role("region", name="Coding sessions").get_by_role("row")
        await expect(rows.filter(has_text="begins")).to_have_count(1)
        await expect(rows.filter(has_text="goes on with its session")).to_have_count(2)
        await expect(rows.filter(has_text="make test").first).to_contain_text("exit code 2")
        await expect(rows.filter(has_text="permission")).to_contain_text("allowed")
        await expect(rows.filter(has_text="begins")).not_to_contain_text("$")
        await expect(rows.filter(has_text="goes on").first).to_contain_text("$")
        if SHOTS:
            await page.screenshot(path=Path(SHOTS, f"coding-{scheme}-{width}.png"), full_page=True)


async def test_commands_are_in_exports_and_on_the_command_line_and_hidden_from_viewers(
    tmp_path: Path,
) -> None:
    async with worked_mesh(tmp_path) as (api, task_id):
        shown = await mesh("task", task_id, "--url", api.url)
        assert "sessions    fake 1.2.3: new, resumed, resumed" in shown.out
        steps = await mesh("task", task_id, "--steps", "--url", api.url)
        assert "title=make test, kind=execute, status=failed, paths=[], exit_code=2" in steps.out
        page = await mesh("task", task_id, "--export", "html", "--url", api.url)
        assert "make test" in page.out and "exit_code" in page.out
        viewer = await holder(api, "default", Role.VIEWER)
        for path in (
            f"/tasks/{task_id}/events?limit=500",
            f"/tasks/{task_id}/export",
            f"/tasks/{task_id}/steps",
        ):
            _, document = await api.call("GET", path, headers=viewer)
            assert "make test" not in str(document) and "calc.py" not in str(document), path
        _, calls = await api.call("GET", f"/events?task_id={task_id}&event_type=coding.call", headers=viewer)
        assert [call["payload"].get("exit_code") for call in calls["items"]] == [2, 2, None]
