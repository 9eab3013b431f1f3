"""How the events of tasks, attempts and waits read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from meshwright.core.display import (
    Document,
    EventWords,
    dollars,
    fault,
    finish,
    local_time,
    number,
    score,
    seconds,
    short,
    short_id,
)

SCORED = "task.scored"
"""The type of the event of a score that a caller gives a task."""
_OUTCOME = (
    "model success status capability cost_usd usage duration_ms completed_at finish_reason limit prompt"
)
FACTS: Mapping[str, str] = {
    "task.*": f"{_OUTCOME} generation begin priority requested_by created_at dispatched_to score_card owner "
    "parent_task_id forked_from key kind child_task_id may_answer due_at expires_at on_empty",
    SCORED: "name value by",
    "attempt.*": f"{_OUTCOME} fault",
    "wait.*": "key kind how answered_by",
    "work.*": "current owner most",
    "tenant.*": "limit setting refused",
}
PAYLOADS: Mapping[str, str] = {
    "task.accepted": "capability, priority, thread_id, requested_by, created_at, dispatched_to, score_card, "
    "parent_task_id, after, forked_from, variants",
    "task.dispatched": "task, attempt, agent_id, score_card, others (at most 10 cards, of agents not chosen)",
    "task.started task.resumed": "attempt, fence, owner (run of the worker), code (digest)",
    "task.waiting": "attempt, fence, key (to answer by), kind (person, task, timer, event, provider or "
    "money), asked, subject, child_task_id, answer_schema, may_answer, due_at, expires_at, once (not "
    "idempotent steps), running, repeated",
    "wait.ended": "attempt, fence, key, kind, how (answered, due or expired), answered_by",
    "task.scored": "name, value, comment, by",
    "attempt.ended": "the outcome of an attempt",
    "attempt.failed": "attempt, error, fault (agent, caller, provider or mesh): another may follow",
    "task.redriven": "attempt, fence, lost (dispatch or outcome): the bus had lost it",
    "task.cancelling": "reason",
    "task.retried": "generation, begin (journal or start), thread_id, error",
    "task.succeeded task.failed task.cancelled task.timed_out": "the outcome: the last event of a generation",
    "task.dead_lettered": "tried, error, capability: no attempt is left",
    "work.broke_off": "attempt, fence, error, breaks, most: the process ended",
    "work.discarded": "fence, current: work that no longer owned its task",
    "work.stopping": "task_id, fence, owner: that worker has to stop, not stored",
    "tenant.limited": "limit (setting), refused (how often)",
}


def _accepted(payload: Document, event: Document) -> Sequence[object]:
    priority, thread = payload.get("priority", 5), payload.get("thread_id")
    return (
        short_id(event["task_id"]),
        payload.get("capability"),
        priority != 5 and f"priority {priority}",
        thread not in (None, event["task_id"]) and f"thread {thread}",
        payload.get("after") and f"after task {short_id(payload['after'])}",
        _origin(payload.get("forked_from")),
    )


def _origin(forked_from: Document | None) -> str:
    return f"from step {forked_from['step']} of {short_id(forked_from['task_id'])}" if forked_from else ""


def _dispatched(payload: Document, event: Document) -> Sequence[object]:
    attempt = payload.get("attempt", 1)
    agent = payload.get("agent_id") or event["agent_id"]
    return agent, score(payload.get("score_card")), attempt > 1 and f"attempt {attempt}"


def _retried(payload: Document, event: Document) -> Sequence[object]:
    where = "its journal" if payload.get("begin") == "journal" else "the start"
    return (f"from {where}", f"after {fault(payload.get('error'))}")


def _waiting(payload: Document, event: Document) -> Sequence[object]:
    if child := payload.get("child_task_id"):
        return (f"for task {short_id(child)}, no slot held",)
    if payload.get("kind") == "person":
        return (f"for a person: {short(payload.get('asked', ''))}", "mesh inbox")
    if due_at := payload.get("due_at"):
        what = "next try" if payload.get("kind") in ("provider", "money") else "until"
        with suppress(ValueError, TypeError):  # no time: an event that another program has published
            due_at = local_time(due_at)
        return f"for {payload.get('kind', '?')}, {what} {due_at}", short(payload.get("asked", ""))
    return (f"for {payload.get('key', '')}", short(payload.get("asked", "")))


def _wait_ended(payload: Document, event: Document) -> Sequence[object]:
    by, what = payload.get("answered_by"), payload.get("kind", "?")
    return (f"{payload.get('how', '?')} ({what})", by and f"by {by}")


def _attempt_ended(payload: Document, event: Document) -> Sequence[object]:
    return payload.get("status"), *_ended(payload, event)


def _attempt_failed(payload: Document, event: Document) -> Sequence[object]:
    agent_id = payload.get("agent_id") or event["agent_id"]
    return (f"{payload.get('attempt', '?')} of {agent_id} failed: {fault(payload.get('error'))}",)


def _broke_off(payload: Document, event: Document) -> Sequence[object]:
    return (f"{payload.get('breaks', '?')} of {payload.get('most', '?')}: {fault(payload.get('error'))}",)


def _ended(payload: Document, event: Document) -> Sequence[object]:
    return (
        seconds(payload.get("duration_ms")),
        dollars(payload.get("cost_usd", 0)),
        finish(payload.get("finish_reason")),
        fault(payload.get("error")),
    )


def _scored(payload: Document, event: Document) -> Sequence[object]:
    by = payload.get("by")
    return (
        f"{short(payload['name'])} {number(payload['value'])}",
        by and f"by {short(by)}",
        short(payload.get("comment") or ""),
    )


WORDS: Mapping[str, EventWords] = {
    "task.accepted": EventWords("accepted", _accepted),
    "task.dispatched": EventWords("dispatched", _dispatched),
    "task.retried": EventWords("retried", _retried),
    "task.waiting": EventWords("waiting", _waiting),
    "wait.ended": EventWords("waited", _wait_ended),
    "attempt.ended": EventWords("", _attempt_ended),
    "attempt.failed": EventWords("attempt", _attempt_failed),
    "work.broke_off": EventWords("broke off", _broke_off),
    SCORED: EventWords("scored", _scored),
    "task.cancelling": EventWords("cancelling", lambda said, _: (fault(said.get("reason")),)),
    "task.succeeded": EventWords("succeeded", _ended),
    "task.failed": EventWords("failed", _ended),
    "task.cancelled": EventWords("cancelled", _ended),
    "task.timed_out": EventWords("timed out", _ended),
}
