"""LiteLLM's real Router, from configurations of ours, against the fake provider."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.errors import ConfigError, ModelError
from meshwright.models.litellm_router import LISTS
from meshwright.models.port import (
    BEGIN_ANEW,
    AllProvidersDown,
    ChatMessage,
    ModelRefused,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ToolSpec,
    Unauthorized,
)
from meshwright.models.router import RouterModel
from tests.providers.fake import FakeProvider, Fault

ROOT = Path(__file__).resolve().parents[2]
# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
KEY = "sk-a-secret-key"
TIERS = {"medium": "openai/gpt-5.4-mini", "expensive": "openai/gpt-5.4", "cheap": "openai/gpt-5.4-nano"}
Make = Callable[..., RouterModel]


def request(*tags: str, **fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(**{"messages": messages, "user": "researcher-agent", "tags": tags, **fields})


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def make(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes Routers whose deployments are all at the fake, and closes them."""
    made: list[RouterModel] = []

    def make(deployments: list[dict[str, Any]], **settings: Any) -> RouterModel:
        path = tmp_path / f"config{len(made)}.yaml"
        path.write_text(yaml.safe_dump({"model_list": deployments, **settings}))
        made.append(RouterModel(path, environment={"FAKE_KEY": KEY}))
        return made[-1]

    yield make
    for model in made:
        await model.close()


def deployment(fake: FakeProvider, group: str, model: str, *tags: str, **params: Any) -> dict[str, Any]:
    common = {"api_base": f"{fake.url}/v1", "api_key": "os.environ/FAKE_KEY"}
    return {"model_name": group, "litellm_params": {"model": model, "tags": [*tags], **common, **params}}


@pytest.fixture
async def own(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[RouterModel]:
    """The project's own configuration, with OpenAI's key alone, and its calls led to the fake."""
    config = yaml.safe_load((ROOT / "litellm_config.yaml").read_text())
    for each in config["model_list"]:
        if each["litellm_params"]["model"].startswith("openai/"):
            each["litellm_params"]["api_base"] = f"{fake.url}/v1"
    path = tmp_path / "litellm_config.yaml"
    path.write_text(yaml.safe_dump(config))
    model = RouterModel(path, environment={"OPENAI_API_KEY": KEY})
    yield model
    await model.close()


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
    own: RouterModel, fake: FakeProvider, tags: tuple[str, ...], tier: str
) -> None:
    for _ in range(4):  # chance decides among those that fit
        await own.complete(request(*tags))
    assert {call.body["model"] for call in fake.calls} == {TIERS[tier].removeprefix("openai/")}


async def test_one_calls_tags_do_not_leak_into_another(own: RouterModel, fake: FakeProvider) -> None:
    metadata = {"task_id": "t1"}
    for tags, model in [(("research", "expensive"), "gpt-5.4"), (("research", "cheap"), "gpt-5.4-nano")] * 5:
        await own.complete(request(*tags, metadata=metadata))
        assert fake.calls[-1].body["model"] == model
    assert metadata == {"task_id": "t1"}


async def test_the_user_arrives_and_tags_and_metadata_stay_here(own: RouterModel, fake: FakeProvider) -> None:
    await own.complete(request("cheap", metadata={"task_id": "t1"}))
    body = fake.calls[0].body
    assert body["user"] == "researcher-agent"
    assert body.keys().isdisjoint({"tags", "metadata"})
    assert fake.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_the_price_of_a_known_model_is_known_and_what_answered_is_told(own: RouterModel) -> None:
    reply = await own.complete(request("research", "cheap"))
    assert reply.model == "gpt-5.4-nano"
    assert reply.cost_usd == Decimal("0.00001095")


async def test_the_price_of_an_unknown_model_is_not_made_up(make: Make, fake: FakeProvider) -> None:
    model = make([deployment(fake, "default", "openai/homemade")])
    assert (await model.complete(request())).cost_usd is None


async def test_a_deployment_without_its_key_is_left_out(own: RouterModel, fake: FakeProvider) -> None:
    assert own.name == "router litellm_config.yaml (6 of 15 deployments)"
    assert {each["litellm_params"]["model"] for each in own.deployments} == set(TIERS.values())


