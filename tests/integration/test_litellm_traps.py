"""What LiteLLM would do by itself, or because its file says so, and a mesh must not let it do."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.models.litellm_router import LISTS
from meshwright.models.port import ChatMessage, ModelRefused, ModelRequest
from meshwright.models.router import RouterModel
from tests.support.fake_provider import FakeProvider
from tests.support.model_api import HELLO, service

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


def write(folder: Path, fake: FakeProvider, model: str = "openai/gpt-5.4-mini", **sections: Any) -> Path:
    """A file of one deployment, at the fake, with sections of its own."""
    params = {
        "model": model,
        "api_base": f"{fake.url}/v1",
        "api_key": "os.environ/FAKE_KEY",
        "tags": ["cheap", "default"],
    }
    settings = {"router_settings": {"enable_tag_filtering": True}, **sections}
    path = folder / "litellm_config.yaml"
    path.write_text(
        yaml.safe_dump({"model_list": [{"model_name": "fast", "litellm_params": params}], **settings})
    )
    return path


def request(*tags: str) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(model="fast", messages=messages, user="helper", tags=tags)


async def test_a_cache_that_the_file_asks_for_answers_nobody(tmp_path: Path, fake: FakeProvider) -> None:
    """LiteLLM's has no tenant in its key, and a hit in it has the full cost."""
    cache = {"cache": True, "cache_params": {"type": "local"}}
    responses = {"enable_tag_filtering": True, "cache_responses": True}
    path = write(tmp_path, fake, litellm_settings=cache, router_settings=responses)
    model = RouterModel(path, environment={"FAKE_KEY": "k"})
    first = await model.complete(request())
    await asyncio.sleep(0.1)  # LiteLLM would keep it after its end, in a task that nobody can wait for
    replies = [first, await model.complete(request())]
    await model.close()
    assert len(fake.calls) == 2
    assert not any(reply.cache_hit for reply in replies)


async def test_callbacks_that_the_file_names_hear_of_nothing(tmp_path: Path, fake: FakeProvider) -> None:
    """LiteLLM's own for OpenTelemetry writes what messages say into spans."""
    named = {"callbacks": ["otel"], "success_callback": ["otel"], "failure_callback": ["otel"]}
    path = write(tmp_path, fake, litellm_settings=named)
    model = RouterModel(path, environment={"FAKE_KEY": "k"})
    await model.complete(request())
    import litellm

    found = [each for name in LISTS for each in getattr(litellm, name, [])]
    await model.close()
    assert not [each for each in found if each == "otel" or "opentelemetry" in type(each).__module__.lower()]


async def test_a_user_whom_litellm_drops_is_in_the_ledger(
    tmp_path: Path, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY", "k")
    write(tmp_path, fake, "openai/a-model-of-our-own", litellm_settings={"drop_params": True})
    async with service(tmp_path, model="router") as there:
        made = await there.mesh.keys.create("helper")
        asked = {"model": "fast", "messages": HELLO}
        status, _ = await there.post("/v1/chat/completions", asked, Authorization=f"Bearer {made.key}")
        costs = await there.mesh.costs("agent")
    assert status == 200
    assert "user" not in fake.calls[0].body  # where it comes through one day, the documentation can say so
    assert [(cost.key, cost.calls) for cost in costs.items] == [("helper", 1)]


@pytest.mark.parametrize("tag", ["!cheap", "&cheap", "Cheap"])
async def test_a_sign_before_a_tag_is_no_tag_that_anybody_has(
    tmp_path: Path, fake: FakeProvider, tag: str
) -> None:
    """Later LiteLLM reads such signs; the one in use would have the `default` ones answer."""
    model = RouterModel(write(tmp_path, fake), environment={"FAKE_KEY": "k"})
    with pytest.raises(ModelRefused, match="no deployment tagged"):
        await model.complete(request(tag))
    await model.close()
    assert fake.calls == []


def test_litellm_is_told_to_stay_off_the_network_before_it_is_imported() -> None:
    code = """
import os, sys
found = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "litellm":
            found.append(os.environ["LITELLM_LOCAL_MODEL_COST_MAP"])
            raise ImportError(name)
sys.meta_path.insert(0, Watch())
from meshwright.models.litellm_import import import_litellm
assert found == []
try:
    import_litellm()
except ImportError:
    print(*found)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
