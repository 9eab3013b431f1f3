"""One task as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.cli.client import Document
from meshwright.cli.lines import dollars, fault, printable, score, seconds, short, tokens
from meshwright.cli.tables import local_time
from meshwright.cli.watching import for_terminal

LABEL_WIDTH = 11


def page_of(view: Document) -> str:
    """The task, its attempts, and how it ended; the answer comes last."""
    rows = [f"{label:<{LABEL_WIDTH}} {printable(text)}".rstrip() for label, text in _rows(view)]
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
    yield "events", f"mesh events --task {view['task_id']}"


def _attempt(attempt: Document) -> str:
    parts = [attempt["agent_id"], score(attempt.get("score_card")), fault(attempt.get("error"))]
    return "  ".join(part for part in parts if part)


def _outcome(outcome: Document) -> str:
    parts = [
        outcome["status"],
        seconds(outcome.get("duration_ms")),
        str(outcome.get("model") or ""),
        tokens(outcome.get("usage")),
        dollars(outcome.get("cost_usd", 0)),
        fault(outcome.get("error")),
    ]
    return "  ".join(part for part in parts if part)
