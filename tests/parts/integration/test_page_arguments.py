"""Calls that a person approves with other arguments, on the page in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, expect

from meshwright import Agent, Capability, tool
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import SHOTS, open_view, press

pytestmark = pytest.mark.needs("chromium")
NOTES = "  first:\n    - 1\n"
CALL = tool_call(
    "ship", version="1.4", replicas=2, environment="test", labels=["a"], notes=NOTES, window="all"
)
WITHIN = {"approvals": {"rules": [{"tool": "ship", "arguments": {"environment": "prod"}, "expires_days": 1}]}}


class Shipper(Agent):
    """Ships by a tool with arguments of each kind."""

    agent_id = "shipper"
    capabilities = (Capability("shipping"),)
    remembers = False
    prompt_text = "Ship."
    shipped: ClassVar[list[Any]] = []

    @tool(needs_approval=True)
    async def ship(
        self,
        version: str,
        replicas: int,
        environment: Literal["test", "prod"],
        labels: list[str],
        notes: str,
        window: str | None = None,
        force: bool = False,
    ) -> str:
        """Ship a version.

        Args:
            version: such as 1.4
            replicas: how many run
        """
        self.shipped.append([version, replicas, environment, labels, notes, window, force])
        return f"{version} is in {environment}"


@pytest.fixture(autouse=True)
def nothing_is_shipped() -> None:
    Shipper.shipped.clear()


def form(page: Page) -> Locator:
    """The arguments as fields."""
    return page.get_by_role("form", name="Arguments")


def beside(page: Page, label: str) -> Locator:
    """What is said beside a field."""
    field = form(page).locator("> div").filter(has=page.get_by_label(label))
    return field.get_by_role("alert")


async def asks(api: Api) -> str:
    return await api.submit(agent_id="shipper", payload={"text": "Ship 1.4."})


async def test_a_call_runs_with_the_arguments_that_were_written(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(CALL, "Done.")
    async with http_mesh(tmp_path, Shipper, script=script) as api, open_view(browser, api, "inbox") as page:
        task_id = await asks(api)
        await press(page, "Change arguments")
        asked = form(page)
        await press(page, "Approve with these")
        await expect(asked.get_by_role("alert")).to_contain_text("The arguments are those of the call")
        await asked.get_by_label("labels (JSON)").fill('["a"')
        await press(page, "Approve with these")
        await expect(beside(page, "labels (JSON)")).to_contain_text("labels is no JSON")
        await asked.get_by_label("labels (JSON)").fill('["a", 7]')
        await press(page, "Approve with these")
        await expect(beside(page, "labels (JSON)")).to_contain_text("arguments.labels.1 must be text")
        await asked.get_by_label("labels (JSON)").fill('["b"]')
        await asked.get_by_label("version").fill(" 1.5")
        await asked.get_by_label("replicas").fill("3")
        await asked.get_by_label("notes").fill(f"{NOTES}    - 2\n")
        await asked.get_by_label("window").fill("")
        await asked.get_by_label("force").check()
        await page.get_by_label("Reason").fill("more of it")
        await press(page, "Approve with these")
        await expect(page.get_by_text("Approved with other arguments")).to_be_visible()
        await api.client.outcome(task_id)
        given = (await api.get("/events?event_type=approval.given"))["items"][0]["payload"]
    assert Shipper.shipped == [[" 1.5", 3, "test", ["b"], f"{NOTES}    - 2\n", None, True]]
    assert (given["reason"], given["arguments"]["replicas"]) == ("more of it", 3)


async def test_a_changed_call_of_another_rule_is_shown_with_its_change(
    tmp_path: Path, browser: Browser
) -> None:
    script = ScriptedModel(CALL, "Done.")
    async with (
        http_mesh(tmp_path, Shipper, script=script, **WITHIN) as api,
        open_view(browser, api, "inbox") as page,
    ):
        task_id = await asks(api)
        await press(page, "Change arguments")
        await form(page).get_by_label("environment").select_option("prod")
        await press(page, "Approve with these")
        card = page.get_by_role("article").filter(has_text="anonymous changed the arguments")
        await expect(card.get_by_role("heading", name="Changed by anonymous")).to_be_visible()
        await expect(card.locator(".diff .del")).to_have_text('-   "environment": "test",\n')
        await expect(card.locator(".diff .add")).to_have_text('+   "environment": "prod",\n')
        assert Shipper.shipped == []
        await press(page, "Approve")
        await api.client.outcome(task_id)
    assert [call[2] for call in Shipper.shipped] == ["prod"]


async def test_a_hidden_argument_has_to_be_written_whole(tmp_path: Path, browser: Browser) -> None:
    call = tool_call("ship", **{**_arguments(), "version": "token=Zk3x9Q2pLm8v"})
    async with (
        http_mesh(tmp_path, Shipper, script=ScriptedModel(call, "Done.")) as api,
        open_view(browser, api, "inbox") as page,
    ):
        task_id = await asks(api)
        await press(page, "Change arguments")
        version = form(page).get_by_label("version")
        await expect(version).to_have_value("")
        await form(page).get_by_label("replicas").fill("3")
        await press(page, "Approve with these")
        await expect(version).to_be_focused()  # the browser asks for it
        await version.fill("1.4")
        await press(page, "Approve with these")
        await api.client.outcome(task_id)
    assert Shipper.shipped[0][:2] == ["1.4", 3]


def _arguments() -> dict[str, Any]:
    return {"version": "1.4", "replicas": 2, "environment": "test", "labels": [], "notes": ""}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_the_keyboard_changes_arguments_and_everybody_can_read_them(
    tmp_path: Path, browser: Browser, scheme: Any, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with (
        http_mesh(tmp_path, Shipper, script=ScriptedModel(CALL, "Done."), **WITHIN) as api,
        open_view(browser, api, "inbox", **options) as page,
    ):
        task_id = await asks(api)
        await expect(page.get_by_role("button", name="Change arguments")).to_be_enabled()
        await page.get_by_role("button", name="Change arguments").focus()
        await page.keyboard.press("Enter")
        await expect(form(page).get_by_label("version")).to_be_focused()
        await _look(page, f"edited-{scheme}-{width}")
        for _ in range(2):
            await page.keyboard.press("Tab")
        await page.keyboard.type("prod")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Changed by anonymous")).to_be_visible()
        await _look(page, f"asked-again-{scheme}-{width}")
        await press(page, "Approve")
        await api.client.outcome(task_id)
    assert [call[2] for call in Shipper.shipped] == ["prod"]


async def _look(page: Page, name: str) -> None:
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(sideways) <= 0
    if SHOTS:
        await page.screenshot(path=Path(SHOTS, f"{name}.png"))
