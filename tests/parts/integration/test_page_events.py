"""The page's list of events says what the command line says, and its address holds the filter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from meshwright.core.access import Role
from meshwright.core.task_events import TaskStarted, TaskWaiting, WaitEnded
from tests.support.http_mesh import http_mesh
from tests.support.page import ADMINS, open_view
from tests.support.running_mesh import mesh
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium")


async def test_events_have_the_line_of_the_command_line(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        task_id = await api.finished(agent_id="echo", payload={"fail": True})
        await api.finished(agent_id="echo", payload={"text": "Hello"})
        query = f"/events?task_id={task_id}"
        assert (await api.get(query))["lines"] is None
        page_of_events = await api.get(f"{query}&lines=true")
        printed = (await mesh("events", "--task", task_id, "--url", api.url)).out.splitlines()
        assert len(printed) == len(page_of_events["items"]) == len(page_of_events["lines"])
        assert [line.endswith(text) for line, text in zip(printed, page_of_events["lines"], strict=True)] == [
            True
        ] * len(printed)
        by_type = {event["event_type"]: n for n, event in enumerate(page_of_events["items"])}
        assert page_of_events["lines"][by_type["task.accepted"]] == "echoing"
        assert not [line for line in page_of_events["lines"] if re.search(r"\b[a-z_]+=\S|\dT\d\d:", line)]
        failed = page_of_events["lines"][by_type["task.failed"]]
        assert "told to fail" in failed
        assert (await api.get(f"/tasks/{task_id}/events?lines=true"))["lines"] == page_of_events["lines"]
        async with open_view(browser, api, "events") as page:
            rows = page.get_by_role("main").get_by_role("listitem")
            await expect(rows.filter(has_text="task.failed")).to_contain_text(failed)
            await page.get_by_role("link", name="task.failed", exact=True).click()
            await expect(rows).to_have_count(1)
            assert page.url.endswith("#/events?event_type=task.failed")
            await page.get_by_role("link", name="task.failed", exact=True).click()
            await expect(rows.filter(has_text="task.succeeded")).to_have_count(1)
            await page.get_by_role("textbox", name="Type").fill("attempt.failed")
            await page.get_by_role("button", name="Filter").click()
            await rows.get_by_role("link", name="echo", exact=True).click()
            await expect(page.get_by_role("textbox", name="Agent")).to_have_value("echo")
            assert page.url.endswith("#/events?event_type=attempt.failed&agent_id=echo")
            await rows.locator("summary").click()
            await expect(rows).to_contain_text('"message": "told to fail"')


async def test_lines_say_no_more_to_a_caller_than_the_events(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        submitter = await holder(api, "default", Role.SUBMITTER, Role.VIEWER)
        viewer = await holder(api, "default", Role.VIEWER)
        body = {"agent_id": "echo", "payload": {"fail": True}}
        task_id = (await api.call("POST", "/tasks", json=body, headers=submitter))[1]["task_id"]
        async with api.session.get(
            f"/tasks/{task_id}/events", headers=viewer | {"Accept": "text/event-stream"}
        ) as stream:
            await stream.read()  # to its end
        lines = (await api.call("GET", "/events?lines=true&limit=1000", headers=viewer))[1]["lines"]
        assert lines
        assert "told to fail" not in " ".join(lines)


async def test_a_try_in_vain_is_no_news(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        task_id = await api.finished(agent_id="echo", payload={"text": "Hello"})
        work: dict[str, Any] = {"attempt": 1, "fence": 2}
        steps = {"a": f"steps/{task_id}/1/1/1", "b": f"steps/{task_id}/1/1/2"}
        for ended, waited in (("a", "a"), ("a", "a"), ("a", "b")):
            wait = {"key": steps[ended], "kind": "money", "how": "due", "answered_by": None}
            api.mesh.tell(WaitEnded(**work, **wait), task_id=task_id)
            api.mesh.tell("task.resumed", TaskStarted(**work, owner=None, code=None), task_id=task_id)
            api.mesh.tell(TaskWaiting(**work, key=steps[waited], kind="money"), task_id=task_id)
        await api.mesh.runtime.emit([])
        left = (await mesh("events", "--url", api.url)).out
        every = (await mesh("events", "--all", "--url", api.url)).out
        own = (await mesh("events", "--task", task_id, "--url", api.url)).out
        assert [text.count("task.resumed") for text in (left, every, own)] == [1, 3, 3]
        listed = await api.get("/events", lines="true", order="desc")
        tries = [event["event_type"] for event in listed["items"] if event["seq"] in listed["tries"]]
        assert tries == 2 * ["task.waiting", "task.resumed", "wait.ended"]
        async with open_view(browser, api, "events") as page:
            rows = page.get_by_role("main").get_by_role("listitem").filter(has_text="task.resumed")
            await expect(rows).to_have_count(1)
            await expect(page.get_by_text("2 tries of tasks that went on waiting")).to_be_visible()
            await page.get_by_role("main").get_by_role("paragraph").get_by_role("link").click()
            await expect(rows).to_have_count(3)
