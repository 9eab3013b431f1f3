"""The table `agent_figures`: how many tasks each agent got and ended, and its last attempts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from meshwright.core.encoding import Json, Struct
from meshwright.core.messages import Event
from meshwright.events.filter import seconds
from meshwright.sql.database import Session

MAX_RECENT = 50  # attempts kept of each agent
_ATTEMPT_ENDED = "attempt.ended"
_COUNTED = (
    *("task.accepted", "task.succeeded", "task.failed", "task.cancelled", "task.timed_out"),
    *("task.dead_lettered", "message.dead_lettered"),
)
_SELECT = "SELECT agent_id, counts, recent FROM agent_figures"
_SELECT_SOME = f"{_SELECT} WHERE agent_id"
_INTO = "agent_figures (agent_id, last_seq, counts, recent)"
_REPLACE = (
    "ON CONFLICT (agent_id) DO UPDATE SET "
    "last_seq = excluded.last_seq, counts = excluded.counts, recent = excluded.recent"
)


class RecentAttempt(NamedTuple):
    """An attempt that has ended: at which unix time, how, and how many milliseconds its work took."""

    ended_at: float
    status: str
    worked_ms: float


class AgentHistory(NamedTuple):
    """How many events of each type an agent had, and its last attempts, the oldest first."""

    counts: Mapping[str, int]
    recent: Sequence[RecentAttempt]


class _End(Struct):
    """The fields of an outcome that an attempt's row has."""

    status: str = ""
    duration_ms: float = 0.0


class _Row(NamedTuple):
    counts: Counter[str]
    recent: list[Sequence[object]]


class AgentProjection:
    """The table `agent_figures`."""

    name = "figures"
    version = 1
    event_types: Collection[str] = (_ATTEMPT_ENDED, *_COUNTED)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Count events by agent, and note the ends of attempts; each row is written once."""
        agents = {event.agent_id or "" for event in events}
        rows = {name: _Row(Counter(), []) for name in agents}
        for name, counts, recent in session.select_in(_SELECT_SOME, agents):
            rows[name] = _Row(Counter(json.loads(counts)), json.loads(recent))
        for event in events:
            row = rows[event.agent_id or ""]
            if event.event_type == _ATTEMPT_ENDED:
                end = _end_of(event)
                row.recent.append((round(seconds(event.time), 3), end.status, round(end.duration_ms, 1)))
            else:
                row.counts[event.event_type] += 1
        seq = events[-1].seq or 0
        written = [
            (name, seq, json.dumps(row.counts), json.dumps(row.recent[-MAX_RECENT:]))
            for name, row in rows.items()
        ]
        session.insert(_INTO, written, then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM agent_figures WHERE last_seq >= ?", (oldest,))


def histories(session: Session) -> dict[str, AgentHistory]:
    """The history of each agent, by its id; under an empty one that of events which name none."""
    return {
        name: AgentHistory(json.loads(counts), [RecentAttempt(*end) for end in json.loads(recent)])
        for name, counts, recent in session.execute(_SELECT).fetchall()
    }


def _end_of(event: Event) -> _End:
    payload = event.payload
    try:
        if isinstance(payload, Json):
            return _End.model_validate_json(payload)
        return _End(status=str(payload["status"]), duration_ms=float(payload["duration_ms"]))
    except (ValueError, LookupError, TypeError, AttributeError):  # a payload of another shape counts as empty
        return _End()
