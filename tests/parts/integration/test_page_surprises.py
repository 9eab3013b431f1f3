"""Presses on what somebody else changed a moment before, in each view with buttons that act, do nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from meshwright.agents.context.memory import MemoryItem, MemoryStore
from tests.parts.integration.test_page_buttons import Changes, addresses
from tests.support.bad_night import bad_night
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, ADMINS, TOKEN, Releaser, dialog, log_in, open_view, reader
from tests.support.page_walk import expect_whole

pytestmark = pytest.mark.needs("chromium")
HOLD = """() => {
    let at = performance.now();
    performance.now = () => at;
    window.pass = (milliseconds) => { at += milliseconds; };
}"""
"""Stops the clock by which a press comes too early, however slow the machine is."""
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
NOTE = """(at) => {
    const sight = () => {
        const button = document.elementFromPoint(...at)?.closest("button");
        const row = button?.closest("tr, article");
        return [button, button?.innerText, button?.ariaLabel, row?.querySelector(".question")?.innerText,
            row?.cells?.[4]?.innerText];
    };
    const before = sight();
    before[0].focus();
    window.isOther = () => Boolean(sight()[0]) && sight().some((part, number) => part !== before[number]);
    const tremble = new MutationObserver(() => {
        if (!window.isOther()) return;
        tremble.disconnect();
        const [clientX, clientY] = [at[0] + 2, at[1] + 2];
        document.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, pointerType: "mouse" }));
        document.dispatchEvent(new Event("scroll"));
    });
    tremble.observe(document.body, { childList: true, subtree: true, characterData: true });
}"""
"""Notes which button is at a point, for the question whether another is there, or means something else.

