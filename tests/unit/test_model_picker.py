"""Who is asked by tags, keys, groups and strategies, and what a reply tells."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright.errors import ConfigError
from meshwright.models.picker import Picker
from meshwright.models.port import CallContext, ModelRefused, ToolSpec
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.pickers import KEY, TIERS, Make, deployment, own_picker, pickers, request

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with pickers(tmp_path) as make:
        yield make


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
