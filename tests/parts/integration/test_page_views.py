"""The views of the page in a real browser: what they show, and what becomes of right and wrong input."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Route, expect

from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.component import Component, Pages
from meshwright.core.access import Role
from meshwright.edges.http.server import serving
from meshwright.testing import ScriptedModel, tool_call
from tests.support.fake_chats import WHSEC
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import (
    ADMIN,
    ADMINS,
    PRICED,
    SHOTS,
    TOKEN,
    Deployer,
    Helper,
    Lead,
    Moody,
    Releaser,
    Scholar,
    dialog,
    log_in,
    look,
    priced_reply,
    reader,
)
from tests.support.tenants import holder
from tests.support.webhook_mesh import deliver, issue, webhooks

pytestmark = pytest.mark.needs("chromium")
OTHER = pytest.mark.soak("each width and each scheme is looked at")


# Views of other packages


ROTA = """
import { html, useState } from "/ui/vendor/preact.js";
import { Table, to, useData } from "/ui/lib.js";

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
            Pages("/safe", self.folder / "torn", view="Safe", roles=[Role.ADMIN]),
        ]


async def test_another_package_adds_a_view(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("rota", ROTA), ("torn", "export default (")):
        (tmp_path / "web" / name).mkdir(parents=True)
        (tmp_path / "web" / name / "view.js").write_text(text)
    monkeypatch.setattr(Rota, "folder", tmp_path / "web", raising=False)
    async with http_mesh(tmp_path, **ADMINS) as api:
        api.mesh.components.append(Rota(api.mesh))
        async with (
            serving(api.mesh, "127.0.0.1", 0) as server,
            reader(browser, f"{server.url}/#/rota") as person,
        ):
            await log_in(person, TOKEN)
            page = person.page
            await expect(page.get_by_role("heading", level=1)).to_have_text("On call")
            assert not await page.evaluate(LOADED, "/torn/view.js")
            await expect(
                page.get_by_role("region", name="Agents").get_by_role("link", name="echo")
            ).to_be_visible()
            for _ in range(2):
                await look(page)
                await page.get_by_role("button", name="Called").click()
            await expect(page.get_by_text("This view has failed: too often")).to_be_visible()
            await page.get_by_role("link", name="Tasks", exact=True).click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
            await page.get_by_role("link", name="Torn").click()
            await expect(page.get_by_role("alert")).to_contain_text("The view Torn could not be loaded")
            assert [
                text for text in person.complaints if "401" not in text and "Unexpected" not in text
            ] == []
            for role, count in ((Role.SUBMITTER, 0), (Role.VIEWER, 2), (Role.ADMIN, 3)):
                key = await holder(api, "default", role)
                async with api.session.get(f"{server.url}/me", headers=key) as answer:
                    views = [view["path"] for view in (await answer.json())["views"]]
                assert len({"/rota", "/torn", "/safe"}.intersection(views)) == count
        api.mesh.components.pop()


LOADED = """(path) => performance.getEntriesByType("resource").some(({ name }) => name.endsWith(path))"""


async def test_a_view_that_cannot_be_loaded_is_loaded_again_where_it_is(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path) as api, reader(browser, f"{api.url}/#/tasks") as person:
        page = person.page
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        documents: list[str] = []

        async def answer(route: Route) -> None:  # away for as long as this document is shown
            await (route.continue_() if documents else route.abort())

        await page.route("**/ui/money/budgets.js", answer)
        await page.get_by_role("link", name="Money").click()
        await expect(page.get_by_role("alert")).to_contain_text("The view Money could not be loaded")
        page.on("framenavigated", lambda frame: documents.append(frame.url))
        await page.get_by_role("button", name="Load the page again").click()
        await expect(
            page.get_by_role("region", name="Costs").or_(page.get_by_text("No model was called"))
        ).to_be_visible()
        assert urlsplit(page.url).fragment == "/money"


# All of them


LONG = f"{'averylongwordwithoutanyspace' * 5} <b onclick='x()'>and</b> <img src=x onerror=alert(1)> 你好 🚀"


@asynccontextmanager
async def filled_mesh(folder: Path) -> AsyncIterator[tuple[Api, str]]:
    """A mesh with something in every view, also texts that are long or that pages would run; and a task."""
    Moody.tries = 0
    script = ScriptedModel(
        *[priced_reply("Well.")] * 12,
        tool_call("deploy", version="1.4", environment="production"),
        *[priced_reply(LONG)] * 9,
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


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        *(pytest.param(*look, marks=OTHER) for look in ((1280, "dark"), (390, "light"))),
    ],
)
async def test_every_view_is_well_with_something_in_it(
    tmp_path: Path, browser: Browser, scheme: Any, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with filled_mesh(tmp_path) as (api, task_id), reader(browser, f"{api.url}/", **options) as person:
        page = person.page
        await log_in(person, TOKEN)
        await page.get_by_role("article").first.wait_for()
        [tried] = (await api.call("GET", "/v1/experiments", headers=ADMIN))[1]["items"]
        [judged] = (await api.call("GET", "/v1/evaluations", headers=ADMIN))[1]["items"]
        ids = {"TASK": task_id, "EXPERIMENT": tried["experiment_id"], "EVALUATION": judged["evaluation_id"]}
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
    ("mesh/topology", ""),
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
    ("agents/helper", ""),
    ("models", ""),
    ("models/m", ""),
    ("configuration", ""),
    ("configuration", "Configure an agent…"),
    ("keys", ""),
    ("keys", "Create a key…"),
    ("try", ""),
    ("try?as=form", ""),
)
