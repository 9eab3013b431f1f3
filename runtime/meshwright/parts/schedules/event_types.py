"""The events of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.component import Payload
from meshwright.kit import Document, declared, short, short_id


class ScheduleChanged(
    Payload, type="schedule.created schedule.changed schedule.paused schedule.resumed schedule.deleted"
):
    schedule: dict[str, Any]

    def event_line(self, event: Document) -> Sequence[object]:
        return (self.schedule.get("id", "?"),)


class ScheduleRun(
    Payload, type="schedule.started schedule.failed schedule.skipped schedule.missed schedule.queued"
):
    schedule: dict[str, Any]
    run: dict[str, Any]

    def event_line(self, event: Document) -> Sequence[object]:
        task_id = self.run.get("task_id") if self.run.get("status") == "started" else None
        name = self.schedule.get("id", "?")
        return name, f"task {short_id(task_id)}" if task_id else "", short(self.run.get("reason") or "")


EVENTS = declared(__name__)
