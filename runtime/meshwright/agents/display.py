"""How agents are shown."""

from __future__ import annotations

from meshwright.core.display import Column, Document, Resource, local_time


def _abilities(agent: Document) -> str:
    if agent.get("problem"):
        return agent["problem"]
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    unmet = agent.get("unmet") or {}
    able = ", ".join(_ability(it) for it in agent.get("capabilities", []) if it["name"] not in unmet)
    names = {reason: ", ".join(name for name in unmet if unmet[name] == reason) for reason in unmet.values()}
    return "; ".join([able] * bool(able) + [f"not {names[reason]}: {reason}" for reason in names])


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] * bool(capability.get("preferred")) + [f"{weight:g}"] * (weight != 1)
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


def _agent_status(agent: Document) -> str:
    if not agent.get("healthy", True):
        return "unhealthy"
    return "degraded" if agent.get("unmet") and agent["status"] == "online" else agent["status"]


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
