"""One event of the log as a line of text."""

from __future__ import annotations

import json
from typing import Any

from meshwright.cli.client import Document
from meshwright.cli.lines import ended, line_of, short, short_id
from meshwright.cli.tables import clipped, fitted, local_time

NARROW = 120  # columns of a terminal
DATE, NARROW_AGENT = 11, 10  # characters
TYPE_WIDTH, TASK_WIDTH, AGENT_WIDTH = 18, 7, 16
PLAIN = (str, int, float)
KNOWN = frozenset({"version", "task_id", "agent_id", "tenant_id"})


def event_line(event: Document, width: int | None = None) -> str:
    """Its seq, time, type, task and agent, and what it says.

    `width` is that of the terminal, None where nothing is cut. A narrow one has no room for the date.
    """
    narrow = width is not None and width < NARROW
    task = short_id(event["task_id"]) if event.get("task_id") else ""
    agent = event.get("agent_id") or ""
    told = line_of(event)
    parts = [
        f"{event.get('seq') or '':>6}",
        local_time(event["time"])[DATE if narrow else 0 :],
        f"{event['event_type']:<{TYPE_WIDTH}}",
        f"{task:<{TASK_WIDTH}}",
        fitted(agent, NARROW_AGENT).ljust(NARROW_AGENT) if narrow else f"{agent:<{AGENT_WIDTH}}",
        _without(told.text, task, agent) if told else _gist(event),
    ]
    return clipped("  ".join(parts).rstrip(), width)


def _without(text: str, *known: str) -> str:
    """What a line says besides whose it is, which it may begin with."""
    for each in known:
        text = text.removeprefix(each).lstrip() if each else text
    return text


def _gist(event: Document) -> str:
    """What is told of an event that has no line of its own."""
    payload = event.get("payload")
    if event["event_type"] == "attempt.ended" and isinstance(payload, dict):
        return f"{payload.get('status', '')}  {ended(payload, event)}"
    return _gist_of(payload)


def _gist_of(payload: Any) -> str:
    if not isinstance(payload, dict):
        return short(json.dumps(payload, ensure_ascii=False)) if payload else ""
    if isinstance(payload.get("spans"), list):
        return f"{len(payload['spans'])} spans"
    if "capabilities" in payload:
        return ", ".join(str(each.get("name")) for each in payload["capabilities"]) or str(
            payload.get("kind", "")
        )
    told = {name: value for name, value in payload.items() if isinstance(value, PLAIN) and name not in KNOWN}
    return short(" ".join(f"{name}={value}" for name, value in told.items()))
