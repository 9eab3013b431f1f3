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


@dataclass(frozen=True, config=ConfigDict(extra="forbid", serialize_by_alias=True))
class Capability:
    """One thing that an agent can do: `Capability("deep-research", weight=0.9, preferred=True)`.

    `weight` (0 to 1) says how well, `preferred` wins among equals. Of `requirements`, those that name a
    toolset of the agent (`argocd`, `kube`) must be met: while one has no settings or is lost, the agent
    scores 0 for the capability. `input_schema`, a pydantic model or a JSON schema of at most 16 KB, is the
    form of `payload` as a whole: a task whose payload does not fit is refused, and doors build a form of it.
    It is kept as the JSON schema. The other fields are for people and planners: they change no score.
    On the wire `asynchronous` is called `async`.
    Raises pydantic's ValidationError for a value or a setting that does not exist.
    """

    name: Identifier
    _: KW_ONLY
    weight: float = Field(default=1.0, ge=0, le=1)
    preferred: bool = False
    requirements: tuple[str, ...] = ()
    asynchronous: bool = Field(
        default=True, validation_alias=AliasChoices("asynchronous", "async"), serialization_alias="async"
    )
    estimated_duration_seconds: float | None = Field(default=None, gt=0)
    platforms: tuple[str, ...] = ()
    input_schema: _InputSchema = Field(default=None, exclude_if=lambda schema: schema is None)


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
