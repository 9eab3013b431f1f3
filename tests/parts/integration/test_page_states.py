"""The page with no data, with no mesh, after a login has ended, and for a caller who may see little."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from meshwright.core.access import Role
from meshwright.edges.http.server import serving
from tests.support.bad_night import ARABIC, LONG_WORD, TITLE, bad_night
from tests.support.http_mesh import http_mesh
from tests.support.page import ADMINS, SHOTS, TOKEN, open_view, reader
from tests.support.page_walk import Look, judge, walk
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium")
LOOKS = (Look(1280), Look(390, "dark", is_judged=False))


async def take_picture(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=Path(SHOTS, f"{name}.png"))


async def test_every_view_of_an_empty_mesh_is_whole(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, open_view(browser, api, "tasks", TOKEN) as page:
        await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
        faults = list[str]()
        async for address in walk(page, api.url):
            for look in LOOKS:
                faults += await judge(page, address, look)
        assert not faults, "\n".join(faults)


async def test_a_viewer_sees_no_contents_in_any_view(tmp_path: Path, browser: Browser) -> None:
    async with bad_night(tmp_path, 0) as night:
        viewer = (await holder(night.api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with open_view(browser, night.api, "tasks", viewer) as page:
            await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
            async for address in walk(page, night.api.url):
                text = await page.locator("main").inner_text()
                assert [word for word in (TITLE[:40], LONG_WORD, ARABIC) if word in text] == [], address
                await expect(page.get_by_role("alert")).to_have_count(0)


async def test_every_view_says_that_the_mesh_is_away_and_goes_on_when_it_is_back(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path) as api, AsyncExitStack() as stack:
        async with serving(api.mesh, "127.0.0.1", 0) as server:
            person = await stack.enter_async_context(reader(browser, f"{server.url}/#/tasks"))
            page = person.page
            await expect(page.get_by_role("status").get_by_text("live")).to_be_visible()
            await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
        await expect(page.locator(".lost")).to_contain_text("The mesh has not answered since")
        for link in await page.locator(".side nav a").all():
            await link.click()
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await expect(page.locator(".lost")).to_be_visible()
            await expect(page.locator(".health, .empty")).to_have_count(0)  # nothing is known of them
            await take_picture(page, f"lost-{await link.inner_text()}")
        async with serving(api.mesh, "127.0.0.1", int(server.url.rpartition(":")[2])):
            await expect(page.locator(".lost")).to_have_count(0)
            await expect(page.get_by_role("alert")).to_have_count(0)


async def test_an_ended_login_is_told_and_the_view_is_kept(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, open_view(browser, api, "money", TOKEN) as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("Money")
        [cookie] = await page.context.cookies()
        headers = {"Cookie": f"{cookie.get('name')}={cookie.get('value')}"}
        async with api.session.delete("/session", headers=headers) as answer:
            assert answer.status == 204
        await page.evaluate("location.hash = '#/tasks'")  # the links may be gone by then
        await expect(page.get_by_text("Your login has ended.")).to_be_visible()
        await take_picture(page, "login-ended")
        await page.get_by_label("Key or token").fill(TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        await expect(page.get_by_text("Your login has ended.")).to_have_count(0)
