"""Schedules, as the client and the commands show them."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, local_time, printable

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def when(schedule: Document) -> str:
    """The rule by which a schedule is due."""
    if schedule.get("cron"):
        return f"{schedule['cron']} ({schedule['zone']})"
    if schedule.get("at"):
        return f"at {local_time(schedule['at'], schedule['zone'])} ({schedule['zone']})"
    return f"every {_interval(schedule)}"


def _interval(schedule: Document) -> str:
    seconds = schedule["every_seconds"]
    unit, size = next((unit, size) for unit, size in _UNITS.items() if seconds % size == 0 or unit == "s")
    return f"{seconds / size:g}{unit}"


def addressee(schedule: Document) -> str:
    """The agent, or the capability, that a schedule's tasks are for."""
    return schedule.get("agent_id") or schedule.get("capability") or ""


def _next(schedule: Document) -> str:
    return local_time(schedule.get("next_due_at"), schedule["zone"])


def _last_run(run: Document | None) -> str:
    return f"{run.get('outcome') or run['status']} {local_time(run['at'])}" if run else ""


def render_result(run: Document) -> str:
    """The task that a run has started, or why it has not."""
    if run["status"] == "started":
        return f"task {run['task_id']}"
    return run.get("reason") or (f"{run['count']:,} due times" if run["count"] > 1 else "")


def _resumed(schedule: Document) -> str:
    due = local_time(schedule.get("next_due_at"))
    return f"resumed: {schedule['id']}; {f'next {due}' if due else 'it has ended'}"


SCHEDULES = Resource(
    "schedules",
    "/schedules",
    (
        Column("schedule", "id"),
        Column("status", "status"),
        Column("when", write=when, cut=2),
        Column("next", write=_next),
        Column("agent", write=addressee, cut=3),
        Column("last run", "last_run", _last_run, cut=1),
    ),
    help="""List schedules, make them, pause, resume and run them.

    A schedule submits a task at its due times, while the mesh runs.
    """,
    lists="List schedules with their next due time and the result of the last.",
    empty="there are no schedules; mesh schedules create makes one",
    verbs=(
        Verb(
            "pause",
            "Run nothing until it is resumed. Due times that pass meanwhile are missed.",
            lambda schedule: f"paused: {schedule['id']}",
            path="/pause",
        ),
        Verb(
            "resume", "Go on, and make up for what was missed as --catch-up says.", _resumed, path="/resume"
        ),
        Verb(
            "run",
            "Run it now, whatever is open; its due times stay as they are.",
            lambda run: f"{run['status']}: {printable(render_result(run))}",
            path="/run",
            succeeded=lambda run: run["status"] == "started",
        ),
        Verb(
            "delete",
            "Delete a schedule. Tasks that it has started go on.",
            lambda schedule: f"deleted: {schedule['id']}",
            method="DELETE",
        ),
    ),
)
RESOURCES = (SCHEDULES,)
