"""Agents in a mesh that is killed: as they read or edit, wait for a person, and change something."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.parts.stack.machine import Ports
from meshwright.testing import tool_call as call
from tests.support.fake_observers import FakeLoki
from tests.support.fake_research import FakeWorld
from tests.support.killed_mesh import KilledMesh, killed_mesh
from tests.support.kube_cluster import running_cluster
from tests.support.losing_proxy import LosingProxy
from tests.support.metrics_services import alertmanager
from tests.support.ops_worlds import (
    AlertWorld,
    KubeWorld,
    ProxyWorld,
    World,
    argocd_world,
    caddy_with_a_server,
    dns_world,
)
from tests.support.repositories import repository
from tests.support.running_mesh import RunningMesh
from tests.support.scripted_provider import ScriptedProvider
from tests.support.services import Services
from tests.support.shipped_agents import FIX

__all__ = ["killed_mesh"]

READS: dict[str, Sequence[Any]] = {
    "homelab-monitor": [call("query_logs", logql='{app="shop"}')],
    "researcher-agent": [call("docs_search", package="parcel", query="timeout")],
    "cost-tracker": [call("spend")],
}
ON_CODE: dict[str, Sequence[Any]] = {
    "api-coder": [FIX],
    "ui-agent": [call("write", path="page.html", text="<p>Sums</p>\n")],
    "qa-tester": [call("write", path="tests/test_sums.py", text="import unittest\n")],
    "architect-agent": [call("view", path="calc.py")],
    "simple-agent": [],
}
"""Agents that change nothing beyond their tree, each with what it does before it is killed."""
GROUPS = [
    "reading",
    pytest.param("on code", marks=pytest.mark.needs("git")),
    pytest.param(
        "real services",
        marks=[
            pytest.mark.soak("test_ops_scenarios.py has the same services, without a kill"),
            pytest.mark.needs("caddy", "prometheus-alertmanager"),
        ],
    ),
    pytest.param(
        "kube",
        marks=[
            pytest.mark.soak("the server takes minutes to build"),
            pytest.mark.needs("kubectl", "etcd", "openssl"),
        ],
    ),
]


@asynccontextmanager
async def worlds_of(group: str, folder: Path) -> AsyncIterator[list[World]]:
    """The services that the agents of a group change."""
    async with AsyncExitStack() as stack:
        if group == "reading":
            yield [await stack.enter_async_context(opened()) for opened in (argocd_world, dns_world)]
        elif group == "real services":
            ports, services = Ports(), Services(folder, {})
            stack.callback(ports.close)
            stack.callback(services.close)
            proxy = ProxyWorld(caddy_with_a_server(services, ports))
            alerts = AlertWorld(alertmanager(services, ports))
            await proxy.reset()
            await alerts.reset()
            yield [proxy, alerts]
        elif group == "kube":
            folder.mkdir()
            cluster = stack.enter_context(running_cluster(folder))
            cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}})
            kube = KubeWorld(cluster)
            kube.reset()
            yield [kube]
        else:
            yield []


async def submit(running: RunningMesh, agents: Sequence[str]) -> dict[str, str]:
    """Submit a task for each agent, or find it; its id by the agent's."""
    usage = {"cost-tracker": "usage-analysis"}
    tasks = {}
    for agent_id in agents:
        wanted = {"capability": usage[agent_id]} if agent_id in usage else {}
        receipt = await running.client.submit(agent_id, "Do it.", idempotency_key=agent_id, **wanted)
        tasks[agent_id] = receipt.task_id
    return tasks


async def behind(stack: AsyncExitStack, world: World) -> LosingProxy:
    """Put a proxy before the service of a world."""
    proxy = await stack.enter_async_context(LosingProxy(world.address, world.tls))
    world.move(proxy.url)
    return proxy


@pytest.mark.parametrize("group", GROUPS)
async def test_each_change_is_made_once_however_often_the_mesh_is_killed(
    group: str, killed_mesh: Callable[[dict[str, str]], KilledMesh], tmp_path: Path
) -> None:
    only = {"reading": READS, "on code": ON_CODE}.get(group, {})
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ScriptedProvider())
        loki = await stack.enter_async_context(FakeLoki())
        pypi = await stack.enter_async_context(FakeWorld().running())
        worlds = await stack.enter_async_context(worlds_of(group, tmp_path / "services"))
        proxies = [await behind(stack, world) for world in worlds]
        jobs = {world.agent_id: [world.read, await world.change()] for world in worlds}
        provider.follow(jobs | only)
        environment = {
            "LITELLM_BASE_URL": provider.url,
            "LITELLM_API_KEY": "sk-fake",
            "MESH_MODELS__ADAPTER": "http",
            "MESH_TOOLS__OBSERVE__LOKI__URL": loki.url,
            "MESH_TOOLS__RESEARCH__PYPI": pypi,
            "MESH_TREES__CALC__REPOSITORY": str(repository(tmp_path / "calc")),
        }
        for world in worlds:
            environment |= world.environment
        agents = [*jobs, *only]
        after_one = {agent_id: min(1, len(made)) for agent_id, made in {**jobs, **only}.items()}
        provider.holds = after_one
        async with killed_mesh(environment) as mesh:
            tasks = await submit(mesh.running, agents)
            await provider.until_held(*after_one.items())
            provider.holds = {}
            await mesh.kill()
            if worlds:
                await mesh.questions(len(worlds))
                await mesh.kill()
                assert [await world.changes() for world in worlds] == [[]] * len(worlds)
                for proxy in proxies:
                    proxy.lose()
                await mesh.questions(len(worlds))
                await mesh.approve()
                await asyncio.gather(*(proxy.lost.wait() for proxy in proxies))
                await mesh.kill()
            assert await submit(mesh.running, agents) == tasks
            outcomes = {agent_id: await mesh.running.outcome(task_id) for agent_id, task_id in tasks.items()}
            called = await mesh.called()
        assert [outcome["result"] for outcome in outcomes.values()] == [{"text": "Done."}] * len(agents)
        assert [len(await world.changes()) for world in worlds] == [1] * len(worlds)
    made = {(agent_id, one.name) for agent_id, calls in {**jobs, **only}.items() for one in calls}
    assert called == Counter(made)
    assert {agent_id for agent_id, outcome in outcomes.items() if outcome["changed"]} == {*jobs}
