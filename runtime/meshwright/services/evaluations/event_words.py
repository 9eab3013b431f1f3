"""How the events of evaluations read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, dollars

STARTED, ENDED = "evaluation.started", "evaluation.ended"
FACTS: Mapping[str, str] = {
    STARTED: "evaluation_id items requested_by",
    ENDED: "evaluation_id items failed cost_usd",
}
PAYLOADS: Mapping[str, str] = {
    "evaluation.started": "evaluation_id, items, requested_by",
    "evaluation.ended": "evaluation_id, items, failed, cost_usd",
}


def _ended(said: Document, event: Document) -> Sequence[object]:
    failed = said.get("failed") and f"{said['failed']} failed"
    return (f"{said['evaluation_id']} is done: {said['items']} items", failed, dollars(said.get("cost_usd")))


WORDS: Mapping[str, EventWords] = {
    STARTED: EventWords(
        "", lambda said, _: (f"{said['evaluation_id']}: {said['items']} items by {said['requested_by']}",)
    ),
    ENDED: EventWords("", _ended),
}