async def test_a_provider_whose_own_key_is_missing_is_left_out_and_not_taken_for_a_fault(
    make: Make, fake: FakeProvider
) -> None:
    keyless = {"model_name": "default", "litellm_params": {"model": "groq/llama-3.1-8b-instant", "weight": 9}}
    model = make([keyless, deployment(fake, "default", TIERS["medium"], weight=1)])
    for _ in range(3):
        assert (await model.complete(request())).model == "gpt-5.4-mini"
    with pytest.raises(ConfigError, match="Set the keys of its providers"):
        await make([keyless]).complete(request())


async def test_a_misspelt_group_is_refused_and_not_answered_by_the_default_fallback(
    make: Make, fake: FakeProvider
) -> None:
    settings = {"default_fallbacks": ["default"]}
    model = make([deployment(fake, "default", TIERS["medium"])], router_settings=settings)
    with pytest.raises(ModelRefused, match=r"no model group 'defautl'.*Did you mean 'default'"):
        await model.complete(request(model="defautl"))
    assert fake.calls == []


async def test_a_group_that_fails_is_answered_by_its_fallback(make: Make, fake: FakeProvider) -> None:
    deployments = [deployment(fake, "quality", TIERS["expensive"]), deployment(fake, "fast", TIERS["cheap"])]
    model = make(deployments, router_settings={"fallbacks": [{"quality": ["fast"]}]})
    fake.faults.append(Fault(status=500))
    assert (await model.complete(request(model="quality"))).model == "gpt-5.4-nano"
    assert len(fake.calls) == 2


async def test_a_group_that_lost_all_its_deployments_is_answered_by_its_fallback(
    make: Make, fake: FakeProvider
) -> None:
    lost = deployment(fake, "quality", TIERS["expensive"], api_key="os.environ/NOT_SET")
    deployments = [lost, deployment(fake, "fast", TIERS["cheap"])]
    model = make(deployments, router_settings={"fallbacks": [{"quality": ["fast"]}]})
    assert (await model.complete(request(model="quality"))).model == "gpt-5.4-nano"


async def test_retries_that_the_file_asks_for_are_not_made(make: Make, fake: FakeProvider) -> None:
    params = {"max_retries": 3, "num_retries": 3}
    policy = {"InternalServerErrorRetries": 3}
    router_settings = {
        "num_retries": 3,
        "retry_policy": policy,
        "model_group_retry_policy": {"default": policy},
    }
    settings = {"router_settings": router_settings, "litellm_settings": {"num_retries": 3}}
    model = make([deployment(fake, "default", TIERS["medium"], **params)], **settings)
    fake.faults.extend(Fault(status=500) for _ in range(9))
    with pytest.raises(ModelUnavailable):
        await model.complete(request())
    assert len(fake.calls) == 1


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
    own: RouterModel, fake: FakeProvider
) -> None:
    with pytest.raises(ModelRefused, match=r"no deployment tagged 'reserch'.*'research'"):
        await own.complete(request("reserch"))
    assert fake.calls == []


async def test_deployments_that_cool_down_are_said_to(make: Make, fake: FakeProvider) -> None:
    settings = {"allowed_fails": 0, "cooldown_time": 60}
    deployments = [deployment(fake, "default", model) for model in (TIERS["cheap"], TIERS["medium"])]
    model = make(deployments, router_settings=settings)
    fake.faults.extend(Fault(status=429) for _ in range(2))
    for _ in range(2):
        with pytest.raises(RateLimited):
            await model.complete(request())
    with pytest.raises(AllProvidersDown, match="cooling down") as down:
        await model.complete(request())
    assert down.value.retry_after_seconds and down.value.retry_after_seconds > 0
    assert len(fake.calls) == 2


CHAIN = {"fallbacks": [{"quality": ["fast"]}, {"fast": ["last"]}]}


def three(fake: FakeProvider, **params: Any) -> list[dict[str, Any]]:
    """Groups `quality`, `fast` and `last`, of one deployment each."""
    groups = zip(("quality", "fast", "last"), TIERS.values(), strict=True)
    return [deployment(fake, group, model, **params) for group, model in groups]


def asked(fake: FakeProvider) -> list[str]:
    """Which models were asked, in their order."""
    return [call.of for call in fake.calls]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_another_deployment_cannot_mend_is_not_paid_twice(
    make: Make, fake: FakeProvider, status: int
) -> None:
    settings = {**CHAIN, "default_fallbacks": ["last"], "disable_cooldowns": True}
    model = make(three(fake), router_settings=settings)
    for on_delta in (None, [].append):
        fake.faults.append(Fault(status=status))
        with pytest.raises(ModelError) as failed:
            await model.complete(request(model="quality"), on_delta)
        assert not failed.value.retryable
    assert asked(fake) == ["gpt-5.4-mini"] * 2


