"""The page by keyboard alone: the palette, and the keys of the inbox."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import http_mesh
from tests.support.page import SHOTS, Deployer, Releaser, dialog, open_view, questions

pytestmark = pytest.mark.needs("chromium")
"""Resolves when what was rendered before is painted, and its effects have run."""


async def test_the_palette_goes_to_views_agents_and_tasks(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "tasks") as page:
        task_id = await api.finished(agent_id="echo", payload={"text": "Count the lemons"})
        await page.get_by_role("link", name="Count the lemons").wait_for()
        text, options = dialog(page).get_by_role("combobox"), dialog(page).get_by_role("option")
        await page.keyboard.press("Control+k")
        await expect(text).to_be_focused()
        await page.keyboard.type("money")
        await expect(options).to_have_text([" Money view"])
        checked = await Axe().run(page)
        assert checked.violations_count == 0, checked.generate_report()
        if SHOTS:
            await page.screenshot(path=Path(SHOTS, "palette.png"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Money")
        await page.get_by_role("button", name="Go to…").click()
        await expect(text).to_be_focused()
        await page.keyboard.type("lemons")
        await expect(options.filter(has_text="Count the lemons")).to_have_count(1)
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{api.url}/#/task/{task_id}")
        await page.keyboard.press("Control+k")
        await expect(text).to_be_focused()
        await page.keyboard.type("releas")
        await expect(options).to_have_count(1)
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{api.url}/#/agents/releaser")
        await api.submit(agent_id="releaser", payload={"text": "Ship it"})
        await expect(page.get_by_role("link", name="Inbox")).to_contain_text("1")
        await page.keyboard.press("Control+k")
        await expect(text).to_be_focused()
        await page.keyboard.type("RELEASE 1.4")
        await expect(options.first).to_have_text(" Release 1.4? question")
        await expect(options.filter(has_text="Ship it").locator("mark")).to_have_text(["Release", "1.4"])
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("article", name="Release 1.4?")).to_be_visible()
        await expect(page).to_have_url(re.compile(r"/#/inbox\?item="))
        await page.keyboard.press("Control+k")
        await expect(text).to_be_focused()
        await page.keyboard.type("<b>none</b>")
        await expect(dialog(page).get_by_text("Nothing has that name or these words.")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.keyboard.press("?")  # at once: the field of the palette may still have the focus
        await expect(dialog(page)).to_contain_text("approve what is shown")
        await page.keyboard.press("Escape")
        await page.goto(f"{api.url}/#/nowhere")
        await expect(page.get_by_role("heading", name="Not found")).to_be_visible()
        await page.get_by_role("main").get_by_role("link", name="Inbox").click()
        await expect(page.get_by_role("article", name="Release 1.4?")).to_be_visible()


async def test_the_inbox_is_decided_by_keys_once_a_person_can_have_seen_it(
    tmp_path: Path, browser: Browser
) -> None:
    calls = [tool_call("deploy", version=f"1.{number}", environment="test") for number in range(3)]
    script = ScriptedModel(*calls, *["Done."] * 3)
    async with http_mesh(tmp_path, Deployer, script=script) as api:
        tasks = list[str]()
        async with open_view(browser, api, "inbox") as page:
            for number in range(3):
                tasks.append(await api.submit(agent_id="deployer", payload={"text": f"Deploy {number}."}))
                await expect(questions(page)).to_have_count(number + 1)
            chosen = page.get_by_role("article")
            approve = chosen.get_by_role("button", name="Approve")
            await page.keyboard.press("j")
            await page.keyboard.press("a")  # it has just come: nobody can have seen it
            await expect(chosen).to_contain_text("1.1")
            assert [(await api.get(f"/tasks/{task}"))["status"] for task in tasks] == ["waiting"] * 3
            await expect(approve).to_be_enabled()  # it is in sight now
            await page.keyboard.press("a")
            assert (await api.client.outcome(tasks[1])).text == "Done."
            await expect(questions(page)).to_have_count(2)
            await expect(chosen).to_contain_text("1.2")  # the next took its place
            await page.keyboard.press("k")
            await expect(chosen).to_contain_text("1.0")
            await page.keyboard.press("d")
            await page.keyboard.type("not a day for it")
            await expect(approve).to_be_enabled()
            await page.keyboard.press("Enter")
            await expect(questions(page)).to_have_count(1)
            assert (await api.client.outcome(tasks[0])).success
    denial = script.requests[-1].messages[-1].text
    assert "not a day for it" in denial
