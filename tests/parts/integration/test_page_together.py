"""Two people at one inbox, each in a browser of their own: an answer is to what its giver saw."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from meshwright import Agent, Capability, Run
from meshwright.engine.events.filter import EventFilter
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, ADMINS, SHOTS, Releaser, open_view, press, questions

pytestmark = pytest.mark.needs("chromium")


CLICK_AFTER_CHANGE = """({ x, y, width, height }) => new Promise((done) => {
    const before = document.querySelectorAll("tbody tr").length;
    const seen = new MutationObserver(() => {
        if (document.querySelectorAll("tbody tr").length === before) return;
        seen.disconnect();
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const target = document.elementFromPoint(x + width / 2, y + height / 2);
            const options = { bubbles: true, cancelable: true, detail: 1 };
            done(target.dispatchEvent(new MouseEvent("click", options)));
        }));
    });
    seen.observe(document.body, { childList: true, subtree: true });
})"""
"""Clicks where a button is, once the page has another row."""


class Surveyor(Agent):
    """Asks for a text."""

    agent_id = "surveyor"
    capabilities = (Capability("surveys"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("How did it go?"))


async def ask(api: Api, count: int = 4) -> list[dict[str, Any]]:
    """Have as many questions wait; returns them, the oldest first."""
    tail = api.mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0))
    for number in range(count):
        await api.submit(agent_id="releaser", payload={"text": f"release {number}"})
        await asyncio.wait_for(anext(tail), 60)
    await tail.aclose()
    return (await api.get("/inbox"))["items"]


async def approve(api: Api, item: dict[str, Any]) -> None:
    answer = {"key": item["wait_id"], "value": {"approve": True}, "digest": item["digest"]}
    assert (await api.call("POST", f"/tasks/{item['task_id']}/answer", json=answer))[0] == 202


async def open_ids(api: Api) -> list[str]:
    return [item["id"] for item in (await api.get("/inbox"))["items"]]


def card(page: Page) -> Any:
    return page.get_by_role("article")


async def test_a_click_meant_for_an_answered_question_reaches_no_other(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "inbox") as page:
        items = await ask(api)
        button = card(page).get_by_role("button", name="Approve")
        await expect(button).to_be_enabled()
        box = await button.bounding_box()
        assert box is not None
        place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await page.mouse.move(*place)
        await approve(api, items[0])
        await expect(card(page)).to_contain_text("Approved by anonymous")
        for _ in range(3):
            await page.mouse.click(*place)
        await expect(button).to_be_disabled()
        assert items[0]["id"] in page.url
        assert await open_ids(api) == [item["id"] for item in items[1:]]
        await page.get_by_role("link", name="Next").click()
        await expect(button).to_be_enabled()
        await button.click()
        await expect(questions(page)).to_have_count(2)
        assert await open_ids(api) == [item["id"] for item in items[2:]]


async def test_a_reason_that_is_being_typed_stays_and_approves_nothing(
    tmp_path: Path, browser: Browser
) -> None:
    reason = "no, a jay at dawn and a dark jam; approve a day later"
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "inbox") as page:
        items = await ask(api)
        field = card(page).get_by_label("Reason")
        await field.focus()
        await page.keyboard.type(reason[:5])
        await approve(api, items[0])
        await expect(card(page)).to_contain_text("Approved by anonymous")
        await page.keyboard.type(reason[5:], delay=60)
        await page.keyboard.press("Enter")
        await expect(field).to_have_value(reason)
        assert await open_ids(api) == [item["id"] for item in items[1:]]


async def test_keys_that_follow_a_field_that_is_gone_press_nothing(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "inbox") as page:
        items = await ask(api, 2)
        button = card(page).get_by_role("button", name="Approve")
        await expect(button).to_be_enabled()
        await card(page).get_by_label("Reason").focus()
        await page.evaluate("id => { location.hash = `#/inbox?item=${id}`; }", items[1]["id"])
        await expect(page.get_by_text("2 of 2")).to_be_visible()
        await expect(button).to_be_enabled()
        await page.keyboard.type("a a a", delay=300)
        assert len(await open_ids(api)) == 2
        await page.keyboard.press("Escape")
        await page.keyboard.press("a")
        await expect(questions(page)).to_have_count(1)


async def test_a_text_is_kept_while_another_question_is_read(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser, Surveyor) as api, open_view(browser, api, "inbox") as page:
        await ask(api, 2)
        await api.submit(agent_id="surveyor", payload={"text": "ask"})
        await expect(questions(page)).to_have_count(3)
        await card(page).get_by_label("Reason").fill("not tonight")
        await questions(page).nth(2).get_by_role("link").click()
        await card(page).get_by_label("Answer").fill("half of it")
        await questions(page).first.get_by_role("link").click()
        await expect(card(page).get_by_label("Reason")).to_have_value("not tonight")
        await questions(page).nth(2).get_by_role("link").click()
        await expect(card(page).get_by_label("Answer")).to_have_value("half of it")


async def test_an_address_of_an_answered_question_says_what_became_of_it(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        items = await ask(api, 2)
        await approve(api, items[0])
        async with open_view(browser, api, f"inbox?item={items[0]['id']}") as page:
            await expect(card(page)).to_contain_text("Approved by anonymous")
            await expect(card(page).get_by_role("button", name="Approve")).to_be_disabled()
        async with open_view(browser, api, "inbox?item=NOTHING") as page:
            await expect(page.get_by_text("There is no question NOTHING any more")).to_be_visible()
            await page.get_by_role("link", name="Next").click()
            await expect(card(page).get_by_role("button", name="Approve")).to_be_enabled()


async def test_the_questions_of_a_task_stay_on_its_page(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        [item] = await ask(api, 1)
        async with open_view(browser, api, f"task/{item['task_id']}") as page:
            button = card(page).get_by_role("button", name="Approve")
            await expect(button).to_be_enabled()
            await card(page).get_by_label("Reason").fill("wait")
            await approve(api, item)
            await expect(card(page)).to_contain_text("Approved by anonymous")
            await expect(button).to_be_disabled()
            await expect(card(page).get_by_label("Reason")).to_have_value("wait")


async def test_a_button_that_moved_under_the_pointer_does_nothing(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api, open_view(browser, api, "tasks") as page:
        await ask(api, 1)
        cancel = page.get_by_role("button", name="Cancel…").first
        await cancel.hover()
        clicked = page.evaluate(CLICK_AFTER_CHANGE, await cancel.bounding_box())
        await asyncio.gather(clicked, ask(api, 1))
        await expect(page.get_by_text("nothing was done")).to_be_visible()
        assert await page.get_by_role("dialog").count() == 0
        await page.mouse.move(1, 1)
        await cancel.click()
        await expect(page.get_by_role("dialog")).to_be_visible()


async def test_an_answer_to_another_question_than_the_one_shown_is_refused(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        first, second = await ask(api, 2)
        answer = {"key": first["wait_id"], "value": {"approve": True}, "digest": second["digest"]}
        status, problem = await api.call("POST", f"/tasks/{first['task_id']}/answer", json=answer)
        assert (status, problem["field"]) == (409, "digest")
        assert "another than the one that was shown" in problem["detail"]
        many = {"id": first["id"], "value": {"approve": True}, "digest": second["digest"]}
        _, page = await api.call("POST", "/inbox/answer", json=many)
        assert page["items"][0]["refused"]["type"] == "Conflict"
        await approve(api, first)
        assert await open_ids(api) == [second["id"]]


async def key_for(api: Api, name: str) -> str:
    """A key of a person who may answer."""
    request = {"name": name, "roles": ["approver", "contents"]}
    status, key = await api.call("POST", "/keys", json=request, headers=ADMIN)
    assert status < 300, key
    return key["key"]


async def test_a_claimed_question_is_answered_by_another_only_deliberately(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser, **ADMINS) as api:
        tail = api.mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0))
        for number in range(2):
            request = {"agent_id": "releaser", "payload": {"text": f"release {number}"}}
            await api.call("POST", "/tasks", json=request, headers=ADMIN)
            await asyncio.wait_for(anext(tail), 60)
        await tail.aclose()
        tokens = {name: await key_for(api, name) for name in ("ada", "bob")}
        async with (
            open_view(browser, api, "inbox", tokens["ada"]) as ada,
            open_view(browser, api, "inbox", tokens["bob"]) as bob,
        ):
            approve_it = card(bob).get_by_role("button", name="Approve")
            await expect(approve_it).to_be_enabled()
            await expect(card(ada).get_by_role("button", name="I take it")).to_be_visible()
            await ada.keyboard.press("c")
            await expect(card(ada)).to_contain_text("You are looking; that ends in")
            await expect(card(bob)).to_contain_text("ada is looking; that ends in")
            await expect(questions(bob).first).to_contain_text("ada is looking")
            await expect(approve_it).to_be_disabled()
            await expect(card(ada).get_by_role("button", name="Approve")).to_be_enabled()
            await press(ada, "Let it go")
            await expect(approve_it).to_be_enabled()
            await press(ada, "I take it")  # a second key counts only 0.7 s after the first
            await expect(approve_it).to_be_disabled()
            await press(bob, "Answer although ada is looking")
            await approve_it.click()
            await expect(card(ada)).to_contain_text("Approved by bob")
            await expect(questions(bob)).to_have_count(1)


async def test_an_answer_that_was_on_its_way_when_another_claimed_says_who(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, Releaser, **ADMINS) as api:
        tail = api.mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0))
        request = {"agent_id": "releaser", "payload": {"text": "release"}}
        await api.call("POST", "/tasks", json=request, headers=ADMIN)
        await asyncio.wait_for(anext(tail), 60)
        await tail.aclose()
        ada = {"Authorization": f"Bearer {await key_for(api, 'ada')}"}
        async with open_view(browser, api, "inbox", await key_for(api, "bob")) as bob:
            approve_it = card(bob).get_by_role("button", name="Approve")
            await expect(approve_it).to_be_enabled()
            await bob.route("**/inbox?**", lambda route: route.abort())  # it hears of nothing more
            _, page = await api.call("GET", "/inbox", headers=ada)
            [item] = page["items"]
            status, claim = await api.call("POST", f"/inbox/{item['id']}/claim", headers=ada)
            assert (status, claim["claimed_by"]) == (200, "ada")
            await approve_it.click()
            await expect(bob.get_by_text("Not sent: ada is looking at that question until")).to_be_visible()
            await bob.unroute("**/inbox?**")
            await expect(card(bob)).to_contain_text("ada is looking")
            _, page = await api.call("GET", "/inbox", headers=ada)
            assert [one["claimed_by"] for one in page["items"]] == ["ada"]


class Patient(Agent):
    """Asks one person, and is not answered."""

    agent_id = "patient"
    capabilities = (Capability("patience"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask_person("Which region?", may_answer=["ada"], then=["bob"])


@pytest.mark.parametrize("width", [1280, 390])
async def test_a_question_that_nobody_answered_says_so_and_who_was_asked(
    tmp_path: Path, browser: Browser, width: int
) -> None:
    people = {"remind_seconds": 1}
    async with (
        http_mesh(tmp_path, Patient, people=people) as api,
        open_view(browser, api, "inbox", viewport={"width": width, "height": 800}) as page,
    ):
        await api.submit(agent_id="patient", payload={"text": "Choose."})
        await expect(card(page)).to_contain_text(
            re.compile("asked of ada.*reminded .*, and bob asked as well")
        )
        if SHOTS:
            await page.screenshot(path=f"{SHOTS}/reminded-{width}.png")
        if width == 390:
            await page.get_by_role("link", name="All", exact=True).click()
        await expect(questions(page).first).to_contain_text("nobody answered: bob asked as well")
        if SHOTS:
            await page.screenshot(path=f"{SHOTS}/reminded-list-{width}.png")
