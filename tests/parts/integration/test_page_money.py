"""The page's views of money and the mesh, in a real browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from meshwright import Capability
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import http_mesh
from tests.support.page import (
    PRICED,
    Helper,
    Lead,
    confirm,
    dialog,
    expect_refusal,
    open_view,
    press,
    priced_reply,
)
from tests.support.running_mesh import mesh

pytestmark = pytest.mark.needs("chromium")


async def test_allowances_are_set_changed_and_removed(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "money") as page:
        await press(page, "Set an allowance…")
        await dialog(page).get_by_label("Of", exact=True).fill("echo")
        await dialog(page).get_by_label("Amount").fill("much")
        await confirm(page, "Save")
        await expect_refusal(page, "much")
        assert await dialog(page).get_by_label("Of", exact=True).input_value() == "echo"  # as it was typed
        await dialog(page).get_by_label("Amount").fill("5/day")
        await confirm(page, "Save")
        row = page.get_by_role("region", name="Allowances").get_by_role("row").filter(has_text="echo")
        await expect(row).to_contain_text("$5.00/day")
        await press(page, "Change the allowance of agent:echo")
        await dialog(page).get_by_label("Amount").fill("7/day")
        await dialog(page).get_by_label("When it is empty").select_option("cheaper")
        await confirm(page, "Save")
        await expect(row).to_contain_text("$7.00/daycheaper")
        await press(page, "Remove the allowances of agent:echo")
        await confirm(page, "Remove")
        await expect(row).to_have_count(0)


async def test_costs_lead_to_tasks_and_stand_beside_estimates(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(*[priced_reply("Well.")] * 8)
    budgets = [{"name": "helpers", "scope": "agent", "of": "helper", "limit_usd": "90", "window": "day"}]
    async with http_mesh(tmp_path, Lead, Helper, script=script, ledger=PRICED, budgets=budgets) as api:
        for _ in range(2):
            leads = await api.finished(agent_id="lead", payload={"text": "Do it."})
        async with open_view(browser, api, "money") as page:
            column = page.get_by_label("Cost by hour").get_by_role("link")
            await expect(column).to_have_count(1)
            heights = "(all, of) => all.map((one) => one.getBoundingClientRect().height / of)"
            shares = await column.locator("i").evaluate_all(heights, 130)
            assert shares == pytest.approx([0.4, 0.4], abs=0.02)  # of a dollar, as the scale says
            costs = page.get_by_role("region", name="Costs")
            await expect(costs.get_by_role("row").filter(has_text="helper")).to_contain_text(
                "$0.2000, $0.2000"
            )
            budget = page.get_by_role("region", name="Budgets").get_by_role("row").filter(has_text="helpers")
            await expect(budget).to_contain_text("$0.4000 of $90.00")
            days = ", ".join(["$0"] * 6 + ["$0.4000"])
            await expect(budget.get_by_role("img")).to_have_attribute(
                "aria-label", re.compile(re.escape(days))
            )
            await expect(budget).to_contain_text("not in this periodat $0.4000 a day")
            await press(page, "Raise helpers of helper")
            await dialog(page).get_by_label("Dollars to add").fill("1.5")
            await confirm(page, "Raise")
            await expect(page.get_by_role("region", name="Budgets")).to_contain_text("$91.50")
            await page.get_by_role("link", name="by task", exact=True).click()
            row = costs.get_by_role("row").filter(has_text=leads[-6:])
            await expect(row).to_contain_text("$0.4000 of $0.4000 ×1.0")
            await row.get_by_role("button", name="What it delegated").click()
            tree = page.get_by_role("region", name="Delegated tasks")
            await expect(tree.get_by_role("row").filter(has_text="lead")).to_contain_text("$0.4000")
            await page.get_by_role("link", name="by task tree").click()
            await expect(tree).to_have_count(0)
            row = costs.get_by_role("row").filter(has_text=leads[-6:])
            await expect(row).to_contain_text("$0.4000")  # of its own, and of what it delegated
            await expect(row.get_by_role("link", name="Do it.")).to_be_visible()
            await expect(costs.get_by_role("row")).to_have_count(4)
            await page.get_by_role("link", name="by agent").click()
            await (
                costs.get_by_role("row")
                .filter(has_text="helper")
                .get_by_role("link", name="2", exact=True)
                .click()
            )
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows).to_have_count(3)


class Second(Helper):
    """Helps less well."""

    agent_id = "second"
    capabilities = (Capability("helping", weight=0.5),)


async def test_a_task_shows_who_was_not_chosen_as_it_was_then(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Helper, Second, script=ScriptedModel(priced_reply("Well."))) as api:
        task_id = await api.finished(capability="helping", payload={"text": "Do it."})
        for _ in range(3):
            api.mesh.get(Registry).record("second", "helping", False)
        shown = await mesh("task", task_id, "--scores", "--url", api.url)
        assert re.search(r"attempt 1 +helper.* of 2 agents\n", shown.out)
        assert re.search(r"not chosen +second  score 0.5 = weight 0.5", shown.out)
        async with open_view(browser, api, f"task/{task_id}") as page:
            rows = page.get_by_role("region", name="Attempts").get_by_role("row")
            await expect(rows.nth(2)).to_contain_text("not chosensecond0.500.50 × 1.00")
            await page.get_by_text("How all agents score").click()
            now = page.get_by_role("region", name="Scores").get_by_role("row")
            await expect(now.filter(has_text="second")).to_contain_text("second0.00")


async def test_delegations_are_edges_along_which_events_move(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(*[priced_reply("Well.")] * 8)
    async with http_mesh(tmp_path, Lead, Helper, script=script) as api:
        await api.finished(agent_id="lead", payload={"text": "Do it."})
        for motion, seen in (("no-preference", ".dots circle"), ("reduce", "path.hot")):
            async with open_view(browser, api, "mesh/topology", reduced_motion=motion) as page:
                await page.locator('path[data-edge="lead helper"]').wait_for(state="attached")
                await expect(page.get_by_role("status").first).to_have_text("live")
                async with asyncio.TaskGroup() as group:
                    group.create_task(page.wait_for_selector(seen, state="attached"))
                    group.create_task(api.finished(agent_id="lead", payload={"text": "Again."}))
                assert motion != "reduce" or await page.locator(".dots circle").count() == 0
                await page.get_by_text("The same as a table").click()
                row = page.get_by_role("region", name="Tasks between agents").get_by_role("row")
                edge = row.filter(has_text="lead").filter(has_text="helper")
                await expect(edge).to_have_text(re.compile(r"^leadhelper0\.[1-9]"))
                await page.get_by_role("link", name=re.compile("^helper: ")).press("Enter")
                await expect(page.get_by_role("heading", level=1)).to_contain_text("helper")
