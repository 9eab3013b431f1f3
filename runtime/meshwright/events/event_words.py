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


def _recorded(payload: Document, event: Document) -> Sequence[object]:
    return payload["action"], payload["subject"], f"by {payload['caller']['requested_by']}"


def _list_stopped(payload: Document, event: Document) -> Sequence[object]:
    name, seq = payload.get("name", "?"), payload.get("seq", "?")
    return (f"the projection {name!r} stands at event {seq}, mesh status shows it: {payload.get('error')}",)


def _held(payload: Document, event: Document) -> Sequence[object]:
    return f"{', '.join(payload['agents'])} begin no work", payload["reason"]


WORDS: Mapping[str, EventWords] = {
    "audit.recorded": EventWords("", _recorded),
    "projection.failed": EventWords("list", _list_stopped),
    "worker.held": EventWords("worker", _held),
    "worker.begun": EventWords("worker", lambda payload, _: ("begins to work",)),
    "trace.spans": EventWords("", lambda payload, _: (f"{len(payload['spans'])} spans",)),
}
