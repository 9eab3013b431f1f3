"""Models by their names: who offers them, what opens them, and agents made of them."""

import importlib.util
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, create_agent, create_router_agent, tool
from meshwright.agents.prompts import parse_prompt
from meshwright.agents.tools.functions import collect_tools
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Usage
from meshwright.models.component import ModelsComponent
from meshwright.models.errors import ModelRefused
from meshwright.models.named_models import (
    AgentOptions,
    ModelSettings,
    litellm_config,
    open_model,
    with_fallbacks,
)
from meshwright.models.port import ModelReply
from meshwright.models.providers import ALIASES, PROVIDERS, LegacyModelName, Provider, find_provider
from meshwright.testing import ScriptedModel, mesh_for
from meshwright.tools import FileTools

PAGE = Path(__file__).parents[3] / "docs" / "providers.md"
SECRET = "sk-never-shown"
NAMED = {"agent_id": "bad", "capabilities": [Capability("x")]}


@tool(idempotent=True)
def twice(number: int) -> int:
    """Tell the double.

    Args:
        number: what to double
    """
    return 2 * number


def environment_of(provider: Provider) -> dict[str, str]:
    """All that opens a provider."""
    return {param.variables[0]: SECRET for param in provider.params}


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("gpt-5.4", "openai/gpt-5.4"),
        ("o3", "openai/o3"),
        ("claude-opus-4-8", "anthropic/claude-opus-4-8"),
        ("gemini-2.5-pro", "gemini/gemini-2.5-pro"),
        ("mistral-large-latest", "mistral/mistral-large-latest"),
        ("groq/llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile"),
        ("openrouter/anthropic/claude-sonnet-4.6", "openrouter/anthropic/claude-sonnet-4.6"),
        ("ollama/llama3.1", "ollama/llama3.1"),
        ("openai/a-model-of-tomorrow", "openai/a-model-of-tomorrow"),
    ],
)
def test_a_name_decides_who_offers_the_model(name: str, whole: str) -> None:
    assert find_provider(name)[1] == whole


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_each_provider_is_opened_by_its_variables_and_says_which_one_is_missing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.models.providers._is_importable", bool)
    environment = environment_of(provider)
    settings = ModelSettings.from_env(provider.example, environment)
    assert settings.provider == provider.name
    assert set(settings.params.values()) == {f"os.environ/{name}" for name in environment}
    assert SECRET not in repr(settings)
    for param in provider.params:
        if param.optional or param.default is not None:
            continue
        without = {name: value for name, value in environment.items() if name not in param.variables}
        with pytest.raises(ConfigError, match=param.variables[0]) as caught:
            ModelSettings.from_env(provider.example, without)
        assert SECRET not in str(caught.value)
        assert provider.console in caught.value.remedy


