"""The page in a real browser: agents that have something to show, and what a person does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect
from pydantic import BaseModel, Field

from meshwright import Agent, Approval, Capability, Run, Task, tool
from meshwright.core.messages import Usage
from meshwright.models.port import ModelReply
from tests.support.http_mesh import Api

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
ADMINS: dict[str, Any] = {"admin_token": TOKEN, "keys": {"required": True}}
PRICED = {"default_price": {"input": "0", "output": "20000"}}
SHOTS = os.environ.get("SHOTS")
"""A folder for pictures of every view, to look at: `SHOTS=/tmp/shots pytest -k every_view ...`."""
SECONDS = 60_000  # in milliseconds: for a slow machine


class Releaser(Agent):
    """Asks a person, then says what it did."""

    agent_id = "releaser"
    capabilities = (Capability("releasing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        decision = await run.ask_person("Release 1.4?", shape=Approval)
        return "released" if decision.approve else f"kept: {decision.reason}"


class Moody(Agent):
    """Fails once, then works."""

    agent_id = "moody"
    capabilities = (Capability("moods"),)
    remembers = False
    prompt_text = "Be moody."
    tries = 0

    async def run(self, run: Run) -> str:
        await run.ask("How are you?")
        type(self).tries += 1
        if type(self).tries < 2:
            raise ValueError("not today")
        return "fine now"


class Deployer(Agent):
    """Deploys by a tool that needs an approval."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    remembers = False
    prompt_text = "Deploy."

    @tool(needs_approval=True)
    async def deploy(self, version: str, environment: str) -> str:
        """Bring a version to an environment.

        Args:
            version: such as 1.4
            environment: staging or production
        """
        return f"{version} is in {environment}"


class Lead(Agent):
    """Has another agent do it."""

    agent_id = "lead"
    capabilities = (Capability("leading"),)
    delegates_to = ("helper",)
    remembers = False
    prompt_text = "Lead."

    async def run(self, run: Run) -> str:
        await run.ask("Who does it?")
        return f"done: {await run.delegate('helper', run.task.text)}"


class Helper(Agent):
    """Helps, by a model."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)
    remembers = False
    prompt_text = "Help."

    async def run(self, run: Run) -> str:
        return await run.ask(run.task.text)


class Filed(Agent):
    """Says what the model says; its prompt is a file."""

    agent_id = "filed"
    capabilities = (Capability("filing"),)
    remembers = False


class Scholar(Helper):
    """Helps, by an expensive model."""

    agent_id = "scholar"
    capabilities = (Capability("studying"),)

    def tags(self, task: Task) -> tuple[str, ...]:
        return ("expensive",)


class Talker(Agent):
    """Says what the model says, word by word."""

    agent_id = "talker"
    capabilities = (Capability("talking"),)
    prompt_text = "Talk."


class Release(BaseModel):
    """The payload of a release: fields of every kind."""

    text: str
    version: str = Field(title="Version", description="the tag", max_length=20)
    channel: Literal["stable", "beta"]
    commits: int = Field(default=20, ge=1, le=100)
    share: float | None = None
    announce: bool = True
    priority: list[str] = []


class Notes(Agent):
    """Writes release notes."""

    agent_id = "notes"
    capabilities = (Capability("release-notes", input_schema=Release), Capability("proofreading"))

    async def run(self, run: Run) -> dict[str, Any]:
        return run.task.payload


class Reader:
    """A person at a browser: a page, and what its console said that it should not."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@asynccontextmanager
async def reader(browser: Browser, url: str, **options: Any) -> AsyncIterator[Reader]:
    """A person who opens the page of a mesh."""
    context = await browser.new_context(**options)
    context.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    try:
        reader = Reader(await context.new_page())
        await reader.page.goto(url)
        yield reader
    finally:
        for page in context.pages:
            await page.unroute_all(behavior="ignoreErrors")  # a request under way would fail the next test
        await context.close()


def priced_reply(text: str, tokens: int = 10) -> ModelReply:
    """A reply that costs something."""
    return ModelReply(content=text, model="m", usage=Usage(prompt_tokens=100, completion_tokens=tokens))


async def log_in(person: Reader, token: str) -> None:
    """Log in, and wait for the views."""
    await person.page.get_by_label("Key or token").fill(token)
    await person.page.get_by_role("button", name="Log in").click()
    await expect(person.page.locator("#main")).to_be_visible()


@asynccontextmanager
async def open_view(
    browser: Browser, api: Api, view: str, token: str = "", **options: Any
) -> AsyncIterator[Page]:
    """A view, with a console without complaints but for requests that were refused on purpose."""
    async with reader(browser, f"{api.url}/#/{view}", **options) as person:
        if token:
            await log_in(person, token)
        yield person.page
        assert [text for text in person.complaints if not text.startswith("Failed to load resource")] == []


def questions(page: Page) -> Locator:
    """The lines of the inbox's list."""
    return page.get_by_role("list", name="Questions").get_by_role("listitem")


async def choose_question(page: Page, text: str) -> Locator:
    """Choose the question with that text in the list; returns it as it is shown whole."""
    link = questions(page).filter(has_text=text).first.get_by_role("link")
    await link.click()
    await expect(link).to_have_attribute("aria-current", "true")
    return page.get_by_role("article")


def dialog(page: Page) -> Locator:
    """The dialog that is open."""
    return page.get_by_role("dialog")


async def press(page: Page, name: str) -> None:
    """Press a button of the view, with a pointer that comes from elsewhere."""
    await page.mouse.move(0, 0)  # at rest it might be over what the button has replaced
    await page.get_by_role("button", name=name, exact=True).click()


async def confirm(page: Page, name: str) -> None:
    """Press a button of the dialog."""
    await dialog(page).get_by_role("button", name=name, exact=True).click()


async def expect_refusal(page: Page, text: str) -> None:
    """The dialog stays, and says why."""
    await expect(dialog(page).get_by_role("alert")).to_contain_text(text)


async def look(page: Page) -> None:
    """Look at what is shown for as long as a press on it needs to count; only that clock goes on."""
    await page.evaluate(
        """() => {
            const now = performance.now.bind(performance);
            const painted = () => new Promise((done) => requestAnimationFrame(done));
            return painted().then(painted).then(() => { performance.now = () => now() + 701; });
        }"""
    )
