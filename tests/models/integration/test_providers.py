"""Models named outright are called at their providers (fakes)."""

import asyncio
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.errors import ModelRefused
from meshwright.models.named_models import Chain, ModelSettings, named_models, open_model, with_fallbacks
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.named_models import KEY, at_fakes, request

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="needs LiteLLM: pip install -e '.[litellm]'"
    ),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]
SPEAKERS = {
    "openai/gpt-5.4": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "gpt-5.4"),
    "gpt-5.4-mini": ("OPENAI_API_KEY", "OPENAI_API_BASE", "gpt-5.4-mini"),
    "mistral/mistral-large-latest": ("MISTRAL_API_KEY", "MISTRAL_API_BASE", "mistral-large-latest"),
    "openrouter/a/b": ("OPENROUTER_API_KEY", "OPENROUTER_API_BASE", "a/b"),
    "deepseek/deepseek-chat": ("DEEPSEEK_API_KEY", "DEEPSEEK_API_BASE", "deepseek-chat"),
    "xai/grok-4": ("XAI_API_KEY", "XAI_API_BASE", "grok-4"),
    "together_ai/a/b": ("TOGETHERAI_API_KEY", "TOGETHER_AI_API_BASE", "a/b"),
    "litellm_proxy/default": ("LITELLM_PROXY_API_KEY", "LITELLM_PROXY_API_BASE", "default"),
    "hosted_vllm/llama": ("HOSTED_VLLM_API_KEY", "HOSTED_VLLM_API_BASE", "llama"),
    "custom_openai/mine": ("CUSTOM_OPENAI_API_KEY", "CUSTOM_OPENAI_API_BASE", "mine"),
    "groq/llama": ("GROQ_API_KEY", "GROQ_API_BASE", "llama"),
    "deepinfra/a/b": ("DEEPINFRA_API_KEY", "DEEPINFRA_API_BASE", "a/b"),
}
"""Names of providers with OpenAI's wire format: their variables, and what the provider is asked for."""


@pytest.fixture
def environment(fake: FakeProvider, other: FakeProvider) -> dict[str, str]:
    return at_fakes(fake, other)


async def ask(chain: Chain, environment: Mapping[str, str], **fields: Any) -> Any:
    model = named_models([chain], environment=environment)
    try:
        return await model.complete(request(chain.primary.name, **fields))
    finally:
        await model.close()


@pytest.mark.parametrize("name", SPEAKERS)
async def test_a_name_alone_reaches_its_provider_with_its_key(name: str, fake: FakeProvider) -> None:
    key, base, asked = SPEAKERS[name]
    environment = {key: KEY, base: f"{fake.url}/v1"}
    reply = await ask(Chain(ModelSettings.from_env(name, environment)), environment)
    assert reply.content.startswith("fake-openai answers")
    assert fake.calls[0].body["model"] == asked
    assert fake.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_anthropic_is_reached_in_its_own_words(fake: FakeProvider) -> None:
    environment = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_API_BASE": fake.url}
    reply = await ask(with_fallbacks("claude-sonnet-4-6", environment=environment), environment)
    assert reply.content.startswith("fake-openai answers")
    assert fake.calls[0].path == "/v1/messages"
    assert fake.calls[0].headers["x-api-key"] == KEY


async def test_a_server_without_keys_needs_none(fake: FakeProvider) -> None:
    environment = {"CUSTOM_OPENAI_API_BASE": f"{fake.url}/v1"}
    assert await ask(with_fallbacks("custom_openai/mine", environment=environment), environment)


async def test_tags_stay_in_the_ledger_and_pick_nothing(
    fake: FakeProvider, environment: dict[str, str]
) -> None:
    chain = with_fallbacks("gpt-5.4", environment=environment)
    assert await ask(chain, environment, tags=("research", "a-tag-of-nobody"))
    assert fake.calls[0].body.keys().isdisjoint({"tags", "metadata"})


async def test_a_model_that_hangs_gives_way_to_its_fallback_after_its_own_time(
    fake: FakeProvider, other: FakeProvider, environment: dict[str, str]
) -> None:
    environment["OPENAI_TIMEOUT_SECONDS"] = "0.5"
    fake.faults.append(Fault(kind="hang"))
    async with asyncio.timeout(240):
        reply = await ask(with_fallbacks("gpt-5.4", ["deepseek/m"], environment=environment), environment)
    assert reply.model.endswith("m")


async def test_retries_are_as_many_as_the_environment_says(
    fake: FakeProvider, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environment, "OPENAI_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    fake.faults.append(Fault(status=500))
    model = open_model(ModelSettings.from_env("gpt-5.4"))
    with pytest.raises(ModelError):
        await model.complete(request("gpt-5.4"))
    await model.close()
    assert len(fake.calls) == 1


async def test_a_model_is_opened_by_name_with_the_options_of_code(fake: FakeProvider) -> None:
    fake.faults.extend([Fault(status=500), Fault(status=500)])
    model = open_model("gpt-5.4", api_key=KEY, api_base=f"{fake.url}/v1", timeout=30, num_retries=1)
    with pytest.raises(ModelError) as caught:
        await model.complete(request("gpt-5.4"))
    await model.close()
    assert len(fake.calls) == 2 and KEY not in str(caught.value)
    assert fake.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_name_that_was_not_asked_for_is_refused(environment: dict[str, str]) -> None:
    model = named_models([with_fallbacks("gpt-5.4", environment=environment)], environment=environment)
    with pytest.raises(ModelRefused, match=r"gpt-5\.4"):
        await model.complete(request("gpt-5"))
