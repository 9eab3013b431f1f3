"""When a failing deployment is left alone, by this worker and by the others of a mesh."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from meshwright import build_mesh, create_agent, load_settings
from meshwright.core import topics
from meshwright.core.errors import ModelError
from meshwright.core.messages import Event
from meshwright.models.picker import Picker
from meshwright.models.port import (
    AllProvidersDown,
    ChatMessage,
    ModelRefused,
    ModelRequest,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from meshwright.models.routing import Cooldowns
from meshwright.testing import MeshUnderTest
from tests.support.fake_provider import FakeProvider, Fault

CALLS = 8


async def calls_of_the_failing(folder: Path, status: int, **settings: int) -> int:
    """How many of some calls reach a deployment that fails, beside a good one for when it cools down."""
    async with FakeProvider() as fake:
        fake.faults_of["bad"].extend(Fault(status=status) for _ in range(CALLS))
        deployments = [
            {
                "model_name": "default",
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_key": "k",
                    "api_base": fake.at(name),
                    "tags": ["default"],
                    "weight": weight,
                },
            }
            for name, weight in (("bad", 1), ("good", 0))
        ]
        path = folder / "litellm_config.yaml"
        router = {"enable_tag_filtering": True, "cooldown_time": 60, **settings}
        path.write_text(yaml.safe_dump({"model_list": deployments, "router_settings": router}))
        model = Picker(path, environment={})
        message = ChatMessage(role="user", content="Hello")
        try:
            for _ in range(CALLS):
                try:
                    await model.complete(ModelRequest(messages=(message,), user="a"))
                except ModelError:
                    continue
        finally:
            await model.close()
        return len(fake.calls_of("bad"))


@pytest.mark.parametrize(("allowed", "status"), [(1, 500), (2, 500), (2, 429)])
async def test_a_deployment_cools_down_after_the_failures_that_it_is_allowed(
    tmp_path: Path, allowed: int, status: int
) -> None:
    assert await calls_of_the_failing(tmp_path, status, allowed_fails=allowed) == allowed + 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_refused_key_or_a_lost_model_cools_a_deployment_down_at_once(
    tmp_path: Path, status: int
) -> None:
    assert await calls_of_the_failing(tmp_path, status, allowed_fails=2) == 1


@dataclass
class Pair:
    """Two workers of a mesh, each with a picker, and the fake that fails."""

    one: Picker
    other: Picker
    fake: FakeProvider
    told: list[tuple[str, float, str]]


@pytest.fixture
async def pair(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Pair]:
    path = tmp_path / "litellm_config.yaml"
    params = {"model": "openai/gpt-5.4", "api_base": f"{fake.url}/v1", "api_key": "k"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    path.write_text(yaml.safe_dump({**config, "router_settings": {"allowed_fails": 0, "cooldown_time": 60}}))
    here, there = Cooldowns(), Cooldowns()
    told: list[tuple[str, float, str]] = []

    def begin(deployment: str, seconds: float, error: ModelError) -> None:
        told.append((deployment, seconds, error.code))
        there.learn(deployment, seconds)

    here.on_begin = begin
    one, other = (Picker(path, environment={}, cooldowns=shared) for shared in (here, there))
    yield Pair(one, other, fake, told)
    await one.close()
    await other.close()


def request() -> ModelRequest:
    return ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="a")


async def test_a_deployment_that_failed_in_one_worker_is_left_alone_by_the_other(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=500))
    with pytest.raises(ModelUnavailable):
        await pair.one.complete(request())
    assert pair.told == [("default/openai/gpt-5.4", 60, "ModelUnavailable")]
    for model in (pair.one, pair.other):
        with pytest.raises(AllProvidersDown, match="are cooling down") as down:
            await model.complete(request())
        assert 0 < (down.value.retry_after_seconds or 0) <= 60
    assert len(pair.fake.calls) == 1


async def test_what_a_provider_asks_to_wait_is_waited(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(RateLimited):
        await pair.one.complete(request())
    assert pair.told == [("default/openai/gpt-5.4", 7, "RateLimited")]


async def test_a_refused_key_is_said_again_while_its_deployment_cools_down(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=401))
    for _ in range(2):
        with pytest.raises(Unauthorized, match="refused the credentials"):
            await pair.one.complete(request())
    assert len(pair.fake.calls) == 1
    assert pair.told == [("default/openai/gpt-5.4", 300, "Unauthorized")]


async def test_a_bad_request_cools_nothing_down(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=400))
    with pytest.raises(ModelRefused):
        await pair.one.complete(request())
    assert (await pair.one.complete(request())).content and pair.told == []


async def test_a_cooldown_is_an_event_and_other_workers_take_it(
    fake: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.url}/v1")
    agent = create_agent("gpt-5.4", agent_id="poet")
    settings = load_settings(tmp_path, host="memory", max_attempts=1)
    async with build_mesh(settings, project=tmp_path, agents=[agent]) as mesh:
        seen: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        mesh.host.listen(topics.MESH, seen.set_result, ("deployment.cooled_down",))
        fake.faults.append(Fault(status=401))
        outcome = await MeshUnderTest(mesh, mesh.model, None, [agent]).ask("poet", "Sing.")
        event = await asyncio.wait_for(seen, 10)
        assert outcome.error is not None and outcome.error.type == "Unauthorized"
        assert event.payload["deployment"] == "gpt-5.4/openai/gpt-5.4"
        assert (event.payload["seconds"], event.payload["error"]["type"]) == (300, "Unauthorized")
        # So another worker tells it: a model that has not failed here is left alone.
        told = {"deployment": "gpt-5.4/openai/gpt-5.4", "seconds": 600, "error": event.payload["error"]}
        mesh.tell("deployment.cooled_down", told)
        calls = len(fake.calls)
        again = await MeshUnderTest(mesh, mesh.model, None, [agent]).ask("poet", "Sing again.")
        assert again.error is not None and len(fake.calls) == calls
