"""An event in one line: in the timeline of its task, and in the log."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

from meshwright.cli.output import clipped, fitted
from meshwright.core.display import Document, EventWords, join, local_time, printable, short, short_id
from meshwright.parts import event_words

_NARROW, _VERY_NARROW = 120, 80  # columns of a terminal
_DATE, _NARROW_AGENT = 11, 10  # characters
_TYPE_WIDTH, _TASK_WIDTH, _AGENT_WIDTH = 18, 7, 16
_SHOWN_APART = frozenset({"version", "task_id", "agent_id", "tenant_id"})
_all_words = cache(event_words)


class Line(NamedTuple):
    """A word for what happened, and the rest."""

    word: str
    text: str


def line_of(event: Document) -> Line | None:
    """The line of an event in the timeline of its task, or None if it is not worth one."""
    words = _words_of(event)
    return Line(words.word, _said(words, event)) if words is not None and words.word else None


def _words_of(event: Document) -> EventWords | None:
    kind, known = event["event_type"], _all_words()
    return known.get(kind) or known.get(f"{kind.partition('.')[0]}.*")


def _said(words: EventWords, event: Document) -> str:
    payload = event.get("payload")
    try:
        return printable(join(words.parts(payload if isinstance(payload, dict) else {}, event)))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return printable(_plain(payload))


def event_line(event: Document, width: int | None = None) -> str:
    """An event of the log: seq, time, type, task and agent, and what it says.

    `width` is that of the terminal, None if nothing is cut. A narrow one has no room for the date, a very
    narrow one none for the agent either.
    """
    narrow = width is not None and width < _NARROW
    task = short_id(event["task_id"]) if event.get("task_id") else ""
    agent = event.get("agent_id") or ""
    line = line_of(event)
    parts = [
        f"{event.get('seq') or '':>6}",
        local_time(event["time"])[_DATE if narrow else 0 :],
        f"{event['event_type']:<{_TYPE_WIDTH}}",
        f"{task:<{_TASK_WIDTH}}",
        fitted(agent, _NARROW_AGENT).ljust(_NARROW_AGENT) if narrow else f"{agent:<{_AGENT_WIDTH}}",
        line.text.removeprefix(task).lstrip().removeprefix(agent).lstrip() if line else _gist(event),
    ]
    if width is not None and width < _VERY_NARROW:
        del parts[4]
    return clipped("  ".join(parts).rstrip(), width)


def _gist(event: Document) -> str:
    words = _words_of(event)
    if words is None or not isinstance(event.get("payload"), dict):
        return _plain(event.get("payload"))
    return _said(words, event)


def _plain(payload: Any) -> str:
    if not isinstance(payload, dict):
        return short(json.dumps(payload, ensure_ascii=False)) if payload else ""
    plain = (
        f"{name}={value}"
        for name, value in payload.items()
        if isinstance(value, str | int | float) and name not in _SHOWN_APART
    )
    return short(" ".join(plain))
