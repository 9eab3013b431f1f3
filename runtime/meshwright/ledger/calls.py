"""One call of a model as the ledger knows it: what `model.called` says of it, and the row that makes."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from meshwright.encoding import encode
from meshwright.errors import MeshError, ModelError
from meshwright.messages import Event, Plain, Usage, derived_id, new_id
from meshwright.models.port import CostSource, ModelReply, ModelRequest
from meshwright.money import Dollars, pico

CALLED = "model.called"
NO_USAGE = Usage()
MAX_TOKENS = 1_000_000_000  # of one call, and what it may cost: beyond that no figure is to be believed
MAX_COST = Decimal(1_000_000)
MAX_LATENCY_MS = 1e12
WHERE = ("task_id", "generation", "attempt", "step")
"""What of a request's metadata says which call it is."""


class Call(Plain):
    """A call of a model: the payload of `model.called`. `user` is the agent that called, `error` a code.

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
    cost_usd: Dollars | None = None
    cost_source: CostSource = "unknown"
    cache_hit: bool = False
    saved_usd: Dollars | None = None
    attempts: int = 1
    outcome: Literal["ok", "failed", "cancelled"] = "ok"
    error: str | None = None
    latency_ms: float = 0.0
    tool_calls: tuple[str, ...] = ()
    step: int | None = None
    attempt: int | None = None


def call_id_of(request: ModelRequest) -> str:
    """The id of a call: of a task's step always the same, so that a resumed run finds its own; else new."""
    where = [request.metadata.get(name) for name in WHERE]
    return new_id() if where[0] is None else derived_id("call", request.user, *map(str, where))


def called(
    request: ModelRequest,
    *,
    call_id: str,
    reply: ModelReply | None = None,
    error: BaseException | None = None,
    cancelled: bool = False,
    cost_usd: Dollars | None = None,
    cost_source: CostSource = "unknown",
    usage: Usage = NO_USAGE,
    attempts: int = 1,
    latency_ms: float = 0.0,
) -> dict[str, Any]:
    """The payload of `model.called`: of a call that has a `reply`, or of one that ended without.

    Cost, usage and attempts are the reply's where there is one; without one they are as given, the attempts
    those that a ModelError knows of. Of an error only its code is told: its text may hold more than it may.
    """
    if reply is None:
        outcome = "cancelled" if cancelled else "failed"
        attempts = error.attempts if isinstance(error, ModelError) else attempts
        reply = ModelReply(
            model="", usage=usage, cost_usd=cost_usd, cost_source=cost_source, attempts=attempts
        )
    else:
        outcome = "ok"
    where = {name: request.metadata.get(name) for name in ("step", "attempt")}
    return {
        "call_id": call_id,
        "model": reply.model,
        "deployment": reply.deployment,
        "group": request.model,
        "tags": request.tags,
        "user": request.user,
        "thread_id": request.metadata.get("thread_id"),
        "tenant_id": request.metadata.get("tenant_id"),
        "usage": reply.usage,
        "cost_usd": reply.cost_usd,
        "cost_source": reply.cost_source,
        "cache_hit": reply.cache_hit,
        "saved_usd": reply.saved_usd,
        "attempts": reply.attempts,
        "outcome": outcome,
        "error": None if error is None else _code(error),
        "tool_calls": [call.name for call in reply.tool_calls],
        "latency_ms": latency_ms,
        "duration_ms": latency_ms,
        **{name: value for name, value in where.items() if value is not None},
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


USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
SAME = (
    "call_id",
    "thread_id",
    "model",
    "deployment",
    "cost_source",
    "cache_hit",
    "attempts",
    "outcome",
    "error",
    "attempt",
    "step",
)
COLUMNS = (
    "seq",
    "time",
    "task_id",
    "tenant_id",
    "agent_id",
    "tags",
    *USAGE,
    "cost_pico",
    "saved_pico",
    "latency_ms",
    "model_group",
    *SAME,
)
_usage = itemgetter(*USAGE)
_same = itemgetter("group", *SAME)


def row_of(event: Event, time: float) -> tuple[Any, ...]:
    """The row of the table `calls` that an event `model.called` is. Never fails for what is in the event.

    A payload of no shape is a call of which nothing is known; an absurd figure is an unknown one.
    """
    call = call_in(event).__dict__
    latency_ms = call["latency_ms"]
    return (
        event.seq,
        time,
        event.task_id,
        call["tenant_id"] or event.tenant_id,
        call["user"] or event.agent_id or "",
        _json(call["tags"]),
        *map(_tokens, _usage(call["usage"].__dict__)),
        _pico(call["cost_usd"]),
        _pico(call["saved_usd"]),
        latency_ms if 0 <= latency_ms < MAX_LATENCY_MS else 0.0,  # which NaN is not
        *_same(call),
    )


def call_in(event: Event) -> Call:
    """The call that an event tells of; one of which nothing is known where the payload has no such shape."""
    payload = event.payload
    try:
        return Call.model_validate(payload.model_dump() if isinstance(payload, BaseModel) else payload)
    except ValidationError:
        return Call()


@lru_cache(maxsize=1024)
def _json(tags: tuple[str, ...]) -> str:
    return encode(list(dict.fromkeys(tags))).decode()


def _tokens(count: int) -> int:
    return count if 0 <= count <= MAX_TOKENS else 0


def _pico(amount: Decimal | None) -> int | None:
    return None if amount is None or not 0 <= amount <= MAX_COST else pico(amount)
