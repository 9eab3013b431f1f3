"""Faults behind LiteLLM are reported by kind, in few words and without key and prompt."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
import yaml

from meshwright.core.errors import ModelError
from meshwright.core.files import File
from meshwright.models.errors import ModelRefused, ModelUnavailable, Unsupported
from meshwright.models.port import ChatMessage, ToolCall, ToolSpec
from meshwright.parts.stack.machine import Ports
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.pickers import KEY, LITELLM, TIERS, Make, deployment, pickers, request
from tests.support.running_mesh import run

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with pickers(tmp_path) as make:
        yield make


@pytest.mark.parametrize(
    "environment", [{}, {"LITELLM_LOG": "DEBUG", "LITELLM_LOCAL_MODEL_COST_MAP": "False"}]
)
@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-6", "mistral/mistral-large-latest"])
def test_a_provider_out_of_reach_is_told_in_a_few_lines_without_its_key(
    tmp_path: Path, ports: Ports, model: str, environment: dict[str, str]
) -> None:
    params = {
        "model": model,
        "api_key": "os.environ/ANTHROPIC_API_KEY",
        "api_base": f"http://127.0.0.1:{ports.take(1)[0]}",
    }
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    done = run("models", "test", cwd=tmp_path, **environment, ANTHROPIC_API_KEY=KEY)
    assert done.returncode == 1
    assert "connection refused" in done.stdout, done
    said = done.stdout + done.stderr
    assert len(said.splitlines()) < 15, said
    for unwanted in ("Traceback", "LiteLLM Router:", "mesh: error", KEY):
        assert unwanted not in said


def test_an_error_that_litellm_leaves_in_a_task_is_not_logged() -> None:
    code = """
import asyncio, logging, pathlib, gc
from meshwright.models.litellm import silence_loggers
silence_loggers()
import httpx
async def fail(error): raise error
async def main():
    errors = httpx.ReadError("the prompt"), ValueError("ours")
    await asyncio.wait([asyncio.create_task(fail(error)) for error in errors])
asyncio.run(main())
gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ValueError: ours" in done.stderr and "the prompt" not in done.stderr


@pytest.mark.parametrize("group", ["known", "asked"])
async def test_what_litellm_or_a_server_behind_it_says_of_tools_is_told_apart(
    make: Make, fake: FakeProvider, group: str
) -> None:
    known = {"model_name": "known", "litellm_params": {"model": "perplexity/sonar", "api_key": "none"}}
    model = make([known, deployment(fake, "asked", "openai/gemma", **LITELLM)])
    said = {"error": {"message": "gemma:2b does not support tools"}}
    fake.faults.append(Fault(status=400, body=said))
    look = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})
    with pytest.raises(Unsupported) as failed:
        await model.complete(request(model=group, tools=(look,)))
    assert (failed.value.what, failed.value.answered) == ("tools", 400)
    assert len(fake.calls) == (group == "asked")


async def test_what_a_provider_says_is_told_without_key_and_prompt(make: Make, fake: FakeProvider) -> None:
    model = make([deployment(fake, "default", TIERS["medium"], **LITELLM)])
    words = f"string_too_long: Hello, Ada of Room 4711, your key {KEY} takes less"
    fake.faults.append(Fault(status=400, body={"error": {"message": words, "type": "bad_input"}}))
    messages = (ChatMessage(role="user", content="Hello, Ada of room 4711"),)
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request(messages=messages))
    told = (
        "it rejected the request; it said: bad_input: string_too_long: [...], your key [redacted] takes less"
    )
    assert told in str(failed.value)


class WithoutGoogleAuth(MetaPathFinder):
    """An environment without that package, which others may have brought."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.startswith("google.auth"):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


async def test_a_module_that_litellm_misses_is_no_fault_of_a_server(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("google.auth")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutGoogleAuth(), *sys.meta_path])
    params = {
        "model": "vertex_ai/gemini-2.5-pro",
        "vertex_project": "p",
        "vertex_location": "l",
        "api_key": KEY,
    }
    model = make([{"model_name": "default", "litellm_params": params}])
    with pytest.raises(ModelError) as failed:
        await model.complete(request())
    assert type(failed.value) is ModelError and not failed.value.retryable
    assert "LiteLLM failed by itself" in str(failed.value)
    assert "ModuleNotFoundError: No module named 'google.auth'" in str(failed.value)
    [record] = [each for each in caplog.records if each.name == "meshwright.models"]
    assert record.levelname == "WARNING"
    assert "caused by builtins.ModuleNotFoundError" in record.getMessage()


async def test_a_fault_inside_litellm_is_told_by_its_class(make: Make, fake: FakeProvider) -> None:
    model = make(
        [deployment(fake, "default", "groq/llama-3.1-8b-instant", **LITELLM)]
    )  # it wants a service_tier
    with pytest.raises(ModelUnavailable) as failed:
        await model.complete(request())
    assert "LiteLLM failed by itself" in str(failed.value) and "AttributeError" in str(failed.value)


async def test_a_stream_without_counted_tokens_fetches_no_tokenizer(
    make: Make, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.usage = {}
    monkeypatch.setenv("HF_ENDPOINT", f"{fake.url}/tokenizers")
    model = make([deployment(fake, "default", "groq/llama-3.1-8b-instant", **LITELLM)])
    reply = await model.complete(request(timeout_seconds=5), lambda text: None)
    assert reply.content.startswith("fake-openai")


async def test_nothing_of_a_reply_is_on_stderr(tmp_path: Path, fake: FakeProvider) -> None:
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model_list": [deployment(fake, "default", TIERS["medium"], **LITELLM)]})
    )
    fake.replies.append({"content": [{"type": "text", "text": "a secret answer"}]})
    code = """
import asyncio, contextlib, pathlib
from meshwright.core.errors import ModelError
from meshwright.models.port import ChatMessage, ModelRequest
from meshwright.models.picker import Picker

async def call():
    model = Picker(pathlib.Path("c.yaml"), environment={"FAKE_KEY": "k"})
    with contextlib.suppress(ModelError):
        await model.complete(ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="u"))
    await model.close()

asyncio.run(call())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert (len(fake.calls), err) == (1, b"")


@pytest.mark.parametrize("streamed", [False, True])
async def test_pictures_go_and_come_through_litellm(make: Make, fake: FakeProvider, streamed: bool) -> None:
    model = make([deployment(fake, "medium", TIERS["medium"], **LITELLM)])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    fake.replies.append({"content": "Here.", "images": [{**image, "index": 0}]})
    messages = (
        ChatMessage(role="user", content="Look."),
        ChatMessage(role="assistant", tool_calls=(ToolCall(id="c1", name="look"),)),
        ChatMessage(role="tool", content="shot", parts=(image,), tool_call_id="c1"),
    )
    reply = await model.complete(request(messages=messages), [].append if streamed else None)
    *_, result, shown = fake.calls[-1].body["messages"]
    assert (reply.content, reply.files) == ("Here.", (File(name="image-1.png", data=b"hello"),))
    assert (result["role"], result["content"], shown["role"]) == ("tool", "shot", "user")
    assert shown["content"][-1] == image
