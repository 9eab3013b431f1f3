"""The page's view to try agents, in a real browser."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import http_mesh
from tests.support.missing_agents import Project
from tests.support.page import SHOTS, Notes, Releaser, Talker, open_view, press, priced_reply, reader
from tests.support.running_mesh import mesh_up

pytestmark = pytest.mark.needs("chromium")


async def test_a_conversation_goes_on_and_answers_in_its_place(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel("I am well.", "You asked how I am.")
    async with (
        http_mesh(tmp_path, Talker, Releaser, script=script) as api,
        open_view(browser, api, "try") as page,
    ):
        for agent, text, answer in (
            ("talker", "How are you?", "I am well."),
            ("talker", "What did I ask?", "You asked"),
        ):
            await page.get_by_label("Agent").select_option(agent)
            await page.get_by_label("Request").fill(text)
            await page.get_by_label("Request").press("Enter")
            await expect(page.locator(".talk pre").last).to_contain_text(answer)
        assert "How are you?" in str(script.requests[-1].messages)
        await page.get_by_label("Agent").select_option("releaser")
        await page.get_by_label("Request").fill("Ship it.")
        await page.get_by_label("Request").press("Enter")
        await page.get_by_role("article").get_by_role("button", name="Approve").click()
        await expect(page.locator(".talk pre").last).to_have_text("released")
        await page.reload()
        await expect(page.locator(".talk .said")).to_have_text(
            ["How are you?", "What did I ask?", "Ship it."]
        )


async def test_a_fresh_mesh_opens_on_requests_to_click(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        async with open_view(browser, api, "") as page:
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Try it")
            starters = page.get_by_role("list", name="To begin with").get_by_role("button")
            await expect(starters).to_have_count(3)
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            await starters.filter(has_text="asks echo").first.click()
            await expect(page.locator(".talk pre")).to_contain_text("you said: ")
            await expect(starters).to_have_count(0)
            await page.locator(".talk").get_by_role("link", name="…").click()
            await expect(page.locator("h1 .status")).to_have_text("succeeded")
        async with open_view(browser, api, "") as page:
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Inbox")


async def test_a_request_that_no_agent_can_do_says_why(tmp_path: Path, browser: Browser) -> None:
    class Refusing(ScriptedModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            raise ModelRefused("no such model", remedy="mesh models lists them")

    async with http_mesh(tmp_path, Talker, script=Refusing()) as api, open_view(browser, api, "try") as page:
        await page.get_by_label("Agent").select_option("talker")
        await page.get_by_label("Request").fill("How are you?")
        await press(page, "Send")
        await expect(page.locator(".talk .bad")).to_contain_text("ModelRefused: no such model")
        await expect(page.locator(".talk .bad")).to_contain_text("mesh models lists them")


async def test_an_answer_is_shown_as_it_is_written(tmp_path: Path, browser: Browser) -> None:
    go_on = asyncio.Event()

    class Slow(ScriptedModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            while not go_on.is_set():  # the page begins to listen at any time
                if on_delta is not None:
                    on_delta("The first half. ")
                with suppress(TimeoutError):
                    await asyncio.wait_for(go_on.wait(), 0.05)
            return priced_reply("The first half and the second.")

    async with http_mesh(tmp_path, Talker, script=Slow()) as api, open_view(browser, api, "try") as page:
        await page.get_by_label("Agent").select_option("talker")
        await page.get_by_label("Request").fill("Write.")
        await press(page, "Send")
        await expect(page.locator(".talk [aria-busy=true] pre")).to_contain_text("The first half. The first")
        go_on.set()
        await expect(page.locator(".talk pre")).to_have_text("The first half and the second.")


async def test_a_task_is_given_by_a_form(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "try?as=form") as page:
        await page.get_by_label("Request").fill("Hello")
        await press(page, "Send")
        await expect(page.get_by_role("alert")).to_have_text("Choose a capability or an agent")
        await page.get_by_role("combobox", name=re.compile("^Capability")).select_option("echoing")
        await page.get_by_text("More", exact=True).click()
        payload = page.get_by_label("Other fields of the payload")
        for wrong, why in (("{nope", "is no JSON"), ("[1]", "is no JSON object")):
            await payload.fill(wrong)
            await press(page, "Send")
            await expect(page.get_by_role("alert")).to_contain_text(why)
        await payload.fill('{"colour": "blue"}')
        await page.get_by_label("Conversation").fill("../x")
        await press(page, "Send")
        await expect(page.get_by_role("alert")).to_contain_text("thread_id")
        await page.get_by_label("Conversation").fill("colours")
        await page.get_by_label("Priority").fill("7")
        await press(page, "Send")
        await expect(page.locator("pre").filter(has_text="you said: Hello")).to_be_visible()
        [task] = (await api.get("/tasks", thread_id="colours"))["items"]
        found = await api.get(f"/tasks/{task['task_id']}")
        assert (found["payload"], found["priority"]) == ({"colour": "blue", "text": "Hello"}, 7)


async def test_a_capability_shows_the_form_of_its_payload(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Notes) as api, open_view(browser, api, "try?as=form") as page:
        version = page.get_by_label("Version the tag")
        await page.get_by_role("combobox", name=re.compile("^Agent")).select_option("notes")
        await expect(version).to_have_count(0)  # of several capabilities it is not known which is meant
        await page.get_by_role("combobox", name=re.compile("^Capability")).select_option("release-notes")
        await expect(version).to_be_visible()
        await page.get_by_role("combobox", name=re.compile("^Agent")).select_option("")
        await expect(version).to_be_visible()  # it is the best for that
        assert await page.get_by_label("Commits").input_value() == "20"
        assert await page.get_by_label("Announce").is_checked()
        await page.get_by_label("Request").fill("Write them.")
        await press(page, "Send")
        assert await version.evaluate("field => field.validity.valueMissing")
        await version.fill("v1")
        await press(page, "Send")
        channel = page.get_by_role("combobox", name="Channel")
        assert await channel.evaluate("field => field.validity.valueMissing")
        await channel.select_option("beta")
        words = page.get_by_label("Priority (JSON)")
        for wrong, why in (("[high", "Priority is no JSON"), ('"high"', "payload.priority must be a list")):
            await words.fill(wrong)
            await press(page, "Send")
            await expect(page.get_by_role("alert")).to_contain_text(why)
        await words.fill('["high"]')
        await page.get_by_label("Share").fill("0.5")
        await page.get_by_label("Announce").uncheck()
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        if SHOTS:
            await page.screenshot(path=Path(SHOTS, "form.png"), full_page=True)
        await press(page, "Send")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded")
        [task] = (await api.get("/tasks", capability="release-notes"))["items"]
        assert (await api.get(f"/tasks/{task['task_id']}"))["payload"] == {
            "text": "Write them.",
            "version": "v1",
            "channel": "beta",
            "commits": 20,
            "share": 0.5,
            "announce": False,
            "priority": ["high"],
        }


async def test_an_agent_that_goes_away_stays_chosen(tmp_path: Path, browser: Browser) -> None:
    project = Project(tmp_path, tmp_path)
    async with reader(browser, "about:blank") as person:
        page = person.page
        async with project.up() as running:
            await page.goto(f"{running.url}/#/try")
            await page.get_by_label("Agent").select_option("gate")
            await page.get_by_label("Request").fill("v1")
        project.take_away("gate")
        port = str(urlsplit(running.url).port)
        async with mesh_up(project.data, "--port", port, **project.environment) as running:
            await expect(page.get_by_label("Agent").get_by_text("gate (gone)")).to_have_count(1)
            await expect(page.get_by_label("Agent")).to_have_value("gate")
            await press(page, "Send")
            await expect(page.locator(".notice")).to_contain_text("gate")
            assert (await running.get("/tasks")).body["items"] == []