@pytest.mark.parametrize("fault", [Fault(status=429), Fault(status=408), Fault(kind="drop")], ids=str)
async def test_a_chain_of_fallbacks_is_followed_to_its_end(
    make: Make, fake: FakeProvider, fault: Fault
) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.extend([fault, fault])
    reply = await model.complete(request(model="quality"))
    assert (reply.model, reply.attempts) == ("gpt-5.4-nano", 3)
    assert asked(fake) == ["gpt-5.4-mini", "gpt-5.4", "gpt-5.4-nano"]


async def test_a_stream_that_dies_is_begun_anew_by_the_fallback(make: Make, fake: FakeProvider) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.append(Fault(kind="drop"))
    told: list[str] = []
    reply = await model.complete(request(model="quality"), told.append)
    anew = told.index(BEGIN_ANEW)
    assert anew > 0 and "".join(told[anew + 1 :]) == reply.content
    # LiteLLM itself would have had the next model go on where the first broke off.
    assert len(fake.calls[1].body["messages"]) == 1


async def test_when_nobody_answers_it_is_said_what_each_of_them_had(make: Make, fake: FakeProvider) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.extend(Fault(status=429, headers={"retry-after": str(wait)}) for wait in (9, 5, 7))
    with pytest.raises(AllProvidersDown, match=r"'quality'.*'fast'.*'last'") as down:
        await model.complete(request(model="quality"))
    assert down.value.retryable and down.value.retry_after_seconds == 5.0


async def test_the_default_fallback_is_for_groups_without_one_of_their_own(
    make: Make, fake: FakeProvider
) -> None:
    model = make(three(fake), router_settings={**CHAIN, "default_fallbacks": ["quality"]})
    fake.faults.append(Fault(status=500))
    assert (await model.complete(request(model="last"))).model == "gpt-5.4-mini"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (
            "context_window_fallbacks",
            {"code": "context_length_exceeded", "message": "maximum context length"},
        ),
        ("content_policy_fallbacks", {"code": "content_policy_violation", "message": "safety system"}),
    ],
)
async def test_a_refusal_has_fallbacks_of_its_own_kind_alone(
    make: Make, fake: FakeProvider, kind: str, error: dict[str, str]
) -> None:
    model = make(
        three(fake), router_settings={"fallbacks": [{"quality": ["fast"]}], kind: [{"quality": ["last"]}]}
    )
    for group, order in (("quality", ["gpt-5.4-mini", "gpt-5.4-nano"]), ("fast", ["gpt-5.4"])):
        fake.calls.clear()
        fake.faults.append(Fault(status=400, body={"error": error}))
        try:
            assert (await model.complete(request(model=group))).attempts == 2
        except ModelRefused:
            assert group == "fast"
        assert asked(fake) == order


async def test_an_answer_that_is_held_back_is_given_by_the_policys_fallback(
    make: Make, fake: FakeProvider
) -> None:
    model = make(three(fake), router_settings={"content_policy_fallbacks": [{"quality": ["last"]}]})
    fake.replies.append({"content": "", "finish_reason": "content_filter"})
    assert (await model.complete(request(model="quality"))).model == "gpt-5.4-nano"


async def test_the_next_order_is_asked_before_the_fallbacks_and_not_after_a_bad_request(
    make: Make, fake: FakeProvider
) -> None:
    first, second, last = three(fake)
    for number, each in enumerate((first, second), start=1):
        each["model_name"] = "quality"
        each["litellm_params"]["order"] = number
    model = make([first, second, last], router_settings={"fallbacks": [{"quality": ["last"]}]})
    fake.faults.append(Fault(status=400))
    with pytest.raises(ModelRefused):
        await model.complete(request(model="quality"))
    fake.faults.extend([Fault(status=500), Fault(status=500)])
    assert (await model.complete(request(model="quality"))).attempts == 3
    assert asked(fake) == ["gpt-5.4-mini", "gpt-5.4-mini", "gpt-5.4", "gpt-5.4-nano"]


