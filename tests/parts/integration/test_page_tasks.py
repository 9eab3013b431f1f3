"""The page's views of tasks and of one task, in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from meshwright import Agent, Capability, Run
from meshwright.core.access import Role
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import http_mesh
from tests.support.page import (
    ADMIN,
    ADMINS,
    PRICED,
    TOKEN,
    Filed,
    Helper,
    Moody,
    Releaser,
    confirm,
    dialog,
    open_view,
    press,
    priced_reply,
)
from tests.support.repositories import git
from tests.support.tenants import holder

pytestmark = pytest.mark.needs("chromium")


def steps_of(page: Page) -> Locator:
    """The lines of a task's timeline: the whole task first, then each step."""
    return page.get_by_role("list", name="Steps", exact=True).get_by_role("link")


async def test_a_step_shows_its_prompt_and_can_be_forked_from(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(*[priced_reply("sk-proj-0123456789abcdef0123456789")] * 3)
    async with http_mesh(tmp_path, Helper, script=script, ledger=PRICED, admin_token=TOKEN) as api:
        await api.call("POST", "/v1/prompts", json={"name": "helper", "template": "Help."})
        await api.call("PUT", "/v1/prompts/helper", json={"template": "Help well."})
        label = "/v1/prompts/helper/labels/production"
        await api.call("PUT", label, json={"version": 2}, headers=ADMIN)
        task_id = await api.finished(agent_id="helper", payload={"text": "<b>How?</b>"})
        async with open_view(browser, api, f"task/{task_id}") as page:
            await steps_of(page).filter(has_text="context").click()
            await page.get_by_text("What differs from v1").click()
            await expect(page.locator(".diff .add")).to_have_text("+ Help well.\n")
            await page.get_by_role("link", name="Next", exact=True).click()
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


async def test_a_step_shows_how_the_file_of_its_prompt_has_changed(tmp_path: Path, browser: Browser) -> None:
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
        async with open_view(browser, api, f"task/{task_id}") as page:
            await steps_of(page).filter(has_text="context").click()
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


async def test_a_saved_file_masks_secrets_and_runs_nothing(tmp_path: Path, browser: Browser) -> None:
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
        async with open_view(browser, api, "tasks") as page:
            await page.goto((tmp_path / "task.html").as_uri())
            assert await page.title() == f"Task {task_id}"
            assert await page.locator("script, img").count() == 0


async def test_a_login_sees_nothing_of_the_one_before(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with open_view(browser, api, "keys", TOKEN) as page:
            await page.evaluate("window.before = true")
            await page.context.clear_cookies()
            await page.evaluate(
                "location.hash = '#/configuration'"
            )  # which asks; the page may have asked before
            await page.get_by_label("Key or token").fill(viewer)
            async with page.expect_navigation():
                await press(page, "Log in")
            await expect(page.get_by_title("viewer")).to_be_visible()
            assert await page.evaluate("window.before") is None


async def test_what_failed_is_counted_by_cause_and_retried_at_once(tmp_path: Path, browser: Browser) -> None:
    Moody.tries = -1
    script = ScriptedModel(*["Well."] * 9)
    async with http_mesh(tmp_path, Moody, script=script) as api:
        for _ in range(2):
            await api.finished(agent_id="moody", payload={"text": "How is it?"})
        await api.finished(agent_id="echo", payload={"fail": True})
        async with open_view(browser, api, "tasks") as page:
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
            await expect(page.get_by_text("No task matches this filter.")).to_be_visible()


async def test_stuck_tasks_are_marked_and_listed(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        await api.finished(agent_id="echo", payload={"text": "Hello"})
        running = await api.submit(agent_id="gate", payload={})
        facts = {"tenant_id": "default", "agent_id": "gate", "running_seconds": 90, "p90_seconds": 2}
        figures = await api.get("/figures") | {"stuck": [{"task_id": running, **facts}]}
        async with open_view(browser, api, "inbox") as page:
            await page.route("**/figures", lambda route: route.fulfill(json=figures))
            await page.get_by_role("link", name="Tasks", exact=True).click()
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows.filter(has_text="gate").get_by_text("stuck")).to_be_visible()
            await page.get_by_role("link", name="stuck 1").click()
            await expect(rows).to_have_count(2)
            await expect(page.get_by_role("button", name="Cancel all that match…")).to_have_count(0)
            await page.get_by_role("link", name="running 1").click()
            await expect(page.get_by_role("button", name="Cancel all that match…")).to_be_visible()
            await page.unroute_all(behavior="ignoreErrors")


async def test_the_keyboard_skips_to_the_content_of_a_view(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "tasks") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="To the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def test_a_retry_says_which_steps_run_again_and_what_they_cost(
    tmp_path: Path, browser: Browser
) -> None:
    Moody.tries = 0
    async with http_mesh(tmp_path, Moody, script=ScriptedModel(priced_reply("Well.")), ledger=PRICED) as api:
        failed = await api.finished(agent_id="moody", payload={"text": "How is it?"})
        async with open_view(browser, api, f"task/{failed}") as page:
            await press(page, "Retry…")
            over = dialog(page).get_by_label("Start over")
            await expect(over).to_be_checked()  # the agent was at fault
            await expect(dialog(page)).to_contain_text(
                "It starts over and keeps no step. 2 steps run again: model. Before, they cost $0.2000."
            )
            await expect(dialog(page)).to_contain_text("It keeps 2 finished steps, at no cost.")
            await dialog(page).get_by_label("Keep its finished steps").check()
            await confirm(page, "Retry")
            await expect(page.locator("h1 .status")).to_have_text(
                "succeeded"
            )  # the script has no other reply


async def test_a_filter_keeps_what_is_typed_while_events_come(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "tasks") as page:
        await page.get_by_text("Filters").click()
        await page.get_by_label("Agent").fill("ech")
        task_id = await api.finished(agent_id="echo", payload={"text": "Hello"})
        await page.get_by_role("link", name=f"…{task_id[-6:]}").wait_for()
        assert await page.get_by_label("Agent").input_value() == "ech"


class Marcher(Agent):
    """Goes a step each time the test lets it."""

    agent_id = "marcher"
    capabilities = (Capability("marching"),)
    remembers = False
    steps: asyncio.Queue[None]

    async def run(self, run: Run) -> str:
        for number in range(40):
            await run.step(f"pace {number}", self.steps.get)
        return "arrived"


async def test_lines_of_the_timeline_keep_their_place_while_steps_come(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Marcher, "steps", asyncio.Queue(), raising=False)
    for _ in range(30):
        Marcher.steps.put_nowait(None)
    async with http_mesh(tmp_path, Marcher) as api:
        task_id = await api.submit(agent_id="marcher", payload={"text": "March."})
        async with open_view(browser, api, f"task/{task_id}?step=1/20") as page:
            chosen = page.get_by_role("list", name="Steps", exact=True).locator("[aria-current]")
            await expect(chosen).to_contain_text("pace 19")
            await expect(steps_of(page)).to_have_count(31)
            await chosen.evaluate("one => one.scrollIntoView({ block: 'center' })")
            before = (await chosen.bounding_box(), await page.evaluate("scrollY"))
            assert before[1] > 0
            for _ in range(10):
                Marcher.steps.put_nowait(None)
            await expect(page.locator("h1 .status")).to_have_text("succeeded")
            await expect(steps_of(page)).to_have_count(41)
            assert (await chosen.bounding_box(), await page.evaluate("scrollY")) == before
            await page.keyboard.press("j")
            await expect(page).to_have_url(re.compile("step=1%2F21"))
            await expect(page.get_by_role("region", name="Step 1/21")).to_contain_text("pace 20")


async def test_a_task_says_why_it_waits_and_is_answered_in_its_view(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        task_id = await api.submit(agent_id="releaser", payload={"text": "Ship it."})
        async with open_view(browser, api, f"task/{task_id}") as page:
            await expect(page.locator(".why")).to_contain_text("It waits for a person")
            await page.get_by_role("link", name="Release 1.4?", exact=True).click()
            await expect(page.get_by_role("article", name="Release 1.4?")).to_be_visible()
            await page.go_back()
            await page.get_by_role("article").get_by_role("button", name="Approve").click()
            await expect(page.locator(".why")).to_have_text("released")
        [step] = (await api.get(f"/tasks/{task_id}/steps"))["items"]
        [wait] = step["waits"]
        assert wait["kind"] == "person"
        assert wait["since"] < wait["ended_at"] <= step["ended_at"]


async def test_a_filter_is_saved_by_name_without_words_of_contents(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api:
        await api.finished(agent_id="echo", payload={"text": "Hello"})
        failed = await api.finished(agent_id="echo", payload={"fail": True})
        address = "tasks?status=failed&agent_id=echo&text=fail"
        async with open_view(browser, api, address) as page:
            await press(page, "Save this filter…")
            await expect(dialog(page)).to_contain_text("The words are not kept")
            await dialog(page).get_by_label("Name").fill("Echoes that failed")
            await confirm(page, "Save")
            kept = await page.evaluate("JSON.stringify(localStorage)")
            assert "status=failed&agent_id=echo" in kept
            assert "text" not in kept
            await page.goto(f"{api.url}/#/tasks")
            await page.reload()
            saved = page.get_by_role("navigation", name="Saved filters")
            await saved.get_by_role("link", name="Echoes that failed").click()
            rows = page.get_by_role("region", name="Tasks").get_by_role("row")
            await expect(rows).to_have_count(2)
            await expect(rows.last).to_contain_text(failed[-6:])
            assert page.url.endswith("#/tasks?status=failed&agent_id=echo")
            await press(page, "Remove the filter Echoes that failed")
            await expect(saved.get_by_role("link")).to_have_count(0)
            kept = await page.evaluate("Object.entries(localStorage)")
            assert [value for name, value in kept if name != "seen"] == ["[]"]
