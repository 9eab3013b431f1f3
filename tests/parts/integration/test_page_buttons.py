"""Each button of the page says what it will do: by a dialog before anything changes, or by a description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request, Route, expect

from tests.support.bad_night import BadNight, bad_night
from tests.support.page import TOKEN, dialog, log_in, questions, reader
from tests.support.page_walk import expect_whole, walk

pytestmark = pytest.mark.needs("chromium")
PLAIN = """(all) => all.filter((button) => button.checkVisibility() &&
  !button.disabled && !button.title && !button.hasAttribute("aria-description")).map(
  (button) => button.getAttribute("aria-label") || button.innerText.trim())"""
NAMED = """(name) => [...document.querySelectorAll("main button")].find(
  (button) => (button.getAttribute("aria-label") || button.innerText.trim()) === name)"""
MAX_PER_NAME = 1  # rows have the same buttons


class Changes:
    """The requests of a page that would change something; none of them reaches the mesh."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def watch(self, page: Page) -> None:
        """Hold back all requests but those that read, and dry runs."""
        await page.route("**/*", self._take)

    async def _take(self, route: Route, request: Request) -> None:
        if request.method == "GET" or '"dry_run":true' in (request.post_data or ""):
            await route.continue_()
        else:
            self.requests.append(f"{request.method} {request.url.partition('/')[2]}")
            await route.abort()


async def addresses(page: Page, night: BadNight) -> AsyncIterator[str]:
    """Each view, one page of each kind behind it, and a question of each kind."""
    async for address in walk(page, night.api.url):
        yield address
    await page.goto(f"{night.api.url}/#/inbox")
    for kind in ("in doubt", "approval", "question", "money", "model"):
        link = questions(page).filter(has=page.get_by_text(kind, exact=True)).first.get_by_role("link")
        yield str(await link.get_attribute("href"))


async def test_a_button_opens_a_dialog_or_says_what_it_does(tmp_path: Path, browser: Browser) -> None:
    async with bad_night(tmp_path, 0) as night, reader(browser, f"{night.api.url}/#/tasks") as person:
        await log_in(person, TOKEN)
        page, changes = person.page, Changes()
        await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
        await changes.watch(page)
        pressed, told, faults = list[str](), 0, list[str]()
        async for address in addresses(page, night):
            await page.goto(f"{night.api.url}/{address}")
            await expect_whole(page)
            buttons = page.locator("main button")
            told += await page.locator("main button[title]").count()
            for name in await buttons.evaluate_all(PLAIN):
                view = address.partition("?")[0]
                if pressed.count(f"{view} {name}") == MAX_PER_NAME:
                    continue
                pressed.append(f"{view} {name}")
                button = (await page.wait_for_function(NAMED, arg=name)).as_element()
                assert button is not None  # others may come before it while the view loads
                await button.click()
                if opens_dialog := name.endswith("…") or await dialog(page).count() > 0:
                    await expect(dialog(page)).to_be_visible()
                    await page.keyboard.press("Escape")
                    await expect(dialog(page)).to_have_count(0)
                if changes.requests:
                    faults.append(f"{address}: {name} sends {', '.join(changes.requests)}")
                    changes.requests.clear()
                if not opens_dialog:  # one that is closed leaves the view as it was
                    await page.reload()
                    await expect_whole(page)
    assert not faults, "\n".join(faults)
    assert told >= 15 and len(pressed) >= 15, (told, pressed)
