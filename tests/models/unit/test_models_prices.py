"""Costs of calls: exact, from the file, the list or the setting, and unknown where nobody knows."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.core.messages import Usage
from meshwright.core.money import Price
from meshwright.models.config import LiteLLMConfig, read_config
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.models.prices import Prices, dearest, read_list

ROOT = Path(__file__).resolve().parents[3]
LIST = {
    "small": {"input_cost_per_token": 2e-07, "output_cost_per_token": 1.25e-06, "litellm_provider": "openai"},
    "big": {
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 2.5e-07,
        "input_cost_per_token_above_272k_tokens": 5e-06,
        "output_cost_per_token_above_272k_tokens": 2.25e-05,
        "litellm_provider": "openai",
    },
    "groq/odd": {
        "input_cost_per_token": 5.9e-07,
        "output_cost_per_token": 7.9e-07,
        "litellm_provider": "groq",
    },
    "by-the-picture": {"output_cost_per_image": 0.04},
}
DEFAULT = Price(input=Decimal(3), output=Decimal(15))


def config_of(
    *models: str, info: dict[str, Any] | None = None, router: dict[str, Any] | None = None, **params: Any
) -> LiteLLMConfig:
    deployments = tuple(
        {
            "model_name": "default",
            "litellm_params": {"model": model, "tags": ["default"], **params},
            "model_info": {"id": f"default/{model}", **(info or {})},
        }
        for model in models
    )
    return LiteLLMConfig(
        Path("x.yaml"), deployments, {"enable_tag_filtering": True, **(router or {})}, {}, {}
    )


def prices(config: LiteLLMConfig | None = None, default: Price | None = None) -> Prices:
    return Prices(config, default, listed=lambda: LIST)


def request(**fields: Any) -> ModelRequest:
    return ModelRequest(messages=(), user="a", **fields)


def reply(model: str, prompt: int = 0, completion: int = 0, cached: int = 0, **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
    return ModelReply(model=model, usage=usage, **fields)


def test_a_listed_model_has_its_price_exactly() -> None:
    assert prices(config_of("openai/small")).reply_cost(reply("small", 12, 10), request()) == Decimal(
        "0.0000149"
    )


def test_cached_tokens_have_their_own_price_or_else_the_full_one() -> None:
    found = prices(config_of("openai/big"))
    assert found.reply_cost(reply("big", 20, 10, cached=8), request()) == Decimal("0.000182")
    found = prices(config_of("openai/small"))
    assert found.reply_cost(reply("small", 20, 0, cached=8), request()) == Decimal("0.000004")


def test_a_long_prompt_has_the_price_of_long_prompts() -> None:
    found = prices(config_of("openai/big"))
    at_limit = found.reply_cost(reply("big", 272_000, 0), request())
    above = found.reply_cost(reply("big", 272_001, 0), request())
    assert (at_limit, above) == (Decimal("0.68"), Decimal("1.360005"))
    assert found.upper_bound(request()) == Price(input=Decimal(5), output=Decimal("22.5"))
    assert found.upper_bound(request(), 1000) == Price(input=Decimal("2.5"), output=Decimal(15))


@pytest.mark.parametrize("place", ["litellm_params", "model_info"])
def test_the_deployments_own_price_is_stronger_than_the_list(place: str) -> None:
    own = {"input_cost_per_token": 1e-06}
    config = (
        config_of("openai/small", info=own) if place == "model_info" else config_of("openai/small", **own)
    )
    found = prices(config)
    rates = found.deployment_rates(config.deployments[0])
    assert rates is not None and rates.source == "file"
    assert rates.base == Price(input=Decimal(1), output=Decimal("1.25"))


def test_a_base_model_gives_the_price_of_a_name_that_nobody_lists() -> None:
    config = config_of("azure/my-own-name", info={"base_model": "openai/small"})
    assert prices(config).upper_bound(request()) == Price(input=Decimal("0.2"), output=Decimal("1.25"))


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("openai/small", True),
        ("small", True),
        ("small-2026-03-05", True),
        ("openai/small-20260305", True),
        ("groq/odd", True),
        ("groq/small", False),
        ("openai/nobody-lists-this", False),
        ("by-the-picture", False),
    ],
)
def test_a_model_is_looked_up_with_and_without_its_provider_and_date(model: str, known: bool) -> None:
    found = prices().reply_cost(reply(model, 1, 1), request())
    assert (found is not None) is known


def test_ollama_costs_nothing_and_says_why() -> None:
    config = config_of("ollama_chat/llama3.1")
    rates = prices(config, DEFAULT).deployment_rates(config.deployments[0])
    assert rates is not None and (rates.source, rates.base.input) == ("local", 0)


def test_the_most_is_the_dearest_of_all_that_could_answer_fallbacks_included() -> None:
    config = config_of("openai/small", "openai/big")
    backup = {
        "model_name": "backup",
        "litellm_params": {"model": "x", "input_cost_per_token": 1e-05, "output_cost_per_token": 1e-06},
        "model_info": {"id": "backup/x"},
    }
    with_backup = LiteLLMConfig(
        config.path,
        (*config.deployments, backup),
        {**config.router_settings, "fallbacks": [{"default": ["backup"]}]},
        {},
        {},
    )
    assert prices(config).upper_bound(request(), 10) == Price(input=Decimal("2.5"), output=Decimal(15))
    assert prices(with_backup).upper_bound(request(), 10) == Price(input=Decimal(10), output=Decimal(15))


def test_the_most_counts_the_default_that_answers_where_the_tagged_cool_down() -> None:
    config = config_of("openai/big")
    cheap = {"model_name": "default", "litellm_params": {"model": "openai/small", "tags": ["cheap"]}}
    both = LiteLLMConfig(config.path, (*config.deployments, cheap), config.router_settings, {}, {})
    assert prices(both).upper_bound(request(tags=("cheap",)), 10) == Price(
        input=Decimal("2.5"), output=Decimal(15)
    )


def test_tags_bound_what_a_call_may_cost() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    found = Prices(config, None, {"OPENAI_API_KEY": "k"})
    cheap, strong = (found.upper_bound(request(tags=("research", tag)), 10) for tag in ("cheap", "expensive"))
    assert cheap is not None and strong is not None
    assert cheap.output < strong.output


def test_a_price_that_one_deployment_lacks_is_the_default_or_unknown() -> None:
    config = config_of("openai/small", "openai/nobody-lists-this")
    assert prices(config).upper_bound(request()) is None
    assert prices(config, DEFAULT).upper_bound(request()) == DEFAULT


def test_without_a_configuration_the_reply_says_which_model_it_was() -> None:
    assert prices().upper_bound(request(model="default")) is None
    assert prices(None, DEFAULT).upper_bound(request(model="default")) == DEFAULT
    assert prices().reply_cost(reply("openai/small", 10), request(model="default")) == Decimal("0.000002")
    assert prices(None, DEFAULT).reply_cost(reply("?", 10), request()) == Decimal("0.00003")
    assert prices().reply_cost(reply("?", 10), request()) is None


def test_the_deployment_that_answered_has_the_price_not_another_of_that_model() -> None:
    config = config_of("openai/small")
    dear = {
        "model_name": "default",
        "litellm_params": {"model": "openai/small", "input_cost_per_token": 1e-03},
        "model_info": {"id": "dear"},
    }
    both = LiteLLMConfig(config.path, (*config.deployments, dear), config.router_settings, {}, {})
    found = prices(both)
    assert found.reply_cost(reply("small", 1, deployment="dear"), request()) == Decimal("0.001")
    cheap = reply("small", 1, deployment="default/openai/small")
    assert found.reply_cost(cheap, request()) == Decimal("0.0000002")


def test_an_answer_from_a_cache_costs_nothing() -> None:
    assert prices().reply_cost(reply("small", 10, 10, cache_hit=True), request()) == 0


def test_the_offline_model_is_free() -> None:
    assert Prices(free=True).upper_bound(request()) == Price(input=Decimal(0), output=Decimal(0))
    assert Prices(free=True).reply_cost(reply("offline", 10, 10), request()) == 0


@given(
    tokens=st.tuples(*(st.integers(0, 400_000) for _ in range(3))),
    model=st.sampled_from(["small", "big"]),
    tag=st.sampled_from([(), ("default",)]),
)
def test_no_reply_costs_more_than_the_most(tokens: tuple[int, int, int], model: str, tag: tuple[str]) -> None:
    found = prices(config_of("openai/small", "openai/big"))
    prompt, completion, cached = tokens
    spent = found.reply_cost(reply(model, prompt, completion, cached), request(tags=tag))
    most = found.upper_bound(request(tags=tag), prompt)
    assert spent is not None and most is not None
    assert spent <= most.cost(prompt, completion)


@pytest.mark.parametrize(
    ("models", "info", "window"),
    [
        (("openai/wide", "openai/narrow"), {}, (8_000, 1_000)),
        (("openai/wide",), {"max_input_tokens": 5}, (5, 2_000)),
        (("openai/wide", "openai/small"), {}, (9_000, 2_000)),
        (("openai/small",), {}, (None, None)),
    ],
)
def test_the_window_of_a_call_is_the_smallest_that_is_known(
    models: tuple[str, ...], info: dict[str, Any], window: tuple[int | None, int | None]
) -> None:
    listed = {
        "wide": {"litellm_provider": "openai", "max_input_tokens": 9_000, "max_output_tokens": 2_000},
        "narrow": {"litellm_provider": "openai", "max_input_tokens": 8_000, "max_output_tokens": 1_000},
    }
    found = Prices(config_of(*models, info=info, api_key="k"), None, listed=lambda: {**LIST, **listed})
    assert found.window("default", ("default",)) == window


def test_the_dearest_takes_each_side_from_whoever_is_dearer() -> None:
    first, second = Price(input=Decimal(1), output=Decimal(9)), Price(input=Decimal(2), output=Decimal(3))
    assert dearest([first, second]) == Price(input=Decimal(2), output=Decimal(9))


def test_litellms_list_is_read_without_importing_litellm() -> None:
    code = (
        "import sys; from meshwright.models.prices import read_list;"
        "print(len(read_list()), 'litellm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, loaded = done.stdout.split()
    assert int(count) > 1000 and loaded == "False"


def test_without_litellm_openai_and_anthropic_cost_what_its_list_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = read_list()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = read_list()
    assert {"claude-opus-4-8", "claude-haiku-4-5", "gpt-5.4", "gpt-5.4-nano"} <= own.keys() < listed.keys()
    for name, entry in own.items():
        assert entry.items() <= listed[name].items()


def test_what_goes_into_a_providers_cache_costs_what_writing_does() -> None:
    found = Prices(config_of("anthropic/claude-haiku-4-5"), None)
    usage = Usage(prompt_tokens=1_000, completion_tokens=0, cached_tokens=200, cache_write_tokens=300)
    told = ModelReply(model="claude-haiku-4-5", usage=usage)
    # 500 at $1, 200 at $0.10 and 300 at $1.25 a million.
    assert found.reply_cost(told, request()) == Decimal("0.000895")


def test_a_deployment_that_writes_to_the_cache_is_bounded_by_that_price() -> None:
    config = config_of("anthropic/claude-haiku-4-5")
    config.deployments[0]["litellm_params"]["cache_control_injection_points"] = [{"role": "system"}]
    most = Prices(config, None).upper_bound(request(), 10)
    assert most is not None and most.input == Decimal("1.25")


@pytest.mark.parametrize("group", ["openai/*", "*"])
def test_a_deployment_for_many_models_costs_what_the_called_one_does(group: str) -> None:
    params = {"model": "openai/*" if group == "*" else group}
    members = ({"model_name": group, "litellm_params": params, "model_info": {"id": "all"}},)
    found = Prices(LiteLLMConfig(ROOT / "none.yaml", members, {}, {}, {}), None)
    name = "gpt-5.4-nano" if group == "*" else "openai/gpt-5.4-nano"
    called = ModelRequest(model=name, messages=(), user="me")
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=0)
    answered = ModelReply(model="gpt-5.4-nano", deployment="all", usage=usage)
    assert found.reply_cost(answered, called) == Decimal("0.2")
    assert found.upper_bound(called) is not None


def test_every_deployment_of_the_projects_own_file_has_a_price() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    found = Prices(config, None)
    assert [each for each in config.deployments if found.deployment_rates(each) is None] == []
