"""Which events are wanted: the one description that queries, tails and replays share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.messages import Event

MAX_LIMIT = 1000
KEYED = (
    "task_id",
    "idempotency_key",
    "aggregate_id",
    "trace_id",
    "agent_id",
    "event_type",
    "topic",
    "tenant_id",
)
"""Fields that the log finds events by; `event_version` only narrows what was found."""
EXACT = (*KEYED, "event_version")


class EventFilter(BaseModel):
    """Events that agree with every field given. Bounds of `seq` are exclusive, those of time inclusive.

    Times without a zone count as UTC. `limit` and `order` (by `seq`) are for queries alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_seq: int | None = Field(default=None, ge=0)
    before_seq: int | None = Field(default=None, ge=0)
    since: datetime | None = None
    until: datetime | None = None
    trace_id: str | None = None
    task_id: str | None = None
    agent_id: str | None = None
    event_type: str | None = None
    event_version: int | None = None
    aggregate_id: str | None = None
    idempotency_key: str | None = None
    topic: str | None = None
    tenant_id: str | None = None
    limit: int = Field(default=100, ge=1, le=MAX_LIMIT)
    order: Literal["asc", "desc"] = "asc"

    def exact(self) -> dict[str, Any]:
        """The fields that an event must hold, and their values."""
        fields = self.__dict__
        return {name: fields[name] for name in EXACT if fields[name] is not None}

    def period(self) -> tuple[float, float]:
        """The first and the last moment, in unix seconds; infinite where there is no bound."""
        since = seconds(self.since) if self.since else float("-inf")
        until = seconds(self.until) if self.until else float("inf")
        return since, until

    @property
    def timed(self) -> bool:
        """Whether there is a bound of time."""
        return self.since is not None or self.until is not None

    def first(self) -> int:
        """The lowest `seq` that fits."""
        return (self.after_seq or 0) + 1

    def last(self, newest: int) -> int:
        """The highest `seq` that fits, in a log that ends with `newest`."""
        return newest if self.before_seq is None else min(newest, self.before_seq - 1)


class Matcher:
    """A filter made ready to judge events one by one, as the log would."""

    def __init__(self, wanted: EventFilter) -> None:
        self._exact = tuple(wanted.exact().items())
        self._before = wanted.before_seq
        self._since, self._until = wanted.period()
        self._timed = wanted.timed

    def __call__(self, event: Event) -> bool:
        """Whether the event is wanted."""
        for name, value in self._exact:
            if getattr(event, name) != value:
                return False
        if self._before is not None and (event.seq or 0) >= self._before:
            return False
        return not self._timed or self._since <= seconds(event.time) <= self._until


def seconds(time: datetime) -> float:
    """A time as unix seconds; one without a zone counts as UTC."""
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
