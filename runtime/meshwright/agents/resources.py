"""Agents, as the client and the commands show them."""

from __future__ import annotations

from meshwright.core.display import Column, Document, Resource, local_time


def _abilities(agent: Document) -> str:
    if agent.get("problem"):
        return agent["problem"]
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    return ", ".join(map(_ability, agent.get("capabilities", [])))


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] * bool(capability.get("preferred")) + [f"{weight:g}"] * (weight != 1)
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


def _agent_status(agent: Document) -> str:
    return agent["status"] if agent.get("healthy", True) else "unhealthy"


AGENTS = Resource(
    "agents",
    "/agents",
    (
        Column("agent", "agent_id"),
        Column("status", write=_agent_status),
        Column("last seen", "last_seen", local_time),
        Column("can do", write=_abilities),
    ),
    help="List agents with their capabilities and status.",
    empty="there are no agents; mesh doctor says more",
    need="log",
)
RESOURCES = (AGENTS,)
