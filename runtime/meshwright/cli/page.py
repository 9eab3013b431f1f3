"""One task as a person reads it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from meshwright.cli.client import Document
from meshwright.cli.lines import dollars, fault, finish, printable, score, seconds, short, tokens
from meshwright.cli.tables import local_time
from meshwright.cli.watching import for_terminal

LABEL_WIDTH = 11


def page_of(view: Document, waiting: Document | None, options: str) -> str:
    """The task, its attempts, and how it ended; the answer comes last.

    `waiting` is the payload of the event that says what it waits for, `options` what finds its mesh again.
    """
    found = [*_rows(view), *_waiting(view["task_id"], waiting, options)]
    found.append(("events", f"mesh events --task {view['task_id']}{options}"))
    rows = [f"{label:<{LABEL_WIDTH}} {printable(text)}".rstrip() for label, text in found]
    answer = ((view.get("outcome") or {}).get("result") or {}).get("text")
    return "\n".join([*rows, *(["", for_terminal(answer)] if answer else [])])


def _rows(view: Document) -> Iterator[tuple[str, str]]:
    yield "task", view["task_id"]
    yield "status", view["status"]
    yield "capability", str(view.get("capability") or "")
    yield "request", short((view.get("payload") or {}).get("text") or "")
    if view.get("created_at"):
        yield "created", local_time(view["created_at"])
    for number, attempt in enumerate(view.get("attempts") or [], start=1):
        yield f"attempt {number}", _attempt(attempt)
    if outcome := view.get("outcome"):
        yield "outcome", _outcome(outcome)


def _waiting(task_id: str, waiting: Document | None, options: str) -> Iterator[tuple[str, str]]:
    """What a waiting task wants to know, and what to type; another task's answer comes by itself."""
    if waiting is None:
        return
    if child := waiting.get("child_task_id"):
        yield "waits for", f"task {child}"
        return
    key = str(waiting.get("key"))
    yield "waits for", key
    yield "asked", "  ".join(_asked(waiting))
    yield "answer", f'mesh answer {task_id} {shlex.quote(key)} "..."{options}'


def _asked(waiting: Document) -> Iterator[str]:
    for name, value in waiting.items():
        if name not in ("key", "attempt", "fence") and value not in (None, "", {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield short(text if name == "asked" else f"{name}={text}")


def _attempt(attempt: Document) -> str:
    parts = [attempt["agent_id"], score(attempt.get("score_card")), fault(attempt.get("error"))]
    return "  ".join(part for part in parts if part)


def _outcome(outcome: Document) -> str:
    parts = [
        outcome["status"],
        seconds(outcome.get("duration_ms")),
        str(outcome.get("model") or ""),
        tokens(outcome.get("usage")),
        dollars(outcome.get("cost_usd")),
        finish(outcome.get("finish_reason")),
        fault(outcome.get("error")),
    ]
    return "  ".join(part for part in parts if part)
