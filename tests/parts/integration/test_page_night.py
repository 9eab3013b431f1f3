"""The page in a bad night: every view is readable, in any window and without a mouse, and answers at once."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.support.bad_night import TASKS, bad_night
from tests.support.page import TOKEN, log_in, reader
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
