"""The deployment that tags, keys, groups and strategies pick, and its reply."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.models import picker
from meshwright.models.errors import AllProvidersDown, ModelRefused, ModelTimeout
from meshwright.models.picker import Picker
from meshwright.models.port import CallContext, ToolSpec
from tests.support.fake_provider import TOKENS, FakeProvider, Fault
from tests.support.pickers import KEY, TIERS, Make, asked, deployment, own_picker, request

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


class _NoMinuteTurns:
    """A clock of which no minute ends: the counts of calls and tokens begin again with each."""

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def time() -> float:
        return 1_800_000_030.0


@pytest.fixture(autouse=True)
def _no_minute_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picker, "time", _NoMinuteTurns)


@pytest.fixture
async def own(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Picker]:
    async with own_picker(tmp_path, fake) as model:
        yield model


@pytest.mark.parametrize(
    ("tags", "tier"),
    [
        (("research", "expensive"), "expensive"),
        (("research", "cheap"), "cheap"),
        (("research",), "medium"),
        (("coding", "expensive"), "expensive"),
        (("architecture", "expensive"), "expensive"),
        (("cheap", "monitoring"), "cheap"),
        (("compression",), "cheap"),
        ((), "medium"),
        (("coding", "medium"), "medium"),
    ],
)
async def test_tags_pick_the_deployment_of_the_projects_own_configuration(
    own: Picker, fake: FakeProvider, tags: tuple[str, ...], tier: str
) -> None:
    for _ in range(4):  # chance decides among those that fit
        await own.complete(request(*tags))
    assert {call.body["model"] for call in fake.calls} == {TIERS[tier].removeprefix("openai/")}


async def test_one_calls_tags_do_not_leak_into_another(own: Picker, fake: FakeProvider) -> None:
    context = CallContext(task_id="t1")
    for tags, model in [(("research", "expensive"), "gpt-5.4"), (("research", "cheap"), "gpt-5.4-nano")] * 5:
        await own.complete(request(*tags, context=context))
        assert fake.calls[-1].body["model"] == model
    assert context == CallContext(task_id="t1")


async def test_the_user_arrives_and_tags_and_metadata_stay_here(own: Picker, fake: FakeProvider) -> None:
    await own.complete(request("cheap", context=CallContext(task_id="t1")))
    body = fake.calls[0].body
    assert body["user"] == "researcher-agent"
    assert body.keys().isdisjoint({"tags", "metadata"})
    assert fake.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_the_price_of_a_known_model_is_known_and_what_answered_is_told(own: Picker) -> None:
    reply = await own.complete(request("research", "cheap"))
    assert reply.model == "gpt-5.4-nano"
    assert reply.cost_usd == Decimal("0.00001095")


async def test_the_price_of_an_unknown_model_is_not_made_up(make: Make, fake: FakeProvider) -> None:
    model = make([deployment(fake, "default", "openai/homemade")])
    assert (await model.complete(request())).cost_usd is None


async def test_a_deployment_without_its_key_is_left_out(own: Picker, fake: FakeProvider) -> None:
    assert own.name == "router litellm_config.yaml (6 of 15 deployments)"


async def test_a_provider_whose_own_key_is_missing_is_left_out_and_not_taken_for_a_fault(
    make: Make, fake: FakeProvider
) -> None:
    keyless = {"model_name": "default", "litellm_params": {"model": "groq/llama-3.1-8b-instant", "weight": 9}}
    model = make([keyless, deployment(fake, "default", TIERS["medium"], weight=1)])
    for _ in range(3):
        assert (await model.complete(request())).model == "gpt-5.4-mini"
    with pytest.raises(ConfigError, match="Set one of GROQ_API_KEY"):
        await make([keyless]).complete(request())


async def test_a_misspelt_group_is_refused_and_not_answered_by_the_default_fallback(
    make: Make, fake: FakeProvider
) -> None:
    settings = {"default_fallbacks": ["default"]}
    model = make([deployment(fake, "default", TIERS["medium"])], router_settings=settings)
    with pytest.raises(ModelRefused, match=r"no model group 'defautl'.*Did you mean 'default'"):
        await model.complete(request(model="defautl"))
    assert fake.calls == []


async def test_tags_that_fit_no_deployment_are_refused_with_what_to_do(
    make: Make, fake: FakeProvider
) -> None:
    other = deployment(fake, "other", TIERS["expensive"], "dear")
    deployments = [deployment(fake, "default", TIERS["cheap"], "cheap"), other]
    model = make(deployments, router_settings={"enable_tag_filtering": True})
    with pytest.raises(
        ModelRefused, match=r"for tags \['dear'\].*Tag one deployment of the group with default"
    ):
        await model.complete(request("dear"))
    assert fake.calls == []


async def test_a_tag_that_nobody_has_is_refused_and_not_answered_by_the_default(
    own: Picker, fake: FakeProvider
) -> None:
    with pytest.raises(ModelRefused, match=r"no deployment tagged 'reserch'.*'research'"):
        await own.complete(request("reserch"))
    assert fake.calls == []


async def test_a_schema_of_a_tool_is_not_written_to(own: Picker) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    before = str(parameters)
    await own.complete(request(tools=(ToolSpec(name="t", description="d", parameters=parameters),)))
    assert str(parameters) == before


async def test_an_unknown_strategy_is_refused_with_its_line(make: Make, fake: FakeProvider) -> None:
    deployments = [deployment(fake, "default", TIERS["medium"])]
    with pytest.raises(ConfigError, match="there is no strategy 'dice'") as refused:
        make(deployments, router_settings={"routing_strategy": "dice"})
    assert KEY not in str(refused.value) and refused.value.line


async def test_calls_go_where_answers_come_soonest(make: Make, fake: FakeProvider) -> None:
    def at(name: str) -> dict[str, Any]:
        return deployment(fake, "default", TIERS["medium"], api_base=f"{fake.at(name)}/v1")

    model = make([at("slow"), at("quick")], router_settings={"routing_strategy": "latency-based-routing"})
    fake.faults_of["slow"].extend(Fault(kind="slow", seconds=0.2) for _ in range(99))
    for _ in range(12):
        await model.complete(request())
    assert len(fake.calls_of("slow")) <= 4 < 8 <= len(fake.calls_of("quick"))


STRATEGIES = ["simple-shuffle", "least-busy", "latency-based-routing", "cost-based-routing"]
STRATEGIES += ["usage-based-routing", "usage-based-routing-v2"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_rpm_holds_whatever_the_strategy_and_though_all_come_at_once(
    make: Make, fake: FakeProvider, strategy: str
) -> None:
    deployments = [
        deployment(fake, "default", f"openai/{name}", rpm=limit) for name, limit in (("small", 2), ("big", 5))
    ]
    model = make(deployments, router_settings={"routing_strategy": strategy})
    calls = (model.complete(request()) for _ in range(12))
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in results if isinstance(each, AllProvidersDown)]
    assert len(refused) == 5 and "at their limit" in str(refused[0])
    assert 0 < (refused[0].retry_after_seconds or 0) <= 60
    assert Counter(asked(fake)) == {"small": 2, "big": 5}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_no_call_begins_once_a_minutes_tokens_are_used(
    make: Make, fake: FakeProvider, streamed: bool
) -> None:
    model = make([deployment(fake, "default", TIERS["medium"], tpm=2 * TOKENS["total_tokens"])])
    for _ in range(2):
        await model.complete(request(), [].append if streamed else None)
    with pytest.raises(AllProvidersDown):
        await model.complete(request())
    assert len(fake.calls) == 2


async def test_weights_share_the_calls_and_a_weight_of_nothing_waits(make: Make, fake: FakeProvider) -> None:
    weights = {"often": 3, "rarely": 1, "never": 0}
    model = make([deployment(fake, "default", f"openai/{name}", weight=n) for name, n in weights.items()])
    for _ in range(60):
        await model.complete(request())
    got = Counter(asked(fake))
    assert got["often"] > got["rarely"] > 0 and got["never"] == 0


async def test_the_cheapest_and_the_least_busy_are_asked_by_their_strategies(
    make: Make, fake: FakeProvider
) -> None:
    deployments = [deployment(fake, "default", model) for model in TIERS.values()]
    cheapest = make(deployments, router_settings={"routing_strategy": "cost-based-routing"})
    for _ in range(3):
        await cheapest.complete(request())
    assert set(asked(fake)) == {"gpt-5.4-nano"}
    fake.calls.clear()
    fake.gate = asyncio.Barrier(3)
    idlest = make(deployments, router_settings={"routing_strategy": "least-busy"})
    await asyncio.gather(*(idlest.complete(request()) for _ in range(3)))
    assert len(set(asked(fake))) == 3


async def test_calls_of_a_deployment_at_a_time_are_bounded(make: Make, fake: FakeProvider) -> None:
    model = make(
        [deployment(fake, "default", TIERS["medium"])], router_settings={"default_max_parallel_requests": 2}
    )
    fake.gate = opened = asyncio.Event()
    calls = [asyncio.create_task(model.complete(request())) for _ in range(3)]
    while len(fake.calls) < 2:
        await fake.arrived.wait()
        await asyncio.sleep(0.01)
    assert len(fake.calls) == 2
    with pytest.raises(ModelTimeout, match="No place"):
        await model.complete(request(timeout_seconds=0.05))
    opened.set()
    await asyncio.gather(*calls)
    assert len(fake.calls) == 3


async def test_siblings_answer_before_the_fallbacks_and_each_is_asked_once(
    make: Make, fake: FakeProvider
) -> None:
    deployments = [deployment(fake, "default", model) for model in TIERS.values()]
    model = make(deployments, router_settings={"disable_cooldowns": True})
    fake.faults.extend([Fault(status=500), Fault(status=401)])
    assert (await model.complete(request())).attempts == 3
    assert len(set(asked(fake))) == 3


async def test_a_name_that_a_deployment_for_many_stands_for_is_the_model(
    make: Make, fake: FakeProvider
) -> None:
    model = make([deployment(fake, "openai/*", "openai/*"), deployment(fake, "mine-*", "openai/house-*")])
    for group in ("openai/gpt-5.4-nano", "mine-7b"):
        await model.complete(request(model=group))
    assert asked(fake) == ["gpt-5.4-nano", "house-7b"]


async def test_parameters_of_a_deployment_go_along_also_unknown_ones(make: Make, fake: FakeProvider) -> None:
    params = {"top_p": 0.5, "min_p": 0.1, "extra_headers": {"X-Team": "a"}, "extra_body": {"colour": "red"}}
    model = make([deployment(fake, "default", "hosted_vllm/llama", rpm=9, **params)])
    await model.complete(request())
    [call] = fake.calls
    assert {name: call.body[name] for name in ("top_p", "min_p", "colour")} == {
        "top_p": 0.5,
        "min_p": 0.1,
        "colour": "red",
    }
    assert call.headers["X-Team"] == "a"
    assert call.body.keys().isdisjoint({"rpm", "tags", "metadata", "extra_body"})


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature"),
        ("Unsupported parameter: 'max_tokens' is not supported: use 'max_completion_tokens'.", "max_tokens"),
        ("Extra inputs are not permitted: user", "user"),
    ],
)
async def test_a_field_that_a_server_does_not_take_is_left_out_from_then_on(
    make: Make, fake: FakeProvider, words: str, left_out: str
) -> None:
    model = make([deployment(fake, "default", "openai/house-model")])
    fake.faults.append(Fault(status=400, body={"error": {"message": words}}))
    for _ in range(2):
        await model.complete(request())
    assert [left_out in call.body for call in fake.calls] == [True, False, False]


async def test_openais_reasoning_models_get_the_fields_that_they_take(make: Make, fake: FakeProvider) -> None:
    await make([deployment(fake, "default", "openai/o3")]).complete(request(max_tokens=9))
    body = fake.calls[0].body
    assert body["max_completion_tokens"] == 9
    assert body.keys().isdisjoint({"temperature", "max_tokens"})
