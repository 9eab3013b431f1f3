"""A package of a third party, installed beside our wheel, adds agents, tools, a component and a model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest

from tests.support.services import unavailable

ROOT = Path(__file__).resolve().parents[3]
ACME = ROOT / "tests/support/third_party"
UV = shutil.which("uv", path=Path(sys.executable).parent)
NO_NETWORK = ("error sending request", "failed to fetch", "connection", "network", "temporary failure", "dns")
TOKEN = "the-admin-token-of-this-test-is-long"
SETTINGS = """\
[models]
adapter = "parrot"

[pager]
url = "https://pager.acme.example"

[tools.pager]
team = "platform"
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Project:
    """A folder in which the installed `mesh` runs."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.command = [str(python), "-m", "meshwright.cli"]
        self.folder = folder
        self.write("mesh.toml", SETTINGS)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def mesh(self, *arguments: str, **environment: str) -> Done:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=os.environ | {"MESH_TRUST": "1"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def python(self, script: str, *arguments: str) -> str:
        """Returns the output of a script of the installed Python."""
        command = [self.command[0], "-c", script, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def up(self, **settings: str) -> Iterator[str]:
        """A running mesh, and its URL."""
        command = [*self.command, "up", "--port", "0"]
        environment = os.environ | {"MESH_TRUST": "1"} | settings
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            ready, url = process.stdout.readline().split()
            assert ready == "ready"
            yield url
        finally:
            process.terminate()
            process.communicate()


class Browser:
    """Keeps cookies, and sends the Origin of its pages with what changes something."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = build_opener(HTTPCookieProcessor())

    def get(self, path: str) -> Any:
        return self.opener.open(self.url + path, timeout=30)

    def post(self, path: str, body: object) -> int:
        data, headers = json.dumps(body).encode(), {"Origin": self.url, "Content-Type": "application/json"}
        return self.opener.open(Request(self.url + path, data, headers)).status

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        try:
            return self.opener.open(Request(self.url + path, headers=headers, method=method)).status
        except HTTPError as error:
            return error.code


