"""[schedules]: tasks that are submitted at due times."""

from __future__ import annotations

from pydantic import Field

from meshwright.core.messages import Identifier
from meshwright.services.schedules.spec import ScheduleSpec
from meshwright.settings.forms import Table


class ScheduleJob(ScheduleSpec):
    """One of [[schedules.jobs]]: a schedule with its id and its tenant."""

    id: Identifier
    tenant_id: Identifier = "default"


class SchedulesSettings(Table):
    """[schedules]: tasks that are submitted by themselves, at due times."""

    max_per_tenant: int = Field(default=1_000, ge=1, le=100_000)
    """Schedules that a tenant may have."""
    jobs: tuple[ScheduleJob, ...] = ()
    """Schedules that the file declares: tables with id, tenant_id and what `PUT /schedules/{id}` takes. They
    are made, changed and deleted at the start, and by nothing else."""
