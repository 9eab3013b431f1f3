"""Four people race at one inbox, each in a browser of their own: every answer is to what its giver saw."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from meshwright import Agent, Approval, Capability, Run
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, ADMINS, log_in, reader

pytestmark = pytest.mark.needs("chromium")
NAMES = ("ada", "bert", "cleo", "dan")
LONG_DAY = pytest.mark.soak("two hundred races, in five days of forty, take a quarter of an hour")
OPEN = 24
"""Questions that wait at the beginning of a race."""
SEEN_MS = 700
"""For how long a question is shown before an answer to it counts."""
JITTER_MS = 30
"""By which the clocks of two handlers differ."""
GOING_MS = 300
"""That the page takes to go on: the second of two quick presses may come before it has obeyed the first."""
RECORD = """() => {
    const cards = [], presses = [], answers = [];
    let card = null;
    const textOf = () => document.querySelector("article.item .asked")?.textContent ?? null;
    const look = () => {
        const text = textOf();
        if (text === card) return;
        card = text;
        cards.push({ text, at: performance.now() });
    };
    new MutationObserver(look).observe(document, { childList: true, subtree: true, characterData: true });
    for (const kind of ["click", "keydown"]) addEventListener(kind, (event) => {
        look();
        const link = event.target.closest?.("a");
        const goes = kind === "click" ? Boolean(link) : ["j", "k"].includes(event.key);
        const all = document.querySelector("dialog[open]")?.textContent ?? null;
        presses.push({ at: event.timeStamp, goes, card, since: cards.at(-1)?.at ?? null, all });
    }, true);
    const send = window.fetch;
    window.fetch = (path, options) => {
        const isAnswer = options?.method === "POST" && /[/]answer$/.test(String(path));
        if (isAnswer) answers.push({ path: String(path), at: performance.now(), press: presses.at(-1) });
        return send(path, options);
    };
    window.recorded = { cards, presses, answers };
}"""
"""Notes which question is shown since when, what is pressed, and each answer that is sent."""
LOOK = """() => {
    const button = document.querySelector("article.item button.yes");
    const box = button?.getBoundingClientRect();
    const isLive = Boolean(button) && !button.disabled;
    return { isLive, x: box ? box.x + box.width / 2 : 0, y: box ? box.y + box.height / 2 : 0 };
}"""
GO_TO = """(id) => {
    window.recorded.presses.push({ at: performance.now(), goes: true });
    location.hash = `#/inbox?item=${id}`;
}"""
MANY = """() => [...document.querySelectorAll("button")].find(
    (button) => button.textContent === "Approve all…")?.getBoundingClientRect()?.toJSON()"""


class Clerk(Agent):
    """Asks whether an order may go out."""

    agent_id = "clerk"
    capabilities = (Capability("orders"),)
    remembers = False

    async def run(self, run: Run) -> str:
        decision = await run.ask_person(f"May order {run.task.text} go out?", shape=Approval)
        return "sent" if decision.approve else f"kept: {decision.reason}"


@dataclass
class Person:
    """One of the four, at a browser."""

    name: str
    page: Page
    chance: random.Random
    sent: list[tuple[str, int]] = field(default_factory=list)
    """The tasks of the answers, each with the status of its reply."""

    def listen(self) -> None:
        """Note the replies to all answers."""

        def note(response: Any) -> None:
            if match := re.search(r"/tasks/([^/]+)/answer$", response.url):
                self.sent.append((match[1], response.status))

        self.page.on("response", note)

    async def pause(self, most_ms: int) -> None:
        """The time that a hand needs."""
        await self.page.wait_for_timeout(self.chance.randrange(most_ms))

    async def read(self) -> dict[str, Any]:
        """Look at a question that may be answered; go on from one that somebody else has answered."""
        left = self.page.locator("article.item .left")
        while True:
            await expect(self.page.locator("article.item .asked")).to_be_visible()
            if await left.count():
                await self.page.get_by_role("link", name="Next").click()
            if (look := await self.page.evaluate(LOOK))["isLive"]:
                return look
            await self.page.wait_for_timeout(50)

    async def go_to(self, item_id: str) -> None:
        """Choose a question by its address; it may be gone meanwhile."""
        await self.page.evaluate(GO_TO, item_id)

    # What one does in a race

    async def click(self, look: dict[str, Any]) -> None:
        """Approve by the pointer, where the button was when the question was read; a hasty hand clicks on."""
        await self.page.mouse.move(look["x"], look["y"])
        await self.pause(500)
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            await self.page.mouse.click(look["x"], look["y"])
            await self.pause(250)

    async def press(self, _: dict[str, Any]) -> None:
        """Approve by a key; a hasty hand presses on."""
        await self.pause(500)
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            await self.page.keyboard.press("a")
            await self.pause(200)

    async def deny(self, _: dict[str, Any]) -> None:
        """Deny for a reason with the letters of shortcuts."""
        await self.page.keyboard.press("d")
        await self.page.keyboard.type("a jaded day, and a jam", delay=15)
        await self.pause(200)
        for _ in range(self.chance.choice((1, 1, 3))):
            await self.page.keyboard.press("Enter")

    async def browse(self, _: dict[str, Any]) -> None:
        """Read on by keys, and approve what is shown."""
        for _ in range(self.chance.randrange(1, 4)):
            await self.page.keyboard.press(self.chance.choice("jjk"))
            await self.pause(900)
            await self.page.keyboard.press("a")

    async def choose(self, _: dict[str, Any]) -> None:
        """Approve the first few in one go, while others answer some of them."""
        boxes = self.page.get_by_role("list", name="Questions").get_by_role("checkbox")
        for number in range(3):
            box = await boxes.nth(number).bounding_box()
            if box is not None:
                await self.page.mouse.click(box["x"] + 4, box["y"] + 4)
        if many := await self.page.evaluate(MANY):  # unless others have answered all of them
            await self.page.mouse.click(many["x"] + 4, many["y"] + 4)
            await self.pause(400)
            answer = self.page.get_by_role("button", name=re.compile("^Approve all \\d+$"))
            if await answer.count():
                await answer.click()
                await expect(self.page.get_by_role("dialog")).to_have_count(0)

    async def race(self) -> None:
        """One go at what is shown."""
        hands = (self.click, self.press, self.deny, self.browse, self.choose)
        [hand] = self.chance.choices(hands, (4, 3, 2, 2, 1))
        await hand(await self.read())


@asynccontextmanager
async def four_people(api: Api, browser: Browser, chance: random.Random) -> AsyncIterator[list[Person]]:
    """Four people who may answer, each logged in with a key of their own."""
    async with AsyncExitStack() as stack:
        people = list[Person]()
        for name in NAMES:
            request = {"name": name, "roles": ["approver"]}
            status, key = await api.call("POST", "/keys", json=request, headers=ADMIN)
            assert status < 300, key
            seat = await stack.enter_async_context(reader(browser, f"{api.url}/#/inbox"))
            await log_in(seat, key["key"])
            await seat.page.evaluate(RECORD)
            person = Person(name, seat.page, random.Random(chance.random()))
            person.listen()
            people.append(person)
        yield people


def unseen_answers(recorded: dict[str, Any], orders: dict[str, str]) -> list[str]:
    """The answers of a browser to questions that its person had not seen, or not for long enough."""
    faults = list[str]()
    for answer in recorded["answers"]:
        task_id = re.search(r"/tasks/([^/]+)/answer$", answer["path"])
        assert task_id is not None, answer
        asked = f"May order {orders[task_id[1]]} go out?"
        press = answer["press"]
        if press["all"] is not None:
            if asked not in press["all"]:
                faults.append(f"{asked} was not in the dialog {press['all']!r}")
        elif press["card"] != asked:
            faults.append(f"{asked} was answered at the press on {press['card']!r}")
        elif (shown := press["at"] - press["since"]) < SEEN_MS - JITTER_MS:
            faults.append(f"{asked} was answered {shown:.0f} ms after it appeared")
    return faults


def unasked_changes(recorded: dict[str, Any], orders: dict[str, str]) -> list[str]:
    """The questions whose place another took, though the person neither answered them nor went on."""
    by_text = {f"May order {order} go out?": task_id for task_id, order in orders.items()}
    answered = [(answer["path"], answer["at"]) for answer in recorded["answers"]]
    faults = list[str]()
    for before, after in itertools.pairwise(recorded["cards"]):
        if before["text"] not in by_text or after["text"] not in by_text:
            continue
        task_id = by_text[before["text"]]
        own = any(task_id in path and at <= after["at"] for path, at in answered)
        since = before["at"] - GOING_MS
        went = any(press["goes"] and since <= press["at"] <= after["at"] for press in recorded["presses"])
        if not own and not went:
            faults.append(f"{after['text']} took the place of {before['text']}")
    return faults


@pytest.mark.parametrize(
    ("races", "day"), [(5, 0), *(pytest.param(40, day, marks=LONG_DAY) for day in range(1, 6))]
)
async def test_four_people_at_one_inbox_answer_only_what_they_saw(
    tmp_path: Path, browser: Browser, races: int, day: int, seed: int
) -> None:
    chance = random.Random(f"{seed}:{day}")
    orders: dict[str, str] = {}
    numbers = itertools.count(1)

    async with http_mesh(tmp_path, Clerk, **ADMINS) as api, four_people(api, browser, chance) as people:

        async def order() -> None:
            number = f"{next(numbers):04d}"
            task = {"agent_id": "clerk", "payload": {"text": number}}
            status, receipt = await api.call("POST", "/tasks", json=task, headers=ADMIN)
            assert status == 202, receipt
            orders[receipt["task_id"]] = number

        async def open_items(count: int) -> list[dict[str, Any]]:
            """Have at least so many questions wait."""
            async with asyncio.timeout(120):
                while True:
                    _, inbox = await api.call("GET", "/inbox?limit=200", headers=ADMIN)
                    if len(inbox["items"]) >= count:
                        return inbox["items"]
                    await asyncio.gather(*(order() for _ in range(count - len(inbox["items"]))))
                    await people[0].page.wait_for_timeout(100)

        async def disturb(items: list[dict[str, Any]]) -> None:
            """Others answer by the API, and new questions come."""
            for item in chance.sample(items[:6], 2):
                await people[0].page.wait_for_timeout(chance.randrange(300))
                body = {"key": item["wait_id"], "value": {"approve": True}, "digest": item["digest"]}
                path = f"/tasks/{item['task_id']}/answer"
                status, _ = await api.call("POST", path, json=body, headers=ADMIN)
                assert status in (202, 409, 404)
                await order()

        faults = list[str]()
        for _ in range(races):
            items = await open_items(OPEN)
            contested = chance.choice(items[:6])["id"]
            for person in people:
                if person.chance.random() < 0.7:
                    await person.go_to(contested)
            await asyncio.gather(disturb(items), *(person.race() for person in people))

        answers = Counter[str]()
        for person in people:
            recorded = json.loads(await person.page.evaluate("() => JSON.stringify(window.recorded)"))
            faults += [f"{person.name}: {fault}" for fault in unseen_answers(recorded, orders)]
            faults += [f"{person.name}: {fault}" for fault in unasked_changes(recorded, orders)]
            answers.update({"sent": len(recorded["answers"])})
            answers.update(str(status) for _, status in person.sent)
        print(f"{races} races, {len(orders)} orders, answers: {dict(answers)}")
        assert not faults, "\n".join(faults)
        assert answers["sent"] >= races and answers["202"] >= races
