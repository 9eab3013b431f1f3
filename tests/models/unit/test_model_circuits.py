"""When a failing deployment is left alone, by this worker and by the others of a mesh."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from aiohttp import web

from meshwright import create_agent
from meshwright.core import topics
from meshwright.core.errors import ModelError
from meshwright.core.events import Event
from meshwright.core.messages import TaskRequest
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.circuits import Circuits, GuardedServer, Policy
from meshwright.models.config import LiteLLMConfig
from meshwright.models.errors import (
    AllProvidersDown,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from meshwright.models.overview import Deployments
from meshwright.models.picker import Picker
from meshwright.models.port import CallContext, ChatMessage, ModelRequest
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.settings import load_settings

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
    told: list[tuple[str, str, float]]


@pytest.fixture
async def pair(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Pair]:
    path = tmp_path / "litellm_config.yaml"
    params = {"model": "openai/gpt-5.4", "api_base": f"{fake.url}/v1", "api_key": "k"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    path.write_text(yaml.safe_dump({**config, "router_settings": {"allowed_fails": 0, "cooldown_time": 60}}))
    here, there = Circuits(), Circuits()
    told: list[tuple[str, str, float]] = []

    def tell(event_type: str, change: DeploymentLeftAlone | DeploymentRecovered) -> None:
        told.append((event_type, change.deployment, change.seconds))
        there.learn(event_type, change)

    here.on_change = tell
    one, other = (Picker(path, environment={}, circuits=shared) for shared in (here, there))
    yield Pair(one, other, fake, told)
    await one.close()
    await other.close()


def request() -> ModelRequest:
    return ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="a")


async def test_a_deployment_that_failed_in_one_worker_is_left_alone_by_the_other(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=500))
    with pytest.raises(ModelUnavailable):
        await pair.one.complete(request())
    assert pair.told == [("deployment.cooled_down", "default/openai/gpt-5.4", 60)]
    for model in (pair.one, pair.other):
        with pytest.raises(AllProvidersDown, match="are cooling down") as down:
            await model.complete(request())
        assert 0 < (down.value.retry_after_seconds or 0) <= 64  # the other probes a little later
    assert len(pair.fake.calls) == 1


async def test_what_a_provider_asks_to_wait_is_waited(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(RateLimited):
        await pair.one.complete(request())
    assert pair.told == [("deployment.cooled_down", "default/openai/gpt-5.4", 7)]


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, ModelUnavailable)])
async def test_no_deployment_is_left_alone_for_a_day(pair: Pair, status: int, kind: type[ModelError]) -> None:
    pair.fake.faults.append(Fault(status=status, headers={"retry-after": "86400"}))
    with pytest.raises(kind):
        await pair.one.complete(request())
    assert pair.told == [("deployment.cooled_down", "default/openai/gpt-5.4", 60)]


def test_every_cooldown_ends_after_a_minute_with_a_probe() -> None:
    asking = RateLimited("wait", retry_after_seconds=86_400.0)
    here, there = Circuits(), Circuits()
    here.on_change = lambda event_type, change: there.learn(
        event_type, change.model_copy(update={"seconds": 1e9}), -1e6
    )
    with pytest.raises(RateLimited), here.call("d", Policy(cooldown_seconds=7_200.0)):
        raise asking
    assert 59 < here.left_seconds("d") <= 60
    assert 60 < there.left_seconds("d") <= 64  # others probe a little later


async def test_a_call_that_is_not_made_says_so_and_which_refusal_was_before(pair: Pair) -> None:
    pair.fake.faults.append(Fault(status=401))
    with pytest.raises(Unauthorized, match=f"^{pair.fake.url} answered 401 .*: it refused the credentials"):
        await pair.one.complete(request())
    for model in (pair.one, pair.other):
        with pytest.raises(Unauthorized, match=r"^No call was made") as refusal:
            await model.complete(request())
        assert "is left alone since " in str(refusal.value) and "answered 401" in str(refusal.value)
        assert refusal.value.attempts == 0 and 0 < (refusal.value.retry_after_seconds or 0) <= 64
    assert len(pair.fake.calls) == 1
    assert pair.told == [("deployment.refused", "default/openai/gpt-5.4", 60)]


@pytest.mark.parametrize(("status", "message"), [(400, "no"), (403, "Your input was flagged by moderation")])
async def test_a_bad_request_cools_nothing_down(pair: Pair, status: int, message: str) -> None:
    pair.fake.faults.append(Fault(status=status, body={"error": {"message": message}}))
    with pytest.raises(ModelRefused):
        await pair.one.complete(request())
    assert (await pair.one.complete(request())).content and pair.told == []


def opened() -> tuple[Circuits, list[tuple[str, float]]]:
    """A circuit `d` that a failure has opened, and what it has told."""
    circuits, told = Circuits(), list[tuple[str, float]]()
    circuits.on_change = lambda event_type, change: told.append((event_type, change.seconds))
    with pytest.raises(ModelUnavailable), circuits.call("d", AT_ONCE):
        raise ModelUnavailable("It is away")
    return circuits, told


AT_ONCE = Policy(allowed_fails=0, cooldown_seconds=0.0)


def test_one_call_alone_probes_a_deployment_and_its_success_lets_the_others_pass() -> None:
    circuits, told = opened()
    assert not circuits.left_seconds("d") and circuits.open()
    with circuits.call("d", AT_ONCE):
        assert circuits.left_seconds("d") > 0
    assert not circuits.left_seconds("d") and not circuits.open()
    assert [event_type for event_type, _ in told] == ["deployment.cooled_down", "deployment.recovered"]


def test_a_probe_that_is_cancelled_leaves_the_next_call_to_probe() -> None:
    circuits, _ = opened()
    with pytest.raises(asyncio.CancelledError), circuits.call("d", AT_ONCE):
        raise asyncio.CancelledError
    assert not circuits.left_seconds("d") and circuits.open()


def refused_with(status: int) -> ModelError:
    error = Unauthorized("It refused") if status in (401, 403) else ModelRefused("It refused")
    error.answered = status
    return error


@pytest.mark.parametrize(
    "failure",
    [ModelUnavailable("It is away"), *map(refused_with, (401, 402, 403, 404))],
    ids=lambda error: f"{error.answered}",
)
def test_pauses_between_probes_double_up_to_a_minute(failure: ModelError) -> None:
    circuits, told = Circuits(), list[float]()
    circuits.on_change = lambda _, change: told.append(change.seconds)
    policy = Policy(allowed_fails=0, cooldown_seconds=5.0)
    for _ in range(6):
        with pytest.raises(type(failure)), circuits.call("d", policy):
            raise failure
    assert told == [5, 10, 20, 40, 60, 60]


def test_calls_that_began_before_a_circuit_opened_do_not_open_it_again() -> None:
    circuits, told = Circuits(), list[str]()
    circuits.on_change = lambda event_type, _: told.append(event_type)
    policy = Policy(allowed_fails=0)
    with pytest.raises(ModelUnavailable), circuits.call("d", policy):
        with pytest.raises(ModelUnavailable), circuits.call("d", policy):
            raise ModelUnavailable("It is away")
        raise ModelUnavailable("It is away here too")
    assert told == ["deployment.cooled_down"]


def test_a_caller_with_too_little_time_opens_no_circuit() -> None:
    circuits = Circuits()
    with pytest.raises(ModelTimeout), circuits.call("d", AT_ONCE, given_seconds=1.0):
        raise ModelTimeout("No answer in 1 second")
    assert not circuits.open()


async def test_a_server_of_unknown_deployments_is_left_alone_by_group(fake: FakeProvider) -> None:
    model = GuardedServer(HttpModel(fake.url, "k"), Circuits())
    fake.faults.append(Fault(status=429, headers={"retry-after": "60"}))
    with pytest.raises(RateLimited):
        await model.complete(request())
    with pytest.raises(AllProvidersDown, match="left alone"):
        await model.complete(request())
    assert len(fake.calls) == 1
    assert (await model.complete(request().model_copy(update={"model": "fast"}))).content
    await model.close()


async def test_a_model_that_is_gone_leaves_the_others_of_its_deployment_alone(
    fake: FakeProvider, tmp_path: Path
) -> None:
    path = tmp_path / "litellm_config.yaml"
    params = {"model": "openai/*", "api_base": f"{fake.url}/v1", "api_key": "k"}
    path.write_text(yaml.safe_dump({"model_list": [{"model_name": "openai/*", "litellm_params": params}]}))
    model = Picker(path, environment={})
    fake.faults.append(Fault(status=404))
    for _ in range(2):
        with pytest.raises(ModelRefused, match="not found"):
            await model.complete(request().model_copy(update={"model": "openai/retired"}))
    assert len(fake.calls) == 1
    assert (await model.complete(request().model_copy(update={"model": "openai/gpt-5.4"}))).content
    await model.close()


async def test_a_refusal_is_an_event_and_other_workers_take_it(
    fake: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.url}/v1")
    agent = create_agent("gpt-5.4", agent_id="poet")
    settings = load_settings(tmp_path, store="memory", max_attempts=1)
    async with build_mesh(settings, project=tmp_path, agents=[agent]) as mesh:
        seen: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        mesh.runtime.listen(topics.MESH, seen.set_result, ("deployment.refused",))
        fake.faults.append(Fault(status=401))
        await mesh.get(Tasks).submit(TaskRequest(agent_id="poet", payload={"text": "Sing."}))
        event = await asyncio.wait_for(seen, 60)
        assert event.payload["deployment"] == "gpt-5.4/openai/gpt-5.4"
        assert (event.payload["seconds"], event.payload["status"]) == (5, 401)
        assert event.payload["error"]["type"] == "Unauthorized"


def of_task(task_id: str) -> ModelRequest:
    return request().model_copy(update={"context": CallContext(task_id=task_id)})


def of_client(opening: str) -> ModelRequest:
    """The later call of a client's conversation, which has no task."""
    roles: tuple[tuple[Literal["user", "assistant"], str], ...] = (("user", opening), ("assistant", "Well."))
    messages = tuple(ChatMessage(role=role, content=content) for role, content in roles)
    return ModelRequest(messages=messages, user="llm-service")


