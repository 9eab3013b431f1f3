"""The page's inbox in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from meshwright.engine.events.filter import EventFilter
from meshwright.testing import ScriptedModel, tool_call
from tests.support.doubtful_mesh import Payer, doubtful_mesh
from tests.support.http_mesh import http_mesh
from tests.support.page import (
    ADMIN,
    PRICED,
    TOKEN,
    Deployer,
    Helper,
    Lead,
    Releaser,
    Scholar,
    confirm,
    dialog,
    expect_refusal,
    open_view,
    press,
    priced_reply,
    questions,
)
from tests.support.running_mesh import mesh
from tests.support.webhook_mesh import event, events

pytestmark = pytest.mark.needs("chromium")


async def test_an_approval_shows_how_the_tool_was_decided_on_before(tmp_path: Path, browser: Browser) -> None:
    calls = [tool_call("deploy", version="1.4", environment=where) for where in ("staging", "production")]
    script = ScriptedModel(calls[0], "Done.", calls[1])
    async with http_mesh(tmp_path, Deployer, script=script) as api, open_view(browser, api, "inbox") as page:
        first = await api.submit(agent_id="deployer", payload={"text": "Bring 1.4 to staging."})
        await press(page, "Approve")
        await api.client.outcome(first)
        await api.submit(agent_id="deployer", payload={"text": "Bring 1.4 to production."})
        card = page.get_by_role("article").filter(has_text="production")
        await card.get_by_text("Earlier decisions on deploy").click()
        await expect(page.get_by_text("approved by anonymous")).to_be_visible()
        await expect(page.locator(".diff .add")).to_contain_text("production")
        await expect(page.locator(".diff .del")).to_contain_text("staging")


async def test_answers_that_come_too_late_are_said_softly(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "inbox") as page:
        for text in ("one", "two", "three"):
            await api.submit(agent_id="releaser", payload={"text": text})
        await expect(questions(page)).to_have_count(3)
        await page.route("**/inbox?**", lambda route: route.abort())  # it hears of nothing more
        for item in (await api.get("/inbox"))["items"][:2]:
            answer = {"key": item["wait_id"], "value": {"approve": True}}
            await api.call("POST", f"/tasks/{item['task_id']}/answer", json=answer)
        await page.get_by_role("article").first.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("status").filter(has_text="It was settled meanwhile")).to_be_visible()
        await press(page, "Choose all 3 of releaser")
        await press(page, "Approve all…")
        await confirm(page, "Approve all 3")
        text = "1 approved, 2 settled meanwhile by others"
        await expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()


async def test_a_question_of_money_is_shown_for_the_first_time_once(tmp_path: Path) -> None:
    budget = {"name": "dear", "scope": "tag", "of": "expensive", "limit_usd": "0", "window": "day"}
    script, budgets = ScriptedModel(priced_reply("Bought.")), [budget | {"on_empty": "ask"}]
    async with http_mesh(tmp_path, Scholar, script=script, ledger=PRICED, budgets=budgets) as api:
        tail = api.mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0))
        await api.submit(agent_id="scholar", payload={"text": "Buy."})
        await anext(tail)
        await tail.aclose()
        [before] = (await api.get("/inbox"))["items"]
        await event(api, "question.reached")
        [after] = (await api.get("/inbox"))["items"]
        await api.finished(agent_id="echo", payload={"text": "Meanwhile."})
        assert (before["reached_by"], after["reached_by"]) == (None, "anonymous")
        assert len(await events(api, event_type="question.reached")) == 1


async def test_a_mesh_that_is_held_is_released(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api:
        assert (await api.call("POST", "/hold", headers=ADMIN))[0] == 200
        task_id = await api.submit(agent_id="echo", payload={"text": "Hello"})
        async with open_view(browser, api, "inbox") as page:
            await press(page, "Release…")
            await confirm(page, "Release the mesh")
            await expect(page.get_by_role("button", name="Release…")).to_have_count(0)
            assert (await api.client.outcome(task_id)).text == "you said: Hello"


async def test_money_is_added_saved_on_or_refused(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(*[priced_reply("Bought.")] * 9)
    budgets = [{"name": "dear", "scope": "tag", "of": "expensive", "limit_usd": "0.01", "on_empty": "ask"}]
    budgets[0]["window"] = "day"
    async with http_mesh(tmp_path, Scholar, script=script, ledger=PRICED, budgets=budgets) as api:
        task_id = await api.submit(agent_id="scholar", payload={"text": "Buy."})
        async with open_view(browser, api, "inbox") as page:
            await press(page, "Another amount…")
            await dialog(page).get_by_label("Dollars").fill("1e99")
            await confirm(page, "Add")  # the browser refuses it
            await dialog(page).get_by_label("Dollars").fill("0")
            await confirm(page, "Add")
            await expect_refusal(page, "greater than 0")
            await confirm(page, "Cancel")
            await press(page, "Wait")
            await expect(page.get_by_text("1 put off.")).to_be_visible()
            await press(page, "Show them")
            await press(page, "Cheaper models")
            assert (await api.client.outcome(task_id)).text == "Bought."
            assert script.requests[-1].tags == ("cheap",)
            await expect(page.get_by_text("Nothing waits for a person.")).to_be_visible()
            wanted = {"whose": "scholar", "allowance": "0.01/day", "on_empty": "ask"}
            await api.call("PUT", "/allowances", json=wanted)
            stopped = await api.submit(agent_id="scholar", payload={"text": "Buy."})
            await press(page, "Stop it…")
            await dialog(page).get_by_label("Reason").fill("too much")
            await confirm(page, "Stop it")
            assert "too much" in str((await api.client.outcome(stopped)).error)


@pytest.mark.parametrize("on_empty", ["ask", "wait"])
async def test_a_task_gets_more_of_its_own_budget(tmp_path: Path, browser: Browser, on_empty: str) -> None:
    script = ScriptedModel(*[priced_reply("Bought.")] * 9)
    async with http_mesh(tmp_path, Scholar, Lead, Helper, script=script, ledger=PRICED) as api:
        spent = {"budget_usd": "0.01", "on_empty": on_empty}
        task_id = await api.submit(agent_id="scholar", payload={"text": "Buy."}, **spent)
        view = "inbox" if on_empty == "ask" else f"task/{task_id}"
        async with open_view(browser, api, view) as page:
            await press(page, "Cheaper models")
            await expect(page.get_by_text("cheaper models are tried first")).to_be_visible()
            await expect(page.get_by_role("button", name="Cheaper models")).to_have_count(0)
            await press(page, "Another amount…")
            await dialog(page).get_by_label("Dollars").fill("500")
            await confirm(page, "Add")
            assert (await api.client.outcome(task_id)).text == "Bought."


async def test_a_doubt_has_its_facts_and_comes_first(tmp_path: Path, browser: Browser) -> None:
    async with doubtful_mesh(tmp_path, before=Releaser) as doubtful:
        api = doubtful.api
        doubt, other = await api.client.inbox()
        key = doubt.subject["step_id"]
        assert key in Payer.step_ids  # that of the charge
        done = await mesh("inbox", "--url", api.url)
        assert done.out.index(doubt.id[-6:]) < done.out.index(other.id[-6:])
        lines = (await mesh("inbox", doubt.id, "--url", api.url)).out.splitlines()
        facts = dict(line.split(maxsplit=1) for line in lines if not line.startswith(" "))
        assert facts["request"] == "Pay." and facts["its"].startswith(f"key     {key} ")
        assert facts["stopped"] == f"the mesh did, after that and before {facts['since']}"
        assert facts["began"] <= facts["since"]
        async with open_view(browser, api, "inbox") as page:
            await expect(questions(page).first).to_contain_text("in doubt")
            shown = page.get_by_role("article").locator(".facts")
            for text in (key, "it stopped between these times", "Pay."):
                await expect(shown).to_contain_text(text)
