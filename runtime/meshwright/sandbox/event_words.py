"""How the events of the sandbox read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, short


def _refused(payload: Document, event: Document) -> Sequence[object]:
    return (f"{payload['host']}:{payload['port']}", short(payload["reason"]))


WORDS: Mapping[str, EventWords] = {"sandbox.host_refused": EventWords("refused", _refused)}
