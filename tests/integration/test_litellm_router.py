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

from meshwright.errors import ConfigError
from meshwright.models.port import (
    AllProvidersDown,
    ChatMessage,
    ModelRefused,
    ModelRequest,
    ModelUnavailable,
    RateLimited,
    ToolSpec,
)
from meshwright.models.router import RouterModel
from tests.providers.fake import FakeProvider, Fault

ROOT = Path(__file__).resolve().parents[2]
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
