"""The views of the fleet in a real browser: agents and models, as they are now and in the last hours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.async_api import Browser, Page, expect

from meshwright import create_agent
from meshwright.core.access import Role
from meshwright.engine.events.filter import EventFilter
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMINS, SHOTS, open_view
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium")


def deployment(fake: FakeProvider, name: str, group: str) -> dict[str, Any]:
    params = {"model": f"openai/{name}", "api_base": fake.at(name), "api_key": "k"}
    return {"model_name": group, "litellm_params": params, "model_info": {"id": name}}


async def started(api: Api, agent_id: str) -> None:
    """Wait until a task of an agent runs."""
    query = EventFilter(event_type="task.started", agent_id=agent_id, after_seq=0)
    await anext(aiter(api.mesh.log.tail(query)))


async def follow(page: Page, name: str) -> None:
    """Follow the first link of the view with that name."""
    await page.locator("#main").get_by_role("link", name=name, exact=True).first.click()


async def test_agents_show_what_they_do_and_how_their_tasks_ended(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        for _ in range(3):
            await api.finished(agent_id="echo", payload={"text": "Hello"})
        for _ in range(2):
            await api.finished(agent_id="echo", payload={"text": "x", "fail": True})
        await api.submit(agent_id="gate", payload={"text": "Hold the door"})
        await started(api, "gate")
        async with open_view(browser, api, "agents") as page:
            rows = page.get_by_role("region", name="Agents").get_by_role("row")
            gate, echo = rows.filter(has_text="gate"), rows.filter(has_text="echo")
            await expect(gate.get_by_role("link", name="Hold the door")).to_be_visible()
            await expect(gate).to_contain_text("1 of 8")
            chart = "24 hours: 3 succeeded, 2 failed or timed out, most at "
            await expect(echo.get_by_role("img", name=chart)).to_be_visible()
            await expect(echo).to_contain_text("60 %")
            await echo.get_by_role("link", name="2", exact=True).click()
            tasks = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(tasks).to_have_count(1 + 2)

            await page.goto(f"{api.url}/#/agents")
            await follow(page, "echo")
            await expect(page.get_by_role("heading", level=1)).to_contain_text("echo")
            await expect(page.get_by_role("list", name="Tasks by hour").get_by_role("link")).to_have_count(1)
            await page.get_by_text("The same as a table").click()
            await (
                page.get_by_role("region", name="Tasks that ended by hour")
                .get_by_role("link", name="3", exact=True)
                .click()
            )
            await expect(tasks).to_have_count(1 + 3)


async def test_a_viewer_sees_no_titles_of_running_tasks(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        viewer = await holder(api, "default", Role.VIEWER)
        submitter = await holder(api, "default", Role.SUBMITTER)
        body = {"agent_id": "gate", "payload": {"text": "Hold the door"}}
        assert (await api.call("POST", "/tasks", json=body, headers=submitter))[0] == 202
        await started(api, "gate")
        token = viewer["Authorization"].split()[1]
        async with open_view(browser, api, "agents/gate", token) as page:
            running = page.get_by_role("region", name="Running tasks")
            await expect(running.get_by_role("link", name="waiting")).to_be_visible()
            assert "Hold the door" not in await page.locator("body").inner_text()


async def test_an_agent_that_is_not_there_is_said_so(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "agents/nobody") as page:
        await expect(page.get_by_text("The mesh has no agent of that name.")).to_be_visible()
        await page.get_by_role("link", name="Show all").click()
        await expect(page.get_by_role("region", name="Agents")).to_be_visible()


async def test_an_operator_finds_what_is_away_by_one_click(
    tmp_path: Path, browser: Browser, fake: FakeProvider
) -> None:
    for name, status in (("east", 503), ("west", 401)):
        fake.faults_of[name].extend(Fault(status=status) for _ in range(20))
    config = {
        "model_list": [deployment(fake, "east", "default"), deployment(fake, "west", "spare")],
        "router_settings": {
            "num_retries": 0, "allowed_fails": 0, "cooldown_time": 600, "fallbacks": [{"default": ["spare"]}],
        },
    }  # fmt: skip
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, poet, model="router") as api:
        waiting = api.mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0))
        await api.submit(agent_id="poet", payload={"text": "Sing of the sea"})
        await anext(aiter(waiting))
        async with open_view(browser, api, "tasks") as page:
            banner = page.get_by_role("banner")
            await expect(banner).to_contain_text("1 task waits for them")
            await banner.get_by_role("link", name="2 of 2 models are away since").click()
            away = page.get_by_role("region", name="What is away")
            for text in ("east", "west", "Next try in", "1 task waits for it", "1 task waits for a model"):
                await expect(away).to_contain_text(text)
            await away.get_by_role("link", name="east").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("east away")
            await expect(page.get_by_role("region", name="Why it is away")).to_contain_text("Next try in")
            errors = page.get_by_role("region", name="Errors").get_by_role("row")
            await errors.filter(has_text="ModelUnavailable").get_by_role("link", name="1", exact=True).click()
            calls = page.get_by_role("main").get_by_role("listitem")
            await expect(calls).to_have_count(1)
            assert "#/events?failed_at=east&since=" in page.url
            await calls.locator(".of").get_by_role("link").last.click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Sing of the sea")
            await page.goto(f"{api.url}/#/models/east")
            await follow(page, "1 task waits for it")
            tasks = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(tasks.filter(has_text="Sing of the sea")).to_have_count(1)
            await expect(tasks).to_have_count(1 + 1)
            assert page.url.endswith("#/tasks?waits_for_model=east")
            await page.goto(f"{api.url}/#/models/east")
            rows = page.get_by_role("region", name="Waiting tasks").get_by_role("row")
            await expect(rows.filter(has_text="Sing of the sea")).to_contain_text("poet")
            if SHOTS:
                await page.screenshot(path=Path(SHOTS, "model-away.png"), full_page=True)
            fake.faults_of["east"].clear()
            await page.get_by_role("button", name="Test default").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("east well")


async def test_a_call_that_is_made_again_after_an_outage_is_shown_as_running(
    tmp_path: Path, browser: Browser, fake: FakeProvider
) -> None:
    fake.faults_of["east"].extend([Fault(status=503)] * 3 + [Fault(kind="hang")])
    router = {"num_retries": 0, "allowed_fails": 9}
    config = {"model_list": [deployment(fake, "east", "default")], "router_settings": router}
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, poet, model="router", models={"park_seconds": 0.5}) as api:
        task_id = await api.submit(agent_id="poet", payload={"text": "Sing of the sea"})
        async with asyncio.timeout(60):
            while len(fake.calls_of("east")) < 4:  # three tries, then one after the outage
                await asyncio.sleep(0.01)
        async with open_view(browser, api, f"task/{task_id}") as page:
            step = page.get_by_role("list", name="Steps").get_by_role("listitem").filter(has_text="model")
            await expect(step.locator(".status")).to_have_text("running")
            await expect(step).to_contain_text("503")
            assert await step.locator(".share").evaluate(OVERFLOW) <= 0
            await api.client.cancel(task_id)
            await expect(step.locator(".status")).to_have_text("failed")


OVERFLOW = "node => node.getBoundingClientRect().right - node.parentElement.getBoundingClientRect().right"


async def test_a_key_of_one_tenant_sees_no_models(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        viewer = (await holder(api, "acme", Role.VIEWER))["Authorization"].split()[1]
        async with open_view(browser, api, "models", viewer) as page:
            await expect(
                page.get_by_text("Models are shown to callers who act for all tenants.")
            ).to_be_visible()
