"""How the last attempts of each agent ended: a projection of the log, which scores start from."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from meshwright.events.tasks import outcome_of
from meshwright.messages import Event
from meshwright.orchestration.faults import counts
from meshwright.sql.database import Session

MAX_OUTCOMES = 20  # kept of each agent and capability

INTO = "agent_outcomes (agent_id, capability, last_seq, recent)"
REPLACE = (
    "ON CONFLICT (agent_id, capability) DO UPDATE SET last_seq = excluded.last_seq, recent = excluded.recent"
)
_SELECT_ONE = "SELECT recent FROM agent_outcomes WHERE agent_id = ? AND capability = ?"
_SELECT_ALL = "SELECT agent_id, capability, recent FROM agent_outcomes"


class OutcomeProjection:
    """The table `agent_outcomes`."""

    name = "outcomes"
    version = 1
    event_types: Collection[str] = ("attempt.ended",)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Count the ends of attempts that say something about their agents."""
        recent: dict[tuple[str, str], tuple[int, str]] = {}
        for event in events:
            outcome = outcome_of(event)
            if outcome is None or not counts(outcome) or not outcome.capability:
                continue
            key = outcome.agent_id, outcome.capability
            before = recent[key][1] if key in recent else _stored(session, key)
            recent[key] = event.seq or 0, (before + ("1" if outcome.success else "0"))[-MAX_OUTCOMES:]
        session.insert(INTO, [(*key, *value) for key, value in recent.items()], then=REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM agent_outcomes WHERE last_seq >= ?", (oldest,))


def recent_outcomes(session: Session, last: int = MAX_OUTCOMES) -> list[tuple[str, str, bool]]:
    """(agent_id, capability, success) of the last attempts, at most 20 of each pair, oldest first."""
    rows = session.execute(_SELECT_ALL).fetchall()
    return [(agent_id, name, mark == "1") for agent_id, name, recent in rows for mark in recent[-last:]]


def _stored(session: Session, key: tuple[str, str]) -> str:
    row = session.execute(_SELECT_ONE, key).fetchone()
    return row[0] if row else ""
