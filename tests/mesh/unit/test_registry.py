"""The registry knows who is there, and chooses the best that may be chosen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from pydantic import ValidationError

from meshwright.core.capability import Capability, Registration
from meshwright.core.errors import NoAgentAvailable, NotFound
from meshwright.mesh.orchestration.presence import HealthProbes
from meshwright.mesh.orchestration.registry import Registry

START = datetime(2030, 1, 1, tzinfo=UTC)


class StoppedClock:
    """Time stands until the test moves it."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    async def sleep_until(self, when: datetime) -> None:
        raise AssertionError("the registry does not sleep")


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def registry(clock: StoppedClock) -> Registry:
    return Registry(clock)


def agent(agent_id: str, *capabilities: Capability, **fields: object) -> Registration:
    return Registration.model_validate(
        {"agent_id": agent_id, "name": agent_id, "capabilities": capabilities, **fields}
    )


def ranked(registry: Registry, capability: str) -> list[str]:
    return [card.agent_id for card in registry.scores(capability)]


def test_the_highest_score_is_chosen(registry):
    registry.register(agent("weak", Capability("research", weight=0.5)))
    registry.register(agent("strong", Capability("research", weight=0.9)))
    assert registry.best("research").agent_id == "strong"
    assert ranked(registry, "research") == ["strong", "weak"]


def test_equal_scores_are_ordered_by_name(registry):
    for name in ("b", "c", "a"):
        registry.register(agent(name, Capability("research")))
    assert ranked(registry, "research") == ["a", "b", "c"]


def test_failures_lower_an_agent_and_success_raises_it_again(registry):
    registry.register(agent("a", Capability("research")))
    registry.register(agent("b", Capability("research", weight=0.9)))
    registry.record("a", "research", success=False)
    assert registry.best("research").agent_id == "b"
    for _ in range(20):
        registry.record("a", "research", success=True)
    assert registry.best("research").agent_id == "a"


def test_what_an_agent_does_elsewhere_does_not_count(registry):
    registry.register(agent("a", Capability("research"), Capability("writing")))
    registry.record("a", "writing", success=False)
    assert registry.best("research").success == 1.0


def test_an_agent_that_only_failed_is_still_better_than_none(registry):
    registry.register(agent("a", Capability("research")))
    registry.record("a", "research", success=False)
    assert registry.best("research").score == 0


def test_excluded_agents_are_not_chosen_and_the_reason_says_so(registry):
    registry.register(agent("a", Capability("research")))
    with pytest.raises(NoAgentAvailable, match="a has failed at it"):
        registry.best("research", exclude={"a"})


def test_an_agent_given_for_a_capability_is_told_apart(registry):
    registry.register(agent("writer", Capability("writing")))
    with pytest.raises(NoAgentAvailable, match="that is an agent: name it as agent_id"):
        registry.best("writer")


def test_an_unknown_capability_is_refused_with_what_is_known(registry):
    registry.register(agent("a", Capability("research"), Capability("writing")))
    with pytest.raises(NoAgentAvailable, match="known are research, writing") as caught:
        registry.best("painting")
    assert caught.value.field == "capability"
    assert caught.value.status == 503


def test_an_empty_mesh_says_that_nobody_is_registered(registry):
    with pytest.raises(NoAgentAvailable, match="no agent is registered"):
        registry.best("research")


def test_an_agent_can_be_named(registry):
    registry.register(agent("a", Capability("research")))
    registry.register(agent("b", Capability("research", weight=0.1), Capability("writing")))
    assert registry.best("research", agent_id="b").agent_id == "b"
    assert registry.best("writing", agent_id="b").capability == "writing"
    assert registry.best(None, agent_id="b").capability == "research"


def test_a_named_agent_must_have_the_capability(registry):
    registry.register(agent("a", Capability("research")))
    with pytest.raises(NoAgentAvailable, match="it has research"):
        registry.best("writing", agent_id="a")


def test_an_unknown_agent_is_not_found(registry):
    with pytest.raises(NotFound, match="no agent 'ghost' is registered"):
        registry.best("research", agent_id="ghost")
    with pytest.raises(NotFound):
        registry.heartbeat("ghost")


