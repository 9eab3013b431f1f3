"""The rows of the ledger: what each event `model.called` makes of itself in the table `calls`.

Each field is taken for itself, whatever the others hold: one that is not of its type, or absurd, counts as
not told. Fields are read by hand, since a model that checks them all would be half the cost of a row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from meshwright.encoding import Json, decode, encode
from meshwright.messages import Event
from meshwright.money import pico, reported_cost

MAX_COUNT = 1_000_000_000  # of tokens or tries of one call
_MAX_LATENCY_MS = 1e12

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
TEXTS = {
    "call_id": "",
    "thread_id": None,
    "model": "",
    "deployment": None,
    "cost_source": "unknown",
    "outcome": "ok",
    "error": None,
}
"""Fields of text that are columns as they are, and what stands for one that was not told."""

COLUMNS = (
    "seq",
    "time",
    "task_id",
    "tenant_id",
    "agent_id",
    "model_group",
    "tags",
    "cost_pico",
    "saved_pico",
    "cache_hit",
    "attempts",
    "attempt",
    "step",
    "latency_ms",
    *TOKENS,
    *TEXTS,
)
_texts = tuple(TEXTS.items())


def row_of(event: Event, time: float) -> tuple[Any, ...]:
    """The row that an event makes, its columns in the order of COLUMNS. Never fails for what is in it."""
    told = fields_of(event.payload)
    get = told.get
    count = fields_of(get("usage")).get
    return (
        event.seq,
        time,
        event.task_id,
        _text(get("tenant_id"), event.tenant_id),
        _text(get("user"), event.agent_id or ""),
        _text(get("group"), ""),
        _tags(get("tags")),
        _pico(get("cost_usd")),
        _pico(get("saved_usd")),
        int(get("cache_hit") is True),
        _count(get("attempts"), 1),
        _count(get("attempt"), None),
        _count(get("step"), None),
        _latency(get("latency_ms", get("duration_ms"))),
        *[_count(count(name), 0) for name in TOKENS],
        *[_text(get(name), default) for name, default in _texts],
    )


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of an object in an event; none of what is no object."""
    if isinstance(value, Json):
        value = decode(value)
    if isinstance(value, BaseModel):
        return value.__dict__
    return value if isinstance(value, dict) else {}


def _text(value: Any, default: str | None) -> str | None:
    return value if isinstance(value, str) and value else default


def _count(value: Any, default: int | None) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_COUNT else default


def _latency(value: Any) -> float:
    return value if isinstance(value, (int, float)) and 0 <= value < _MAX_LATENCY_MS else 0.0  # NaN is not


def _pico(amount: Any) -> int | None:
    cost = None if amount is None else reported_cost(amount)
    return None if cost is None else pico(cost)


def _tags(value: Any) -> str:
    tags = value if isinstance(value, (list, tuple)) else ()
    return _json(tuple([tag for tag in tags if isinstance(tag, str)]))


@lru_cache(maxsize=1024)
def _json(tags: tuple[str, ...]) -> str:
    return encode(list(dict.fromkeys(tags))).decode()
