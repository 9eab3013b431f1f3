"""A real LiteLLM proxy, started from the project's own configuration, with fakes where the providers are.

It is installed once, in the release that the project is locked to, into a folder of its own below
`~/.cache/meshwright`: 650 MB in one to two minutes. If that fails, these tests are skipped.
"""

import asyncio
import fcntl
import os
import re
import subprocess
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.models.errors import AllProvidersDown, ModelRefused, Unauthorized
from meshwright.models.port import ChatMessage, ModelRequest
from meshwright.models.server import HttpModel
from meshwright.parts.stack.machine import Ports
from tests.support.fake_provider import FakeProvider, Fault, tool_calls
from tests.support.installed import UV

ROOT = Path(__file__).resolve().parents[3]
MASTER_KEY = "sk-the-masters-key"
INSTALL_SECONDS, START_SECONDS = 600, 240
pytestmark = pytest.mark.timeout(INSTALL_SECONDS + START_SECONDS)


def locked_version() -> str:
    match = re.search(r"^litellm==(\S+)", (ROOT / "requirements/all.txt").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.fixture(scope="session")
def program() -> Path:
    """The proxy's program; skips where it can be neither found nor installed."""
    folder = Path.home() / f".cache/meshwright/litellm-proxy-{locked_version()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it
        if not done.exists():
            install(folder)
            done.touch()
    return folder / "bin/litellm"


def install(folder: Path) -> None:
    venv.create(folder, with_pip=not UV, clear=True)
    what = f"litellm[proxy]=={locked_version()}"
    pip = (
        [UV, "pip", "install", "--python", folder / "bin/python"]
        if UV
        else [folder / "bin/python", "-m", "pip", "install"]
    )
    command = [*pip, "-q", what]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} was not installed within {INSTALL_SECONDS} seconds")
    if made.returncode:
        pytest.skip(f"{what} cannot be installed: {made.stderr.strip().splitlines()[-1]}")


@dataclass
class Proxy:
    """A running proxy and the provider that it calls."""

    url: str
    fake: FakeProvider


@asynccontextmanager
async def running(program: Path, config: Path, port: int, log: Path) -> AsyncIterator[Proxy]:
    async with FakeProvider() as fake:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = {
            **kept,
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENAI_API_KEY": "sk-fake",
            "OPENAI_BASE_URL": f"{fake.url}/v1",
            "ANTHROPIC_API_KEY": "sk-fake",
            "ANTHROPIC_API_BASE": fake.url,
            "OLLAMA_API_BASE": fake.at("ollama"),
        }
        command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("w") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(START_SECONDS):
                await until_ready(url, process, log)
            yield Proxy(url, fake)
        finally:
            process.terminate()
            process.wait(30)


async def until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                async with session.get(f"{url}/health/readiness") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


def request(*tags: str, **fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(**{"messages": messages, "user": "researcher-agent", "tags": tags, **fields})


async def test_the_projects_own_file_serves_a_proxy(program: Path, ports: Ports, tmp_path: Path) -> None:
    """One proxy for all that is asked of it: a start takes from five seconds to half a minute."""
    config = ROOT / "litellm_config.yaml"
    [port] = ports.take(1)
    async with running(program, config, port, tmp_path / "log") as proxy:
        model = HttpModel(proxy.url, MASTER_KEY)
        try:
            await tags_pick_the_deployment(model, proxy.fake)
            await replies_say_what_they_took(model, proxy.fake)
            await a_stream_is_passed_on(model, proxy.fake)
            await nothing_is_cached_unless_a_call_asks_for_it(model, proxy.fake)
            await refusals_have_their_kind(model, proxy)
            await fallbacks_are_followed(model, proxy.fake)
            await it_is_said_when_nobody_answers(model, proxy.fake)
        finally:
            await model.close()


async def tags_pick_the_deployment(model: HttpModel, fake: FakeProvider) -> None:
    tiers = {
        ("research", "expensive"): {"gpt-5.4", "claude-opus-4-8"},
        ("research", "cheap"): {"gpt-5.4-nano", "claude-haiku-4-5"},
        (): {"gpt-5.4-mini", "claude-sonnet-4-6"},
    }
    for tags, models in tiers.items():
        for _ in range(3):
            await model.complete(request(*tags))
            assert fake.calls[-1].of in models, tags
    openai = [call.body for call in fake.calls if call.of.startswith("gpt")]
    assert {body["user"] for body in openai} == {"researcher-agent"}
    assert all(body.keys().isdisjoint({"tags", "metadata", "cache"}) for body in openai)


async def replies_say_what_they_took(model: HttpModel, fake: FakeProvider) -> None:
    reply = await model.complete(request("research", "cheap"))
    assert reply.deployment and reply.cost_source == "reported" and not reply.cache_hit
    nano, haiku = Decimal("0.00001095"), Decimal("0.000046")
    assert reply.cost_usd is not None
    expected = nano if fake.calls[-1].of == "gpt-5.4-nano" else haiku
    assert abs(reply.cost_usd - expected) < Decimal("1e-15")  # LiteLLM counts in floats


async def a_stream_is_passed_on(model: HttpModel, fake: FakeProvider) -> None:
    fake.replies.append({"content": "Looking.", **tool_calls(("a", '{"x": 1}', "c1"), ("b", "{}", "c2"))})
    pieces: list[str] = []
    reply = await model.complete(request("research", "cheap"), pieces.append)
    assert "".join(pieces) == reply.content == "Looking."
    assert [(call.id, call.name) for call in reply.tool_calls] == [("c1", "a"), ("c2", "b")]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (11, 7)


async def nothing_is_cached_unless_a_call_asks_for_it(model: HttpModel, fake: FakeProvider) -> None:
    before = len(fake.calls)
    replies = [await model.complete(request("research", "cheap")) for _ in range(2)]
    assert len(fake.calls) == before + 2 and not any(reply.cache_hit for reply in replies)


async def refusals_have_their_kind(model: HttpModel, proxy: Proxy) -> None:
    before = len(proxy.fake.calls)
    with pytest.raises(ModelRefused):
        await model.complete(request(model="defautl"))
    stranger = HttpModel(proxy.url, "sk-nobodys")
    with pytest.raises(Unauthorized):  # a proxy without a database says 400
        await stranger.complete(request())
    await stranger.close()
    assert len(proxy.fake.calls) == before


async def fallbacks_are_followed(model: HttpModel, fake: FakeProvider) -> None:
    """`quality` falls back to `fast`, of which only Ollama is asked while it is up; it is not."""
    before = len(fake.calls)
    fake.faults_of["claude-opus-4-8"].append(Fault(status=500))
    reply = await model.complete(request(model="quality"))
    assert fake.calls[before].of == "claude-opus-4-8" and len(fake.calls) > before + 1
    assert reply.content and reply.attempts > 1


async def it_is_said_when_nobody_answers(model: HttpModel, fake: FakeProvider) -> None:
    fake.faults.extend(Fault(status=500) for _ in range(200))
    with pytest.raises(AllProvidersDown) as down:
        await model.complete(request(model="quality"))
    fake.faults.clear()
    assert down.value.retryable
