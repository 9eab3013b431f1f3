"""The agents for services at work: done, failed, mistaken, denied, told lies."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from meshwright import Agent
from meshwright.agents.loader import load_agents
from meshwright.core.messages import Outcome
from meshwright.engine.events.inbox import Question
from meshwright.parts.stack.machine import Ports
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for
from meshwright.testing.mesh import Reply
from tests.support.kube_cluster import running_cluster
from tests.support.metrics_services import alertmanager
from tests.support.ops_worlds import (
    GONE,
    AlertWorld,
    KubeWorld,
    ProxyWorld,
    World,
    argocd_world,
    caddy_with_a_server,
    dns_world,
)
from tests.support.services import Services

ROOT = Path(__file__).parents[3]
WORLDS = [
    "argocd",
    "dns",
    pytest.param("proxy", marks=pytest.mark.needs("caddy")),
    pytest.param("alerts", marks=pytest.mark.needs("prometheus-alertmanager")),
    pytest.param(
        "kube",
        marks=[
            pytest.mark.soak("the server takes minutes to build"),
            pytest.mark.needs("kubectl", "etcd", "openssl"),
        ],
    ),
]


@pytest.fixture(scope="module")
def classes() -> dict[str, type[Agent]]:
    return {agent.agent_id: agent for agent in load_agents(ROOT / "actors")}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, Ports]]:
    ports, services = Ports(), Services(tmp_path_factory.mktemp("ops"), {})
    try:
        yield services, ports
    finally:
        services.close()
        ports.close()


@pytest.fixture(scope="module")
def caddy_url(services: tuple[Services, Ports]) -> str:
    return caddy_with_a_server(*services)


@pytest.fixture(scope="module")
def alertmanager_url(services: tuple[Services, Ports]) -> str:
    return alertmanager(*services)


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeWorld]:
    with running_cluster(tmp_path_factory.mktemp("kube")) as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}})
        yield KubeWorld(cluster)


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "proxy":
        proxy = ProxyWorld(request.getfixturevalue("caddy_url"))
        await proxy.reset()
        yield proxy
    elif request.param == "alerts":
        alerts = AlertWorld(request.getfixturevalue("alertmanager_url"))
        await alerts.reset()
        yield alerts
    elif request.param == "kube":
        kube = request.getfixturevalue("kube")
        kube.move(kube.address)
        kube.reset()
        yield kube
    else:
        async with argocd_world() if request.param == "argocd" else dns_world() as opened:
            yield opened


class Job:
    """A task of the agent of a world, whose model follows a script."""

    def __init__(self, mesh: MeshUnderTest, world: World) -> None:
        self.mesh, self.world = mesh, world
        assert isinstance(mesh.model, ScriptedModel)
        self.model = mesh.model

    async def begin(self, *replies: Reply) -> None:
        self.model.replies(*replies)
        receipt = await self.mesh.submit(capability=self.world.capability, payload={"text": "Do it."})
        assert receipt.dispatched_to == self.world.agent_id
        self.task_id = receipt.task_id

    async def asked(self) -> Question:
        [question] = await self.mesh.questions()
        return question

    async def outcome(self) -> Outcome:
        return await self.mesh.outcome(self.task_id)

    def results(self) -> list[str]:
        """The results of tools that the model has read in the end."""
        messages = self.model.requests[-1].messages
        return [str(message.content) for message in messages if message.role == "tool"]


@pytest.fixture
async def job(world: World, classes: dict[str, type[Agent]]) -> AsyncIterator[Job]:
    async with mesh_for(classes[world.agent_id], project=ROOT, **world.tables) as mesh:
        yield Job(mesh, world)


async def test_change_is_shown_approved_and_made_once(job: Job) -> None:
    await job.begin(job.world.read, await job.world.change(), "It is done.")
    question = await job.asked()
    assert job.world.shows(question.subject["effect"])
    assert await job.world.changes() == []
    await job.mesh.answer(question, {"approve": True})
    outcome = await job.outcome()
    assert (outcome.text, outcome.changed) == ("It is done.", True)
    assert len(await job.world.changes()) == 1


async def test_denied_change_is_not_made_and_the_model_learns_why(job: Job) -> None:
    await job.begin(await job.world.change(), "It was denied.")
    await job.mesh.answer(await job.asked(), {"approve": False, "reason": "not today"})
    outcome = await job.outcome()
    assert (outcome.text, outcome.changed, await job.world.changes()) == ("It was denied.", False, [])
    assert "not today" in job.results()[-1]


async def test_mistaken_calls_are_refused_before_a_person_is_asked(job: Job) -> None:
    await job.begin(*job.world.wrong, "I cannot.")
    outcome = await job.outcome()
    assert (outcome.text, await job.world.changes()) == ("I cannot.", [])
    assert len(job.results()) == len(job.world.wrong) and all("error" in result for result in job.results())
    assert job.mesh.events("approval.requested") == []


async def test_orders_in_what_is_read_change_nothing_without_a_person(job: Job) -> None:
    await job.begin(job.world.read, await job.world.change(), "I was told to.")
    question = await job.asked()
    assert "IGNORE" in job.results()[0] and await job.world.changes() == []
    assert job.world.shows(question.subject["effect"]) and question.subject["why"]
    await job.mesh.answer(question, {"approve": False, "reason": "nobody asked for it"})
    outcome = await job.outcome()
    assert (outcome.outside, outcome.changed, await job.world.changes()) == (True, False, [])


async def test_effect_that_is_another_after_the_approval_is_not_made(job: Job) -> None:
    await job.begin(await job.world.change(), "It is another by now.")
    question = await job.asked()
    await job.world.meddle()
    await job.mesh.answer(question, {"approve": True})
    assert (await job.outcome()).text == "It is another by now."
    assert await job.world.changes() == []
    assert "error" in job.results()[-1]


async def test_service_that_is_away_is_told_and_nothing_is_changed(
    world: World, classes: dict[str, type[Agent]]
) -> None:
    change = await world.change()
    world.move(GONE)
    async with mesh_for(classes[world.agent_id], project=ROOT, **world.tables) as mesh:
        job = Job(mesh, world)
        await job.begin(world.read, change, "The service is away.")
        outcome = await job.outcome()
        assert (outcome.text, outcome.changed) == ("The service is away.", False)
        assert all(world.away in result for result in job.results()) and len(job.results()) == 2
        assert mesh.events("approval.requested") == []
    assert await world.changes() == []
