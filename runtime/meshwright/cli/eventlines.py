"""One event of the log as a line of text."""

from __future__ import annotations

import json
from typing import Any

from meshwright.cli.client import Document
from meshwright.cli.lines import line_of, short, short_id
from meshwright.cli.tables import local_time

TYPE_WIDTH = 20
PLAIN = (str, int, float)
KNOWN = frozenset({"version", "task_id", "agent_id", "tenant_id"})


def event_line(event: Document) -> str:
    """Its seq, time, type, whose it is, and what it says."""
    whose = [event.get("agent_id") or "", short_id(event["task_id"]) if event.get("task_id") else ""]
    told = line_of(event)
    text = told.text if told else _gist(event.get("payload"))
    parts = [
        f"{event.get('seq') or '':>6}",
        local_time(event["time"]),
        f"{event['event_type']:<{TYPE_WIDTH}}",
        *(part for part in whose if part and part not in text),
        text,
    ]
    return "  ".join(parts).rstrip()


def _gist(payload: Any) -> str:
    """What is told of a payload that has no line of its own."""
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
