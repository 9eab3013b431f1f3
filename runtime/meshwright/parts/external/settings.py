"""[external.NAME]: agents whose programs run outside of the mesh and claim their tasks over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from meshwright.component import Table
from meshwright.core.limits import MAX_DEADLINE_SECONDS, Limits
from meshwright.kit import Identifier


class ExternalAgentTable(Table):
    """An agent of the mesh under the name of the table, whose program claims its tasks."""

    capabilities: tuple[Identifier, ...] = ()
    """Its capabilities beside its own name."""
    description: str = "Works on tasks by a program outside of the mesh."
    """The description that people and other agents read."""
    weight: float = Field(default=1.0, ge=0, le=1)
    """The weight of its capabilities: below 1, other agents that have the same are preferred."""
    lease_seconds: float = Field(default=30.0, ge=1, le=3600)
    """Seconds without a request of its program after which the run is free for another claim."""
    max_concurrency: int | None = Field(default=None, ge=1, le=1000)
    """Tasks that programs work on at once. Default: the setting of the mesh."""
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    """Seconds that its tasks may take if callers say nothing. Default: the setting of the mesh."""
    toolsets: tuple[str, ...] = ()
    """Toolsets of the mesh whose tools its program may call."""
    delegates_to: tuple[Identifier, ...] = ()
    """Agents to which its program may delegate."""
    model: str = ""
    """The model or group that it asks if it names none. Default: the default of the mesh."""
    limits: Limits = Limits()
    """Limits of one run."""


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
ExternalSettings = Mapping[_Name, ExternalAgentTable]
"""[external]: a table for each agent."""
