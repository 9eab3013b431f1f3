"""The views of the page in a real browser: what they show, and what becomes of right and wrong input."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, async_playwright, expect
from pydantic import BaseModel, Field

from meshwright import Agent, Capability, Run, Task
from meshwright.component import Component, Pages
from meshwright.context.memory import MemoryItem, MemoryStore
from meshwright.core.access import Role
from meshwright.core.messages import Usage
from meshwright.edges.http.server import serving
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.orchestration.registry import Registry
from meshwright.testing import ScriptedModel, tool_call
from tests.integration.test_page import (
    ADMIN,
    TOKEN,
    Deployer,
    Moody,
    Reader,
    Releaser,
    reader,
)
from tests.support.fake_chats import WHSEC, standard_headers
from tests.support.http_mesh import Api, http_mesh
from tests.support.repositories import git
from tests.support.running_mesh import mesh
from tests.support.tenants import holder
from tests.support.webhook_mesh import deliver, event, issue, webhooks

pytestmark = pytest.mark.needs("chromium")
SHOTS = os.environ.get("SHOTS")
"""A folder for pictures of every view, to look at: `SHOTS=/tmp/shots pytest -k every_view ...`."""
PRICED = {"default_price": {"input": "0", "output": "20000"}}
ADMINS: dict[str, Any] = {"admin_token": TOKEN, "keys": {"required": True}}


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


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        await browser.close()


def said(text: str, tokens: int = 10) -> ModelReply:
    """A reply that costs something."""
    return ModelReply(content=text, model="m", usage=Usage(prompt_tokens=100, completion_tokens=tokens))


async def log_in(person: Reader, token: str) -> None:
    """Log in, and wait for the views."""
    await person.page.get_by_label("Key or token").fill(token)
    await person.page.get_by_role("button", name="Log in").click()
    await expect(person.page.get_by_role("navigation", name="Views")).to_be_visible()


@asynccontextmanager
async def opened(
    chromium: Browser, api: Api, view: str, token: str = "", **options: Any
) -> AsyncIterator[Page]:
    """A view, with a console without complaints but for requests that were refused on purpose."""
    async with reader(chromium, f"{api.url}/#/{view}", **options) as person:
        if token:
            await log_in(person, token)
        yield person.page
        assert [text for text in person.complaints if not text.startswith("Failed to load resource")] == []


def dialog(page: Page) -> Locator:
    """The dialog that is open."""
    return page.get_by_role("dialog")


async def press(page: Page, name: str) -> None:
    """Press a button of the view."""
    await page.get_by_role("button", name=name, exact=True).click()


async def confirm(page: Page, name: str) -> None:
    """Press a button of the dialog."""
    await dialog(page).get_by_role("button", name=name, exact=True).click()


async def refused(page: Page, text: str) -> None:
    """The dialog stays, and says why."""
    await expect(dialog(page).get_by_role("alert")).to_contain_text(text)


# Keys, configurations, deliveries


async def test_keys_are_made_rotated_and_revoked_and_shown_once(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, opened(chromium, api, "keys", TOKEN) as page:
        await press(page, "Create a key…")
        await dialog(page).get_by_label("Name of the person or program").fill("two words")
        await confirm(page, "Create")
        await refused(page, "may use letters, digits")
        await dialog(page).get_by_label("Name of the person or program").fill("ada")
        await dialog(page).get_by_label("Expires in").fill("soon")
        await confirm(page, "Create")
        await refused(page, "soon")
        await dialog(page).get_by_label("Expires in").fill("30d")
        for role in ("contents:", "submitter:"):
            await dialog(page).get_by_label(role).uncheck()
        await confirm(page, "Create")
        key = await dialog(page).get_by_role("textbox", name="Key").input_value()
        await page.keyboard.press("Escape")  # would lose it
        await confirm(page, "I have saved it")
        await expect(dialog(page)).to_have_count(0)
        headers = {"Authorization": f"Bearer {key}"}
        _, me = await api.call("GET", "/me", headers=headers)
        assert (me["name"], me["roles"]) == ("ada", ["viewer"]) and key not in await page.content()
        await press(page, "Rotate the key of ada")
        await dialog(page).get_by_label("Both work for").fill("for ever")
        await confirm(page, "Rotate")
        await refused(page, "for ever")
        await dialog(page).get_by_label("Both work for").fill("1h")
        await confirm(page, "Rotate")
        assert await dialog(page).get_by_role("textbox", name="Key").input_value() != key
        await confirm(page, "I have saved it")
        await expect(page.get_by_text("rotated", exact=True)).to_be_visible()
        revoke = page.get_by_role("button", name="Revoke the key of ada").last
        await revoke.press("Enter")
        await expect(dialog(page).get_by_role("button", name="Keep it")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(revoke).to_be_focused()
        await revoke.press("Enter")
        await confirm(page, "Revoke")
        await expect(page.get_by_text("revoked", exact=True)).to_be_visible()
        assert (await api.call("GET", "/me", headers=headers))[0] == 401


async def test_without_credentials_of_an_administrator_a_login_is_offered(
    tmp_path: Path, chromium: Browser
) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, reader(chromium, f"{api.url}/#/keys") as person:
        await press(person.page, "Log in")
        await log_in(person, TOKEN)
        await expect(person.page.get_by_text("There is no key.")).to_be_visible()
        assert person.complaints == []


async def test_an_agents_model_is_configured_changed_and_deleted(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, opened(chromium, api, "agents", TOKEN) as page:
        await press(page, "Configure an agent…")
        await dialog(page).get_by_role("combobox", name="Agent").select_option("echo")
        await dialog(page).get_by_label("Provider").fill("nobody")
        await dialog(page).get_by_label("Model").fill("llama3")
        await confirm(page, "Save")
        await refused(page, "nobody")
        await dialog(page).get_by_label("Provider").fill("ollama")
        await dialog(page).get_by_label("Address").fill("ftp://models")
        await confirm(page, "Save")
        await refused(page, "http")
        await dialog(page).get_by_label("Address").fill("http://127.0.0.1:9")
        await confirm(page, "Save")
        row = page.get_by_role("row").filter(has_text="echo")
        await expect(row).to_contain_text("llama3")
        await press(page, "Change the configuration of echo")
        await confirm(page, "Save")
        await refused(page, "Nothing is changed")
        await dialog(page).get_by_label("Model").fill("llama4")
        await confirm(page, "Save")
        await expect(row).to_contain_text("llama4")
        config = await api.call("GET", "/api/agents/echo", headers=ADMIN)
        assert (config[1]["llm_model"], config[1]["llm_provider"]) == ("llama4", "ollama")
        await press(page, "Delete the configuration of echo")
        await confirm(page, "Delete")
        await expect(row).to_have_count(0)


async def test_deliveries_show_what_came_of_them(tmp_path: Path, chromium: Browser) -> None:
    chat = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": "http://127.0.0.1:9/in"}
    push = {"url": "https://hooks.example.com/in?key=s3cret", "secret": WHSEC}
    hooks = webhooks(push=[push])
    hooks["sources"]["alerts"] = {"kind": "alertmanager", "secret": "the secret of alerts"}
    channels = {
        "chat": chat,
        "team": chat | {"kind": "mattermost", "token": "x", "url": "http://127.0.0.1:9"},
    }
    async with http_mesh(tmp_path, webhooks=hooks, channels=channels) as api:
        async with opened(chromium, api, "deliveries") as page:
            await expect(page.get_by_text("Nothing was delivered lately.")).to_be_visible()
            rows = page.get_by_role("region", name="Channels and sources").get_by_role("row")
            for name, text in (
                ("webhook:github", "event=issues action=opened → echo"),
                ("webhook:alerts", "events alone"),
                ("push:hooks.example.com", "all outcomes"),
                ("channel:chat", "/channels/chat by standard"),
                ("channel:team", "not connected"),
            ):
                await expect(rows.filter(has_text=name)).to_contain_text(text)
            assert "s3cret" not in await page.content()
        _, made = await deliver(api, issue(), "d-1")
        await deliver(api, {"zen": "Keep it simple."}, "d-2", event="ping")
        await event(api, "webhook.received")
        body = b'{"id": "m-1", "thread_id": "t", "sender": "ada", "content": "Hello"}'
        sent = {"data": body, "headers": standard_headers("m-1", body)}
        assert (await api.call("POST", "/channels/chat", **sent))[0] == 200
        async with opened(chromium, api, "deliveries") as page:
            sources = page.get_by_role("region", name="Channels and sources")
            await expect(sources.get_by_role("link", name="webhook:github")).to_be_visible()
            rows = page.get_by_role("region", name="Deliveries").get_by_role("row")
            for what in ("issues", "ping", "a message of ada"):
                await expect(rows.filter(has_text=what)).to_have_count(1)
            await rows.filter(has_text="issues").get_by_role("link", name=f"…{made['tasks'][0][-6:]}").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Task")


async def test_views_and_buttons_are_those_of_the_role(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        body = {"agent_id": "echo", "llm_provider": "ollama", "llm_model": "llama3"}
        await api.call("POST", "/api/agents", json=body, headers=ADMIN)
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with opened(chromium, api, "agents", viewer) as page:
            await expect(page.get_by_role("row").filter(has_text="llama3")).to_be_visible()
            buttons = await page.get_by_role("button").all_inner_texts()
            assert buttons == ["Log out"]
            assert await page.get_by_role("link", name="Keys").count() == 0


# Money, the mesh


async def test_allowances_are_set_changed_and_removed(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path) as api, opened(chromium, api, "money") as page:
        await press(page, "Set an allowance…")
        await dialog(page).get_by_label("Of", exact=True).fill("echo")
        await dialog(page).get_by_label("Amount").fill("much")
        await confirm(page, "Save")
        await refused(page, "much")
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


async def test_costs_lead_to_tasks_and_stand_beside_estimates(tmp_path: Path, chromium: Browser) -> None:
    script = ScriptedModel(*[said("Well.")] * 8)
    budgets = [{"name": "helpers", "scope": "agent", "of": "helper", "limit_usd": "90", "window": "day"}]
    async with http_mesh(tmp_path, Lead, Helper, script=script, ledger=PRICED, budgets=budgets) as api:
        for _ in range(2):
            leads = await api.finished(agent_id="lead", payload={"text": "Do it."})
        async with opened(chromium, api, "money") as page:
            column = page.get_by_label("Cost by hour").get_by_role("link")
            await expect(column).to_have_count(1)
            heights = "(all, of) => all.map((one) => one.getBoundingClientRect().height / of)"
            shares = await column.locator("i").evaluate_all(heights, 130)
            assert shares == pytest.approx([0.4, 0.4], abs=0.02)  # of a dollar, as the scale says
            costs = page.get_by_role("region", name="Costs")
            await expect(costs.get_by_role("row").filter(has_text="helper")).to_contain_text(
                "$0.2000, $0.2000"
            )
            await press(page, "Raise helpers of helper")
            await dialog(page).get_by_label("Dollars to add").fill("1.5")
            await confirm(page, "Raise")
            await expect(page.get_by_role("region", name="Budgets")).to_contain_text("$91.50")
            await page.get_by_role("link", name="by task").click()
            row = costs.get_by_role("row").filter(has_text=leads[-6:])
            await expect(row).to_contain_text("$0.4000 of $0.4000 ×1.0")
            await row.get_by_role("button", name="What it delegated").click()
            tree = page.get_by_role("region", name="Delegated tasks")
            await expect(tree.get_by_role("row").filter(has_text="lead")).to_contain_text("$0.4000")
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


async def test_a_task_shows_who_was_not_chosen_as_it_was_then(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, Helper, Second, script=ScriptedModel(said("Well."))) as api:
        task_id = await api.finished(capability="helping", payload={"text": "Do it."})
        for _ in range(3):
            api.mesh.get(Registry).record("second", "helping", False)
        shown = await mesh("task", task_id, "--scores", "--url", api.url)
        assert re.search(r"attempt 1 +helper.* of 2 agents\n", shown.out)
        assert re.search(r"not chosen +second  score 0.5 = weight 0.5", shown.out)
        async with opened(chromium, api, f"task/{task_id}") as page:
            rows = page.get_by_role("region", name="Attempts").get_by_role("row")
            await expect(rows.nth(2)).to_contain_text("not chosensecond0.500.50 × 1.00")
            await page.get_by_text("How all agents score").click()
            now = page.get_by_role("region", name="Scores").get_by_role("row")
            await expect(now.filter(has_text="second")).to_contain_text("second0.00")


async def test_delegations_are_edges_along_which_events_move(tmp_path: Path, chromium: Browser) -> None:
    script = ScriptedModel(*[said("Well.")] * 8)
    async with http_mesh(tmp_path, Lead, Helper, script=script) as api:
        await api.finished(agent_id="lead", payload={"text": "Do it."})
        for motion, seen in (("no-preference", ".dots circle"), ("reduce", "path.hot")):
            async with opened(chromium, api, "mesh", reduced_motion=motion) as page:
                await page.locator('path[data-edge="lead helper"]').wait_for(state="attached")
                await expect(page.get_by_role("status").first).to_have_text("live")
                async with asyncio.TaskGroup() as group:
                    group.create_task(page.wait_for_selector(seen, state="attached"))
                    group.create_task(api.finished(agent_id="lead", payload={"text": "Again."}))
                assert motion != "reduce" or await page.locator(".dots circle").count() == 0
                await page.get_by_text("The same as a table").click()
                row = page.get_by_role("region", name="Tasks between agents").get_by_role("row")
                await expect(row.filter(has_text="lead").filter(has_text="helper")).to_have_count(1)
                await page.get_by_role("link", name=re.compile("^helper: ")).press("Enter")
                await expect(page.get_by_role("heading", name="Tasks")).to_be_visible()


# A task, tasks


async def test_a_step_shows_its_prompt_and_can_be_forked_from(tmp_path: Path, chromium: Browser) -> None:
    script = ScriptedModel(*[said("sk-proj-0123456789abcdef0123456789")] * 3)
    async with http_mesh(tmp_path, Helper, script=script, ledger=PRICED, admin_token=TOKEN) as api:
        await api.call("POST", "/v1/prompts", json={"name": "helper", "template": "Help."})
        await api.call("PUT", "/v1/prompts/helper", json={"template": "Help well."})
        label = "/v1/prompts/helper/labels/production"
        await api.call("PUT", label, json={"version": 2}, headers=ADMIN)
        task_id = await api.finished(agent_id="helper", payload={"text": "<b>How?</b>"})
        async with opened(chromium, api, f"task/{task_id}") as page:
            await page.get_by_label("Steps in one line").get_by_role("button").first.click()
            await page.get_by_text("What differs from v1").click()
            await expect(page.locator(".diff .add")).to_have_text("+ Help well.\n")
            await expect(page.get_by_text("100 read, 10 written")).to_be_visible()
            for kind in ("html", "json"):
                await press(page, "Save as a file…")
                await dialog(page).get_by_label("Format").select_option(kind)
                async with page.expect_download() as saved:
                    await confirm(page, "Save")
                file = Path(await (await saved.value).path())
                text = file.read_text()
                assert "[redacted]" in text and "0123456789abcdef" not in text and "Help well." in text
                assert ("<b>How?</b>" in text) == (kind == "json")
            assert json.loads(text)["task"]["task_id"] == task_id
            await press(page, "Save as a file…")
            await dialog(page).get_by_label("Format").select_option("json")
            await dialog(page).get_by_label("With what was asked").uncheck()
            async with page.expect_download() as saved:
                await confirm(page, "Save")
            assert "How?" not in Path(await (await saved.value).path()).read_text()
            await press(page, "Fork from here…")
            await expect(dialog(page).get_by_text("finished steps, which cost nothing again")).to_be_visible()
            await confirm(page, "Fork")
            await expect(page.get_by_text("forked from")).to_be_visible()


async def test_a_step_shows_how_the_file_of_its_prompt_has_changed(tmp_path: Path, chromium: Browser) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "actors").mkdir()
    file = tmp_path / "prompts/filed.prompt"
    git(tmp_path, "init", "-q")
    for number, text in enumerate(("Help.", "Help well."), 1):
        file.write_text(f"---\ntags: [cheap]\n---\n{text}\n")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", f"change {number}")

    async with http_mesh(tmp_path, Filed, script=ScriptedModel("Yes.")) as api:
        task_id = await api.finished(agent_id="filed", payload={"text": "How?"})
        name = (await api.get(f"/tasks/{task_id}"))["outcome"]["prompt"].split()[0].partition("@")[2]
        assert (await api.get("/prompts/filed/versions/000000000000"))["now"] is None
        assert (await api.call("GET", f"/prompts/filed/versions/{name[:4]}"))[0] == 422  # it can be guessed
        assert (await api.call("GET", f"/prompts/..%2Ffiled/versions/{name}"))[0] == 404
        async with opened(chromium, api, f"task/{task_id}") as page:
            await page.get_by_label("Steps in one line").get_by_role("button").first.click()
            await expect(page.get_by_text("change 2")).to_be_visible()
            await page.get_by_text("What differs from").click()
            await expect(page.locator(".diff .add")).to_have_text("+ Help well.\n")
            await expect(page.locator(".diff .del")).to_have_text("- Help.\n")
        viewer = await holder(api, "default", Role.VIEWER)
        path = f"/prompts/filed/versions/{name}"
        assert (await api.call("GET", path, headers=viewer))[0] == 403
        tenants = {tenant: await holder(api, tenant, Role.CONTENTS) for tenant in ("default", "acme")}
        found = {tenant: (await api.call("GET", path, headers=key))[1] for tenant, key in tenants.items()}
        assert found["default"]["now"]["text"].endswith("Help well.\n")
        assert found["acme"] == {"now": None, "before": None}  # the files are the operator's


SECRETS = {
    "sk-proj-0123456789abcdef0123456789": "[redacted]",
    "ghp_0123456789abcdefghijklmnop": "[redacted]",
    "mesh-admin-0123456789-0123456789": "[redacted]",
    "postgres://ada:hunter2@db/x": "postgres://ada:[redacted]@db/x",
    "Authorization: Bearer abcdefghijklmnop1234": "Authorization: Bearer [redacted]",
    'password = "correct-horse"': 'password = "[redacted]"',
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nMw==\n-----END PRIVATE KEY-----": (
        "-----BEGIN PRIVATE KEY-----\n[redacted]\n-----END PRIVATE KEY-----"
    ),
    "the token budget of 5 tokens": "the token budget of 5 tokens",
}


async def test_a_saved_file_masks_secrets_and_runs_nothing(tmp_path: Path, chromium: Browser) -> None:
    evil = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    payload = {"text": "\n".join([evil, *SECRETS]), "api_key": "abc123", evil: [evil]}
    async with http_mesh(tmp_path, Helper, script=ScriptedModel(evil)) as api:
        task_id = await api.finished(agent_id="helper", payload=payload)
        as_json = {"Accept": "application/json"}
        _, document = await api.call("GET", f"/tasks/{task_id}/export", headers=as_json)
        saved = document["task"]["payload"]
        assert saved["text"].removeprefix(evil).strip() == "\n".join(SECRETS.values())
        assert saved["api_key"] == "[redacted]"
        assert "".join(map(str, document["steps"])).count("[redacted]") >= len(SECRETS) - 1
        async with api.session.get(f"/tasks/{task_id}/export", headers={"Accept": "text/html"}) as answer:
            assert answer.headers["Content-Disposition"] == f'attachment; filename="task-{task_id}.html"'
            (tmp_path / "task.html").write_text(await answer.text())
        async with opened(chromium, api, "tasks") as page:
            await page.goto((tmp_path / "task.html").as_uri())
            assert await page.title() == f"Task {task_id}"
            assert await page.locator("script, img").count() == 0


async def test_a_login_sees_nothing_of_the_one_before(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with opened(chromium, api, "keys", TOKEN) as page:
            await page.evaluate("window.before = true")
            await page.context.clear_cookies()
            await page.evaluate("location.hash = '#/agents'")  # which asks; the page may have asked before
            await page.get_by_label("Key or token").fill(viewer)
            async with page.expect_navigation():
                await press(page, "Log in")
            await expect(page.get_by_title("viewer")).to_be_visible()
            assert await page.evaluate("window.before") is None


async def test_what_failed_is_counted_by_cause_and_retried_at_once(tmp_path: Path, chromium: Browser) -> None:
    Moody.tries = -1
    script = ScriptedModel(*["Well."] * 9)
    async with http_mesh(tmp_path, Moody, script=script) as api:
        for _ in range(2):
            await api.finished(agent_id="moody", payload={"text": "How is it?"})
        await api.finished(agent_id="echo", payload={"fail": True})
        async with opened(chromium, api, "tasks") as page:
            await page.get_by_label("What failed, by cause").get_by_role("link", name="ValueError").click()
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows).to_have_count(3)
            await press(page, "Retry all that match…")
            await expect(dialog(page)).to_contain_text("2 × moody, ValueError")
            await confirm(page, "Cancel")
            await expect(rows.filter(has_text="failed")).to_have_count(2)
            await press(page, "Retry all that match…")
            await confirm(page, "Retry")
            await expect(page.get_by_text("2 tasks are worked on again")).to_be_visible()
            await expect(page.get_by_text("No task agrees with that.")).to_be_visible()


async def test_stuck_tasks_are_marked_and_listed(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        await api.finished(agent_id="echo", payload={"text": "Hello"})
        running = await api.submit(agent_id="gate", payload={})
        facts = {"tenant_id": "default", "agent_id": "gate", "running_seconds": 90, "p90_seconds": 2}
        figures = await api.get("/figures") | {"stuck": [{"task_id": running, **facts}]}
        async with opened(chromium, api, "inbox") as page:
            await page.route("**/figures", lambda route: route.fulfill(json=figures))
            await page.get_by_role("link", name="Tasks").click()
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows.filter(has_text="gate").get_by_text("stuck")).to_be_visible()
            await expect(page.get_by_role("button", name="Cancel all that match…")).to_be_visible()
            await page.get_by_role("link", name="stuck 1").click()
            await expect(rows).to_have_count(2)
            await expect(page.get_by_role("button", name="Cancel all that match…")).to_have_count(0)
            await page.unroute_all(behavior="ignoreErrors")


async def test_the_keyboard_skips_to_the_content_of_a_view(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path) as api, opened(chromium, api, "tasks") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="To the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def test_a_retry_behind_finished_steps_asks_no_model_again(tmp_path: Path, chromium: Browser) -> None:
    Moody.tries = 0
    async with http_mesh(tmp_path, Moody, script=ScriptedModel("Well.")) as api:
        failed = await api.finished(agent_id="moody", payload={"text": "How is it?"})
        async with opened(chromium, api, f"task/{failed}") as page:
            await press(page, "Retry, keep its finished steps")
            await expect(page.locator("h1 .status")).to_have_text("succeeded")


async def test_a_filter_keeps_what_is_typed_while_events_come(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path) as api, opened(chromium, api, "tasks") as page:
        await page.get_by_label("Agent").fill("ech")
        task_id = await api.finished(agent_id="echo", payload={"text": "Hello"})
        await page.get_by_role("link", name=f"…{task_id[-6:]}").wait_for()
        assert await page.get_by_label("Agent").input_value() == "ech"


# The inbox


async def test_an_approval_shows_how_the_tool_was_decided_on_before(
    tmp_path: Path, chromium: Browser
) -> None:
    calls = [tool_call("deploy", version="1.4", environment=where) for where in ("staging", "production")]
    script = ScriptedModel(calls[0], "Done.", calls[1])
    async with http_mesh(tmp_path, Deployer, script=script) as api, opened(chromium, api, "inbox") as page:
        first = await api.submit(agent_id="deployer", payload={"text": "Bring 1.4 to staging."})
        await press(page, "Approve")
        await api.client.outcome(first)
        await api.submit(agent_id="deployer", payload={"text": "Bring 1.4 to production."})
        card = page.get_by_role("article").filter(has_text="to production")
        await card.get_by_text("Earlier decisions on deploy").click()
        await expect(page.get_by_text("approved by anonymous")).to_be_visible()
        await expect(page.locator(".diff .add")).to_contain_text("production")
        await expect(page.locator(".diff .del")).to_contain_text("staging")


async def test_answers_that_come_too_late_are_said_softly(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api, opened(chromium, api, "inbox") as page:
        for text in ("one", "two", "three"):
            await api.submit(agent_id="releaser", payload={"text": text})
        await expect(page.get_by_role("article")).to_have_count(3)
        await page.route("**/inbox?**", lambda route: route.abort())  # it hears of nothing more
        for item in (await api.get("/inbox"))["items"][:2]:
            answer = {"key": item["wait_id"], "value": {"approve": True}}
            await api.call("POST", f"/tasks/{item['task_id']}/answer", json=answer)
        await page.get_by_role("article").first.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("status").filter(has_text="It was settled meanwhile")).to_be_visible()
        await press(page, "Choose all 3 of releaser")
        await press(page, "Approve all…")
        await confirm(page, "Approve all 3")
        text = "1 approved, 2 settled meanwhile by others"
        await expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()


async def test_a_mesh_that_is_held_is_released(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api:
        assert (await api.call("POST", "/hold", headers=ADMIN))[0] == 200
        task_id = await api.submit(agent_id="echo", payload={"text": "Hello"})
        async with opened(chromium, api, "inbox") as page:
            await press(page, "Release…")
            await confirm(page, "Release the mesh")
            await expect(page.get_by_role("button", name="Release…")).to_have_count(0)
            assert (await api.client.outcome(task_id)).text == "you said: Hello"


async def test_money_is_added_saved_on_or_refused(tmp_path: Path, chromium: Browser) -> None:
    script = ScriptedModel(*[said("Bought.")] * 9)
    budgets = [{"name": "dear", "scope": "tag", "of": "expensive", "limit_usd": "0.01", "on_empty": "ask"}]
    budgets[0]["window"] = "day"
    async with http_mesh(tmp_path, Scholar, script=script, ledger=PRICED, budgets=budgets) as api:
        task_id = await api.submit(agent_id="scholar", payload={"text": "Buy."})
        async with opened(chromium, api, "inbox") as page:
            await press(page, "Another amount…")
            await dialog(page).get_by_label("Dollars").fill("1e99")
            await confirm(page, "Add")  # the browser refuses it
            await dialog(page).get_by_label("Dollars").fill("0")
            await confirm(page, "Add")
            await refused(page, "greater than 0")
            await confirm(page, "Cancel")
            await press(page, "Wait")
            await expect(page.get_by_text("1 put off.")).to_be_visible()
            await press(page, "Show them")
            await press(page, "Cheaper models")
            assert (await api.client.outcome(task_id)).text == "Bought."
            assert script.requests[-1].tags == ("cheap",)
            await expect(page.get_by_text("Nothing waits for a person.")).to_be_visible()
            wanted = {"whose": "scholar", "allowance": "0.01/day", "on_empty": "ask"}
            await api.call("PUT", "/allowances", json=wanted)
            stopped = await api.submit(agent_id="scholar", payload={"text": "Buy."})
            await press(page, "Stop it…")
            await dialog(page).get_by_label("Reason").fill("too much")
            await confirm(page, "Stop it")
            assert "too much" in str((await api.client.outcome(stopped)).error)


@pytest.mark.parametrize("on_empty", ["ask", "wait"])
async def test_a_task_gets_more_of_its_own_budget(tmp_path: Path, chromium: Browser, on_empty: str) -> None:
    script = ScriptedModel(*[said("Bought.")] * 9)
    async with http_mesh(tmp_path, Scholar, Lead, Helper, script=script, ledger=PRICED) as api:
        spent = {"budget_usd": "0.01", "on_empty": on_empty}
        task_id = await api.submit(agent_id="scholar", payload={"text": "Buy."}, **spent)
        view = "inbox" if on_empty == "ask" else f"task/{task_id}"
        async with opened(chromium, api, view) as page:
            await press(page, "Cheaper models")
            await expect(page.get_by_text("cheaper models are tried first")).to_be_visible()
            await expect(page.get_by_role("button", name="Cheaper models")).to_have_count(0)
            await press(page, "Another amount…")
            await dialog(page).get_by_label("Dollars").fill("500")
            await confirm(page, "Add")
            assert (await api.client.outcome(task_id)).text == "Bought."


# Try it


async def test_a_conversation_goes_on_and_answers_in_its_place(tmp_path: Path, chromium: Browser) -> None:
    script = ScriptedModel("I am well.", "You asked how I am.")
    async with (
        http_mesh(tmp_path, Talker, Releaser, script=script) as api,
        opened(chromium, api, "try") as page,
    ):
        for agent, text, answer in (
            ("talker", "How are you?", "I am well."),
            ("talker", "What did I ask?", "You asked"),
        ):
            await page.get_by_label("Agent").select_option(agent)
            await page.get_by_label("Request").fill(text)
            await page.get_by_label("Request").press("Enter")
            await expect(page.locator(".talk pre").last).to_contain_text(answer)
        assert "How are you?" in str(script.requests[-1].messages)
        await page.get_by_label("Agent").select_option("releaser")
        await page.get_by_label("Request").fill("Ship it.")
        await page.get_by_label("Request").press("Enter")
        await page.get_by_role("article").get_by_role("button", name="Approve").click()
        await expect(page.locator(".talk pre").last).to_have_text("released")
        await page.reload()
        await expect(page.locator(".talk .said")).to_have_text(
            ["How are you?", "What did I ask?", "Ship it."]
        )


async def test_an_answer_is_shown_as_it_is_written(tmp_path: Path, chromium: Browser) -> None:
    go_on = asyncio.Event()

    class Slow(ScriptedModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            while not go_on.is_set():  # the page begins to listen at any time
                if on_delta is not None:
                    on_delta("The first half. ")
                with suppress(TimeoutError):
                    await asyncio.wait_for(go_on.wait(), 0.05)
            return said("The first half and the second.")

    async with http_mesh(tmp_path, Talker, script=Slow()) as api, opened(chromium, api, "try") as page:
        await page.get_by_label("Agent").select_option("talker")
        await page.get_by_label("Request").fill("Write.")
        await press(page, "Send")
        await expect(page.locator(".talk [aria-busy=true] pre")).to_contain_text("The first half. The first")
        go_on.set()
        await expect(page.locator(".talk pre")).to_have_text("The first half and the second.")


async def test_a_task_is_given_by_a_form(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path) as api, opened(chromium, api, "try?as=form") as page:
        await page.get_by_label("Request").fill("Hello")
        await press(page, "Send")
        await expect(page.get_by_role("alert")).to_have_text("Choose a capability or an agent")
        await page.get_by_role("combobox", name=re.compile("^Capability")).select_option("echoing")
        await page.get_by_text("More", exact=True).click()
        payload = page.get_by_label("Other fields of the payload")
        for wrong, why in (("{nope", "is no JSON"), ("[1]", "is no JSON object")):
            await payload.fill(wrong)
            await press(page, "Send")
            await expect(page.get_by_role("alert")).to_contain_text(why)
        await payload.fill('{"colour": "blue"}')
        await page.get_by_label("Conversation").fill("../x")
        await press(page, "Send")
        await expect(page.get_by_role("alert")).to_contain_text("thread_id")
        await page.get_by_label("Conversation").fill("colours")
        await page.get_by_label("Priority").fill("7")
        await press(page, "Send")
        await expect(page.locator("pre").filter(has_text="you said: Hello")).to_be_visible()
        [task] = (await api.get("/tasks", thread_id="colours"))["items"]
        found = await api.get(f"/tasks/{task['task_id']}")
        assert (found["payload"], found["priority"]) == ({"colour": "blue", "text": "Hello"}, 7)


async def test_a_capability_shows_the_form_of_its_payload(tmp_path: Path, chromium: Browser) -> None:
    async with http_mesh(tmp_path, Notes) as api, opened(chromium, api, "try?as=form") as page:
        version = page.get_by_label("Version the tag")
        await page.get_by_role("combobox", name=re.compile("^Agent")).select_option("notes")
        await expect(version).to_have_count(0)  # of several capabilities it is not known which is meant
        await page.get_by_role("combobox", name=re.compile("^Capability")).select_option("release-notes")
        await expect(version).to_be_visible()
        await page.get_by_role("combobox", name=re.compile("^Agent")).select_option("")
        await expect(version).to_be_visible()  # it is the best for that
        assert await page.get_by_label("Commits").input_value() == "20"
        assert await page.get_by_label("Announce").is_checked()
        await page.get_by_label("Request").fill("Write them.")
        await press(page, "Send")
        assert await version.evaluate("field => field.validity.valueMissing")
        await version.fill("v1")
        await press(page, "Send")
        channel = page.get_by_role("combobox", name="Channel")
        assert await channel.evaluate("field => field.validity.valueMissing")
        await channel.select_option("beta")
        words = page.get_by_label("Priority (JSON)")
        for wrong, why in (("[high", "Priority is no JSON"), ('"high"', "payload.priority must be a list")):
            await words.fill(wrong)
            await press(page, "Send")
            await expect(page.get_by_role("alert")).to_contain_text(why)
        await words.fill('["high"]')
        await page.get_by_label("Share").fill("0.5")
        await page.get_by_label("Announce").uncheck()
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        if SHOTS:
            await page.screenshot(path=Path(SHOTS, "form.png"), full_page=True)
        await press(page, "Send")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded")
        [task] = (await api.get("/tasks", capability="release-notes"))["items"]
        assert (await api.get(f"/tasks/{task['task_id']}"))["payload"] == {
            "text": "Write them.",
            "version": "v1",
            "channel": "beta",
            "commits": 20,
            "share": 0.5,
            "announce": False,
            "priority": ["high"],
        }


# Views of other packages


ROTA = """
import { html, useState } from "/ui/vendor/preact.js";
import { Table, to, useData } from "/ui/lib.js";

