"""An event in one line: in the timeline of its task, and in the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from meshwright.cli.output import (
    Document,
    clipped,
    dollars,
    file_line,
    fitted,
    local_time,
    number,
    printable,
    seconds,
    short,
    short_id,
    tokens,
)

_NARROW, _VERY_NARROW = 120, 80  # columns of a terminal
_DATE, _NARROW_AGENT = 11, 10  # characters
_TYPE_WIDTH, _TASK_WIDTH, _AGENT_WIDTH = 18, 7, 16
_PartsOf = Callable[[Document, Document], Sequence[object]]
_SHOWN_APART = frozenset({"version", "task_id", "agent_id", "tenant_id"})


class Line(NamedTuple):
    """A word for what happened, and the rest."""

    word: str
    text: str


def line_of(event: Document) -> Line | None:
    """The line of an event in the timeline of its task, or None if it is not worth one."""
    kind = event["event_type"]
    known = _LINES.get(kind) or _LINES.get(f"{kind.partition('.')[0]}.*")
    if known is None:
        return None
    word, parts_of = known
    return Line(word, printable(_said(parts_of, event)))


def _said(parts_of: _PartsOf, event: Document) -> str:
    payload = event.get("payload")
    try:
        return join(parts_of(payload if isinstance(payload, dict) else {}, event))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return _plain(payload)


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
    payload = event.get("payload")
    if not isinstance(payload, dict):
        return _plain(payload)
    if event["event_type"] in _GISTS:
        return printable(_said(_GISTS[event["event_type"]], event))
    if isinstance(payload.get("spans"), list):
        return f"{len(payload['spans'])} spans"
    if "capabilities" in payload:
        return printable(_said(_registered, event))
    return _plain(payload)


def _plain(payload: Any) -> str:
    if not isinstance(payload, dict):
        return short(json.dumps(payload, ensure_ascii=False)) if payload else ""
    plain = (
        f"{name}={value}"
        for name, value in payload.items()
        if isinstance(value, str | int | float) and name not in _SHOWN_APART
    )
    return short(" ".join(plain))


def join(parts: Sequence[object]) -> str:
    """Those parts of a line that say something."""
    return "  ".join(str(part) for part in parts if part)


def score(card: Any) -> str:
    """A score with its factors: `score 1.05 = weight 1 x health 1 x success 1 x preferred 1.05`."""
    if not isinstance(card, dict) or "score" not in card:
        return ""
    always = [name for name in ("weight", "health", "success") if name in card]
    boosts = [name for name in ("streak", "preferred") if card.get(name, 1) != 1]
    factors = " x ".join(f"{name} {number(card[name])}" for name in [*always, *boosts])
    return f"score {number(card['score'])}" + (f" = {factors}" if factors else "")


def finish(reason: Any) -> str:
    """Why a model's reply ended, if it did not end by itself: `ended by length`."""
    return f"ended by {short(reason)}" if reason not in (None, "stop") else ""


def fault(error: Any) -> str:
    """An error with its type: `ToolFailed: no such file`."""
    if isinstance(error, dict):
        return short(f"{error.get('type', 'error')}: {error.get('message', '')}")
    return short(error or "")


