"""Pickers whose deployments are all at the fake provider."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, ModelRequest
from tests.support.fake_provider import FakeProvider

KEY = "sk-a-secret-key"
LITELLM = {"merge_reasoning_content_in_choices": False}
"""A parameter that LiteLLM alone can read: it calls such a deployment."""
TIERS = {"medium": "openai/gpt-5.4-mini", "expensive": "openai/gpt-5.4", "cheap": "openai/gpt-5.4-nano"}
Make = Callable[..., Picker]


def request(*tags: str, **fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(**{"messages": messages, "user": "researcher-agent", "tags": tags, **fields})


@asynccontextmanager
async def pickers(folder: Path) -> AsyncIterator[Make]:
    """Makes pickers from deployments and sections of the file, and closes them."""
    made: list[Picker] = []

    def make(deployments: list[dict[str, Any]], **settings: Any) -> Picker:
        path = folder / f"config{len(made)}.yaml"
        path.write_text(yaml.safe_dump({"model_list": deployments, **settings}))
        made.append(Picker(path, environment={"FAKE_KEY": KEY}))
        return made[-1]

    yield make
    for model in made:
        await model.close()


def deployment(fake: FakeProvider, group: str, model: str, *tags: str, **params: Any) -> dict[str, Any]:
    common = {"api_base": f"{fake.url}/v1", "api_key": "os.environ/FAKE_KEY"}
    return {"model_name": group, "litellm_params": {"model": model, "tags": [*tags], **common, **params}}


def three(fake: FakeProvider, **params: Any) -> list[dict[str, Any]]:
    """Groups `quality`, `fast` and `last`, of one deployment each."""
    groups = zip(("quality", "fast", "last"), TIERS.values(), strict=True)
    return [deployment(fake, group, model, **params) for group, model in groups]


def asked(fake: FakeProvider) -> list[str]:
    """Which models were asked, in their order."""
    return [call.of for call in fake.calls]


@asynccontextmanager
async def own_picker(folder: Path, fake: FakeProvider) -> AsyncIterator[Picker]:
    """The project's own configuration, with OpenAI's key alone, and its calls led to the fake."""
    config = yaml.safe_load((Path(__file__).resolve().parents[2] / "litellm_config.yaml").read_text())
    for each in config["model_list"]:
        if each["litellm_params"]["model"].startswith("openai/"):
            each["litellm_params"]["api_base"] = f"{fake.url}/v1"
    path = folder / "litellm_config.yaml"
    path.write_text(yaml.safe_dump(config))
    model = Picker(path, environment={"OPENAI_API_KEY": KEY})
    yield model
    await model.close()
