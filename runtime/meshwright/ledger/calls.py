"""One call of a model as the ledger knows it: what `model.called` says of it."""

from __future__ import annotations

from typing import Any, Literal

from meshwright.errors import MeshError, ModelError
from meshwright.messages import Plain, Usage, derived_id, new_id
from meshwright.models.port import CostSource, ModelReply, ModelRequest
from meshwright.money import Amount
from meshwright.work.protocol import DEFAULT_TENANT

CALLED = "model.called"
NO_USAGE = Usage()


class Call(Plain):
    """A call of a model: the payload of `model.called`. `user` is the agent that called.

    `error` is the code of the error that ended it, `reason` its message.

    `cost_usd` is None where nobody knows what the call cost, and 0 for an answer from a cache, which
    `saved_usd` would have cost. `attempts` are those of the call, `attempt` is that of the task.
    """

    call_id: str = ""
    model: str = ""
    deployment: str | None = None
    group: str = ""
    tags: tuple[str, ...] = ()
    user: str = ""
    thread_id: str | None = None
    tenant_id: str | None = None
    usage: Usage = NO_USAGE
    cost_usd: Amount | None = None
    cost_source: CostSource = "unknown"
    cache_hit: bool = False
    saved_usd: Amount | None = None
    attempts: int = 1
    outcome: Literal["ok", "failed", "cancelled"] = "ok"
    error: str | None = None
    reason: str | None = None
    latency_ms: float = 0.0
    tool_calls: tuple[str, ...] = ()
    finish_reason: str | None = None
    step: int | None = None
    attempt: int | None = None


def call_id_of(request: ModelRequest) -> str:
    """The id of a call: of a task's step always the same, so that a resumed run finds its own; else new."""
    context = request.context
    if context.task_id is None:
        return new_id()
    where = context.task_id, context.generation, context.attempt, context.step, context.mode
    tenant = () if context.tenant_id == DEFAULT_TENANT else (context.tenant_id,)
    return derived_id("call", request.user, *map(str, where), *tenant)


def called(
    request: ModelRequest,
    *,
    call_id: str,
    reply: ModelReply | None = None,
    error: BaseException | None = None,
    cancelled: bool = False,
    cost_usd: Amount | None = None,
    cost_source: CostSource = "unknown",
    usage: Usage = NO_USAGE,
    attempts: int = 1,
    latency_ms: float = 0.0,
) -> dict[str, Any]:
    """The payload of `model.called`: of a call that has a `reply`, or of one that ended without.

    Cost, usage and attempts are the reply's where there is one; without one they are as given, the attempts
    those that the error knows of. Of an error its code is told, and of a ModelError its message, which holds
    no key and no prompt; that of any other may.
    """
    finish_reason = None if reply is None else reply.finish_reason
    if reply is None:
        outcome = "cancelled" if cancelled else "failed"
        attempts = getattr(error, "attempts", attempts)
        reply = ModelReply(
            model="", usage=usage, cost_usd=cost_usd, cost_source=cost_source, attempts=attempts
        )
    else:
        outcome = "ok"
    context = request.context
    known = {"step": context.step, "attempt": context.attempt, "finish_reason": finish_reason}
    return {
        "call_id": call_id,
        "model": reply.model,
        "deployment": reply.deployment,
        "group": request.model,
        "tags": request.tags if reply.tags is None else reply.tags,
        "user": request.user,
        "thread_id": context.thread_id,
        "tenant_id": context.tenant_id,
        "usage": reply.usage,
        "cost_usd": reply.cost_usd,
        "cost_source": reply.cost_source,
        "cache_hit": reply.cache_hit,
        "saved_usd": reply.saved_usd,
        "attempts": reply.attempts,
        "outcome": outcome,
        "error": None if error is None else _code(error),
        "reason": error.message if isinstance(error, ModelError) else None,
        "tool_calls": [call.name for call in reply.tool_calls],
        "latency_ms": latency_ms,
        "duration_ms": latency_ms,
        **{name: value for name, value in known.items() if value is not None},
    }


def leave(error: BaseException, payload: dict[str, Any]) -> None:
    """Leave with an error what the call that it ended was: whoever catches it may have to count the cost.

    For who tells of a call that ended without a reply; a call that nobody told of leaves nothing.
    """
    error.__dict__["call"] = Call.model_validate(payload)


def left(error: BaseException | None) -> Call | None:
    """The call that an error ended, or its cause did, where it was told of."""
    while error is not None and "call" not in error.__dict__:
        error = error.__cause__
    return None if error is None else error.__dict__["call"]


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, MeshError) else type(error).__name__
