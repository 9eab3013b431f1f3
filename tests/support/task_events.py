"""The events of a task, as orchestrator and threads tell them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from meshwright.core.events import Event
from meshwright.core.messages import Dispatch, Fault, Outcome, Parent, ScoreCard, Task, Usage
from meshwright.engine.events.tasks import TaskSummary
from tests.support.event_logs import START, LogOnFile, event

CARD = ScoreCard(agent_id="writer", capability="writing", score=1.0, weight=1.0, health=1.0, success=1.0)


def about(task_id: str, event_type: str, payload: Any = None, **fields: Any) -> Event:
    """An event of a task."""
    fields = {"agent_id": "writer", "trace_id": f"{7:032x}", "payload": payload or {}, **fields}
    return event(len(task_id), event_type, task_id=task_id, aggregate_id=f"Orchestrator/{task_id}", **fields)


def accepted(task_id: str, capability: str = "writing", **fields: Any) -> Event:
    payload = {
        "capability": capability,
        "priority": 7,
        "thread_id": f"thread-{task_id}",
        "requested_by": "ann",
        "created_at": START,
        "dispatched_to": "writer",
        "score_card": CARD,
        "parent_task_id": "above",
    }
    return about(task_id, "task.accepted", payload, **fields)


def dispatched(task_id: str, attempt: int = 1, generation: int = 1, agent_id: str = "writer") -> Event:
    task = Task(
        task_id=task_id,
        capability="writing",
        deadline_at=START,
        thread_id=f"thread-{task_id}",
        created_at=START,
        priority=7,
        requested_by="ann",
        generation=generation,
        parent=Parent(actor_type="a", actor_id="b", key="k", task_id="above"),
    )
    payload = Dispatch.wrap(task, attempt=attempt, agent_id=agent_id, score_card=CARD)
    return about(task_id, "task.dispatched", payload, agent_id=agent_id)


def progress(task_id: str, event_type: str, attempt: int = 1, **payload: Any) -> Event:
    return about(task_id, event_type, {"attempt": attempt, "fence": 1, **payload})


def outcome(task_id: str, status: str = "succeeded", **fields: Any) -> Outcome:
    error = None if status == "succeeded" else Fault(type="ToolFailed", message="no such file")
    known: dict[str, Any] = {
        "agent_id": "writer",
        "capability": "writing",
        "success": status == "succeeded",
        "error": error,
        "duration_ms": 12.5,
        "model": "offline",
        "usage": Usage(prompt_tokens=612, completion_tokens=40),
        "cost_usd": 0.25,
        "completed_at": START + timedelta(minutes=5),
    }
    return Outcome(task_id=task_id, status=status, **{**known, **fields})  # type: ignore[arg-type]


def ended(task_id: str, status: str = "succeeded", tenant_id: str = "default", **fields: Any) -> Event:
    return about(task_id, f"task.{status}", outcome(task_id, status, **fields), tenant_id=tenant_id)


def attempt_ended(task_id: str, status: str = "succeeded", **fields: Any) -> Event:
    return about(task_id, "attempt.ended", outcome(task_id, status, **fields), topic="task-results")


async def summary(kept: LogOnFile, events: Sequence[Event]) -> TaskSummary:
    await kept.write(events)
    [item] = (await kept.log.tasks(tenant_id="default")).items
    return item


async def names(kept: LogOnFile, **wanted: Any) -> list[str]:
    """The tasks of a list, two to a page."""
    found: list[str] = []
    cursor = None
    while True:
        page = await kept.log.tasks(**{"tenant_id": "default", "limit": 2, "cursor": cursor, **wanted})
        found += [item.task_id for item in page.items]
        cursor = page.cursor
        if cursor is None:
            return found