export const roles = ["viewer"];

export default function Rota() {
  const { data } = useData("/agents");
  const [count, setCount] = useState(0);
  if (count > 1) throw new Error("too often");
  return html`<h1>On call</h1>
    <button type="button" onClick=${() => setCount(count + 1)}>Called ${count} times</button>
    <${Table} label="Agents" heads=${["Agent"]}>${(data?.items ?? []).map((agent) => {
      const href = to("tasks", { agent_id: agent.agent_id });
      return html`<tr key=${agent.agent_id}><td><a href=${href}>${agent.agent_id}</a></td></tr>`;
    })}<//>`;
}
"""


class Rota(Component):
    """Adds a view to the page, and one that cannot be loaded."""

    name = "rota"
    folder: ClassVar[Path]

    def pages(self) -> list[Pages]:
        return [
            Pages("/rota", self.folder / "rota", view="On call"),
            Pages("/torn", self.folder / "torn", view="Torn"),
        ]


async def test_another_package_adds_a_view(
    tmp_path: Path, chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("rota", ROTA), ("torn", "export default (")):
        (tmp_path / "web" / name).mkdir(parents=True)
        (tmp_path / "web" / name / "view.js").write_text(text)
    monkeypatch.setattr(Rota, "folder", tmp_path / "web", raising=False)
    async with http_mesh(tmp_path, **ADMINS) as api:
        api.mesh.components.append(Rota(api.mesh))
        async with (
            serving(api.mesh, "127.0.0.1", 0) as server,
            reader(chromium, f"{server.url}/#/rota") as person,
        ):
            await log_in(person, TOKEN)
            page = person.page
            await expect(page.get_by_role("alert")).to_contain_text("The view Torn could not be loaded")
            await expect(page.get_by_role("heading", level=1)).to_have_text("On call")
            await expect(
                page.get_by_role("region", name="Agents").get_by_role("link", name="echo")
            ).to_be_visible()
            for _ in range(2):
                await page.get_by_role("button", name="Called").click()
            await expect(page.get_by_text("This view has failed: too often")).to_be_visible()
            await page.get_by_role("link", name="Tasks").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
            assert [
                text for text in person.complaints if "401" not in text and "Unexpected" not in text
            ] == []
            submitter = await holder(api, "default", Role.SUBMITTER)
            async with api.session.get(f"{server.url}/me", headers=submitter) as answer:
                assert (await answer.json())["views"] == []
        api.mesh.components.pop()


# All of them


LONG = f"{'averylongwordwithoutanyspace' * 5} <b onclick='x()'>and</b> <img src=x onerror=alert(1)> 你好 🚀"


@asynccontextmanager
async def filled_mesh(folder: Path) -> AsyncIterator[tuple[Api, str]]:
    """A mesh with something in every view, also texts that are long or that pages would run; and a task."""
    Moody.tries = 0
    script = ScriptedModel(
        *[said("Well.")] * 12, tool_call("deploy", version="1.4", environment="production"), *[said(LONG)] * 9
    )
    chat = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": "http://127.0.0.1:9/in"}
    dear = {"name": "dear", "scope": "tag", "of": "expensive", "limit_usd": "0", "on_empty": "ask"}
    settings = {"ledger": PRICED, "webhooks": webhooks(), "channels": {"chat": chat}, "admin_token": TOKEN}
    agents = (Lead, Helper, Moody, Deployer, Releaser, Scholar)
    async with http_mesh(
        folder, *agents, script=script, budgets=[dear | {"window": "day"}], **settings
    ) as api:
        for path, body in (
            ("/v1/prompts", {"name": "helper", "template": "Help.", "message": "The first one."}),
            ("/schedules", {"id": "daily", "cron": "0 7 * * *", "task": {"agent_id": "echo"}}),
            ("/v1/experiments", {"name": "kinder", "agent_id": "helper", "variants": VARIANTS}),
            ("/v1/evaluations", {"data": {"items": [{"output": LONG}]}, "metrics": ["length"]}),
            ("/api/agents", {"agent_id": "gate", "llm_provider": "ollama", "llm_model": "llama3"}),
        ):
            status, made = await api.call("POST", path, json=body, headers=ADMIN)
            assert status < 300, made
            if path == "/v1/experiments":
                begin = f"{path}/{made['experiment_id']}/run"
                assert (await api.call("POST", begin, json={}, headers=ADMIN))[0] == 200
        assert (await api.call("PUT", "/v1/prompts/helper", json={"template": "Help well."}))[0] < 300
        memory = MemoryItem(memory_id="m-1", scope="global", text=LONG, subject="ports", agent_id="helper")
        await api.mesh.get(MemoryStore).remember(memory)
        task_id = await api.finished(agent_id="lead", payload={"text": "Do it."})
        await api.finished(agent_id="moody", payload={"text": LONG}, thread_id="t" * 64)
        await api.finished(agent_id="echo", payload={"fail": True})
        allowance = {"whose": "helper", "allowance": "5/day", "on_empty": "ask"}
        assert (await api.call("PUT", "/allowances", json=allowance, headers=ADMIN))[0] < 300
        await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        await api.submit(agent_id="scholar", payload={"text": "Think."})
        await deliver(api, issue(), "d-1")
        key = {"name": "ada", "expires": "30d", "budget": "5/day"}
        assert (await api.call("POST", "/keys", json=key, headers=ADMIN))[0] < 300  # from now on all need one
        yield api, task_id


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_every_view_is_well_with_something_in_it(
    tmp_path: Path, chromium: Browser, scheme: Any, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with filled_mesh(tmp_path) as (api, task_id), reader(chromium, f"{api.url}/", **options) as person:
        page = person.page
        await log_in(person, TOKEN)
        await page.get_by_role("article").first.wait_for()
        [tried] = (await api.call("GET", "/v1/experiments", headers=ADMIN))[1]["items"]
        [judged] = (await api.call("GET", "/v1/evaluations", headers=ADMIN))[1]["items"]
        ids = {
            "TASK": task_id,
            "EXPERIMENT": tried["experiment_id"],
            "EVALUATION": judged["evaluation_id"],
        }
        for view, button in VISITS:
            await page.goto(f"{api.url}/#/{re.sub('[A-Z]{2,}', lambda found: ids[found[0]], view)}")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await expect(page.get_by_text("Asking…")).to_have_count(0)
            if button:
                await page.get_by_role("button", name=button).first.click()
                await expect(dialog(page)).to_be_visible()
            found = await Axe().run(page)
            assert found.violations_count == 0, (view, found.generate_report())
            sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.evaluate(sideways) <= 0, view
            if SHOTS:
                name = view.replace("/", "-").replace("?", "-")
                await page.screenshot(
                    path=Path(SHOTS, f"{name}-{'ask' if button else ''}-{scheme}-{width}.png"),
                    full_page=not button,
                )
            if button:
                await page.keyboard.press("Escape")
        unexpected = [text for text in person.complaints if "401" not in text]  # of the login
        assert unexpected == []


VARIANTS = [{"name": "now"}, {"name": "kind", "temperature": 0.2, "params": {"top_p": 0.9}}]
VISITS = (
    ("inbox", ""),
    ("tasks", ""),
    ("tasks?status=failed", "Retry all that match…"),
    ("task/TASK", ""),
    ("task/TASK", "Save as a file…"),
    ("mesh", ""),
    ("money", ""),
    ("money?by=task", "Set an allowance…"),
    ("events", ""),
    ("memory", ""),
    ("prompts", ""),
    ("prompts/helper", ""),
    ("experiments", ""),
    ("experiments/EXPERIMENT", "Stop…"),
    ("experiments/EVALUATION?evaluation=1", ""),
    ("schedules", ""),
    ("deliveries", ""),
    ("agents", ""),
    ("agents", "Configure an agent…"),
    ("keys", ""),
    ("keys", "Create a key…"),
    ("try", ""),
    ("try?as=form", ""),
)
