"""Events in a list: the text of each, by its type or its plain fields, and those that say nothing new."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from meshwright.core.display import Document, join, printable, short, short_id
from meshwright.core.parts import event_types
from meshwright.core.payloads import find_payload

if TYPE_CHECKING:
    from meshwright.core.events import Event

NOISE = ("trace.spans", "audit.head")
"""Events that only programs read: lists show them if they are asked for by type."""
_TRY = ("wait.ended", "task.resumed", "task.waiting")
_SHOWN_APART = frozenset({"version", "task_id", "agent_id", "tenant_id"})
_event_types = cache(event_types)


def find_tries(events: Iterable[Event]) -> list[int]:
    """The `seq` of those events, oldest first, that tell of a resume which parks again at the same step.

    A task without money or a model logs three of them, which say nothing new.
    """
    tries: list[int] = []
    begun: dict[str | None, list[Event]] = {}
    for event in events:
        if event.event_type in NOISE or not event.task_id:
            continue
        some = begun.pop(event.task_id, [])
        is_next = event.event_type == _TRY[len(some)]
        if is_next and len(some) == len(_TRY) - 1:
            is_next = some[0].fields.get("key") == event.fields.get("key")
        some = [*some, event] if is_next else [event] if event.event_type == _TRY[0] else []
        if len(some) == len(_TRY):
            tries += [event.seq or 0 for event in some]
        elif some:
            begun[event.task_id] = some
    return tries


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
