"""Drives the turns of one actor without a host: state in, effects out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from meshwright.core.encoding import decode, encode
from meshwright.core.messages import Dispatch, Outcome, ScoreCard, Task
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message
from meshwright.engine.kernel.turns import ActorKind, Commit, take_turn

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Driven:
    def __init__(self, kind: ActorKind, actor_id: str) -> None:
        self.kind = kind
        self.ref = ActorRef(kind.type, actor_id)
        self.head = ActorRecord()
        self.now = NOW
        self.commits: list[Commit] = []

    def take(self, method: str, body: Any = None) -> Commit:
        body = encode(body) if isinstance(body, Dispatch) else body  # it comes by the bus, as JSON
        message = Message(f"m{len(self.commits)}", self.ref, method, body)
        head = ActorRecord.decode(self.head.encode())
        commit = take_turn(
            self.kind, self.kind.activate(self.ref, head), head, message, self.now, remember=False
        )
        commit.events = [event.plain() for event in commit.events]
        commit.sends = [replace(message, body=decode(encode(message.body))) for message in commit.sends]
        commit.records = [replace(record, value=decode(encode(record.value))) for record in commit.records]
        self.commits.append(commit)
        self.head = commit.record
        return commit

    @property
    def state(self) -> Any:
        return self.kind.decode_state(self.head.state)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def a_task(task_id: str = "t1", **fields: Any) -> Task:
    given: dict[str, Any] = {
        "task_id": task_id,
        "capability": "general-query",
        "payload": {"text": "hello"},
        "thread_id": task_id,
        "created_at": NOW,
        "deadline_at": NOW + timedelta(seconds=360),
    }
    return Task(**(given | fields))


def a_dispatch(task: Task, attempt: int = 1, agent_id: str = "helper") -> Dispatch:
    card = ScoreCard(agent_id=agent_id, capability=task.capability, score=1, weight=1, health=1, success=1)
    return Dispatch.wrap(task, attempt=attempt, agent_id=agent_id, score_card=card)


def an_outcome(task_id: str = "t1", status: str = "succeeded", **fields: Any) -> Outcome:
    given: dict[str, Any] = {
        "task_id": task_id,
        "agent_id": "helper",
        "status": status,
        "success": status == "succeeded",
        "completed_at": NOW,
    }
    return Outcome(**(given | fields))


def types_of(commit: Commit) -> list[str]:
    return [event.event_type for event in commit.events]
