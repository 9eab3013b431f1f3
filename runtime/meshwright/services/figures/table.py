"""The table `agent_figures`: how many tasks each agent got and ended, and its last attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from meshwright.core.encoding import Json, Struct, decode, encode
from meshwright.core.messages import Event, TaskStatus
from meshwright.events.filter import seconds
from meshwright.sql.database import Session

MAX_RECENT = 50  # attempts kept of each agent
_MAX_DURATION_MS = 1e12
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
    """An attempt that has ended: at which unix time, how, and how many microseconds its work took."""

    ended_at: int
    status: str
    worked_us: int

    @property
    def worked_ms(self) -> float:
        """The same in milliseconds."""
        return self.worked_us / 1000


class AgentHistory(NamedTuple):
    """How many events of each type an agent had, and its last attempts, the oldest first."""

    counts: Mapping[str, int]
    recent: Sequence[RecentAttempt]


class _End(Struct):
    """The fields of an outcome that an attempt's row has."""

    status: TaskStatus | None = None
    duration_ms: float = 0.0

    @property
    def worked_us(self) -> int:
        """The duration in whole microseconds; 0 for one that makes no sense."""
        return int(self.duration_ms * 1000) if 0 <= self.duration_ms < _MAX_DURATION_MS else 0


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
            rows[name] = _Row(Counter(decode(counts.encode())), decode(recent.encode()))
        last = dict[str, int]()
        for event in events:
            name = event.agent_id or ""
            row, last[name] = rows[name], event.seq or 0
            if event.event_type == _ATTEMPT_ENDED:
                end = _end_of(event)
                row.recent.append((int(seconds(event.time)), end.status, end.worked_us))
            else:
                row.counts[event.event_type] += 1
        new_rows = [
            (name, last[name], encode(row.counts).decode(), encode(row.recent[-MAX_RECENT:]).decode())
            for name, row in rows.items()
        ]
        session.insert(_INTO, new_rows, then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM agent_figures WHERE last_seq >= ?", (oldest,))


def histories(session: Session) -> dict[str, AgentHistory]:
    """The history of each agent, by its id; under an empty one that of events which name none."""
    return {
        name: AgentHistory(decode(counts.encode()), [RecentAttempt(*end) for end in decode(recent.encode())])
        for name, counts, recent in session.execute(_SELECT).fetchall()
    }


def _end_of(event: Event) -> _End:
    payload = event.payload
    try:
        if isinstance(payload, Json):
            return _End.model_validate_json(payload)
        return _End.model_validate(payload.model_dump() if isinstance(payload, Struct) else payload)
    except (ValueError, TypeError):  # a payload of another shape counts as empty
        return _End()
