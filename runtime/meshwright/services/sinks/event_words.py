"""How the events of sinks read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, short

DELAYED, REFUSED = "sink.delayed", "sink.refused"
FACTS: Mapping[str, str] = {"sink.*": "sink seq"}
PAYLOADS: Mapping[str, str] = {
    "sink.delayed sink.refused": "sink, seq, reason: it gets that later, or never",
}


def _delayed(said: Document, event: Document) -> Sequence[object]:
    return (f"{said['sink']} gets nothing now, and all of it later", short(said["reason"]))


def _refused(said: Document, event: Document) -> Sequence[object]:
    return (f"{said['sink']} does not take event {said['seq']}", short(said["reason"]))


WORDS: Mapping[str, EventWords] = {
    DELAYED: EventWords("sink", _delayed),
    REFUSED: EventWords("sink", _refused),
}
