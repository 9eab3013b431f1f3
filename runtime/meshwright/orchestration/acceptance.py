"""Acceptance: what every front (HTTP, MQTT, the command line) makes of a request before it is a task."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.encoding import is_deeper
from meshwright.errors import InvalidInput, TooLarge
from meshwright.messages import Caller, Task, TaskRequest, derived_id, new_id
from meshwright.work.protocol import Accept

_MAX_KEY_CHARS = 255
_DEADLINE_TIMEOUTS = 3  # a task may take this many attempts' time, where it names no deadline


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a payload may be, in bytes of JSON, and how deeply nested."""

    max_payload_bytes: int = 262_144
    max_payload_depth: int = 32


def make_accept(
    request: TaskRequest,
    caller: Caller,
    *,
    now: datetime,
    limits: Limits,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
) -> Accept:
    """Make the task of a request. The same key of the same caller always gives the same task id.

    Raises InvalidInput or TooLarge, naming the field.
    """
    if request.capability is None and request.agent_id is None:
        raise InvalidInput(
            "neither a capability nor an agent is named", remedy="name one", field="capability"
        )
    payload = _checked_payload(request.payload, limits)
    _check_key(idempotency_key)
    task_id = _task_id(request, caller, idempotency_key)
    named = request.task_id is not None or idempotency_key is not None
    task = Task(
        task_id=task_id,
        capability=request.capability or "",
        agent_id=request.agent_id,
        payload=payload,
        priority=request.priority,
        budget_usd=request.budget_usd,
        budgets=caller.budgets,
        timeout=request.timeout,
        deadline_at=now + timedelta(seconds=request.deadline or _DEADLINE_TIMEOUTS * request.timeout),
        requested_by=caller.requested_by,
        tenant_id=caller.tenant_id,
        thread_id=request.thread_id or task_id,
        idempotency_key=idempotency_key,
        created_at=now,
        traceparent=traceparent,
    )
    return Accept.of(task, request_hash=_hash(request, caller) if named else "")


def _checked_payload(payload: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """A copy of a payload, as plain data: what its sender does with its own changes no task.

    Raises TooLarge for one that is over a limit, InvalidInput for one that is not JSON. What agents take for
    the request in words, `text`, has to be text where it is there.
    """
    if not isinstance(payload.get("text", ""), str):
        raise InvalidInput(
            "payload.text is the request in words, and must be text",
            remedy="put other data beside it, under another name",
            field="payload.text",
        )
    if is_deeper(payload.values(), limits.max_payload_depth - 1):
        raise TooLarge(
            f"the payload is nested over {limits.max_payload_depth} deep",
            remedy="flatten it",
            field="payload",
        )
    try:
        data = to_json(payload)
        copy = from_json(data, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput(
            f"the payload is not JSON: {error}", remedy="send what JSON can hold", field="payload"
        ) from error
    if len(data) > limits.max_payload_bytes:
        raise TooLarge(
            f"the payload has {len(data):,} bytes, {limits.max_payload_bytes:,} are allowed",
            remedy="send a reference instead, or raise max_payload_bytes",
            field="payload",
        )
    return copy


def _check_key(key: str | None) -> None:
    """Raise InvalidInput for an idempotency key that is empty, too long, or not printable."""
    if key is not None and not (1 <= len(key) <= _MAX_KEY_CHARS and key.isprintable()):
        raise InvalidInput(
            "the idempotency key cannot be used",
            remedy=f"send 1 to {_MAX_KEY_CHARS} printable characters",
            field="Idempotency-Key",
        )


def _task_id(request: TaskRequest, caller: Caller, key: str | None) -> str:
    if request.task_id is not None:
        return request.task_id
    if key is None:
        return new_id()
    return derived_id(caller.tenant_id, caller.source, key)


def _hash(request: TaskRequest, caller: Caller) -> str:
    body = {"request": request, "tenant": caller.tenant_id, "source": caller.source}
    return hashlib.sha256(to_json(body)).hexdigest()[:32]