async def test_a_limit_of_requests_a_minute_holds_though_all_come_at_once(
    make: Make, fake: FakeProvider
) -> None:
    small, big = three(fake)[:2]
    small["model_name"] = big["model_name"] = "default"
    small["litellm_params"]["rpm"], big["litellm_params"]["rpm"] = 2, 5
    model = make([small, big], router_settings={"cooldown_time": 60})
    results = await asyncio.gather(*(model.complete(request()) for _ in range(20)), return_exceptions=True)
    assert [type(each) for each in results if isinstance(each, ModelError)] == [AllProvidersDown] * 13
    assert sorted(asked(fake)) == ["gpt-5.4"] * 5 + ["gpt-5.4-mini"] * 2


async def test_calls_go_where_answers_come_soonest(make: Make, fake: FakeProvider) -> None:
    def at(name: str) -> dict[str, Any]:
        return deployment(fake, "default", TIERS["medium"], api_base=f"{fake.at(name)}/v1")

    model = make([at("slow"), at("quick")], router_settings={"routing_strategy": "latency-based-routing"})
    fake.faults_of["slow"].extend(Fault(kind="slow", seconds=0.2) for _ in range(99))
    for _ in range(12):
        await model.complete(request())
        await asyncio.sleep(0.05)  # LiteLLM learns of a call after its end, from a queue
    assert len(fake.calls_of("slow")) <= 4 < 8 <= len(fake.calls_of("quick"))


@pytest.mark.parametrize("strategy", ["least-busy", "latency-based-routing", "simple-shuffle"])
async def test_two_routers_share_neither_limits_nor_cooldowns(
    make: Make, fake: FakeProvider, strategy: str
) -> None:
    """LiteLLM keeps the checks of all Routers of a process in one list, and asks them all."""
    settings = {"routing_strategy": strategy, "allowed_fails": 0, "cooldown_time": 60}
    limited = deployment(fake, "default", TIERS["medium"], rpm=1)
    one, other = make([limited], router_settings=settings), make([limited])
    assert (await one.complete(request())).content
    with pytest.raises(AllProvidersDown):
        await one.complete(request())
    assert (await other.complete(request())).content
    with pytest.raises(AllProvidersDown):  # its own limit holds as well
        await other.complete(request())
    third, fourth = (make(three(fake), router_settings=settings) for _ in range(2))
    fake.faults.append(Fault(status=429))
    with pytest.raises(RateLimited):
        await third.complete(request(model="quality"))
    with pytest.raises(AllProvidersDown):
        await third.complete(request(model="quality"))
    assert (await fourth.complete(request(model="quality"))).content


async def test_a_closed_router_leaves_nothing_in_litellms_globals(make: Make, fake: FakeProvider) -> None:
    async def left() -> list[int]:
        import litellm

        return [len(getattr(litellm, name)) for name in LISTS if hasattr(litellm, name)]

    settings = {"routing_strategy": "latency-based-routing"}
    first = make([deployment(fake, "default", TIERS["medium"], rpm=9)], router_settings=settings)
    await first.complete(request())
    await first.close()
    before = await left()
    for _ in range(3):
        again = make([deployment(fake, "default", TIERS["medium"], rpm=9)], router_settings=settings)
        await again.complete(request())
        await again.close()
    assert await left() == before


async def test_twenty_faults_at_once_each_meet_their_own_call(make: Make, fake: FakeProvider) -> None:
    faults: list[tuple[Fault, type[ModelError] | None]] = [
        (Fault(status=400), ModelRefused),
        (Fault(status=401), Unauthorized),
        (Fault(status=403), Unauthorized),
        (Fault(status=404), ModelRefused),
        (Fault(status=408), ModelTimeout),
        (Fault(status=429), RateLimited),
        (Fault(status=429, headers={"retry-after": "3"}), RateLimited),
        (Fault(status=500), ModelUnavailable),
        (Fault(status=503, headers={"retry-after": "3"}), ModelUnavailable),
        (Fault(status=529), ModelUnavailable),
        (Fault(kind="hang"), ModelTimeout),
        (Fault(kind="slow", seconds=60), ModelTimeout),
        (Fault(kind="slow", seconds=0.2), None),
        (Fault(kind="drip", seconds=0.6), ModelTimeout),
        (Fault(kind="drip", seconds=0.001), None),
        (Fault(kind="drop"), ModelUnavailable),
        (Fault(kind="stall"), ModelTimeout),
        (Fault(kind="error", status=529), ModelUnavailable),
        (Fault(kind="garbage"), ModelUnavailable),
        (Fault(kind="wrong-type"), ModelUnavailable),
    ]
    groups = [f"group{number}" for number in range(len(faults))]
    deployments = [
        deployment(fake, group, TIERS["medium"], api_base=f"{fake.at(group)}/v1") for group in groups
    ]
    model = make(deployments, router_settings={"disable_cooldowns": True})
    await model.complete(request(model="group0"))
    for group, (fault, _) in zip(groups, faults, strict=True):
        fake.faults_of[group].append(fault)
    calls = [model.complete(request(model=group, timeout_seconds=5.0), [].append) for group in groups]
    results = await asyncio.gather(*calls, return_exceptions=True)
    met = [type(each) if isinstance(each, Exception) else None for each in results]
    assert met == [kind for _, kind in faults]
    assert [len(fake.calls_of(group)) for group in groups] == [2] + [1] * (len(groups) - 1)


