"""Webhooks and channels, as the client and the commands show them."""

from __future__ import annotations

from meshwright.core.display import Column, Document, Resource, dollars


def _task(task: Document) -> str:
    """A rule in a line: `event=issues action=opened -> api-coder, $0.5000, comment`."""
    match = " ".join(f"{path}={'|'.join(patterns)}" for path, patterns in task["match"].items())
    about = [
        task["agent_id"] or f"best for {task['capability']}",
        "" if task["budget_usd"] is None else dollars(task["budget_usd"]),
        "" if task["reply"] == "none" else task["reply"],
    ]
    return f"{match or 'all'} -> {', '.join(filter(None, about))}"


def _makes(source: Document) -> str:
    """The tasks that deliveries become, or the outcomes that are pushed."""
    if source["pushes"]:
        return f"gets {', '.join(source['pushes'])}"
    return "; ".join(map(_task, source["tasks"])) or "events alone"


def _agent(channel: Document) -> str:
    return ", ".join(task["agent_id"] for task in channel["tasks"])


def _state(channel: Document) -> str:
    if not channel["is_active"]:
        return "inactive"
    return {None: "takes messages", True: "connected", False: "not connected"}[channel["connected"]]


WEBHOOKS = Resource(
    "webhooks",
    "/webhooks",
    (
        Column("source", "id"),
        Column("kind", "kind"),
        Column("tenant", "tenant_id", cut=3),
        Column("path", "path", cut=2),
        Column("proved by", "proved_by"),
        Column("makes", write=_makes, cut=1),
    ),
    help="List webhook sources and rules; try a delivery.",
    lists="List the sources with their rules, and where outcomes are pushed. No secret is shown.",
    empty="no sources; [webhooks.sources.NAME] in mesh.toml adds one",
    id="SOURCE",
)
CHANNELS = Resource(
    "channels",
    "/channels",
    (
        Column("channel", "id"),
        Column("kind", "kind"),
        Column("tenant", "tenant_id", cut=3),
        Column("path", "path", cut=2),
        Column("answered by", write=_agent, cut=1),
        Column("state", write=_state),
    ),
    help="List channels, the agents that answer, and whether each is connected.",
    empty="no channels; [channels.NAME] in mesh.toml adds one",
    id="NAME",
)
RESOURCES = (WEBHOOKS, CHANNELS)
