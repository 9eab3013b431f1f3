"""The parts of a mesh: ours, in the order in which they join, then those of installed packages.

Each is declared in the `part.py` of its folder, which is imported when the parts are first asked for; all
that it names is imported when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from meshwright.core.display import Resource
from meshwright.core.errors import ConfigError, NotFound
from meshwright.core.part import Part
from meshwright.core.plugins import COMPONENTS, installed

if TYPE_CHECKING:
    from meshwright.core.payloads import Payload

NAMES = (
    "edges.http.part:HTTP",
    "edges.http.part:WATCHDOG",
    "mesh.identity.part:SECRETS",
    "mesh.identity.part:OIDC",
    "parts.stack.part:PART",
    "agents.tools.part:TOOLS",
    "agents.sandbox.part:PART",
    "mesh.orchestration.part:TENANTS",
    "mesh.orchestration.part:PRESENCE",
    "agents.tools.part:APPROVALS",
    "engine.events.part:AUDIT",
    "engine.events.part:TRACING",
    "agents.part:PROMPTS",
    "money.part:PART",
    "parts.keys.part:PART",
    "parts.inbox.part:PART",
    "parts.agent_config.part:PART",
    "parts.llmops.part:PART",
    "parts.page.part:PART",
    "parts.experiments.part:PART",
    "toolsets.part:PART",
    "parts.money.part:PART",
    "models.part:PART",
    "agents.context.part:PART",
    "parts.agent_models.part:PART",
    "parts.conversations.part:PART",
    "parts.mcp_server.part:PART",
    "parts.ag_ui.part:PART",
    "parts.a2a.part:PART",
    "parts.acp.part:PART",
    "parts.mcp.part:PART",
    "agents.skills.part:PART",
    "parts.coding.part:PART",
    "parts.remote.part:PART",
    "parts.external.part:PART",
    "agents.part:AGENTS",
    "engine.events.part:PEOPLE",
    "mesh.orchestration.part:ORCHESTRATION",
    "parts.figures.part:PART",
    "agents.trees.part:PART",
    "agents.run.part:PART",
    "edges.replies.part:PART",
    "edges.sources.part:PART",
    "parts.sinks.part:PART",
    "edges.mqtt.part:PART",
    "edges.publishers.part:PART",
    "parts.schedules.part:PART",
    "parts.evaluations.part:PART",
    "parts.memories.part:PART",
    "parts.maintenance.part:PART",
    "parts.proving.part:PART",
    "parts.retention.part:PART",
    "edges.webhooks.part:PART",
    "edges.channels.part:PART",
    "parts.k8s.part:PART",
)


@cache
def ours() -> tuple[Part, ...]:
    """The parts that every mesh has."""
    places = (name.partition(":") for name in NAMES)
    return tuple(getattr(import_module(f"meshwright.{module}"), part) for module, _, part in places)


def installed_parts() -> list[Part]:
    """The parts of installed packages. Raises ConfigError for one that cannot join."""
    parts: list[Part] = []
    names = {part.name for part in ours()}
    for plugin in installed(COMPONENTS):
        part = plugin.load()
        if not isinstance(part, Part):
            raise ConfigError(
                f"{plugin.package} registers {plugin.value} as a part of a mesh, and it is none",
                remedy='Register a part: PART = Part(__name__, "pager", component="component:Pager")',
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", part.name):
            raise ConfigError(
                f"The part {plugin.value} of {plugin.package} has the name {part.name!r}",
                remedy="A name has lower-case letters, digits and _, like pager",
            )
        if part.name in names:
            raise plugin.taken(part.name)
        names.add(part.name)
        parts.append(part)
    return parts


def event_types() -> Mapping[str, type[Payload]]:
    """The payloads of the events of all parts, by type; `family.*` stands for the other types of a family."""
    from meshwright.core.payloads import by_type  # the help does without

    parts = [part for part in (*installed_parts(), *ours()) if part.events]
    return by_type(kind for part in parts for kind in part.load(part.events))


def resource(name: str) -> Resource:
    """The things of a name that some part keeps. Raises NotFound."""
    resources: dict[str, Resource] = {}
    for part in (*installed_parts(), *ours()):
        if part.resources:
            resources |= {resource.name: resource for resource in part.load(part.resources)}
    if name not in resources:
        remedy = f"There are {', '.join(sorted(resources))}"
        raise NotFound(f"No part of the mesh keeps {name!r}", remedy=remedy)
    return resources[name]
