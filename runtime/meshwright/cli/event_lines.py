"""What an event says to a person, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from meshwright.cli.output import (
    Document,
    clipped,
    dollars,
    fitted,
    local_time,
    number,
    printable,
    seconds,
    short,
    short_id,
    tokens,
)

_NARROW = 120  # columns of a terminal
DATE, NARROW_AGENT = 11, 10  # characters
TYPE_WIDTH, TASK_WIDTH, AGENT_WIDTH = 18, 7, 16
PLAIN = (str, int, float)
KNOWN = frozenset({"version", "task_id", "agent_id", "tenant_id"})


class Line(NamedTuple):
    """A word for what happened, and the rest."""

    word: str
    text: str


def line_of(event: Document) -> Line | None:
    """The line of an event in the timeline of its task, or None if it is not worth one."""
    known = LINES.get(event["event_type"])
    if known is None:
        return None
    word, text_of = known
    payload = event["payload"] if isinstance(event["payload"], dict) else {}
    return Line(word, printable(text_of(payload, event)))


def event_line(event: Document, width: int | None = None) -> str:
    """An event of the log: seq, time, type, task and agent, and what it says.

    `width` is that of the terminal, None if nothing is cut. A narrow one has no room for the date.
    """
    narrow = width is not None and width < _NARROW
    task = short_id(event["task_id"]) if event.get("task_id") else ""
    agent = event.get("agent_id") or ""
    line = line_of(event)
    parts = [
        f"{event.get('seq') or '':>6}",
        local_time(event["time"])[DATE if narrow else 0 :],
        f"{event['event_type']:<{TYPE_WIDTH}}",
        f"{task:<{TASK_WIDTH}}",
        fitted(agent, NARROW_AGENT).ljust(NARROW_AGENT) if narrow else f"{agent:<{AGENT_WIDTH}}",
        line.text.removeprefix(task).lstrip().removeprefix(agent).lstrip() if line else _gist(event),
    ]
    return clipped("  ".join(parts).rstrip(), width)


def _gist(event: Document) -> str:
    """What an event says that has no line in a timeline."""
    payload = event.get("payload")
    if not isinstance(payload, dict):
        return short(json.dumps(payload, ensure_ascii=False)) if payload else ""
    if event["event_type"] == "attempt.ended":
        return f"{payload.get('status', '')}  {_ended(payload, event)}"
    if isinstance(payload.get("spans"), list):
        return f"{len(payload['spans'])} spans"
    if "capabilities" in payload:
        names = ", ".join(str(capability.get("name")) for capability in payload["capabilities"])
        return names or str(payload.get("kind", ""))
    shown = {name: value for name, value in payload.items() if isinstance(value, PLAIN) and name not in KNOWN}
    return short(" ".join(f"{name}={value}" for name, value in shown.items()))


def score(card: Any) -> str:
    """A score with its factors: `score 1.05 = weight 1 x health 1 x success 1 x preferred 1.05`."""
    if not isinstance(card, dict) or "score" not in card:
        return ""
    always = [name for name in ("weight", "health", "success") if name in card]
    boosts = [name for name in ("streak", "preferred") if card.get(name, 1) != 1]
    factors = " x ".join(f"{name} {number(card[name])}" for name in [*always, *boosts])
    return f"score {number(card['score'])} = {factors}" if factors else f"score {number(card['score'])}"


def finish(reason: Any) -> str:
    """Why a model's reply ended, if it did not end by itself: `ended by length`."""
    return f"ended by {short(reason)}" if reason not in (None, "stop") else ""


def fault(error: Any) -> str:
    """What went wrong: `ToolFailed: no such file`."""
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


