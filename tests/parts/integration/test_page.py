"""The page of the mesh and its logins: over HTTP, and in a real browser."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

import meshwright
from benchmarks.coding.job import INSTALL
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.component import Component
from meshwright.core.access import Role
from meshwright.core.messages import Usage
from meshwright.edges.http.server import serving
from meshwright.models.port import ModelReply
from meshwright.money.keys import Keys
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, TOKEN, Deployer, Moody, Releaser, confirm, look, press, reader
from tests.support.services import unavailable
from tests.support.tenants import holder

SCRIPTS = Path(meshwright.__file__).parent / "parts/page/web/ui"
VENDORED = {
    "preact.js": "e22f582879c091538f3b1b683f18df5adf9cc0592d8e8b15999b63ccdb82c50b",
    "LICENSES.txt": "7ff3c6221e05cb21ba022406269b2159a659298da14f572dc58719d7bd73b68e",
}
PICTURES = os.environ.get("PICTURES")
"""The folder for the pictures of the documentation: `PICTURES=docs/images pytest -k picture ...`."""
VIEWS = (
    "inbox",
    "tasks",
    "mesh",
    "money",
    "events",
    "memory",
    "prompts",
    "experiments",
    "schedules",
    "deliveries",
    "agents",
    "models",
    "configuration",
    "keys",
    "try",
)

MAX_BYTES = 130_000
"""Of all scripts and styles as they are sent, which is compressed."""


async def log_in(api: Api, token: str) -> tuple[int, Any, str]:
    """The status and the document of a login, and the cookie as it was set."""
    async with api.session.post("/session", json={"token": token}) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers.get("Set-Cookie", "")


async def cookie_of(api: Api, token: str) -> dict[str, str]:
    """The header of a browser that has logged in."""
    return {"Cookie": (await log_in(api, token))[2].partition(";")[0]}


async def test_a_login_stands_for_its_key_and_ends_with_it(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN, keys={"required": True}) as api:
        made = await api.mesh.get(Keys).create("ada", tenant_id="acme", roles=[Role.VIEWER])
        for wrong in ("sk-mesh-wrong", "nothing", "x" * 8_000):
            status, problem, cookie = await log_in(api, wrong)
            assert (status, cookie, wrong in str(problem)) == (401, "", False)
        assert (await api.call("GET", "/me"))[0] == 401
        status, me, cookie = await log_in(api, made.key)
        assert (status, me["name"], me["tenant_id"], me["roles"]) == (200, "ada", "acme", ["viewer"])
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and made.key not in cookie
        headers = {"Cookie": cookie.partition(";")[0]}
        assert (await api.call("GET", "/me", headers=headers))[1]["logged_in"]
        assert (await api.call("GET", "/keys", headers=headers))[0] == 403
        _, me = await api.call("GET", "/me", headers=headers | ADMIN)
        assert me["name"] == "admin"  # a token of the request itself counts first
        foreign = headers | {"Origin": "https://elsewhere.example"}
        assert (await api.call("GET", "/me", headers=foreign))[0] == 403
        stream = await api.session.get("/events/stream", headers=headers | {"Accept": "text/event-stream"})
        await api.mesh.get(Keys).revoke(made.key_id)
        assert "stream.ended" in await stream.text()
        assert (await api.call("GET", "/me", headers=headers))[0] == 401


async def test_a_login_ends_everywhere_with_the_logout(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN, keys={"required": True}) as api:
        copied = await cookie_of(api, TOKEN)
        assert (await api.call("GET", "/me", headers=copied))[0] == 200
        async with api.session.delete("/session", headers=copied) as answer:
            assert answer.status == 204
        status, problem = await api.call("GET", "/me", headers=copied)
        assert (status, problem["detail"]) == (401, "The login has ended")
        assert (
            await api.mesh.database.read(lambda session: session.execute("SELECT 1 FROM sessions").fetchall())
            == []
        )


async def test_a_login_is_that_of_its_own_origin(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admin_token": TOKEN, "keys": {"required": True}}
    async with http_mesh(tmp_path / "one", **settings) as one, http_mesh(tmp_path / "two", **settings) as two:
        both = {"Cookie": "; ".join([(await cookie_of(api, TOKEN))["Cookie"] for api in (one, two)])}
        for api in (one, two):  # browsers send the cookies of a host to each of its ports
            assert (await api.call("GET", "/me", headers=both))[0] == 200
    async with http_mesh(tmp_path / "tls", admin_token=TOKEN, http={"behind_tls": True}) as api:
        _, _, cookie = await log_in(api, TOKEN)
        name, _, value = cookie.partition(";")[0].partition("=")
        assert name == "__Host-mesh_session" and "; secure" in cookie.lower()
        planted = {"Cookie": f"mesh_session={value}"}  # as a page of a host below this one could
        assert (await api.call("GET", "/me", headers=planted))[0] == 401


async def test_no_login_is_made_of_nothing_where_none_is_needed(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, http={"insecure": True}, keys={"required": False}) as api:
        assert (await log_in(api, "anything"))[0] == 401
        me = await api.get("/me")
        assert (me["name"], me["logged_in"], "operator" in me["roles"]) == ("anonymous", False, True)


async def test_logins_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN, page={"max_sessions": 2}) as api:
        cookies = [await cookie_of(api, TOKEN) for _ in range(3)]
        assert [(await api.call("GET", "/me", headers=cookie))[0] for cookie in cookies] == [401, 200, 200]


async def test_a_mesh_may_have_no_page(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, page={"enabled": False}) as api:
        assert (await api.get("/"))["name"] == "meshwright"
        assert (await api.call("POST", "/session", json={"token": "x"}))[0] == 404


# In a browser


pytestmark = pytest.mark.needs("chromium")


def test_the_scripts_hold_by_their_types(tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, str(INSTALL), "--where"], capture_output=True, text=True, check=False
    )
    if where.returncode:
        unavailable("the TypeScript compiler is not installed: make tsc")
    options = {
        "allowJs": True,
        "checkJs": True,
        "noEmit": True,
        "strict": True,
        "target": "es2022",
        "module": "es2022",
        "moduleResolution": "bundler",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": [],
        "paths": {"/ui/*": [f"{SCRIPTS}/*"]},
    }
    views = Path(meshwright.__file__).parent.glob("**/web/**/view.js")
    project = {"compilerOptions": options, "include": [f"{SCRIPTS}/*.js", *map(str, views)]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(project))
    compiler = Path(where.stdout.strip(), "node_modules/.bin/tsc")
    done = subprocess.run([str(compiler), "-p", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_libraries_are_those_of_their_lock() -> None:
    digests = {
        name: hashlib.sha256((SCRIPTS / "vendor" / name).read_bytes()).hexdigest() for name in VENDORED
    }
    assert digests == VENDORED, "tools/page/build makes them; then write the new digests here"


async def test_all_scripts_and_styles_weigh_little(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        addresses = [
            f"{pages.path.rstrip('/')}/{file.relative_to(Path(str(pages.folder))).as_posix()}"
            for part in api.mesh.components
            if isinstance(part, Component)
            for pages in part.pages()
            for file in Path(str(pages.folder)).rglob("*.[jc]s*")
        ]
        weights = {}
        for address in addresses:
            async with api.session.get(address, headers={"Accept-Encoding": "gzip"}) as response:
                assert response.status == 200, address
                weights[address] = int(response.headers["Content-Length"])
    assert len(weights) > 40 and sum(weights.values()) <= MAX_BYTES, weights


async def test_a_person_answers_understands_a_failure_and_has_it_done_again(
    tmp_path: Path, browser: Browser
) -> None:
    script = ScriptedModel(*["Well."] * 6)
    Moody.tries = 0
    async with (
        http_mesh(tmp_path, Releaser, Moody, script=script) as api,
        reader(browser, f"{api.url}/#/inbox") as person,
    ):
        page = person.page
        await expect(page.get_by_text("Nothing waits for a person.")).to_be_visible()
        asks = await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        await page.get_by_role("article", name="Release 1.4?").wait_for()  # it came by itself
        await expect(page.locator(".side .badge")).to_have_text("1")
        await page.get_by_label("Reason").fill("not on a Friday")
        await page.get_by_role("button", name="Deny").click()
        await expect(page.get_by_text("Nothing waits for a person.")).to_be_visible()
        outcome = await api.client.outcome(asks)
        assert outcome.text == "kept: not on a Friday"
        failed = await api.finished(agent_id="moody", payload={"text": "How is it?"})
        await page.get_by_role("link", name="Tasks", exact=True).click()
        row = page.get_by_role("row").filter(has_text="not today")
        await row.get_by_role("link", name=f"…{failed[-6:]}").click()
        await expect(page.get_by_text("ValueError: not today").first).to_be_visible()
        await press(page, "Retry…")
        await confirm(page, "Retry")
        await expect(page.locator("h1 .status")).to_have_text("succeeded")
        await expect(page.locator("pre").filter(has_text="fine now").first).to_be_visible()
        await page.locator("[id='step-1/1'] a").click()
        await expect(page.locator("pre").filter(has_text="Be moody.").first).to_be_visible()
        await page.get_by_role("link", name="Try it").click()
        await page.get_by_label("Agent").select_option("echo")
        await page.get_by_label("Request").fill("Hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("pre").filter(has_text="you said: Hello")).to_be_visible()
        assert person.complaints == []


async def test_a_login_is_asked_for_and_what_may_not_be_done_is_not_offered(
    tmp_path: Path, browser: Browser
) -> None:
    async with (
        http_mesh(tmp_path, Releaser, admin_token=TOKEN, keys={"required": True}) as api,
        reader(browser, api.url) as person,
    ):
        page = person.page
        await page.get_by_label("Key or token").fill("sk-mesh-wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        viewer = (await holder(api, "acme", Role.VIEWER))["Authorization"].split()[1]
        await page.get_by_label("Key or token").fill(viewer)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", name="Tasks")).to_be_visible()
        links = await page.get_by_role("navigation", name="Views").get_by_role("link").all_inner_texts()
        assert links == [
            "Tasks",
            "Schedules",
            "Deliveries",
            "Mesh",
            "Agents",
            "Models",
            "Prompts",
            "Experiments",
            "Money",
            "Events",
            "Configuration",
        ]
        assert viewer not in await page.evaluate(
            "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])"
        )
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Key or token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("Key or token")).to_be_visible()


async def test_hostile_text_is_shown_as_text(tmp_path: Path, browser: Browser) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    async with http_mesh(tmp_path) as api, reader(browser, api.url) as person:
        task_id = await api.finished(agent_id="echo", payload={"text": evil, "<b>key</b>": evil})
        await person.page.goto(f"{api.url}/#/task/{task_id}")
        await expect(person.page.locator("pre").filter(has_text="onerror").first).to_be_visible()
        assert "owned" not in await person.page.title()
        assert person.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_every_view_can_be_read_by_everybody(
    tmp_path: Path, browser: Browser, scheme: str, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    script = ScriptedModel(*["Well."] * 6)
    Moody.tries = 0
    async with (
        http_mesh(tmp_path, Releaser, Moody, script=script) as api,
        reader(browser, api.url, **options) as person,
    ):
        await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        task_id = await api.finished(agent_id="moody", payload={"text": "How is it?"})
        await api.call("POST", "/v1/prompts", json={"name": "moody", "template": "Be calm."})
        await api.call("PUT", "/v1/prompts/moody", json={"template": "Be calm, and brief."})
        job = {"id": "job", "cron": "0 7 29 2 *", "task": {"agent_id": "echo", "payload": {}}}
        await api.call("POST", "/schedules", json=job)
        await person.page.goto(f"{api.url}/#/inbox")  # a fresh mesh begins elsewhere
        await person.page.get_by_role("article").wait_for()
        for view in (*VIEWS, "prompts/moody", f"task/{task_id}"):
            await person.page.goto(f"{api.url}/#/{view}")
            await expect(person.page.get_by_role("heading", level=1)).to_be_visible()
            found = await Axe().run(person.page)
            assert found.violations_count == 0, found.generate_report()
            sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await person.page.evaluate(sideways) <= 0, view
        assert person.complaints == []


async def test_a_page_that_lost_the_mesh_goes_on_when_it_is_back(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, AsyncExitStack() as stack:
        async with serving(api.mesh, "127.0.0.1", 0) as server:
            person = await stack.enter_async_context(reader(browser, server.url))
            await expect(person.page.get_by_role("status")).to_have_text("live")
        await expect(person.page.get_by_role("status")).to_have_text("reconnecting")
        task_id = await api.finished(agent_id="echo", payload={"text": "Meanwhile"})
        async with serving(api.mesh, "127.0.0.1", urlsplit(server.url).port or 0):
            await expect(person.page.get_by_role("status")).to_have_text("live")
            await person.page.get_by_role("link", name="Tasks", exact=True).click()
            await expect(person.page.get_by_role("link", name=f"…{task_id[-6:]}")).to_be_visible()


async def test_an_approval_shows_the_whole_call_for_its_picture(tmp_path: Path, browser: Browser) -> None:
    call = tool_call("deploy", version="1.4", environment="production")
    script = ScriptedModel(call, "Done.")
    async with http_mesh(tmp_path, Deployer, Releaser, script=script) as api:
        deploys = await api.submit(agent_id="deployer", payload={"text": "Bring 1.4 to production."})
        async with reader(browser, api.url, viewport={"width": 1200, "height": 680}) as person:
            card = person.page.get_by_role("article")
            await card.get_by_text("production").first.wait_for()
            await expect(card.locator("dd").first).to_have_text("1.4")
            if PICTURES:
                await person.page.screenshot(path=Path(PICTURES, "page-inbox.png"))
            await person.page.get_by_role("checkbox", name="Choose").check()
            await person.page.get_by_role("button", name="Approve all…").click()
            await person.page.get_by_role("button", name="Approve all 1").click()
            outcome = await api.client.outcome(deploys)
            assert outcome.text == "Done."


async def test_money_is_added_where_a_task_waits_for_it(tmp_path: Path, browser: Browser) -> None:
    reply = ModelReply(content="Bought.", model="m", usage=Usage(completion_tokens=10))
    ledger = {"default_price": {"input": "0", "output": "20000"}}
    async with http_mesh(tmp_path, Moody, script=ScriptedModel(*[reply] * 4), ledger=ledger) as api:
        Moody.tries = 1
        waits = await api.submit(
            agent_id="moody", payload={"text": "Buy."}, budget_usd="0.01", on_empty="ask"
        )
        async with reader(browser, api.url) as person:
            await person.page.get_by_role("article").wait_for()
            for _ in range(3):
                await person.page.get_by_role("button", name="+ $10").click()
            outcome = await api.client.outcome(waits)
            assert outcome.text == "fine now"


async def test_a_prompt_is_changed_and_tried_with_two_models(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel("one", "two")
    Moody.tries = 1
    async with http_mesh(tmp_path, Moody, script=script) as api:
        await api.call("POST", "/v1/prompts", json={"name": "moody", "template": "Be calm.\nBe kind."})
        async with reader(browser, f"{api.url}/#/prompts/moody") as person:
            page = person.page
            await page.get_by_label("Template").fill("Be calm.\nBe {{manner}}.")
            await page.get_by_label("manner").fill("brief")
            await page.get_by_label("Request").fill("How are you?")
            await page.get_by_label("and beside it").fill("quality")
            await look(page)  # to type has changed the words of the button
            await page.get_by_role("button", name="Save as a version and run").click()
            for number in (1, 2):
                answer = page.get_by_role("region", name=f"Answer {number}")
                await expect(answer.locator("pre")).to_have_text("fine now")
            assert sorted(request.model for request in script.requests) == ["default", "quality"]
            assert {request.messages[0].content for request in script.requests} == {"Be calm.\nBe brief."}
            await page.get_by_text("What differs from v1").click()
            await expect(page.locator(".diff .add")).to_have_text("+ Be {{manner}}.\n")
            await expect(page.locator(".diff .del")).to_have_text("- Be kind.\n")
            await page.get_by_role("button", name="Label…").first.click()
            await page.get_by_label("Label", exact=True).fill("canary")
            await page.get_by_role("dialog").get_by_role("button", name="Save").click()
            await expect(page.locator(".tag")).to_have_text("canary v2")


async def test_a_memory_that_another_corrected_is_not_overwritten(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        memory = MemoryItem(memory_id="m-1", scope="global", text="Ports are 8000.", subject="ports")
        await api.mesh.get(MemoryStore).remember(memory)
        async with reader(browser, f"{api.url}/#/memory") as person:
            page = person.page
            await page.get_by_role("button", name="Correct").click()
            await page.get_by_label("Text").fill("Ports are 9000.")
            await api.call("PATCH", "/memories/m-1", json={"text": "Ports are 7000."})
            await page.get_by_role("button", name="Save").click()
            await expect(page.locator(".notice")).to_contain_text("has another text by now")
            await expect(page.get_by_text("It was changed meanwhile: Ports are 7000.")).to_be_visible()
            assert (await api.get("/memories/m-1"))["text"] == "Ports are 7000."
            await look(page)
            await page.get_by_role("button", name="Replace that too").click()
            await look(page)
            await page.get_by_role("button", name="Save").click()
            await expect(page.locator(".question")).to_have_text("Ports are 9000.")


async def test_a_memory_is_corrected_forgotten_and_brought_back(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        memory = MemoryItem(memory_id="m-1", scope="global", text="Ports are 8000.", subject="ports")
        await api.mesh.get(MemoryStore).remember(memory)
        async with reader(browser, f"{api.url}/#/memory") as person:
            page = person.page
            await page.get_by_role("button", name="Correct").click()
            await page.get_by_label("Text").fill("Ports are 9000.")
            await page.get_by_role("button", name="Save").click()
            await expect(page.locator(".question")).to_have_text("Ports are 9000.")
            await look(page)
            await page.get_by_role("button", name="Forget…").click()
            await confirm(page, "Forget it")
            await expect(page.get_by_text("Nothing is remembered. Agents remember by")).to_be_visible()
            await page.get_by_label("Words").fill("ports")
            await page.get_by_role("button", name="Filter").click()
            await expect(page.get_by_text("Nothing is remembered that agrees with that.")).to_be_visible()
            await page.get_by_label("State").select_option("forgotten")
            await page.get_by_role("button", name="Undo the last change").click()
            await page.get_by_label("State").select_option("shown")
            await expect(page.locator(".question")).to_have_text("Ports are 9000.")
