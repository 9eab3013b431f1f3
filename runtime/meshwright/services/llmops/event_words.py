"""How the events of the prompt registry read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Document, EventWords, short

REGISTERED, LABELLED, UNLABELLED, DELETED = (
    f"prompt.{what}" for what in ("registered", "labelled", "unlabelled", "deleted")
)
SHARED = "prompt.shared"
"""Tells workers without a database that a front has shared the live versions with them. No log has it."""
FACTS: Mapping[str, str] = {
    REGISTERED: "name digest version author",
    LABELLED: "name label version before",
    UNLABELLED: "name label version",
    DELETED: "name version labels",
}
PAYLOADS: Mapping[str, str] = {
    "prompt.registered": "name, version, digest, author, message",
    "prompt.labelled": "name, label, version, before",
    "prompt.unlabelled": "name, label, version",
    "prompt.deleted": "name, version, labels",
}


def _registered(said: Document, event: Document) -> Sequence[object]:
    return (f"{said['name']} v{said['version']} by {said['author']}", short(said.get("message") or ""))


def _labelled(said: Document, event: Document) -> Sequence[object]:
    before = f", before v{said['before']}" if said.get("before") else ""
    return (f"{said['label']} of {said['name']} is v{said['version']}{before}",)


WORDS: Mapping[str, EventWords] = {
    REGISTERED: EventWords("prompt", _registered),
    LABELLED: EventWords("prompt", _labelled),
    UNLABELLED: EventWords("prompt", lambda said, _: (f"{said['name']} has no {said['label']} any more",)),
    DELETED: EventWords("prompt", lambda said, _: (f"{said['name']} is deleted",)),
}
