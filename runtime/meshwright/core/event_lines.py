"""The text of an event in a list: what its type says of its fields, else those that are plain."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from meshwright.core.display import Document, join, printable, short, short_id
from meshwright.core.parts import event_types
from meshwright.core.payloads import find_payload

_SHOWN_APART = frozenset({"version", "task_id", "agent_id", "tenant_id"})
_event_types = cache(event_types)


def event_word(event: Document) -> str:
    """The word for an event in the timeline of its task; "" for one that is not worth a line there."""
    kind = find_payload(_event_types(), event["event_type"])
    return kind.timeline_word(event["event_type"]) if kind is not None else ""


def event_text(event: Document) -> str:
    """The text of an event beside its type, its task and its agent, which it does not repeat."""
    text = event_gist(event)
    if not event_word(event):
        return text
    for name in (short_id(event["task_id"]) if event.get("task_id") else "", event.get("agent_id")):
        first, _, rest = text.partition(" ")
        text = rest.lstrip() if first == name else text
    return text


def event_gist(event: Document) -> str:
    """The text of an event alone."""
    payload, kind = event.get("payload"), find_payload(_event_types(), event["event_type"])
    if kind is None or not isinstance(payload, dict):
        return _plain(payload)
    try:
        parts = kind.from_payload(payload).event_line(event)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):  # of a third party
        parts = None
    return printable(_plain(payload) if parts is None else join(parts))


def _plain(payload: Any) -> str:
    if not isinstance(payload, dict):
        return short(json.dumps(payload, ensure_ascii=False)) if payload else ""
    plain = (
        f"{name}={value}"
        for name, value in payload.items()
        if isinstance(value, str | int | float) and name not in _SHOWN_APART
    )
    return short(" ".join(plain))
