"""The page in a bad night: every view is readable, in any window and without a mouse, and answers at once."""

from __future__ import annotations

import itertools
from itertools import product
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, Route, expect

from tests.support.bad_night import LONG_NAME, TASKS, Clerk, bad_night
from tests.support.http_mesh import http_mesh
from tests.support.page import TOKEN, choose_question, log_in, open_view, questions, reader
from tests.support.page_walk import Look, expect_whole, judge, tab_through, walk

pytestmark = pytest.mark.needs("chromium")
ZOOMED = 640
"""The width of a window of 1280 pixels at a zoom of 200 %."""
WIDTHS = (320, 390, ZOOMED, 768, 1280, 1920)
SAMPLE = (
    Look(1280),
    Look(390, "dark"),
    *(Look(width, is_judged=False) for width in (320, ZOOMED, 768, 1920)),
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
EVERY = pytest.mark.soak("every window, both schemes, forced colours")
PRODUCT = [
    pytest.param(
        tuple(Look(width, scheme, is_forced) for width in WIDTHS),
        TASKS,
        marks=EVERY,
        id=f"{scheme}-forced" if is_forced else scheme,
    )
    for scheme, is_forced in product(SCHEMES, (False, True))
]


@pytest.mark.parametrize(("looks", "tasks"), [pytest.param(SAMPLE, 100, id="sample"), *PRODUCT])
async def test_every_page_of_a_bad_night_is_readable(
    tmp_path: Path, browser: Browser, looks: tuple[Look, ...], tasks: int
) -> None:
    async with bad_night(tmp_path, tasks) as night, reader(browser, f"{night.api.url}/#/tasks") as person:
        await log_in(person, TOKEN)
        await expect(person.page.get_by_role("link", name="Deliveries")).to_be_visible()
        faults, addresses = list[str](), list[str]()
        async for address in walk(person.page, night.api.url):
            addresses.append(address)
            for look in looks:
                faults += await judge(person.page, address, look)
    assert not faults, "\n".join(faults)
    assert len(addresses) >= 20, addresses
    assert [text for text in person.complaints if "401" not in text] == []  # of the login


@pytest.mark.parametrize(
    ("views", "widths"),
    [
        (("inbox", "tasks"), (1280,)),
        pytest.param((), (1280, ZOOMED, 390), marks=pytest.mark.soak("every page")),
    ],
    ids=["sample", "all"],
)
async def test_the_keyboard_reaches_all_that_is_in_sight(
    tmp_path: Path, browser: Browser, views: tuple[str, ...], widths: tuple[int, ...]
) -> None:
    async with bad_night(tmp_path, 0) as night, reader(browser, f"{night.api.url}/#/tasks") as person:
        await log_in(person, TOKEN)
        await expect(person.page.get_by_role("link", name="Deliveries")).to_be_visible()
        faults = list[str]()
        async for address in walk(person.page, night.api.url):
            if views and address.removeprefix("#/") not in views:
                continue
            for width in widths:
                await Look(width).take(person.page)
                faults += await tab_through(person.page, f"{address} {width}")
                await person.page.reload()
                await expect_whole(person.page)
    assert not faults, "\n".join(faults)


async def expect_in_sight(locator: Locator) -> None:
    """It is within the window, without a scroll."""
    await expect(locator.first).to_be_visible()
    await expect(locator.first).to_be_in_viewport(ratio=0.9)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
async def test_one_click_says_what_is_wrong_and_who_waits(
    tmp_path: Path, browser: Browser, width: int, height: int
) -> None:
    window = {"viewport": {"width": width, "height": height}}
    async with bad_night(tmp_path, 0) as night, reader(browser, night.api.url, **window) as person:
        await log_in(person, TOKEN)
        page = person.page
        await expect_in_sight(page.locator(".health").get_by_text("2 of 3 models are away"))
        await expect_in_sight(page.get_by_role("heading", level=1).get_by_text("wait for a person"))
        await expect_in_sight(page.get_by_role("article").get_by_role("button"))
        links = page.locator(".below" if width < 820 else ".side nav")
        await links.get_by_role("link", name="Tasks").click()
        await expect_in_sight(page.locator(".causes a").filter(has_text="ValueError"))
        await links.get_by_role("link", name="Money").click()
        costs = page.get_by_role("region", name="Costs").get_by_role("row")
        await expect_in_sight(costs.filter(has_text="deployer").get_by_text("$0.3250"))


async def test_a_refused_key_is_tested_where_it_is_told(tmp_path: Path, browser: Browser) -> None:
    async with bad_night(tmp_path, 0) as night, reader(browser, f"{night.api.url}/#/tasks") as person:
        await log_in(person, TOKEN)
        page = person.page
        await page.get_by_role("link", name="Inbox").first.click()
        card = await choose_question(page, "Key refused")
        await expect(card.get_by_role("link", name="the model")).to_have_attribute(
            "href", "#/models/refused%2Fopenai%2Frefused"
        )
        waits = card.get_by_role("link", name="the tasks that wait")
        await expect(waits).to_have_attribute("href", "#/tasks?waits_for_model=refused%2Fopenai%2Frefused")
        await card.get_by_role("button", name="Test").click()
        await expect(page.locator(".notice")).to_contain_text("does not answer yet: ")
        night.provider.faults_of["refused"].clear()
        await card.get_by_role("button", name="Test").click()
        await expect(questions(page).filter(has_text="Key refused")).to_have_count(0)


async def test_who_returns_reads_the_story_of_the_absence(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        failed = await api.finished(agent_id="echo", payload={"fail": True})
        async with open_view(browser, api, "tasks") as page:
            story = page.get_by_role("region", name="While you were away")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await expect(story).to_have_count(0)
            await page.evaluate("localStorage.setItem('seen', String(Date.now() - 5 * 3_600_000))")
            await page.reload()
            await story.get_by_role("link", name="1 task of echo failed: ToolFailed").click()
            await expect(page.locator(f"main a[href='#/task/{failed}']").first).to_be_visible()
            assert "status=failed" in page.url
            faults = [*await judge(page, "story", Look(1280)), *await judge(page, "story", Look(390))]
            assert faults == []
            await story.get_by_role("button", name="Close").click()
            await expect(story).to_have_count(0)
            await page.reload()
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await expect(story).to_have_count(0)


async def _widen_figures(route: Route) -> None:
    """Have each agent's figures be the longest that occur."""
    response = await route.fetch()
    figures = await response.json()
    for agent in figures["agents"]:
        agent |= {"state": "failing: 112 of 112", "stuck": 123, "waiting": 12_345, "parked": 1_234}
        agent |= {"running": 64, "slots": 64, "p50_seconds": 3599.4, "cost_today_usd": "12345.67"}
        agent |= {"oldest": "2026-01-01T00:00:00Z"}
    await route.fulfill(json=figures)


@pytest.mark.parametrize("width", [1280, 390])
async def test_long_figures_and_names_cut_no_column_of_agents(
    tmp_path: Path, browser: Browser, width: int
) -> None:
    async with bad_night(tmp_path, 0) as night, reader(browser, f"{night.api.url}/#/agents") as person:
        await person.page.route("**/figures", _widen_figures)
        await log_in(person, TOKEN)
        table = person.page.get_by_role("region", name="Agents")
        await expect(table.get_by_text("failing: 112 of 112").first).to_be_visible()
        await expect(table.get_by_text(LONG_NAME)).to_be_visible()
        assert await judge(person.page, "#/agents", Look(width, is_judged=False)) == []


@pytest.mark.parametrize("width", [1280, 390])
async def test_a_form_has_one_field_a_row(tmp_path: Path, browser: Browser, width: int) -> None:
    window = {"viewport": {"width": width, "height": 844}}
    async with http_mesh(tmp_path, Clerk) as api:
        await api.submit(agent_id="clerk", payload={"text": "Tonight"})
        async with reader(browser, f"{api.url}/#/inbox", **window) as person:
            form = person.page.get_by_role("article").locator("form")
            fields = form.locator("label")
            await expect(fields).to_contain_text(
                ["Action", "Replicas (optional)", "Call The Owner", "Note (optional) What the next shift"]
            )
            boxes = [await fields.nth(number).bounding_box() for number in range(4)]
            assert all(box is not None for box in boxes)
            assert len({box["x"] for box in boxes if box}) == 1
            for above, below in itertools.pairwise(box for box in boxes if box):
                assert above["y"] + above["height"] <= below["y"]
            owner = form.get_by_role("checkbox")
            await expect(owner).to_have_css("flex-grow", "0")  # it stands beside its words
            await expect(form.get_by_label("Note")).to_have_js_property("tagName", "TEXTAREA")
