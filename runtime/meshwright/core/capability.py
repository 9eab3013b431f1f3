"""Capabilities of agents, and how agents make themselves known to the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass

from meshwright.core.docstrings import describe_fields
from meshwright.core.ids import Identifier
from meshwright.core.schema_checks import object_schema

LLM_SERVICE = "llm-service"
"""Offers models to callers from outside; calls without a key are made in its name."""
LEFT_OUT = "left_out_tools"
"""The metadata of an agent with the tools that its toolsets do not offer, by toolset and name."""
AgentStatus = Literal["online", "degraded", "offline"]
_AgentKind = Literal["agent", "system"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _without_credentials(url: AnyHttpUrl) -> AnyHttpUrl:
    if url.username or url.password:
        raise ValueError("a health-check URL is shown to everybody and must not hold credentials")
    return url


_HealthCheckUrl = Annotated[AnyHttpUrl, AfterValidator(_without_credentials)]


def _input_schema(source: Any) -> dict[str, Any] | None:
    if source is None:
        return None
    is_model = isinstance(source, type) and issubclass(source, BaseModel)
    return object_schema(source.model_json_schema() if is_model else source)


_InputSchema = Annotated[
    type[BaseModel] | dict[str, Any] | None,
    PlainValidator(_input_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]}),
]


@dataclass(
    frozen=True, config=ConfigDict(extra="forbid", serialize_by_alias=True, json_schema_extra=describe_fields)
)
class Capability:
    """One thing that an agent can do: `Capability("deep-research", weight=0.9, preferred=True)`.

    On the wire `asynchronous` is called `async`.
    Raises pydantic's ValidationError for a value or a setting that does not exist.
    """

    name: Identifier
    """The name that callers ask for."""
    _: KW_ONLY
    weight: float = Field(default=1.0, ge=0, le=1)
    """How well the agent does it, from 0 to 1: a factor of its score."""
    preferred: bool = False
    """Whether the agent wins among equals: its score is multiplied by 1.05."""
    requirements: tuple[str, ...] = ()
    """Things that it needs. If a name is a toolset of the agent (`argocd`, `kube`), the agent scores 0 for
    the capability while that toolset has no settings or is lost."""
    asynchronous: bool = Field(
        default=True, validation_alias=AliasChoices("asynchronous", "async"), serialization_alias="async"
    )
    """Whether its tasks take longer than a caller waits. For people and planners: no score depends on it."""
    estimated_duration_seconds: float | None = Field(default=None, gt=0)
    """About how many seconds a task takes. For people and planners. None: not known."""
    platforms: tuple[str, ...] = ()
    """The platforms that it works on. For people and planners."""
    input_schema: _InputSchema = Field(default=None, exclude_if=lambda schema: schema is None)
    """The form of the whole `payload`: a pydantic model or a JSON schema of at most 16 KB, kept as the JSON
    schema. A task whose payload does not fit is refused, and clients build a form of it."""


class Registration(BaseModel):
    """How an agent makes itself known. `agent_id` is its app-id and names its topic and its model user.

    A `system` part of the mesh is shown among the agents but takes no tasks. The agent scores 0 while one
    of `health_check_urls`, what it depends on, does not answer. `deadline` is how many seconds its tasks may
    take that bring none. `unmet` has why the agent cannot take tasks for some of its capabilities now.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = 1
    agent_id: Identifier
    name: Name
    kind: _AgentKind = "agent"
    capabilities: tuple[Capability, ...] = ()
    health_check_urls: tuple[_HealthCheckUrl, ...] = ()
    deadline: float | None = None
    unmet: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    def left_out_tools(self) -> Iterator[tuple[str, str, str]]:
        """The toolset, name and reason of each tool that its toolsets do not offer, as its metadata say."""
        toolsets = self.metadata.get(LEFT_OUT)
        for toolset, tools in toolsets.items() if isinstance(toolsets, dict) else ():
            for tool, reason in tools.items() if isinstance(tools, dict) else ():
                yield str(toolset), str(tool), str(reason)

    def capability(self, name: str) -> Capability | None:
        """The capability of that name, if the agent has it."""
        return next((capability for capability in self.capabilities if capability.name == name), None)


class AgentInfo(Registration):
    """A registered agent as it is now. `problem` says which dependency fails where it is not `healthy`."""

    status: AgentStatus = "online"
    last_seen: datetime
    healthy: bool = True
    problem: str | None = None