async def test_a_schema_of_a_tool_is_not_written_to(own: RouterModel) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    before = str(parameters)
    await own.complete(request(tools=(ToolSpec(name="t", description="d", parameters=parameters),)))
    assert str(parameters) == before


async def test_a_value_that_the_router_does_not_accept_is_refused_without_a_key(
    make: Make, fake: FakeProvider
) -> None:
    model = make([deployment(fake, "default", TIERS["medium"])], router_settings={"routing_strategy": "dice"})
    with pytest.raises(ConfigError, match=r"router_settings: .*does not accept") as refused:
        await model.complete(request())
    assert KEY not in str(refused.value) and refused.value.line


async def test_a_setting_that_refers_to_nothing_is_refused_by_its_name(
    make: Make, fake: FakeProvider
) -> None:
    settings = {"redis_password": "os.environ/NOT_SET"}
    with pytest.raises(ConfigError, match="NOT_SET is not set in the environment"):
        await make([deployment(fake, "default", TIERS["medium"])], router_settings=settings).complete(
            request()
        )


async def test_closing_one_router_leaves_another_at_work(make: Make, fake: FakeProvider) -> None:
    one, other = (make([deployment(fake, "default", TIERS["medium"])]) for _ in range(2))
    await asyncio.gather(one.complete(request()), other.complete(request()))
    await one.close()
    assert (await other.complete(request())).content


async def test_a_caller_who_gives_up_while_litellm_is_imported_stops_nobody_else(own: RouterModel) -> None:
    first, second = (asyncio.create_task(own.complete(request())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).content


def test_importing_the_adapter_imports_no_litellm_and_using_it_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_AN_ENV_FILE=1\n")
    code = """
import asyncio, os, sys, pathlib
from meshwright.models.router import RouterModel
assert "litellm" not in sys.modules
model = RouterModel(pathlib.Path("c.yaml"), environment={"FAKE_KEY": "k"})
assert "litellm" not in sys.modules
asyncio.run(model.load())
assert "litellm" in sys.modules
assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
assert "FROM_AN_ENV_FILE" not in os.environ
"""
    params = {"model": "openai/gpt-5.4-mini", "api_key": "os.environ/FAKE_KEY"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    "environment", [{}, {"LITELLM_LOG": "DEBUG", "LITELLM_LOCAL_MODEL_COST_MAP": "False"}]
)
def test_a_provider_out_of_reach_is_told_in_a_few_lines_without_key_and_prompt(
    tmp_path: Path, free_tcp_port: int, environment: dict[str, str]
) -> None:
    params = {
        "model": "anthropic/claude-sonnet-4-6",
        "api_key": "os.environ/ANTHROPIC_API_KEY",
        "api_base": f"http://127.0.0.1:{free_tcp_port}",
    }
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "meshwright.cli", "ask", "simple-agent", "zebra crossing"],
        cwd=tmp_path,
        env={**os.environ, **environment, "ANTHROPIC_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "ModelUnavailable" in done.stderr
    assert len(done.stderr.splitlines()) < 15, done.stderr
    for unwanted in ("Traceback", "LiteLLM Router:", "mesh: error", KEY, "zebra"):
        assert unwanted not in done.stderr


def test_an_error_that_litellm_leaves_in_a_task_is_not_logged() -> None:
    code = """
import asyncio, logging, pathlib, gc
from meshwright.models.litellm_router import silence_loggers
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
