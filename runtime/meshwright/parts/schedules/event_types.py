"""The events of schedules."""

from __future__ import annotations

from typing import Any

from meshwright.core.payloads import Payload, declared


class ScheduleChanged(
    Payload, type="schedule.created schedule.changed schedule.paused schedule.resumed schedule.deleted"
):
    schedule: dict[str, Any]


class ScheduleRun(
    Payload, type="schedule.started schedule.failed schedule.skipped schedule.missed schedule.queued"
):
    schedule: dict[str, Any]
    run: dict[str, Any]


EVENTS = declared(__name__)
