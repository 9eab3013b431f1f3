"""How the events of runs read, and their facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.core.display import Document, EventWords, fault, file_line, seconds, short

FACTS: Mapping[str, str] = {
    "answer.*": "answered_by",
    "approval.*": "key tool may_answer expires_at decided_by",
    "contents.*": "tasks ended_before",
    "file.*": "name",
    "limit.*": "limit most setting",
    "step.*": "name duration_ms",
    "tool.*": "tool ok duration_ms seconds ended",
}


def _decided(payload: Document, event: Document) -> Sequence[object]:
    by = payload.get("decided_by")
    return (payload.get("tool"), by and f"by {by}", short(payload.get("reason") or ""))


def _tool(payload: Document, event: Document) -> Sequence[object]:
    return (
        payload.get("tool", "?"),
        _arguments(payload.get("arguments")),
        payload.get("duration_ms") is not None and seconds(payload["duration_ms"]),
        payload.get("ok") is False and f"failed: {fault(payload.get('error'))}",
        payload.get("result") and f"-> {short(payload['result'])}",
    )


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


def _misfit(payload: Document, event: Document) -> Sequence[object]:
    return (f"does not fit {payload.get('shape', '?')}: {short(payload.get('error', ''))}",)


WORDS: Mapping[str, EventWords] = {
    "file.attached": EventWords("file", lambda file, _: (file_line(file),)),
    "run.progress": EventWords("progress", lambda said, _: (short(said.get("text", "")),)),
    "step.finished": EventWords(
        "step", lambda step, _: (step.get("name", "?"), seconds(step.get("duration_ms")))
    ),
    "answer.kept": EventWords(
        "kept", lambda said, _: (f"the answer to {said.get('asked')}, from before the restart",)
    ),
    "approval.requested": EventWords("approval", lambda said, _: (f"asked for {said.get('tool')}",)),
    "approval.given": EventWords("approved", _decided),
    "approval.denied": EventWords("denied", _decided),
    "approval.expired": EventWords("expired", _decided),
    "structure.invalid": EventWords("model", _misfit),
    "reply.cut_off": EventWords("model", _cut_off),
    "tool.called": EventWords("tool", _tool),
    "tool.overran": EventWords("tool", _overran),
    "limit.*": EventWords("limit", _limit_reached),
}
