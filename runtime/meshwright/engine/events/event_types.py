"""The events of the log itself, of the store, the workers and the processes of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from meshwright.core import topics
from meshwright.core.display import Document
from meshwright.core.payloads import Fact, Payload, declared


class AuditRecorded(Payload, type="audit.recorded"):
    action: str
    subject: str
    caller: dict[str, Any]
    details: dict[str, Any]

    def event_line(self, event: Document) -> Sequence[object] | None:
        if not self.action:
            return None
        return self.action, self.subject, f"by {self.caller.get('requested_by')}"


class AuditHead(Payload, type="audit.head"):
    seq: int
    hash: str
    time: datetime
    key: Fact[str]
    signature: str


class CertificateReloaded(Payload, type="certificate.reloaded"):
    path: str


class CertificateRejected(Payload, type="certificate.rejected"):
    path: str
    error: str


class BusRefused(Payload, type="bus.refused"):
    """A message that is no event."""

    topic: str
    bytes: int
    begins: str = ""
    error: str
    publisher: str = ""


class MessageDeadLettered(Payload, type="message.dead_lettered"):
    message: dict[str, Any]
    error: Any
    expected: bool
    """false for a defect of Meshwright"""


class EventsPruned(Payload, type="events.pruned"):
    """Rows up to this seq were deleted."""

    through: int


class ContentsErased(Payload, type="contents.erased"):
    """Their payloads are {erased: true} now."""

    ranges: list[tuple[int, int]]


class LoopHeld(Payload, type="loop.held"):
    """Code held the event loop."""

    seconds: Fact[float]
    where: str
    tool: Fact[str | None]
    agent_id: str | None = None
    task_id: str | None = None


class ProjectionFailed(Payload, type="projection.failed", word="list"):
    name: Fact[str]
    seq: int | None
    error: str | None

    def event_line(self, event: Document) -> Sequence[object]:
        name, seq = self.name or "?", "?" if self.seq is None else self.seq
        place = f"the projection {name!r} stands at event {seq}"
        return (f"{place}, mesh status shows it: {self.error}",)


class RowUnreadable(Payload, type="row.unreadable"):
    """In place of an altered row."""

    error: str


class StoreUpgraded(Payload, type="store.upgraded"):
    """A new version changed its tables."""

    upgrades: Fact[list[str]]


class StoreMigrated(Payload, type="store.migrated"):
    source: str
    target: str
    tables: Fact[int]
    rows: Fact[int]
    tasks: Fact[int]
    open_tasks: Fact[int]
    last_seq: Fact[int]


class StoreReopened(Payload, type="store.reopened"):
    target: str


class LossAccepted(Payload, type="store.loss_accepted"):
    last_seq: Fact[int]
    lost_until_seq: Fact[int]
    lost_events: Fact[int]
    lost_tasks: Fact[int]
    replaced: bool


class LossNoticed(Payload, type="store.loss_noticed", word="store"):
    """The database came back without the events in between."""

    last_seq: Fact[int]
    lost_until_seq: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        first, last = self.last_seq + 1, self.lost_until_seq or "?"
        return (f"the database came back older: events {first} to {last} are gone, with the tasks in them",)


class StoreEmptied(Payload, type="store.emptied", word="store"):
    """The state store of Dapr came back with nothing of this mesh; `open_tasks` were in the log then."""

    open_tasks: Fact[int]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"the state store came back empty: the {self.open_tasks:,} open tasks are gone",)


class TraceSpans(Payload, type="trace.spans", topic=topics.TRACES):
    spans: list[Any]

    def event_line(self, event: Document) -> Sequence[object] | None:
        return (f"{len(self.spans)} spans",) if "spans" in event["payload"] else None


class ProcessEvent(
    Payload,
    type="mesh.started mesh.stopped",
    word={"mesh.started": "mesh", "mesh.stopped": "mesh"},
    listed="address (host and port), pid, store: `mesh up` began to serve, or was stopped; a killed one logs "
    "nothing",
):
    """A process of `mesh up` began to serve, or was stopped."""

    address: Fact[str]
    pid: Fact[int]
    store: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        verb = "starts" if event["event_type"] == "mesh.started" else "stops"
        return (f"process {self.pid} {verb} at {self.address}",)


class WorkerHeld(
    Payload, type="worker.held worker.begun", word={"worker.held": "worker", "worker.begun": "worker"}
):
    """A worker begins no task, or begins again."""

    agents: Fact[tuple[str, ...]] = ()
    since: Fact[datetime | None] = None
    reason: str = ""

    def event_line(self, event: Document) -> Sequence[object] | None:
        if event["event_type"] == "worker.begun":
            return ("begins to work",)
        return (f"{', '.join(self.agents)} begin no work", self.reason) if self.reason else None


EVENTS = declared(__name__)