def test_the_first_variable_that_is_set_counts() -> None:
    settings = ModelSettings.from_env("gemini-2.5-pro", {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": SECRET})
    assert settings.params == {"api_key": "os.environ/GOOGLE_API_KEY"}


def test_settings_have_the_usual_numbers_unless_the_environment_has_others() -> None:
    usual = ModelSettings.from_env("gpt-5.4", {"OPENAI_API_KEY": SECRET})
    assert (usual.temperature, usual.max_tokens, usual.timeout_seconds, usual.max_retries) == (0, 1024, 30, 3)
    numbers = {"OPENAI_TEMPERATURE": "0.7", "OPENAI_MAX_TOKENS": "99", "OPENAI_TIMEOUT_SECONDS": "5"}
    own = ModelSettings.from_env("gpt-5.4", {"OPENAI_API_KEY": SECRET, "OPENAI_MAX_RETRIES": "0", **numbers})
    assert (own.temperature, own.max_tokens, own.timeout_seconds, own.max_retries) == (0.7, 99, 5, 0)


def test_a_number_that_is_none_is_told_with_its_variable() -> None:
    with pytest.raises(ConfigError, match="OPENAI_MAX_TOKENS"):
        ModelSettings.from_env("gpt-5.4", {"OPENAI_API_KEY": SECRET, "OPENAI_MAX_TOKENS": "many"})


@pytest.mark.parametrize(
    ("name", "near"),
    [("opnai/gpt-5.4", "openai"), ("gtp-5.4", "gpt-5.4"), ("antropic/claude-opus-4-8", "anthropic")],
)
def test_an_unknown_name_is_answered_by_near_ones(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_provider(name)
    assert near in caught.value.remedy


@pytest.mark.parametrize("name", ["", "/", "/x", "a", "x" * 1000, "nobody-at-all/x"])
def test_a_name_of_nothing_is_an_error_with_a_remedy(name: str) -> None:
    with pytest.raises(ConfigError, match="provider/model"):
        find_provider(name)


def test_a_provider_that_only_litellm_knows_works_by_its_usual_variable() -> None:
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    settings = ModelSettings.from_env("deepinfra/some/model", {"DEEPINFRA_API_KEY": SECRET})
    assert settings.params == {"api_key": "os.environ/DEEPINFRA_API_KEY"}


def test_a_legacy_name_leads_to_its_successor_and_says_so_once() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            assert find_provider("gpt-4-turbo")[1] == ALIASES["gpt-4-turbo"]
    assert [each.category for each in told] == [LegacyModelName]
    assert "gpt-4-turbo" in str(told[0].message)


def test_every_successor_is_a_name_that_is_taken_as_it_stands() -> None:
    assert all(find_provider(successor)[1] == successor for successor in ALIASES.values())


def test_a_legacy_name_with_its_provider_is_meant() -> None:
    assert find_provider("openai/gpt-4-turbo")[1] == "openai/gpt-4-turbo"


def test_fallbacks_belong_to_their_chain_alone() -> None:
    environment = {"OPENAI_API_KEY": SECRET, "GROQ_API_KEY": SECRET}
    there = with_fallbacks("gpt-5.4", ["groq/llama"], environment=environment)
    back = with_fallbacks("groq/llama", ["gpt-5.4"], environment=environment)
    config = litellm_config([there, back])
    rules = [{"gpt-5.4": ["gpt-5.4 > groq/llama"]}, {"groq/llama": ["groq/llama > gpt-5.4"]}]
    kinds = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
    assert config.router_settings == dict.fromkeys(kinds, rules)
    assert len(config.deployments) == 4
    assert SECRET not in str(config)


def test_a_fallback_without_credentials_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="GROQ_API_KEY"):
        with_fallbacks("gpt-5.4", ["groq/llama"], environment={"OPENAI_API_KEY": SECRET})


def test_a_model_is_no_fallback_of_itself() -> None:
    with pytest.raises(ConfigError, match="twice"):
        with_fallbacks("gpt-5.4", ["gpt-5.4"], environment={"OPENAI_API_KEY": SECRET})


def made(agent: type[Agent]) -> dict[str, Any]:
    return {
        name: getattr(agent, name) for name in ("agent_id", "model", "fallbacks", "prompt_text", "budgets")
    }


def test_an_agent_is_made_of_a_models_name() -> None:
    agent = create_agent("openai/gpt-5.4", agent_id="poet", instructions="Answer in verse.", tags=["cheap"])
    prompt = parse_prompt("poet", made(agent)["prompt_text"].encode())
    assert issubclass(agent, Agent)
    assert (agent.agent_id, agent.prompt, made(agent)["model"]) == ("poet", "poet", "openai/gpt-5.4")
    assert (prompt.model, prompt.tags, prompt.max_tokens) == ("openai/gpt-5.4", ("cheap",), 1024)
    assert prompt.render_from({"agent_name": "poet", "task": "?"}).system == "Answer in verse."


def test_an_agent_without_more_is_named_after_its_model() -> None:
    assert create_agent("groq/llama-3.3-70b-versatile").agent_id == "llama-3-3-70b-versatile-agent"
    assert create_agent("offline").agent_id == "offline-agent"


def test_an_agent_may_be_made_of_a_groups_name_but_not_of_an_unknown_provider() -> None:
    assert made(create_agent("quality"))["model"] == "quality"
    with pytest.raises(ConfigError, match="no provider 'opnai'"):
        create_agent("opnai/gpt-5.4")
    with pytest.raises(ConfigError, match="no provider 'opnai'"):
        create_router_agent(["quality", "opnai/gpt-5.4"])


def test_an_agent_of_a_legacy_name_is_made_with_a_warning() -> None:
    with pytest.warns(LegacyModelName, match="gpt-4-turbo"):
        assert made(create_agent("gpt-4-turbo"))["model"] == "gpt-4-turbo"


def test_an_agent_of_several_models_asks_them_in_their_order() -> None:
    agent = create_router_agent(["gpt-5.4", "claude-sonnet-4-6", "groq/llama"])
    assert made(agent)["model"] == "gpt-5.4"
    assert made(agent)["fallbacks"] == ("claude-sonnet-4-6", "groq/llama")


MODEL_LIST = [
    {"model_name": "primary", "litellm_params": {"model": "gpt-4", "api_key": SECRET, "api_base": None}},
    {"model_name": "other", "litellm_params": {"model": "groq/llama"}},
    {"model_name": "fallback", "litellm_params": {"model": "claude-3-opus", "api_key": None}},
]
"""As programs write it for LiteLLM's Router, whose keys are None where a variable is not set."""


def test_a_router_takes_a_model_list_as_litellm_has_it() -> None:
    with pytest.warns(LegacyModelName):
        agent = create_router_agent(MODEL_LIST, num_retries=3, timeout=30)
    assert (agent.model, agent.fallbacks) == ("gpt-4", ("groq/llama", "claude-3-opus"))
    assert [spec.params.keys() for spec in agent.model_specs] == [{"api_key"}, set(), set()]
    rules = [{"other": ["primary"]}, {"primary": ["fallback"]}]
    with pytest.warns(LegacyModelName):
        assert create_router_agent(MODEL_LIST, fallbacks=rules).fallbacks == ("claude-3-opus",)
        assert create_agent(MODEL_LIST[0], fallbacks=["groq/llama"]).fallbacks == ("groq/llama",)


def test_an_agent_of_no_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not say who offers it"):
        create_router_agent([])


def test_options_by_litellms_names_make_an_agent_and_show_no_key() -> None:
    agent = create_agent("gpt-5.4", timeout=30, num_retries=3, api_key=SECRET, top_p=0.5, seed=7)
    (spec,) = agent.model_specs
    assert (spec.timeout, agent.num_retries, agent.params) == (30, 3, {"top_p": 0.5, "seed": 7})
    router = create_router_agent([{"model": "gpt-5.4", "api_key": SECRET}, "groq/llama"], timeout=5)
    assert [(one.name, one.timeout) for one in router.model_specs] == [("gpt-5.4", 5), ("groq/llama", 5)]
    chain = with_fallbacks(router.model_specs[0], environment={})
    assert chain.primary.deployment("group")["litellm_params"]["api_key"] == SECRET
    assert SECRET not in repr([vars(agent), vars(router), chain])


@pytest.mark.parametrize(
    ("make", "field", "remedy"),
    [
        (lambda: create_agent("gpt-5.4", tempratur=3), "tempratur", "'temperature'"),
        (lambda: create_agent("gpt-5.4", max_retries=3), "max_retries", "'num_retries'"),
        (lambda: create_agent("gpt-5.4", temperature="hot"), "temperature", "Correct temperature"),
        (lambda: create_agent("gpt-5.4", timeout=-1), "timeout", "Correct timeout"),
        (lambda: create_agent("gpt-5.4", tools=5), "tools", "Correct tools"),
        (lambda: create_agent("gpt-5.4", tools=[5]), "tools", "@tool"),
        (lambda: create_agent("gpt-5.4", capabilities=[5]), "capabilities", "Capability"),
        (lambda: create_agent("gpt-5.4", max_budget=[]), "max_budget", "2.50"),
        (lambda: create_agent("gpt-5.4", aws_region_name="x"), "aws_region_name", "api_key"),
        (lambda: create_agent("gpt-5.4", api_key=SECRET.encode()), "api_key", "Leave it out"),
        (lambda: create_agent("quality", api_key=SECRET), "model", "provider/model"),
        (lambda: create_agent({"api_key": SECRET}), "model", '{"model": '),
        (lambda: create_router_agent("gpt-5.4"), "models", '["gpt-5.4"'),
        (lambda: create_router_agent([{"model": "gpt-5.4", "api_kye": SECRET}]), "api_kye", "'api_key'"),
        (lambda: create_router_agent(["gpt-5.4"], api_key=SECRET), "api_key", "beside its model"),
        (lambda: create_router_agent([MODEL_LIST[0] | {"tpm": 5}]), "tpm", "model_name"),
        (lambda: create_router_agent(MODEL_LIST, fallbacks=[{"primary": ["x"]}]), "fallbacks", "other"),
        (lambda: create_agent("gpt-5.4", cache={"enabeld": True}), "cache.enabeld", "cache"),
        (lambda: create_agent("gpt-5.4", success_callback=5), "success_callback", "Correct"),
        (lambda: type("Bad", (Agent,), {**NAMED, "num_retries": "3"}), "num_retries", "num_retries = 3"),
        (lambda: open_model(), "models", "open_model("),
        (lambda: open_model(5), "model", "gpt-5.4"),
        (lambda: open_model("gpt-5.4", timout=3), "timout", "'timeout'"),
        (lambda: open_model(with_fallbacks({"model": "gpt-5.4", "api_key": "k"}), timeout=3), "timeout", "{"),
        (lambda: with_fallbacks("gpt-5.4", "groq/llama"), "fallbacks", '["'),
    ],
)
def test_a_wrong_option_is_an_error_with_field_and_remedy(
    make: Callable[[], Any], field: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert (caught.value.field, remedy in caught.value.remedy) == (field, True), caught.value
    assert SECRET not in str(caught.value)


def test_an_agent_gets_functions_and_toolsets_as_tools() -> None:
    agent = create_agent("offline", tools=[twice, FileTools])
    assert agent.toolsets == (FileTools,)
    assert [(each.name, each.function(4)) for each in collect_tools(agent())] == [("twice", 8)]


def test_a_function_that_is_no_tool_is_refused() -> None:
    with pytest.raises(ConfigError, match="made is no tool"):
        create_agent("offline", tools=[made])


def test_an_agents_budget_is_exact_and_its_own() -> None:
    (budget,) = made(create_agent("offline", agent_id="Poet_1", max_budget="0.10"))["budgets"]
    assert (budget.scope, budget.of, budget.limit_usd) == ("agent", "Poet_1", Decimal("0.10"))
    assert budget.hard


def test_a_budget_may_be_a_float() -> None:
    (budget,) = made(create_agent("offline", max_budget=0.5))["budgets"]
    assert budget.limit_usd == Decimal("0.5")


@pytest.mark.parametrize("amount", [0.1 + 0.2, float("nan"), float("inf"), True, "ten", "-1", "NaN"])
def test_a_budget_that_is_no_exact_amount_is_refused(amount: Any) -> None:
    with pytest.raises(ConfigError, match="max_budget"):
        create_agent("offline", max_budget=amount)


@pytest.mark.parametrize("instructions", ["{{nobody}}", "{{context}}", "{% for %}", "{# note #}", "{{ task"])
def test_instructions_that_no_prompt_can_hold_are_refused(instructions: str) -> None:
    with pytest.raises(ConfigError, match="instructions"):
        create_agent("offline", instructions=instructions)


def test_instructions_place_what_a_run_has() -> None:
    agent = create_agent(
        "offline", instructions="You are {{ agent_name }}\n---\nNow answer {{task}}.", cache=False
    )
    prompt = parse_prompt("x", made(agent)["prompt_text"].encode())
    assert prompt.render_from({"agent_name": "a", "task": "b"}).system == "You are a\n---\nNow answer b."


def test_the_page_of_providers_has_each_with_its_variables_and_each_wish() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    for provider in PROVIDERS:
        (row,) = [row for row in rows if f"`{provider.example}`" in row]
        assert all(f"`{name}`" in row for param in provider.params for name in param.variables)
        assert all(f"`{family}...`" in row for family in provider.families)
    assert all(any(f"`{option}`" in row for row in rows) for option in AgentOptions.model_fields)


@pytest.mark.parametrize(("cache", "is_cached"), [({"enabled": True, "type": "redis"}, True), ({}, False)])
def test_a_cache_may_be_a_dictionary_of_litellms(cache: dict[str, Any], is_cached: bool) -> None:
    agent = create_agent("offline", agent_id="poet", cache=cache)
    assert parse_prompt("poet", agent.prompt_text.encode()).cache is is_cached


async def test_a_cache_that_the_mesh_does_not_have_is_warned_of() -> None:
    poet = create_agent("offline", agent_id="poet", cache={"enabled": True, "type": "disk", "ttl": 3600})
    for models, expected in (
        ({}, ["agent poet asks for a cache of the type 'disk', and models.cache is 'off'. Set models"]),
        (
            {"cache": "disk"},
            ["agent poet asks for answers of 3600 s from the cache. Set models.cache_ttl_sec"],
        ),
        ({"cache": "disk", "cache_ttl_seconds": 3600}, []),
    ):
        async with mesh_for(poet, models=models) as mesh:
            warnings = [*mesh.mesh.get(ModelsComponent).warnings()]
        assert len(warnings) == len(expected)
        assert all(text.startswith(start) for text, start in zip(warnings, expected, strict=True)), warnings


async def test_a_success_callback_gets_the_cost_of_each_call(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    def cost_callback(kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        seen.append((kwargs["response_cost"], kwargs["model"], kwargs["metadata"]["task_id"]))
        assert response_obj["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        assert start_time <= end_time
        raise RuntimeError("of the author")

    usage = Usage(prompt_tokens=11, completion_tokens=7)
    replies = [ModelReply(content=text, model="m", usage=usage, cost_usd=Decimal("0.001")) for text in "ab"]
    poet = create_agent("offline", agent_id="poet", success_callback=[cost_callback])
    async with mesh_for(poet, model=ScriptedModel(*replies, ModelRefused("no"))) as mesh:
        outcomes = [await mesh.ask("poet", "Write.") for _ in range(3)]
    assert [outcome.success for outcome in outcomes] == [True, True, False]
    assert seen == [(0.001, "m", outcome.task_id) for outcome in outcomes[:2]]
    assert caplog.text.count("A success_callback of poet failed") == 2