In the frame in which that comes the hand trembles, and the page scrolls.
"""

NEXT = """(pressed) => {
    for (const button of document.querySelectorAll("main button:not(:disabled), main input[type=checkbox]")) {
        const name = button.ariaLabel || button.innerText.trim();
        if (pressed.includes(name) || !button.checkVisibility()) continue;
        button.scrollIntoView({ block: "center" });
        const { x, y, width, height } = button.getBoundingClientRect();
        const at = { x: x + width / 2, y: y + height / 2 };
        if (button.contains(document.elementFromPoint(at.x, at.y))) return { name, ...at };
    }
    return null;
}"""
"""Brings a button into sight that was not pressed in this view yet; returns its name and place."""
SHIFT = """(left) => {
    Object.assign(document.querySelector("main").style, { position: "relative", left });
}"""
CLOSE = "() => document.querySelector('.notice button').click()"
VIEWS = {
    *("inbox", "tasks", "task", "try", "schedules", "models", "memory"),
    *("prompts", "experiments", "money", "events", "configuration", "keys"),
}
"""Those with buttons; agents, deliveries and the mesh have none."""

Request = tuple[str, str, dict[str, Any] | None]


@dataclass(frozen=True)
class Case:
    """A button of a view, what makes it, and what somebody else does that gives it another meaning."""

    view: str
    name: str
    """Of the button, whole."""
    begin: tuple[Request, ...]
    change: Callable[[int], Request]
    hands: tuple[str, ...] = ("mouse", "finger")
    """Those that press where the button was; a key presses the button that has the focus, wherever it is."""
    what: str = ""
    """What changes, where nothing moves and the button keeps its words."""


def _schedule(name: str) -> Request:
    task = {"agent_id": "echo", "payload": {"text": "hi"}}
    return "POST", "/schedules", {"id": name, "cron": "0 7 1 1 *", "task": task}


def _reschedule(agent: str) -> Request:
    task = {"agent_id": agent, "payload": {"text": "hi"}}
    return "PUT", "/schedules/daily", {"cron": "0 7 1 1 *", "task": task}


def _task(text: str) -> Request:
    return "POST", "/tasks", {"agent_id": "releaser", "payload": {"text": text}}


def _key(name: str) -> Request:
    return "POST", "/keys", {"name": name}


def _config(agent: str) -> Request:
    return "POST", "/api/agents", {"agent_id": agent, "llm_provider": "ollama", "llm_model": "llama3"}


def _prompt(text: str) -> Request:
    return "PUT", "/v1/prompts/helper", {"template": text}


ALL = ("mouse", "moving mouse", "key", "finger")
CASES = (
    Case(
        "schedules",
        "Pause",
        (_schedule("daily"),),
        lambda number: ("POST", f"/schedules/daily/{('pause', 'resume')[number % 2]}", None),
        ALL,
    ),
    Case("schedules", "Run now", (_schedule("m"),), lambda number: _schedule(f"a{9 - number}")),
    Case(
        "schedules",
        "Run now",
        (_schedule("daily"),),
        lambda number: _reschedule(("gate", "releaser")[number % 2]),
        ALL,
        "for another agent",
    ),
    Case(
        "memory",
        "Undo the last change",
        (),
        lambda number: ("PATCH", "/memories/m-1", {"text": f"Port {number}."}),
        ALL,
    ),
    Case("tasks", "Cancel…", (_task("first"),), lambda number: _task(str(number))),
    Case("keys", "Rotate the key of m", (_key("m"),), lambda number: _key(f"a{number}")),
    Case(
        "configuration",
        "Delete the configuration of releaser",
        (_config("releaser"),),
        lambda number: _config(("gate", "echo")[number]),
    ),
    Case(
        "prompts/helper",
        "Label…",
        (("POST", "/v1/prompts", {"name": "helper", "template": "Help."}),),
        lambda number: _prompt(f"Help {number}."),
    ),
)


async def send(api: Api, request: Request) -> None:
    """Have somebody else do it."""
    method, path, body = request
    status, reply = await api.call(method, path, json=body, headers=ADMIN)
    assert status < 300, reply


async def wait(page: Page) -> None:
    """Let what is shown have been in sight for long enough."""
    await page.evaluate(PAINTED)
    await page.evaluate("() => window.pass(701)")


async def press(page: Page, hand: str, x: float, y: float) -> None:
    """Press what is at a point, or has the focus."""
    match hand:
        case "moving mouse":  # on its way there when the change came
            await page.mouse.move(x + 20, y + 20)
            await page.mouse.click(x, y)
        case "mouse":
            await page.mouse.click(x, y)
        case "finger":
            await page.touchscreen.tap(x, y)
        case _:
            await page.keyboard.press("Enter")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.view} {case.name} {case.what}".strip())
async def test_a_press_on_what_has_just_changed_does_nothing(
    tmp_path: Path, browser: Browser, case: Case
) -> None:
    async with http_mesh(tmp_path, Releaser, **ADMINS) as api:
        memory = MemoryItem(memory_id="m-1", scope="global", text="Port 80.", agent_id="echo")
        await api.mesh.get(MemoryStore).remember(memory)
        for request in case.begin:
            await send(api, request)
        async with open_view(browser, api, case.view, TOKEN, has_touch=True) as page:
            button = page.get_by_role("button", name=case.name, exact=True)
            await expect(button).to_be_visible()
            await expect_whole(page)
            await button.scroll_into_view_if_needed()
            box = await button.bounding_box()
            assert box is not None
            at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            changes = list[str]()
            page.on("request", lambda sent: changes.append(sent.url) if sent.method != "GET" else None)
            await page.evaluate(HOLD)
            for number, hand in enumerate(case.hands):
                await page.mouse.move(*at)
                await wait(page)
                await page.evaluate(NOTE, at)
                await send(api, case.change(number))
                await page.wait_for_function("() => window.isOther()")
                await page.evaluate(PAINTED)
                await press(page, hand, *at)
                await expect(page.locator(".notice")).to_contain_text("nothing was done")
                assert changes == [] and await dialog(page).count() == 0, hand
                await wait(page)
                await page.locator(".notice button").click()
            await wait(page)
            await press(page, "finger", *at)
            await expect(page.locator(".notice, dialog[open]")).to_be_visible()
            assert changes or await dialog(page).count() == 1


async def test_a_dialog_says_why_a_press_did_nothing(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        task_id = await api.submit(agent_id="releaser", payload={"text": "first"})
        async with open_view(browser, api, "tasks", has_touch=True) as page:
            cancel = page.get_by_role("button", name="Cancel…")
            await expect(cancel).to_be_visible()
            await page.evaluate(HOLD)
            await wait(page)
            await cancel.tap()
            await expect(dialog(page)).to_be_visible()
            await page.evaluate(PAINTED)
            button = dialog(page).locator("button").first
            await button.tap()
            await expect(dialog(page).get_by_role("alert")).to_contain_text("nothing was done")
            assert (await api.get(f"/tasks/{task_id}"))["status"] != "cancelled"
            await wait(page)
            await button.tap()
            await expect(dialog(page)).to_have_count(0)
            await api.client.outcome(task_id)


async def test_no_button_of_any_view_acts_as_it_comes_under_a_pointer(
    tmp_path: Path, browser: Browser
) -> None:
    async with bad_night(tmp_path, 0) as night, reader(browser, f"{night.api.url}/#/tasks") as person:
        await log_in(person, TOKEN)
        page, changes, pressed = person.page, Changes(), set[tuple[str, str]]()
        await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
        await changes.watch(page)
        await page.evaluate(HOLD)
        async for address in addresses(page, night):
            await page.goto(f"{night.api.url}/{address}")
            await expect_whole(page)
            await wait(page)
            view = address.removeprefix("#/").partition("/")[0].partition("?")[0]
            while button := await page.evaluate(NEXT, [name for at, name in pressed if at == view]):
                pressed.add((view, button["name"]))
                at = (button["x"], button["y"])
                await page.mouse.move(*at)
                await page.evaluate(SHIFT, "-4000px")
                await wait(page)
                await page.evaluate(SHIFT, "0")
                await page.evaluate(PAINTED)
                await page.mouse.click(*at)
                about = f"{address}: {button['name']}"
                await expect(page.locator(".notice"), about).to_contain_text("nothing was done")
                assert changes.requests == [] and await dialog(page).count() == 0, about
                await page.evaluate(CLOSE)
    views = {view for view, _ in pressed}
    assert views >= VIEWS, VIEWS - views
