"""What calls of models have cost: the ledger's rows, summed up by who or what they were for."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from meshwright.errors import InvalidInput
from meshwright.messages import Plain
from meshwright.money import ZERO, Amount, from_pico

By = Literal["agent", "tag", "model", "task", "tenant"]
MILLION = 1_000_000  # picodollars are added up in two parts, since SQLite's sum of them may not hold
AGO = re.compile(r"([0-9]{1,6})([smhdw])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

GROUPS: dict[By, tuple[str, str]] = {
    "agent": ("agent_id", ""),
    "tag": ("tag.value", "LEFT JOIN json_each(calls.tags) AS tag"),
    "model": ("nullif(model, '')", ""),
    "task": ("task_id", ""),
    "tenant": ("tenant_id", ""),
}
"""What each way of summing takes for the key, and what has to be joined for it."""

ESTIMATED = "WHERE cost_source = 'estimated'"
SUMS = (
    "count(*)",
    "coalesce(sum(outcome <> 'ok'), 0)",
    "coalesce(sum(cache_hit), 0)",
    "coalesce(sum(prompt_tokens), 0)",
    "coalesce(sum(cached_tokens), 0)",
    "coalesce(sum(completion_tokens), 0)",
    "coalesce(sum(cost_pico IS NULL), 0)",
    f"sum(cost_pico / {MILLION})",
    f"sum(cost_pico % {MILLION})",
    f"coalesce(sum(cost_pico / {MILLION}) FILTER ({ESTIMATED}), 0)",
    f"coalesce(sum(cost_pico % {MILLION}) FILTER ({ESTIMATED}), 0)",
    f"coalesce(sum(saved_pico / {MILLION}), 0)",
    f"coalesce(sum(saved_pico % {MILLION}), 0)",
)
COUNTS = ("calls", "failed", "cache_hits", "prompt_tokens", "cached_tokens", "completion_tokens", "unpriced")


class Cost(Plain):
    """What the calls of one agent, tag, model, task or tenant came to; `key` is None where they name none.

    `cost_usd` is what is known of it, None where of no call anything is; `estimated_usd` is how much of that
    is of tokens that were estimated; `unpriced` counts the calls whose cost nobody knows. `failed` counts
    those without an answer, the cancelled ones too. `cached_tokens` are those of the prompt that a provider
    had in its cache; `saved_usd` is what our own cache has saved.
    """

    key: str | None
    calls: int
    failed: int
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: Amount | None
    estimated_usd: Amount = ZERO
    unpriced: int
    saved_usd: Amount


class Costs(Plain):
    """Costs by key, the dearest first, and of all calls together; `omitted` keys are only in the total.

    A call with two tags counts under each, so that costs by tag may come to more than the total.
    """

    by: By
    since: datetime | None
    items: tuple[Cost, ...]
    omitted: int
    total: Cost


def sum_costs(
    connection: sqlite3.Connection, tenant_id: str | None, by: By, since: datetime | None, limit: int
) -> Costs:
    """Sum up the calls of a tenant, or of all, that ended at a time or after it."""
    key, joined = GROUPS[by]
    wanted: dict[str, Any] = {"tenant_id": tenant_id, "limit": limit}
    source = "calls NOT INDEXED"  # a scan looks nothing up
    where = "WHERE true" if tenant_id is None else "WHERE tenant_id = :tenant_id"
    if since is not None:
        wanted["since"] = since.timestamp()
        where += " AND time >= :since"
        if tenant_id is not None:
            source = "calls INDEXED BY calls_by_time"
    grouped = ("SELECT count(*) OVER (),", key, "AS whose,", ", ".join(SUMS), "FROM", source, joined, where)
    order = "GROUP BY whose ORDER BY total(cost_pico) DESC, count(*) DESC, whose LIMIT :limit"
    rows = connection.execute(" ".join((*grouped, order)), wanted).fetchall()
    whole = ("SELECT NULL,", ", ".join(SUMS), "FROM", source, where)
    total = connection.execute(" ".join(whole), wanted).fetchone()
    keys = rows[0][0] if rows else 0
    items = tuple(_cost(row[1:]) for row in rows)
    return Costs(by=by, since=since, items=items, omitted=keys - len(items), total=_cost(total))


def since_of(text: str, now: datetime) -> datetime:
    """A time as people give it: `24h` ago (s, m, h, d or w), or RFC 3339; without a zone it is UTC.

    Raises InvalidInput.
    """
    ago = AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:40]!r} is not a time", remedy="say 24h, 7d or 2026-01-01T00:00Z", field="since"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _cost(row: Sequence[Any]) -> Cost:
    key, *counts, cost, cost_rest, estimated, estimated_rest, saved, saved_rest = row
    fields: dict[str, Any] = dict(zip(COUNTS, counts, strict=True))
    known = None if cost is None else _dollars(cost, cost_rest)
    fields |= {"estimated_usd": _dollars(estimated, estimated_rest), "saved_usd": _dollars(saved, saved_rest)}
    return Cost(key=key, cost_usd=known, **fields)


def _dollars(millions: int, rest: int) -> Decimal:
    return from_pico(millions * MILLION + rest)
