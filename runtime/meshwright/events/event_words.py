"""How the events of the log itself read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords

FACTS: Mapping[str, str] = {
    "audit.*": "key",
    "loop.*": "seconds tool",
    "projection.*": "name",
    "worker.*": "agents since",
    "store.*": "last_seq lost_until_seq lost_events lost_tasks upgrades tables rows tasks open_tasks",
}
PAYLOADS: Mapping[str, str] = {
    "audit.recorded": "action, subject, caller, details",
    "audit.head": "seq, hash, time, key, signature",
    "certificate.reloaded": "path",
    "certificate.rejected": "path, error",
    "bus.refused": "topic, bytes, begins, error, publisher: a message that is no event",
    "message.dead_lettered": "message, error, expected (false for a defect of Meshwright)",
    "events.pruned": "through: rows up to this seq were deleted",
    "contents.erased": "ranges: their payloads are {erased: true} now",
    "loop.held": "seconds, where, tool, agent_id, task_id: code held the event loop",
    "projection.failed": "name, seq, error",
    "row.unreadable": "error: in place of an altered row",
    "store.upgraded": "upgrades: a new version changed its tables",
    "store.migrated": "source, target, tables, rows, tasks, open_tasks, last_seq",
    "store.reopened": "target",
    "store.loss_accepted": "last_seq, lost_until_seq, lost_events, lost_tasks, replaced",
    "store.loss_noticed": "last_seq, lost_until_seq: the database came back without the events in between",
    "trace.spans": "spans",
    "worker.held worker.begun": "agents, since, reason: a worker begins no task, or begins again",
}


def _recorded(payload: Document, event: Document) -> Sequence[object]:
    return payload["action"], payload["subject"], f"by {payload['caller']['requested_by']}"


def _list_stopped(payload: Document, event: Document) -> Sequence[object]:
    name, seq = payload.get("name", "?"), payload.get("seq", "?")
    return (f"the projection {name!r} stands at event {seq}, mesh status shows it: {payload.get('error')}",)


def _lost(payload: Document, event: Document) -> Sequence[object]:
    first, last = payload.get("last_seq", 0) + 1, payload.get("lost_until_seq", "?")
    return (f"the database came back older: events {first} to {last} are gone, with the tasks in them",)


def _held(payload: Document, event: Document) -> Sequence[object]:
    return f"{', '.join(payload['agents'])} begin no work", payload["reason"]


WORDS: Mapping[str, EventWords] = {
    "audit.recorded": EventWords("", _recorded),
    "projection.failed": EventWords("list", _list_stopped),
    "store.loss_noticed": EventWords("store", _lost),
    "worker.held": EventWords("worker", _held),
    "worker.begun": EventWords("worker", lambda payload, _: ("begins to work",)),
    "trace.spans": EventWords("", lambda payload, _: (f"{len(payload['spans'])} spans",)),
}
