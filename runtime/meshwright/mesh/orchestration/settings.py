"""[orchestration], [presence], [tenants], [people] and [approvals]."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from meshwright.core.ids import ID_PATTERN
from meshwright.core.settings.forms import Size, Table

TenantLimit = Literal["max_open_tasks", "tasks_per_minute", "calls_per_minute", "max_storage", "max_streams"]
"""A limit of a tenant."""


class OrchestrationSettings(Table):
    """[orchestration]: how many tasks may be open, and how often one is attempted."""

    max_open_tasks: int = Field(default=10_000, ge=1, le=10_000_000)
    """Open tasks in the mesh; more from outside get a 429."""
    max_thread_tasks: int = Field(default=1_000, ge=1, le=100_000)
    """Open tasks in one thread."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at a task, each by another agent."""


class PresenceSettings(Table):
    """[presence]: when an agent counts as gone."""

    heartbeat_seconds: float = Field(default=30.0, gt=0)
    """Seconds between heartbeats of an agent."""
    degraded_after_seconds: float = Field(default=60.0, gt=0)
    """Seconds of silence until it is degraded."""
    offline_after_seconds: float = Field(default=120.0, gt=0)
    """Seconds of silence until it is offline."""

    @model_validator(mode="after")
    def _silence_grows(self) -> Self:
        if not self.heartbeat_seconds < self.degraded_after_seconds < self.offline_after_seconds:
            raise ValueError(
                "heartbeat_seconds, degraded_after_seconds and offline_after_seconds must grow in this order"
            )
        return self


class _TenantLimits(Table):
    """[tenants.NAME]: the limits of one tenant; those that are unset are those of [tenants]."""

    max_open_tasks: int | None = Field(default=None, ge=1, le=10_000_000)
    """Open tasks of a tenant. Unset: 95 % of the mesh's."""
    tasks_per_minute: float | None = Field(default=None, ge=1, le=10_000_000)
    """Tasks that a tenant may submit, at each front. Unset: no limit."""
    calls_per_minute: float | None = Field(default=None, ge=1, le=10_000_000)
    """Calls of models over the API. Unset: 60,000."""
    max_storage: Size | None = Field(default=None, ge=1_000_000)
    """Bytes of a tenant's events, such as `500MB`."""
    max_streams: int | None = Field(default=None, ge=1, le=100_000)
    """Event streams and WebSockets of a tenant, at each front. Unset: 200."""


def _is_table(value: Any) -> Any:
    if isinstance(value, (dict, _TenantLimits)):
        return value
    raise ValueError(f"expected a tenant's table, or one of {', '.join(_TenantLimits.model_fields)}")


class TenantsSettings(_TenantLimits):
    """Limits of every tenant, in [tenants.NAME] of one."""

    model_config = ConfigDict(extra="allow")
    calls_per_minute: float | None = Field(default=60_000, ge=1, le=10_000_000)
    max_streams: int | None = Field(default=200, ge=1, le=100_000)
    __pydantic_extra__: dict[str, Annotated[_TenantLimits, BeforeValidator(_is_table)]]  # pyrefly: ignore[bad-override]

    @model_validator(mode="after")
    def _names_are_ids(self) -> Self:
        for name in self.__pydantic_extra__:
            if not re.fullmatch(ID_PATTERN, name):
                raise ValueError(f"a tenant's name has letters, digits, - and _, at most 64: {name[:80]!r}")
        return self

    def limit(self, tenant_id: str, name: TenantLimit) -> float | None:
        """One limit of a tenant; None where it has none."""
        own = self.__pydantic_extra__.get(tenant_id)
        value = None if own is None else getattr(own, name)
        return getattr(self, name) if value is None else value