@pytest.mark.parametrize("made", [of_task, of_client])
@pytest.mark.parametrize("allowed_fails", [0, 3])
async def test_errors_that_one_history_causes_leave_the_deployment_to_others(
    fake: FakeProvider, made: Callable[[str], ModelRequest], allowed_fails: int
) -> None:
    others = Circuits()  # of another worker
    circuits = Circuits()
    circuits.on_change = others.learn
    params = {"model": "openai/m", "api_base": f"{fake.url}/v1", "api_key": "k"}
    deployments = [{"model_name": "default", "litellm_params": params}]
    config = LiteLLMConfig.from_deployments(deployments, allowed_fails=allowed_fails)
    guarded = GuardedServer(HttpModel(f"{fake.url}/v1", "k"), circuits)
    picker = Picker(config, environment={}, circuits=circuits)
    for model, allowed in ((picker, allowed_fails), (guarded, Policy().allowed_fails)):
        for calls in range(allowed + 1):
            fake.faults.append(Fault(status=500) if calls % 2 else Fault(kind="error", status=500))
            with pytest.raises(ModelUnavailable):
                await model.complete(made("poisoned"), [].append)
        with pytest.raises(AllProvidersDown):  # its own calls are not made
            await model.complete(made("poisoned"))
        assert len(circuits.open()) == 1 and not others.open()
        assert (await model.complete(made("well"))).content
        circuits.close(lambda _: True)
        await model.close()


