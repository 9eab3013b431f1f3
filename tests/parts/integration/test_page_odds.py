"""The page where little is allowed, where the mesh is slow or away, and where much waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from meshwright.core.access import Role
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import http_mesh
from tests.support.page import (
    ADMIN,
    ADMINS,
    TOKEN,
    Deployer,
    Helper,
    Releaser,
    confirm,
    dialog,
    expect_refusal,
    open_view,
    press,
    priced_reply,
    questions,
    reader,
)
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium")
QUIET = "The mesh does not answer"


async def test_a_submitter_begins_at_the_first_view_that_it_sees(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        submitter = (await holder(api, "default", Role.SUBMITTER))["Authorization"].split()[1]
        async with open_view(browser, api, "", submitter) as page:
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Try it")
            await expect(page.get_by_role("link", name="Try it")).to_have_attribute("aria-current", "page")
            for view in ("inbox", "keys", "nothing"):
                await page.goto(f"{api.url}/#/{view}")
                await expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
                await page.get_by_role("main").get_by_role("link", name="Try it").click()
                await expect(page.get_by_role("heading", level=1)).to_contain_text("Try it")


async def test_a_slow_mesh_shows_no_number_before_it_is_known(tmp_path: Path, browser: Browser) -> None:
    go_on = asyncio.Event()

    async def hold(route: Route) -> None:
        await go_on.wait()
        await route.continue_()

    async with http_mesh(tmp_path) as api, open_view(browser, api, "inbox") as page:
        await api.submit(agent_id="gate", payload={})
        await page.route("**/status", hold)
        await page.route("**/tasks?*", hold)
        await page.reload()  # else an answer from before the hold may be shared
        await page.get_by_role("link", name="Tasks", exact=True).click()
        await expect(page.get_by_text("Asking…")).to_be_visible()
        running = page.locator(".cards").get_by_role("link", name="running")
        await expect(running).to_have_text("running ")
        go_on.set()
        await expect(running).to_have_text("running 1")
        await expect(page.get_by_text("Asking…")).to_have_count(0)
        await page.unroute_all(behavior="ignoreErrors")


async def test_a_mesh_that_is_away_is_asked_again(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, reader(browser, f"{api.url}/#/inbox") as person:
        page = person.page
        await expect(page.get_by_role("status").first).to_have_text("live")
        await page.context.set_offline(True)
        await page.get_by_role("link", name="Memory").click()
        await expect(page.get_by_role("alert")).to_contain_text(QUIET)
        await page.context.set_offline(False)
        await api.finished(agent_id="echo", payload={"text": "Hello"})
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_what_was_pressed_while_the_mesh_is_away_is_not_said_to_be_sent_again(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        kept = await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        async with reader(browser, f"{api.url}/#/task/{kept}") as person:
            page = person.page
            approve, again = page.get_by_role("button", name="Approve"), "If not, do it again."
            await expect(approve).to_be_visible()
            await press(page, "Cancel…")
            await page.context.set_offline(True)
            await confirm(page, "Cancel it")
            await expect_refusal(page, again)
            await confirm(page, "Leave it")
            await approve.click()
            await expect(page.locator(".notice")).to_contain_text(
                f"The mesh did not answer — Once it answers, see whether this was done. {again}"
            )
            await page.context.set_offline(False)
            await approve.click()
            assert (await api.client.outcome(kept)).success


async def test_approvals_are_chosen_by_agent_and_tool(tmp_path: Path, browser: Browser) -> None:
    calls = [tool_call("deploy", version=f"1.{number}", environment="staging") for number in range(2)]
    script = ScriptedModel(*calls, "Done.", "Done.")
    async with http_mesh(tmp_path, Deployer, Releaser, script=script) as api:
        asked = [await api.submit(agent_id="deployer", payload={"text": "Deploy."}) for _ in calls]
        kept = await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        async with open_view(browser, api, "inbox") as page:
            await expect(questions(page)).to_have_count(3)
            await press(page, "Choose all 2 of deployer, deploy")
            await press(page, "Approve all…")
            await confirm(page, "Approve all 2")
            for task_id in asked:
                assert (await api.client.outcome(task_id)).success
            await expect(questions(page)).to_have_count(1)
            assert (await api.get(f"/tasks/{kept}"))["status"] == "waiting"


async def test_an_experiment_is_run_looked_at_and_stopped(tmp_path: Path, browser: Browser) -> None:
    variants = [{"name": "now"}, {"name": "kind", "temperature": 0.2}]
    guard = {"metric": "success", "worse_by": 0.2, "action": "rollback"}
    wanted = {"name": "kinder", "agent_id": "helper", "variants": variants, "guard": guard}
    script = ScriptedModel(*["Well."] * 9)
    async with http_mesh(tmp_path, Helper, script=script, admin_token=TOKEN) as api:
        assert (await api.call("POST", "/v1/experiments", json=wanted, headers=ADMIN))[0] == 201
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with open_view(browser, api, "experiments", viewer) as page:
            await page.get_by_role("link", name="kinder").click()
            await expect(page.get_by_text("No task with a variant has ended yet.")).to_be_visible()
            buttons = await page.get_by_role("button").all_inner_texts()
            assert buttons == ["Go to…\nCtrl K", "Log out"]
        async with open_view(browser, api, "experiments", TOKEN) as page:
            await page.get_by_role("link", name="kinder").click()
            await expect(page.get_by_text("rolls back where success is worse by 20.0 %")).to_be_visible()
            await press(page, "Run on live tasks…")
            await confirm(page, "Run it")
            await expect(page.locator("h1")).to_contain_text("running")
            task = {"agent_id": "helper", "payload": {"text": "Help."}}
            _, made = await api.call("POST", "/tasks", json=task, headers=ADMIN)
            await api.mesh.get(Tasks).outcome(made["task_id"])
            figures = page.get_by_role("region", name="Figures").get_by_role("row")
            await expect(figures.filter(has_text="success")).to_contain_text("100.0 %")
            await press(page, "Stop…")
            await confirm(page, "Stop it")
            await expect(page.locator("h1")).to_contain_text("stopped")
            await expect(page.get_by_role("button", name="Stop…")).to_have_count(0)


async def test_costs_of_a_tenant_lead_to_its_tasks(tmp_path: Path, browser: Browser) -> None:
    priced = {"default_price": {"input": "0", "output": "20000"}}
    async with http_mesh(
        tmp_path, Helper, script=ScriptedModel(priced_reply("Well.")), ledger=priced, **ADMINS
    ) as api:
        headers = await holder(api, "acme", Role.SUBMITTER)
        task = {"agent_id": "helper", "payload": {"text": "Help."}}
        _, made = await api.call("POST", "/tasks", json=task, headers=headers)
        await api.mesh.get(Tasks).outcome(made["task_id"], "acme")
        async with open_view(browser, api, "money?by=tenant", TOKEN) as page:
            costs = page.get_by_role("region", name="Costs").get_by_role("row").filter(has_text="acme")
            await costs.get_by_role("link", name="1", exact=True).click()
            await expect(page.get_by_label("Tenant")).to_have_value("acme")
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows.filter(has_text=made["task_id"][-6:])).to_have_count(1)


async def test_the_sentence_of_health_names_questions_that_reached_nobody(
    tmp_path: Path, browser: Browser
) -> None:
    parked = {"agent_id": "asker", "kind": "person", "count": 3, "oldest": "2026-01-01T08:00:00Z"}

    async def add_questions(route: Route) -> None:
        response = await route.fetch()
        parked_now = [parked | {"unreached": 2, "unreached_since": parked["oldest"]}]
        await route.fulfill(response=response, json=await response.json() | {"parked": parked_now})

    async with http_mesh(tmp_path) as api, open_view(browser, api, "tasks") as page:
        await page.route("**/figures", add_questions)
        await page.reload()
        link = page.locator(".health").get_by_role("link")
        await expect(link).to_contain_text("2 questions have reached nobody who may answer, since")
        await expect(link).to_have_attribute("href", "#/inbox")
        await page.unroute_all(behavior="ignoreErrors")


async def test_a_dialog_says_that_its_task_has_ended_and_goes_with_its_view(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "tasks") as page:
        task_id = await api.submit(agent_id="gate", payload={"text": "Hold the door"})
        await page.get_by_role("link", name="Hold the door").click()
        await press(page, "Cancel…")
        await expect(dialog(page)).to_be_visible()
        await page.go_back()
        await expect(dialog(page)).to_have_count(0)
        await page.go_forward()
        is_left = asyncio.Event()

        async def answer_late(route: Route) -> None:
            await is_left.wait()
            await route.continue_()

        await page.route("**/tasks/*/cancel", answer_late)
        async with page.expect_request("**/tasks/*/cancel"):
            await press(page, "Cancel…")
        await page.go_back()
        async with page.expect_event("requestfinished", lambda request: request.url.endswith("/cancel")):
            is_left.set()
        await page.evaluate("new Promise(requestAnimationFrame)")
        await expect(dialog(page)).to_have_count(0)
        await page.go_forward()
        await press(page, "Cancel…")
        await expect(dialog(page)).to_be_visible()
        api.gate.set()
        assert (await api.client.outcome(task_id)).success
        await confirm(page, "Cancel it")
        await expect_refusal(page, "It had ended before: succeeded")


async def test_a_cancel_of_a_task_whose_agent_is_gone_says_that_it_has_ended(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        task_id = await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        async with asyncio.timeout(60):
            while not await api.client.inbox():
                await asyncio.sleep(0.01)
    async with http_mesh(tmp_path) as api, open_view(browser, api, f"task/{task_id}") as page:
        await press(page, "Cancel…")
        await confirm(page, "Cancel it")
        await expect(page.locator(".notice")).to_contain_text("It is cancelled")


async def test_a_viewer_is_told_that_contents_are_not_for_its_role(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser, **ADMINS) as api:
        submitter = await holder(api, "default", Role.SUBMITTER)
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        task = {"agent_id": "echo", "payload": {"text": "Hello", "fail": True}}
        _, receipt = await api.call("POST", "/tasks", json=task, headers=submitter)
        await api.mesh.get(Tasks).outcome(receipt["task_id"])
        async with open_view(browser, api, f"task/{receipt['task_id']}", viewer) as page:
            await expect(page.get_by_text("Its request, steps and results are for the role")).to_be_visible()
            await expect(page.locator(".why")).to_have_text("ToolFailed")
            await expect(page.get_by_role("heading", name="Request")).to_have_count(0)


async def test_tasks_that_one_answer_does_not_reach_are_named(tmp_path: Path, browser: Browser) -> None:
    async def reach_one(route: Route) -> None:
        item = {"task_id": "t", "status": "cancelled", "agent_id": "gate"}
        await route.fulfill(json={"items": [item], "cursor": "more"})

    async with http_mesh(tmp_path) as api:
        await api.submit(agent_id="gate", payload={})
        async with open_view(browser, api, "tasks?agent_id=gate") as page:
            await page.route("**/cancel", reach_one)
            await press(page, "Cancel all that match…")
            await confirm(page, "Cancel them")
            await expect(page.locator(".notice")).to_contain_text("more match: do it again for them")
            await page.unroute_all(behavior="ignoreErrors")


async def test_a_title_without_spaces_stays_in_the_window(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        task_id = await api.finished(agent_id="echo", payload={"text": "E" * 110, "fail": True})
        narrow = {"viewport": {"width": 390, "height": 844}}
        async with open_view(browser, api, f"task/{task_id}", **narrow) as page:
            await expect(page.get_by_role("heading", level=1)).to_contain_text("failed")
            error = page.get_by_role("region", name="Attempts").get_by_text("ToolFailed: told to fail")
            await expect(error).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390