def test_a_capability_in_place_of_an_agent_is_named_as_such(registry):
    registry.register(agent("a", Capability("research")))
    with pytest.raises(NotFound, match="it is a capability"):
        registry.best("research", agent_id="research")
    with pytest.raises(NotFound):
        registry.find("ghost")


def test_a_part_of_the_mesh_is_shown_but_takes_no_tasks(registry):
    registry.register(agent("event-logger", Capability("logging"), kind="system"))
    assert [shown.agent_id for shown in registry.agents()] == ["event-logger"]
    assert registry.capabilities() == []
    with pytest.raises(NoAgentAvailable):
        registry.best("logging")
    with pytest.raises(NotFound, match="takes no tasks"):
        registry.best(None, agent_id="event-logger")


def test_a_late_heartbeat_does_not_turn_back_the_clock(registry):
    registry.register(agent("a"))
    registry.heartbeat("a", START - timedelta(seconds=100))
    assert registry.agents()[0].last_seen == START


def test_a_degraded_agent_comes_after_an_equal_one_that_is_online(registry, clock):
    registry.register(agent("a", Capability("research")))
    clock.time += timedelta(seconds=90)
    registry.register(agent("b", Capability("research")))
    registry.refresh()
    assert ranked(registry, "research") == ["b", "a"]


def test_registering_again_replaces_what_was_known(registry):
    registry.register(agent("a", Capability("research")))
    registry.scores("research")
    registry.register(agent("a", Capability("writing")))
    assert registry.capabilities() == ["writing"]
    assert registry.scores("research") == []


def test_a_wrong_setting_of_a_capability_fails_where_it_is_declared():
    with pytest.raises(ValidationError, match="wieght"):
        Capability("research", wieght=0.5)
    with pytest.raises(ValidationError, match="weight"):
        Capability("research", weight=1.5)
    with pytest.raises(ValidationError, match="pattern"):
        Capability("no blanks")


def test_credentials_in_a_health_check_are_refused():
    with pytest.raises(ValidationError, match="must not hold credentials"):
        agent("a", health_check_urls=["http://me:secret@localhost/"])


def test_a_registration_survives_the_wire():
    capability = Capability("research", asynchronous=False, platforms=("linux",))
    before = agent("a", capability, health_check_urls=["http://localhost:9/health"], metadata={"team": "x"})
    wire = before.model_dump_json()
    assert '"async":false' in wire
    assert Registration.model_validate_json(wire) == before


@asynccontextmanager
async def dependency(answers: list[int]) -> AsyncIterator[str]:
    """A server that gives these statuses in turn, and counts nothing but by their end."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0))

    application = web.Application()
    application.router.add_get("/health", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/health"
    finally:
        await runner.cleanup()


async def test_an_agent_whose_dependency_fails_is_not_chosen_until_it_answers(registry):
    answers = [503, 204]
    async with dependency(answers) as url:
        registry.register(agent("a", Capability("research"), health_check_urls=[url]))
        registry.register(agent("b", Capability("research", weight=0.1)))
        probes = HealthProbes(registry, keep_seconds=0)
        [change] = await probes.probe_all()
        assert (change.agent_id, change.event_type) == ("a", "agent.unhealthy")
        assert registry.best("research").agent_id == "b"
        assert registry.agents()[0].problem == f"{url} answered 503"
        with pytest.raises(NoAgentAvailable, match="answered 503"):
            registry.best("research", agent_id="a")
        [change] = await probes.probe_all()
        assert change.event_type == "agent.recovered"
        assert registry.best("research").agent_id == "a"
        await probes.close()


async def test_one_fresh_answer_serves_every_agent_that_needs_it(registry):
    answers = [200]
    async with dependency(answers) as url:
        registry.register(agent("a", health_check_urls=[url]))
        registry.register(agent("b", health_check_urls=[url]))
        probes = HealthProbes(registry)
        assert await probes.probe_all() == []
        assert await probes.probe_all() == []
        assert answers == []
        await probes.close()


async def test_a_dependency_that_is_gone_counts_as_failed(registry):
    registry.register(agent("a", health_check_urls=["http://127.0.0.1:1/"]))
    probes = HealthProbes(registry)
    await probes.probe_all()
    assert "cannot be reached" in str(registry.agents()[0].problem)
    await probes.close()