def _arguments(value: Any) -> str:
    """The arguments of a tool call, as JSON text or an object: `path="README.md"  limit=3`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:  # as the model wrote it, or cut short
            return short(value)
    if not isinstance(value, dict):
        return short(value or "")
    return short(" ".join(f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in value.items()))


def _recorded(payload: Document, event: Document) -> Sequence[object]:
    return payload["action"], payload["subject"], f"by {payload['caller']['requested_by']}"


def _attempt_ended(payload: Document, event: Document) -> Sequence[object]:
    return payload.get("status"), *_ended(payload, event)


def _registered(payload: Document, event: Document) -> Sequence[object]:
    names = ", ".join(str(capability["name"]) for capability in payload["capabilities"])
    return (names or payload.get("kind"),)


def _accepted(payload: Document, event: Document) -> Sequence[object]:
    priority, thread = payload.get("priority", 5), payload.get("thread_id")
    return (
        short_id(event["task_id"]),
        payload.get("capability"),
        priority != 5 and f"priority {priority}",
        thread not in (None, event["task_id"]) and f"thread {thread}",
        payload.get("after") and f"after task {short_id(payload['after'])}",
    )


def _dispatched(payload: Document, event: Document) -> Sequence[object]:
    attempt = payload.get("attempt", 1)
    agent = payload.get("agent_id") or event["agent_id"]
    return agent, score(payload.get("score_card")), attempt > 1 and f"attempt {attempt}"


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


def _decided(payload: Document, event: Document) -> Sequence[object]:
    by = payload.get("decided_by")
    return (payload.get("tool"), by and f"by {by}", short(payload.get("reason") or ""))


def _wait_ended(payload: Document, event: Document) -> Sequence[object]:
    by, what = payload.get("answered_by"), payload.get("kind", "?")
    return (f"{payload.get('how', '?')} ({what})", by and f"by {by}")


def _recalled(payload: Document, event: Document) -> Sequence[object]:
    count = payload.get("count", 0)
    return (f"{count} recalled", f"{payload.get('tokens', 0):,} tokens") if count else ("nothing to recall",)


def _compressed(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("input_tokens", 0), payload.get("output_tokens", 0)
    return (f"{before:,} -> {after:,} tokens ({payload.get('method', '?')})",)


def _shortened(payload: Document, event: Document) -> Sequence[object]:
    before, after = payload.get("tokens_before", 0), payload.get("tokens_after", 0)
    return (f"shortened, {before:,} -> {after:,} tokens ({', '.join(payload.get('how') or [])})",)


def _model(payload: Document, event: Document) -> Sequence[object]:
    wanted = payload.get("tool_calls") or []
    if payload.get("outcome", "ok") != "ok":
        return payload.get("group", "?"), payload["outcome"], fault(payload.get("error"))
    return (
        payload.get("model", "?"),
        f"[{', '.join(payload.get('tags') or [])}]",
        f"user={payload.get('user', '')}",
        tokens(payload.get("usage")),
        dollars(payload.get("cost_usd")),
        seconds(payload.get("duration_ms")),
        f"-> {', '.join(wanted)}" if wanted else finish(payload.get("finish_reason")),
    )


def _tool(payload: Document, event: Document) -> Sequence[object]:
    return (
        payload.get("tool", "?"),
        _arguments(payload.get("arguments")),
        payload.get("duration_ms") is not None and seconds(payload["duration_ms"]),
        payload.get("ok") is False and f"failed: {fault(payload.get('error'))}",
        payload.get("result") and f"-> {short(payload['result'])}",
    )


def _cut_off(payload: Document, event: Document) -> Sequence[object]:
    tools = ", ".join(str(call.get("tool")) for call in payload.get("tool_calls") or ())
    return "cut off", tools and f"in a call of {tools}, which was not run", short(payload.get("text", ""))


def _overran(payload: Document, event: Document) -> Sequence[object]:
    what = "has ended at last" if payload.get("ended") else "was given up, and its thread still runs"
    return (f"{payload.get('tool', '?')} {what}, after {payload.get('seconds', '?')} s",)


def _limit_reached(payload: Document, event: Document) -> Sequence[object]:
    limit, most = payload.get("limit", "?"), payload.get("most", "?")
    ends = payload.get("ends") == "calls"
    then = "the model is not called again" if ends else "the model has to answer without more tools"
    return (f"{limit} ({most}) is reached: {then}",)


def _stored(payload: Document, event: Document) -> Sequence[object]:
    return "stored", "scope" in payload and f"scope {payload['scope']}", short(payload.get("text", ""))


def _prompt_problem(then: str, payload: Document, event: Document) -> Sequence[object]:
    parts = [payload.get("error") or "?", then, payload.get("remedy")]
    return ("; ".join(short(part) for part in parts if part),)


def _left_alone(payload: Document, event: Document) -> Sequence[object]:
    is_refused = event["event_type"] == "deployment.refused"
    status = f"refused with {payload.get('status')}" if is_refused else "down"
    why = payload.get("reason") or fault(payload.get("error"))
    name, pause = payload.get("deployment", "?"), number(payload.get("seconds", "?"))
    return (f"{name} is {status}, left alone for {pause} s: {short(why)}",)


def _list_stopped(payload: Document, event: Document) -> Sequence[object]:
    name, seq = payload.get("name", "?"), payload.get("seq", "?")
    return (f"the projection {name!r} stands at event {seq}, mesh status shows it: {payload.get('error')}",)


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


def code_changed(agent_id: str, tasks: int, once: int) -> str:
    """How many open tasks of an agent began with other code, and how many of those did what counts once."""
    open_tasks = "1 open task" if tasks == 1 else f"{tasks} open tasks"
    steps = f"; {once} with steps that are not idempotent" if once else ""
    return f"{open_tasks} of {agent_id} began with other code{steps}"


def _code_changed(payload: Document, event: Document) -> Sequence[object]:
    return (code_changed(payload.get("agent_id", "?"), payload.get("tasks", 0), payload.get("once", 0)),)


_GISTS: dict[str, _PartsOf] = {"audit.recorded": _recorded, "attempt.ended": _attempt_ended}
_LINES: dict[str, tuple[str, _PartsOf]] = {
    "task.accepted": ("accepted", _accepted),
    "task.dispatched": ("dispatched", _dispatched),
    "task.waiting": ("waiting", _waiting),
    "wait.ended": ("waited", _wait_ended),
    "file.attached": ("file", lambda file, _: (file_line(file),)),
    "run.progress": ("progress", lambda said, _: (short(said.get("text", "")),)),
    "step.finished": ("step", lambda said, _: (said.get("name", "?"), seconds(said.get("duration_ms")))),
    "agent.code_changed": ("code changed", _code_changed),
    "answer.kept": ("kept", lambda said, _: (f"the answer to {said.get('asked')}, from before the restart",)),
    "approval.requested": ("approval", lambda said, _: (f"asked for {said.get('tool')}",)),
    "approval.given": ("approved", _decided),
    "approval.denied": ("denied", _decided),
    "approval.expired": ("expired", _decided),
    "memory.recalled": ("memory", _recalled),
    "memory.stored": ("memory", _stored),
    "context.compressed": ("context", _compressed),
    "context.shortened": ("context", _shortened),
    "model.delta": (
        "model",
        lambda said, _: ("starts over" if said.get("restart") else short(said.get("text", "")),),
    ),
    "model.called": ("model", _model),
    "structure.invalid": (
        "model",
        lambda said, _: (f"does not fit {said.get('shape', '?')}: {short(said.get('error', ''))}",),
    ),
    "reply.cut_off": ("model", _cut_off),
    "tool.called": ("tool", _tool),
    "tool.overran": ("tool", _overran),
    "limit.*": ("limit", _limit_reached),
    "prompt.fallback": ("prompt", partial(_prompt_problem, "a built-in prompt takes its place")),
    "prompt.rejected": ("prompt", partial(_prompt_problem, "the last good prompt stays in use")),
    "prompt.reloaded": ("prompt", lambda said, _: (f"{said.get('path', '?')} was read again",)),
    "deployment.refused": ("model", _left_alone),
    "deployment.cooled_down": ("model", _left_alone),
    "deployment.recovered": ("model", lambda said, _: (f"{said.get('deployment', '?')} gets calls again",)),
    "projection.failed": ("list", _list_stopped),
    "attempt.failed": ("attempt", _attempt_failed),
    "work.broke_off": ("broke off", _broke_off),
    "task.cancelling": ("cancelling", lambda said, _: (fault(said.get("reason")),)),
    "task.succeeded": ("succeeded", _ended),
    "task.failed": ("failed", _ended),
    "task.cancelled": ("cancelled", _ended),
    "task.timed_out": ("timed out", _ended),
}
