"""The lines of events in lists: sentences in place of raw fields, and no time that depends on a zone."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.core.event_lines import event_text

TASK = "01M8D151KM2F066H8W8N1KBPZR"
BUDGET = {"budget": "day", "scope": "tag", "key": "night", "limit_usd": "5", "window": "day"}
SPENT = {"spent_usd": "4", "reserved_usd": "0.5", "on_empty": "ask"}
STARTED = {"status": "started", "task_id": TASK}
LINES: list[tuple[str, dict[str, Any], str]] = [
    ("task.started", {"attempt": 1, "fence": 1, "owner": "w", "code": "c"}, "attempt 1"),
    ("task.resumed", {"attempt": 1, "fence": 3}, "attempt 1  claim 3"),
    ("task.waiting", {"kind": "timer", "due_at": "2030-01-01T15:00:00Z"}, "for timer, goes on 3 h later"),
    ("task.dead_lettered", {"capability": "c"}, "no agent took it for c"),
    ("task.dead_lettered", {"tried": ["a"], "error": {"type": "E", "message": "m"}}, "tried by a  E: m"),
    ("model.retried", {"delay_seconds": 0.25, "step": 2}, "step 2 is tried again after 0.25 s"),
    (
        "budget.exceeded",
        {**BUDGET, **SPENT},
        "day of tag night: $4.0000 of $5.0000 a day spent, $0.5000 reserved  ask",
    ),
    ("budget.raised", {**BUDGET, "amount_usd": "1"}, "day of tag night  by $1.0000 to $5.0000"),
    (
        "allowance.set",
        {"scope": "agent", "of": "a", "limit_usd": 5, "window": "total"},
        "agent a  $5.0000 in all",
    ),
    ("key.created", {"key_id": TASK, "roles": ["viewer"]}, "key …1KBPZR  viewer"),
    ("schedule.paused", {"schedule": {"id": "daily"}}, "daily"),
    ("schedule.started", {"schedule": {"id": "daily"}, "run": STARTED}, "daily  task …1KBPZR"),
    (
        "webhook.received",
        {"source": "github", "event": "push", "delivery": "d"},
        "github: push d  tasks none",
    ),
    ("board.issue_opened", {"source": "s", "repository": "a/b", "number": 7, "title": "T"}, "s: a/b #7  T"),
    ("agent_config.changed", {"agent_id": "a", "changed": ["llm_model"]}, "a  llm_model"),
]


@pytest.mark.parametrize(("event_type", "payload", "line"), LINES)
def test_a_line_says_what_happened(event_type: str, payload: dict[str, Any], line: str) -> None:
    event = {"event_type": event_type, "time": "2030-01-01T12:00:00Z", "task_id": None, "payload": payload}
    assert event_text(event) == line


def test_a_line_of_an_event_without_its_fields_is_no_error() -> None:
    for event_type, _, _ in LINES:
        event = {"event_type": event_type, "time": "2030-01-01T12:00:00Z", "task_id": None, "payload": {}}
        assert "=" not in event_text(event)
