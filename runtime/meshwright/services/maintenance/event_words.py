"""How the events of maintenance read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, local_time

FACTS: Mapping[str, str] = {"mesh.*": "made_at open_tasks last_seq"}
PAYLOADS: Mapping[str, str] = {
    "mesh.held": "made_at, open_tasks, last_seq",
}


def _held(payload: Document, event: Document) -> Sequence[object]:
    if "made_at" not in payload:
        return ("no task begins before: mesh release",)
    return (
        f"the store was restored from a backup of {local_time(payload['made_at'])}: "
        f"its open tasks ({payload['open_tasks']:,}) and new ones begin with: mesh release",
    )


WORDS: Mapping[str, EventWords] = {"mesh.held": EventWords("held", _held)}
