"""The adapters of a model: each opened at the fake provider, for a test to run on all of them."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshwright.models.offline_model import OfflineModel
from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, Model, ModelRequest, ToolSpec
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider

KEY = "sk-a-secret-key"
PROMPT = "What is in the fridge? This prompt is nobody's business."
CONFIG = """\
model_list:
  - model_name: default
    litellm_params:
      {{model: openai/gpt-5.4-mini, api_base: "{url}/v1", api_key: os.environ/FAKE_KEY, tags: [default]}}
router_settings: {{enable_tag_filtering: true, disable_cooldowns: true}}
litellm_settings: {{drop_params: true}}
"""
LOOK = ToolSpec(
    name="fridge_content",
    description="Look what is in the fridge.",
    parameters={"type": "object", "properties": {"fridge": {"type": "string"}}, "required": ["fridge"]},
)
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@dataclass
class Adapter:
    """A model under test and the provider that it calls."""

    model: Model
    fake: FakeProvider


def http(fake: FakeProvider, folder: Path) -> Model:
    return HttpModel(fake.url, KEY)


def router(fake: FakeProvider, folder: Path) -> Model:
    path = folder / "litellm_config.yaml"
    path.write_text(CONFIG.format(url=fake.url))
    return Picker(path, environment={"FAKE_KEY": KEY})


def litellm(fake: FakeProvider, folder: Path) -> Model:
    """A deployment with a parameter that LiteLLM alone can read."""
    path = folder / "litellm_config.yaml"
    text = CONFIG.format(url=fake.url)
    path.write_text(text.replace("tags:", "merge_reasoning_content_in_choices: false, tags:"))
    return Picker(path, environment={"FAKE_KEY": KEY})


def offline(fake: FakeProvider, folder: Path) -> Model:
    return OfflineModel()


def anthropic(fake: FakeProvider, folder: Path) -> Model:
    """A deployment whose provider speaks Anthropic's API."""
    path = folder / "litellm_config.yaml"
    text = CONFIG.format(url=fake.url).replace("/v1", "")
    path.write_text(text.replace("openai/gpt-5.4-mini", "anthropic/claude-haiku-4-5"))
    return Picker(path, environment={"FAKE_KEY": KEY})


CALLING: dict[str, Callable[[FakeProvider, Path], Model]] = {
    "http": http,
    "router": router,
    "litellm": litellm,
}
EVERY_API = {**CALLING, "anthropic": anthropic}
ADAPTERS = {"offline": offline, **EVERY_API}


def request(**fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content=PROMPT),)
    return ModelRequest(
        **{"messages": messages, "user": "researcher-agent", "timeout_seconds": 10.0, **fields}
    )


@pytest.fixture(params=list(ADAPTERS))
async def adapter(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    model = ADAPTERS[request.param](fake, tmp_path)
    yield Adapter(model, fake)
    await model.close()


@pytest.fixture(params=list(CALLING))
async def calling(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    """An adapter that calls somebody, who may fail."""
    model = CALLING[request.param](fake, tmp_path)
    yield Adapter(model, fake)
    await model.close()


@pytest.fixture(params=list(EVERY_API))
async def any_api(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    """An adapter that calls somebody, in any API."""
    model = EVERY_API[request.param](fake, tmp_path)
    yield Adapter(model, fake)
    await model.close()