def answered_500() -> ModelUnavailable:
    error = ModelUnavailable("It answered 500")
    error.answered = 500
    return error


def test_many_histories_that_fail_while_others_succeed_open_no_circuit() -> None:
    circuits = Circuits()
    for _ in range(5):
        for task_id in ("p1", "p2", "p3", "p4", "p5"):
            for _ in range(2):
                with pytest.raises(ModelUnavailable), circuits.call("d", request=of_task(task_id)):
                    raise answered_500()
            assert not circuits.left_seconds("d", of_task("well"))
            with circuits.call("d", request=of_task("well")):
                pass


def test_errors_of_two_tasks_open_the_circuit_for_all() -> None:
    circuits = Circuits()
    for task_id in ("t1", "t2"):
        assert not circuits.left_seconds("d", of_task("another"))
        for _ in range(3):
            with pytest.raises(ModelUnavailable), circuits.call("d", request=of_task(task_id)):
                raise answered_500()
    assert circuits.left_seconds("d", of_task("another"))


def test_a_probe_of_the_history_that_failed_before_lets_another_probe() -> None:
    circuits = Circuits()
    told = list[str]()
    circuits.on_change = lambda event_type, change: told.append(f"{event_type} {change.seconds > 0}")
    for task_id in ("other", "poisoned"):
        with pytest.raises(ModelUnavailable), circuits.call("d", AT_ONCE, request=of_task(task_id)):
            raise answered_500()
    with pytest.raises(ModelUnavailable), circuits.call("d", AT_ONCE, request=of_task("poisoned")):
        raise answered_500()  # a probe
    assert not circuits.left_seconds("d", of_task("well"))
    with circuits.call("d", AT_ONCE, request=of_task("well")):
        pass
    assert not circuits.left_seconds("d", of_task("well"))


class HalfBroken(FakeProvider):
    """Answers 500 to all that one agent asks, as a server that cannot parse the history of its task."""

    def refusal_of(self, body: dict[str, Any]) -> web.Response | None:
        if body["user"] != "poisoned":
            return None
        return web.json_response({"error": {"code": 500, "message": "Failed to parse"}}, status=500)


async def test_a_task_whose_history_a_server_cannot_read_holds_up_no_other_agent(tmp_path: Path) -> None:
    async with HalfBroken() as fake:
        agents = [create_agent("default", agent_id=agent_id) for agent_id in ("poisoned", "well")]
        models = {"base_url": fake.url, "park_seconds": 0.05, "max_park_seconds": 0.1}
        settings = load_settings(tmp_path, store="memory", models=models)
        async with build_mesh(settings, project=tmp_path, agents=agents) as mesh:
            tasks = mesh.get(Tasks)
            await tasks.submit(TaskRequest(agent_id="poisoned", payload={"text": "Sing."}))
            async with asyncio.timeout(60):
                while len(fake.calls) < 7:  # its third round of tries
                    await asyncio.sleep(0.01)
            receipt = await tasks.submit(TaskRequest(agent_id="well", payload={"text": "Sing."}))
            async with asyncio.timeout(60):
                assert (await tasks.outcome(receipt.task_id)).success
            assert mesh.get(Deployments).left_alone()  # by the one task
