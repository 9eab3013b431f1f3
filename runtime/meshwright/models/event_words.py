"""How the events of models and deployments read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from meshwright.core.display import (
    Document,
    EventWords,
    dollars,
    duration,
    fault,
    finish,
    seconds,
    short,
    tokens,
)

FACTS: Mapping[str, str] = {
    "model.*": "call_id model deployment group tags user usage cost_usd cost_source cache_hit saved_usd "
    "attempts outcome finish_reason latency_ms duration_ms delay_seconds prompt",
    "deployment.*": "deployment seconds status refused",
}
PAYLOADS: Mapping[str, str] = {
    "model.called": "call_id, model, deployment, group, tags, user, thread_id, tenant_id, usage, cost_usd, "
    "cost_source, cache_hit, saved_usd, attempts, outcome (ok, failed, cancelled or cut), error, reason, "
    "tool_calls, finish_reason, latency_ms, duration_ms, prompt, failed_at (deployments, one for each failed "
    "attempt)",
    "model.delta": "text, n, restart (the answer starts over): not stored",
    "model.retried": "error, delay_seconds",
    "deployment.cooled_down deployment.refused": "deployment, seconds, status, error, reason: no call "
    "reaches it for so long",
    "deployment.recovered": "deployment, seconds, refused (the status before)",
}


def _model(payload: Document, event: Document) -> Sequence[object]:
    wanted = payload.get("tool_calls") or []
    if payload.get("outcome", "ok") != "ok":
        return payload.get("group", "?"), payload["outcome"], fault(payload.get("error"))
    if str(payload.get("model")).startswith("tool:"):  # what a tool spent
        return payload["model"], f"user={payload.get('user', '')}", dollars(payload.get("cost_usd"))
    return (
        payload.get("model", "?"),
        f"[{', '.join(payload.get('tags') or [])}]",
        f"user={payload.get('user', '')}",
        tokens(payload.get("usage")),
        dollars(payload.get("cost_usd")),
        seconds(payload.get("duration_ms")),
        f"-> {', '.join(wanted)}" if wanted else finish(payload.get("finish_reason")),
        short(payload.get("reason") or ""),
    )


def _left_alone(payload: Document, event: Document) -> Sequence[object]:
    is_refused = event["event_type"] == "deployment.refused"
    status = f"refused with {payload.get('status')}" if is_refused else "down"
    why = payload.get("reason") or fault(payload.get("error"))
    pause = duration(timedelta(seconds=round(float(payload.get("seconds") or 0))))
    return (f"{payload.get('deployment', '?')} is {status}, left alone for {pause}: {short(why)}",)


WORDS: Mapping[str, EventWords] = {
    "model.delta": EventWords(
        "model", lambda it, _: ("starts over" if it.get("restart") else short(it.get("text", "")),)
    ),
    "model.called": EventWords("model", _model),
    "deployment.refused": EventWords("model", _left_alone),
    "deployment.cooled_down": EventWords("model", _left_alone),
    "deployment.recovered": EventWords(
        "model", lambda it, _: (f"{it.get('deployment', '?')} gets calls again",)
    ),
}
