"""The agents for services: what they can do, with which tools, and prompts that name no others."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshwright import Agent
from meshwright.agents.loader import BoundAgent, BoundAgents, load_agents
from meshwright.console.project import shipped_agents
from meshwright.core.errors import NoAgentAvailable
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing import mesh_for

ROOT = Path(__file__).parents[3]
NOWHERE = {"url": "http://127.0.0.1:9"}
TOOLS = {
    "argocd": {"server": NOWHERE},
    "dns": {"cloudflare": {**NOWHERE, "token": "a-token"}},
    "proxy": {"caddy": NOWHERE},
    "firewall": {"nftables": {"command": ["no-such-nft"], "chain": "inet filter mesh"}},
    "observe": dict.fromkeys(("prometheus", "alertmanager", "loki", "grafana"), NOWHERE),
    "research": {"engine": "searxng", "url": "http://127.0.0.1:9"},
    "money": {"litellm_tenant": "default"},
}
KUBE = {"default": {"kubeconfig": "/nowhere", "contexts": ["home"], "namespaces": ["web"]}}
ABILITIES = {
    "argocd-deployer": {"deploy-service": 1.05, "rollback-service": 1.05, "sync-gitops": 1},
    "kubectl-deployer": {
        "debug-pods": 1,
        "inspect-cluster": 1,
        "deploy-service": 0.8,
        "rollback-service": 0.8,
        "cluster-monitoring": 0.5,
    },
    "infra-manager": {"dns-management": 1, "proxy-management": 1, "firewall-management": 1},
    "homelab-monitor": {"cluster-monitoring": 1, "log-analysis": 1, "alert-triage": 1, "debug-pods": 0.6},
    "cost-tracker": {"cost-reporting": 1.05, "usage-analysis": 1, "spend-alerting": 1.05},
    "researcher-agent": {
        "deep-research": 1.05,
        "technical-research": 0.9,
        "market-analysis": 0.8,
        "tech-consultation": 0.5,
    },
    "simple-agent": {"general-query": 1},
}
CHANGES = {
    "argocd-deployer": {"sync_app", "rollback_app", "create_app", "delete_app"},
    "kubectl-deployer": {"kube_apply", "kube_delete", "kube_scale", "kube_restart", "kube_undo"},
    "infra-manager": {
        *("set_record", "delete_record", "route_tunnel", "set_route", "delete_route", "set_firewall_rules")
    },
    "homelab-monitor": {"silence"},
    "cost-tracker": {"set_allowance"},
    "researcher-agent": set(),
    "simple-agent": set(),
}
WORDS = {"take_over", "previous", "prune", "was", "etag"}
"""Names in prompts that are arguments of tools."""
OF_RUNS = {"remember", "recall", "output"}
FILES = {"read_file", "list_files", "view", "search", "run", "git_log"}
WEB = {"fetch_page", "web_search"}


@pytest.fixture(scope="module")
def classes() -> dict[str, type[Agent]]:
    return {agent.agent_id: agent for agent in load_agents(ROOT / "actors")}


@pytest.fixture(scope="module")
def agents(classes: Mapping[str, type[Agent]]) -> BoundAgents:
    """The agents of a mesh that had settings for every service."""

    async def bind() -> BoundAgents:
        async with mesh_for(*classes.values(), project=ROOT, tools=TOOLS, kube=KUBE) as mesh:
            bound = mesh.mesh.get(BoundAgents)
            for agent in bound.values():
                await agent.ready_tools()
            return bound

    return asyncio.run(bind())


def names(bound: BoundAgent) -> set[str]:
    return {*bound.tools} - OF_RUNS


@pytest.mark.parametrize("agent_id", ABILITIES)
def test_agent_scores_for_its_abilities(classes: Mapping[str, type[Agent]], agent_id: str) -> None:
    abilities = classes[agent_id].capabilities
    scores = {ability.name: ability.weight * (1.05 if ability.preferred else 1) for ability in abilities}
    assert scores == ABILITIES[agent_id]


@pytest.mark.parametrize("agent_id", ABILITIES)
def test_prompt_names_the_tools_that_change_something_and_none_that_is_not_there(
    agents: BoundAgents, agent_id: str
) -> None:
    text = (ROOT / "prompts" / f"{agent_id}.prompt").read_text()
    named = set(re.findall(r"`([a-z_]+)`", text))
    known = names(agents[agent_id]) | OF_RUNS | WORDS
    assert named <= known
    assert CHANGES[agent_id] <= named
    assert set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text.partition("\n---\n")[2])) <= known | {"agent_name"}


@pytest.mark.parametrize("agent_id", ABILITIES)
def test_every_tool_that_changes_something_takes_an_approval_that_shows_its_effect(
    agents: BoundAgents, agent_id: str
) -> None:
    changing = {tool.name: tool for tool in agents[agent_id].tools.values() if tool.effect != "read"}
    assert {*changing} - OF_RUNS == CHANGES[agent_id]
    assert all(changing[name].needs_approval for name in CHANGES[agent_id])


async def test_agents_whose_process_ended_may_have_changed_what_their_tools_can(
    classes: Mapping[str, type[Agent]],
) -> None:
    async with mesh_for(*classes.values(), project=ROOT, tools=TOOLS, kube=KUBE) as mesh:
        bound = mesh.mesh.get(BoundAgents)
        may_change = {agent_id: await bound[agent_id].may_change() for agent_id in ABILITIES}
    assert may_change == {agent_id: bool(names) for agent_id, names in CHANGES.items()}


def test_no_agent_reaches_both_the_open_web_and_private_files(agents: BoundAgents) -> None:
    both = [agent_id for agent_id, agent in agents.items() if names(agent) & WEB and names(agent) & FILES]
    assert both == []


@pytest.mark.parametrize(("agent_id", "abilities"), ABILITIES.items())
async def test_ability_has_the_tools_that_it_requires_or_is_left_to_others(
    classes: Mapping[str, type[Agent]], agent_id: str, abilities: Mapping[str, float]
) -> None:
    required = {ability.name for ability in classes[agent_id].capabilities if ability.requirements}
    async with mesh_for(classes[agent_id], project=ROOT) as mesh:
        registry = mesh.mesh.get(Registry)
        [agent] = [agent for agent in registry.agents() if agent.agent_id == agent_id]
        assert {*agent.unmet} == required
        for ability in required:
            with pytest.raises(NoAgentAvailable, match=r"has no tools for it: .* of mesh.toml"):
                await mesh.submit(capability=ability)
    if agent_id not in ("researcher-agent", "cost-tracker", "simple-agent"):
        assert required == {*abilities}


def test_commands_that_only_read_the_files_know_what_the_agents_can_do() -> None:
    declared = {agent_id: agent for agent_id, (agent, _) in shipped_agents().items()}
    for agent_id, abilities in ABILITIES.items():
        assert {ability.name for ability in declared[agent_id].capabilities} == {*abilities}


async def test_two_ways_to_deploy_are_chosen_by_what_there_is(classes: Mapping[str, type[Agent]]) -> None:
    both = (classes["argocd-deployer"], classes["kubectl-deployer"])
    chosen = []
    tools = {"argocd": TOOLS["argocd"]}
    for settings in ({"tools": tools, "kube": KUBE}, {"kube": KUBE}, {"tools": tools}):
        async with mesh_for(*both, project=ROOT, **settings) as mesh:
            chosen.append(mesh.mesh.get(Registry).best("deploy-service"))
    assert [(card.agent_id, card.score) for card in chosen] == [
        ("argocd-deployer", 1.05),
        ("kubectl-deployer", 0.8),
        ("argocd-deployer", 1.05),
    ]


@pytest.mark.parametrize("agent_id", ["architect-agent", "cost-tracker"])
def test_those_who_advise_on_what_runs_can_read_it_and_change_nothing_there(
    agents: BoundAgents, agent_id: str
) -> None:
    monitor = agents["homelab-monitor"].tools.values()
    reading = {tool.name for tool in monitor if tool.effect == "read"} - OF_RUNS
    assert {"kube_get"} < reading <= {*agents[agent_id].tools}
    assert "silence" not in agents[agent_id].tools
