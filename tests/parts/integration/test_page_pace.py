"""A page leaves the mesh alone: hidden it follows nothing, and beside many others it asks less often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.chromium import chromium
from tests.support.http_mesh import Api, http_mesh

MILLISECONDS = 60_000
HIDE = """(is_hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => is_hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
pytestmark = pytest.mark.needs("chromium")


@asynccontextmanager
async def page_of(api: Api, view: str) -> AsyncIterator[Page]:
    """A page whose time the test lets pass."""
    async with chromium() as browser:
        page = await browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        expect.set_options(timeout=MILLISECONDS)
        await page.clock.install()
        await page.goto(f"{api.url}/#/{view}")
        await expect(page.get_by_role("status").get_by_text("live")).to_be_visible()
        yield page


async def readers(api: Api, number: int) -> None:
    """Wait until so many read the log."""
    async with asyncio.timeout(60):
        while api.mesh.log.readers != number:
            await asyncio.sleep(0)


async def test_a_hidden_page_follows_nothing_and_is_up_to_date_when_it_is_seen(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        before = api.mesh.log.readers
        async with page_of(api, "tasks") as page:
            await readers(api, before + 1)
            await page.evaluate(HIDE, True)
            await page.clock.fast_forward(15_000)
            await readers(api, before)
            task_id = await api.finished(agent_id="echo", payload={"text": "Meanwhile"})
            await page.evaluate(HIDE, False)
            await expect(page.get_by_role("link", name=f"…{task_id[-6:]}")).to_be_visible()
            await readers(api, before + 1)
            task_id = await api.finished(agent_id="echo", payload={"text": "Now"})
            await expect(page.get_by_role("link", name=f"…{task_id[-6:]}")).to_be_visible()


async def test_a_page_beside_many_others_waits_for_its_turn(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(api.stream("/events/stream")) for _ in range(60)]
        async with page_of(api, "tasks") as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))

            async def task_is_seen() -> str:
                task_id = await api.finished(agent_id="echo", payload={"text": "Hello"})
                while (event := await streams[0].event()) is not None:
                    if event["event_type"] == "task.succeeded":
                        break
                return f"…{task_id[-6:]}"

            await task_is_seen()  # the page learns how many there are
            await expect(page.get_by_role("cell", name="echo").first).to_be_visible()
            await page.clock.pause_at(await page.evaluate("Date.now() / 1000 + 60"))
            second = page.get_by_role("link", name=await task_is_seen())
            await passing(page, second, 30)
            asked.clear()
            third = page.get_by_role("link", name=await task_is_seen())
            assert await passing(page, third, 60) >= 8  # seconds, of 61 streams
            assert len([url for url in asked if "/tasks?" in url]) == 1


async def passing(page: Page, link: Locator, most: int) -> int:
    """Let seconds pass until a link is there; returns how many."""
    under_way = set[str]()
    page.on("request", lambda request: under_way.add(request.url) if "/tasks?" in request.url else None)
    page.on("requestfinished", lambda request: under_way.discard(request.url))
    for seconds in range(1, most):
        await page.clock.run_for(1_000)
        async with asyncio.timeout(60):
            while under_way:
                await asyncio.sleep(0.01)
        with suppress(AssertionError):
            await expect(link).to_be_visible(timeout=500)
            return seconds
    raise AssertionError(f"{most} seconds have passed")