def answer_of(url: str, body: object = None, token: str = "") -> tuple[int, Any]:
    """The status and the JSON that a URL answers with."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, {"Authorization": f"Bearer {token}"} if token else {})) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def build(source: Path, target: Path) -> Path:
    """Build the wheel of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with our wheel and Acme's, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ACME, folder / "acme")
    wheels = [build(ROOT, folder / "ours"), build(folder / "acme", folder / "theirs")]
    pip = ["--without-pip"] if UV else []
    subprocess.run([sys.executable, "-m", "venv", *pip, folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    command = [UV, "pip", "install", "--python", python] if UV else [python, "-m", "pip", "install"]
    done = subprocess.run([*command, "-q", *wheels], capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        unavailable("needs a package index")
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture
def project(python: Path, tmp_path: Path) -> Project:
    return Project(python, tmp_path)


def test_an_installed_agent_answers_with_an_installed_toolset_and_model(project: Project) -> None:
    asked = project.mesh("ask", "on-call", "The disk is full")
    assert asked.status == 0, asked
    assert "Squawk: paged platform: disk full" in asked.out


def test_an_installed_agent_is_listed_without_a_running_mesh(project: Project) -> None:
    listed = project.mesh("agents")
    assert "on-call" in listed.out and "paging" in listed.out, listed


def test_an_installed_command_is_in_the_help_and_runs(project: Project) -> None:
    assert "page" in project.mesh("--help").out
    assert project.mesh("page") == (0, "Pages go to Acme.\n", "")
    assert "did you mean: mesh page" in project.mesh("pgae").err


def test_an_installed_component_serves_its_projection(project: Project) -> None:
    with project.up() as url:
        assert project.mesh("ask", "on-call", "Help!").status == 0
        with urlopen(f"{url}/pager") as response:
            assert json.load(response) == {"url": "https://pager.acme.example", "calls": {"page": 1}}


def test_what_an_installed_component_keeps_has_commands_a_client_and_words(project: Project) -> None:
    script = """
import sys
from meshwright import BlockingClient

with BlockingClient(sys.argv[1]) as mesh:
    rota = mesh.resource("rota")
    rota.create(person="ada", hours=8, note="her birthday")
    print(rota.list()[0]["hours"], rota.get("ada")["person"])
"""
    assert "Show who is on call, and take people off." in project.mesh("--help").out
    with project.up() as url:
        assert project.mesh("rota") == (0, "", "nobody is on call\n")
        assert project.python(script, url) == "8 ada\n"
        assert "ada" in project.mesh("rota", "list").out
        assert answer_of(f"{url}/rota/bob")[0] == 404
        assert answer_of(f"{url}/rota", {"person": "ada", "hours": 1})[0] == 409
        assert answer_of(f"{url}/rota", {"person": "bob"})[1]["field"] == "hours"
        assert json.loads(project.mesh("rota", "show", "ada").out) == {"person": "ada", "hours": 8}
        assert "ada for 8 hours  her birthday" in project.mesh("events").out
        assert project.mesh("rota", "leave", "ada").out == "ada is off the rota, after 8 hours\n"
        key = project.mesh("keys", "create", "--name", "bob", "--role", "viewer", "--yes").out.strip()
        [seen] = answer_of(f"{url}/events?event_type=rota.joined", token=key)[1]["items"]
        assert seen["payload"] == {"person": "ada", "hours": 8}


def test_a_router_decides_on_errors_limits_and_keys_wherever_its_paths_are(project: Project) -> None:
    with project.up(MESH_KEYS__REQUIRED="true", MESH_ADMIN_TOKEN=TOKEN) as url:
        assert answer_of(f"{url}/pager/status") == (200, {"status": "ok"})
        status, problem = answer_of(f"{url}/pager")
        assert (status, problem["code"]) == (401, "Unauthenticated")
        assert answer_of(f"{url}/pager/chat", {})[1]["error"]["code"] == "invalid_api_key"
        page, large = {"text": "help"}, {"text": "x" * 1_000}
        for path, refusals in (("/v1/pages", {"field": "text"}), ("/pager/chat", {"error": ANY})):
            assert answer_of(url + path, page, TOKEN) == (200, page)
            wrong = answer_of(url + path, {"text": 7}, TOKEN)[1]
            assert wrong | refusals == wrong
        assert answer_of(f"{url}/v1/pages", large, TOKEN)[0] == 200
        assert answer_of(f"{url}/pager/chat", large, TOKEN)[0] == 413


def test_an_installed_component_brings_prompts_and_memories(project: Project) -> None:
    with project.up() as url:
        first = project.mesh("ask", "night-shift", "The printer is on fire")
        assert "You watch at night." in first.out and "on fire" in first.out, first
        second = project.mesh("ask", "night-shift", "Anything else?")
        assert "The printer is on fire" in second.out, second
        for task in answer_of(f"{url}/tasks")[1]["items"]:
            assert project.mesh("erase", "--task", task["task_id"], "-y").status == 0
        assert "on fire" not in project.mesh("ask", "night-shift", "What is left?").out
        assert answer_of(f"{url}/events?event_type=prompt.fallback")[1]["items"] == []
    third = project.mesh("ask", "night-shift", "After a restart?")
    assert "What is left?" not in third.out and "After a restart" in third.out, (
        third
    )  # no store of ours has it
    checked = project.mesh("prompts", "check")
    assert checked.status == 0, checked
    assert "1 of components" in project.mesh("doctor").out


def test_an_installed_component_wraps_the_model_at_positions_of_its_chain(project: Project) -> None:
    with project.up() as url:
        assert project.mesh("ask", "night-shift", "This is flaky").status == 0
        assert answer_of(f"{url}/night/passed") == (200, {"request": 1, "attempt": 2})


def test_an_installed_authenticator_lets_a_browser_in_by_its_cookie(project: Project) -> None:
    with project.up(MESH_KEYS__REQUIRED="true", MESH_ADMIN_TOKEN=TOKEN) as url:
        browser = Browser(url)
        assert browser.status("/night/inside") == browser.status("/tasks") == 401
        browser.post("/night/session", {"name": "ada"})
        assert browser.status("/tasks") == 200
        with browser.get("/night/inside") as page:
            assert "door code" in page.read().decode()
        assert browser.post("/tasks", {"agent_id": "night-shift", "task_id": "t1"}) == 202
        found = json.load(browser.get("/tasks/t1"))
        assert (found["tenant_id"], found["requested_by"]) == ("acme", "ada")
        assert browser.status("/keys") == 403
        assert browser.status("/tasks", Authorization=f"Bearer {TOKEN}-wrong") == 401  # a token counts
        with browser.get("/events/stream") as events:
            assert browser.status("/night/session", "DELETE") == 200
            assert any(line.startswith(b"event: stream.ended") for line in events)
        assert browser.status("/tasks") == 401


def test_pages_of_an_installed_component_are_files_of_one_folder(project: Project) -> None:
    with project.up(MESH_KEYS__REQUIRED="true") as url:
        browser = Browser(url)
        for path, media_type in (("/night", "text/html"), ("/night/app.js", "text/javascript")):
            with browser.get(path) as page:
                assert page.headers.get_content_type() == media_type
                assert page.headers["X-Content-Type-Options"] == "nosniff"
                assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        for path in (
            "/night/../routes.py",
            "/night/%2e%2e/routes.py",
            "/night/..%2froutes.py",
            "/night//app.js",
        ):
            assert browser.status(path) in (401, 404), path


def test_the_page_of_components_shows_lines_of_the_package() -> None:
    lines = {line for path in ACME.rglob("*.py") for line in path.read_text().splitlines()}
    page = (ROOT / "docs/components.md").read_text()
    heads = ("Operations", "Prompts, memories")
    sections = [page.partition(f"\n## {head}")[2].partition("\n## ")[0] for head in heads]
    blocks = re.findall(r"^```python\n(.*?)^```", "".join(sections), flags=re.M | re.S)
    assert len(blocks) == 7
    assert {line for block in blocks for line in block.splitlines()} <= lines


def test_doctor_asks_what_an_installed_component_depends_on(project: Project) -> None:
    well = project.mesh("doctor")
    assert well.status == 0 and "https://pager.acme.example answers" in well.out, well
    assert "off, since mcp is not installed" in well.out, well
    asked = project.mesh("doctor", MESH_MCP_SERVER__ENABLED="true")
    assert asked.status == 1 and "takes the package mcp, which is not installed" in asked.out, asked
    away = project.mesh("doctor", MESH_PAGER__REACHABLE="false")
    assert away.status == 1 and "does not answer; set url in [pager] of mesh.toml" in away.out, away


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[pager]\nurl = 7\n", "mesh.toml:2: pager.url: expected text"),
        ("[tools.pager]\nteam = 7\n", "[tools.pager] team: must be text"),
        ("[tools.pagre]\nteam = 'x'\n", "[tools.pagre]: no toolset has that name; did you mean 'pager'?"),
        ("[tools]\nworkspce = '.'\n", "there is no setting 'workspce' in [tools]; known are workspace"),
        ("[models]\nadapter = 'parot'\n", "model 'parot' does not say who offers it"),
        ("store = 'sqlit'\n", "There is no store 'sqlit'; did you mean 'sqlite'?"),
        ("[pagger]\nurl = ''\n", "mesh.toml:1: there is no table [pagger]; did you mean [pager]?"),
    ],
)
def test_a_mistake_in_the_settings_of_a_package_is_named(project: Project, settings: str, said: str) -> None:
    project.write("mesh.toml", settings)
    refused = project.mesh("doctor")
    assert refused.status == 1 and said in refused.out + refused.err, refused


def test_an_agent_with_the_id_of_an_installed_one_names_both_places(project: Project) -> None:
    project.write("actors/mine.py", (ACME / "acme/agents/oncall.py").read_text())
    refused = project.mesh("doctor")
    assert refused.status == 1 and "two agents are called 'on-call'" in refused.out, refused
    assert "actors/mine.py:13" in refused.out and "acme/agents/oncall.py:13" in refused.out
