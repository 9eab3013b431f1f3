"""[schedules], with the schedules of the file."""

from __future__ import annotations

from pydantic import Field

from meshwright.component import Table
from meshwright.kit import Identifier
from meshwright.parts.schedules.times import ScheduleSpec


class ScheduleJob(ScheduleSpec):
    """One of [[schedules.jobs]]: a schedule with its id and its tenant."""

    id: Identifier
    tenant_id: Identifier = "default"


class SchedulesSettings(Table):
    """[schedules]: tasks that are submitted by themselves, at due times."""

    max_per_tenant: int = Field(default=1_000, ge=1, le=100_000)
    """Schedules of a tenant."""
    jobs: tuple[ScheduleJob, ...] = ()
    """Schedules of this file."""