def _join(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _accepted(payload: Document, event: Document) -> str:
    priority, thread = payload.get("priority", 5), payload.get("thread_id")
    return _join(
        short_id(event["task_id"]),
        str(payload.get("capability", "")),
        f"priority {priority}" if priority != 5 else "",
        f"thread {thread}" if thread not in (None, event["task_id"]) else "",
    )


def _dispatched(payload: Document, event: Document) -> str:
    attempt = payload.get("attempt", 1)
    return _join(
        str(payload.get("agent_id") or event["agent_id"]),
        score(payload.get("score_card")),
        f"attempt {attempt}" if attempt > 1 else "",
    )


def _waiting(payload: Document, event: Document) -> str:
    child = payload.get("child_task_id")
    return f"for task {short_id(child)}, no slot held" if child else f"for {payload.get('key', '')}"


def _recalled(payload: Document, event: Document) -> str:
    count = payload.get("count", 0)
    return f"{count} recalled  {payload.get('tokens', 0):,} tokens" if count else "nothing to recall"


def _compressed(payload: Document, event: Document) -> str:
    read, kept = payload.get("input_tokens", 0), payload.get("output_tokens", 0)
    return f"{read:,} -> {kept:,} tokens ({payload.get('method', '?')})"


def _model(payload: Document, event: Document) -> str:
    wanted = payload.get("tool_calls") or []
    if payload.get("outcome", "ok") != "ok":
        return _join(str(payload.get("group", "?")), payload["outcome"], fault(payload.get("error")))
    return _join(
        str(payload.get("model", "?")),
        f"[{', '.join(payload.get('tags') or [])}]",
        f"user={payload.get('user', '')}",
        tokens(payload.get("usage")),
        dollars(payload.get("cost_usd")),
        seconds(payload.get("duration_ms")),
        f"-> {', '.join(wanted)}" if wanted else finish(payload.get("finish_reason")),
    )


def _delta(payload: Document, event: Document) -> str:
    return "begins anew" if payload.get("anew") else short(payload.get("text", ""))


def _misfit(payload: Document, event: Document) -> str:
    return f"does not fit {payload.get('shape', '?')}: {short(payload.get('error', ''))}"


def _tool(payload: Document, event: Document) -> str:
    failed = payload.get("ok") is False
    return _join(
        str(payload.get("tool", "?")),
        _arguments(payload.get("arguments")),
        "" if payload.get("duration_ms") is None else seconds(payload["duration_ms"]),
        f"failed: {fault(payload.get('error'))}" if failed else "",
        f"-> {short(payload['result'])}" if payload.get("result") else "",
    )


def _overran(payload: Document, event: Document) -> str:
    what = "has ended at last" if payload.get("ended") else "was given up, and its thread still runs"
    return f"{payload.get('tool', '?')} {what}, after {payload.get('seconds', '?')} s"


def _cut_off(payload: Document, event: Document) -> str:
    return _join("cut off", short(payload.get("text", "")))


def _repeated(payload: Document, event: Document) -> str:
    times = payload.get("times", "?")
    return f"{payload.get('tool', '?')} gave the same result {times} times in a row; no more tools"


def _stored(payload: Document, event: Document) -> str:
    return _join(
        "stored", f"scope {payload['scope']}" if "scope" in payload else "", short(payload.get("text", ""))
    )


def _fallback(payload: Document, event: Document) -> str:
    parts = [payload.get("error") or "?", "a built-in prompt takes its place", payload.get("remedy")]
    return "; ".join(short(part) for part in parts if part)


def _rejected(payload: Document, event: Document) -> str:
    parts = [payload.get("error") or "?", "the last good prompt stays in use", payload.get("remedy")]
    return "; ".join(short(part) for part in parts if part)


def _attempt_failed(payload: Document, event: Document) -> str:
    agent_id = payload.get("agent_id") or event["agent_id"]
    return f"{payload.get('attempt', '?')} of {agent_id} failed: {fault(payload.get('error'))}"


def _broke_off(payload: Document, event: Document) -> str:
    return f"{payload.get('breaks', '?')} of {payload.get('most', '?')}: {fault(payload.get('error'))}"


def _ended(payload: Document, event: Document) -> str:
    return _join(
        seconds(payload.get("duration_ms")),
        dollars(payload.get("cost_usd", 0)),
        finish(payload.get("finish_reason")),
        fault(payload.get("error")),
    )


LINES: dict[str, tuple[str, Callable[[Document, Document], str]]] = {
    "task.accepted": ("accepted", _accepted),
    "task.dispatched": ("dispatched", _dispatched),
    "task.waiting": ("waiting", _waiting),
    "memory.recalled": ("memory", _recalled),
    "memory.stored": ("memory", _stored),
    "context.compressed": ("context", _compressed),
    "model.delta": ("model", _delta),
    "model.called": ("model", _model),
    "structure.invalid": ("model", _misfit),
    "reply.cut_off": ("model", _cut_off),
    "tool.called": ("tool", _tool),
    "tool.overran": ("tool", _overran),
    "tool.repeated": ("tool", _repeated),
    "prompt.fallback": ("prompt", _fallback),
    "prompt.rejected": ("prompt", _rejected),
    "prompt.reloaded": ("prompt", lambda payload, event: f"{payload.get('path', '?')} was read again"),
    "attempt.failed": ("attempt", _attempt_failed),
    "work.broke_off": ("broke off", _broke_off),
    "task.cancelling": ("cancelling", lambda payload, event: fault(payload.get("reason"))),
    "task.succeeded": ("succeeded", _ended),
    "task.failed": ("failed", _ended),
    "task.cancelled": ("cancelled", _ended),
    "task.timed_out": ("timed out", _ended),
}
