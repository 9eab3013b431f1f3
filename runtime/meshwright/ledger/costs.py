"""What calls of models have cost: the ledger's rows, summed up by who or what they were for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from meshwright.errors import InvalidInput
from meshwright.events.filter import seconds
from meshwright.events.log import EventLog
from meshwright.ledger.rows import COLUMNS, row_of
from meshwright.messages import Event, Plain
from meshwright.models.port import MODEL_CALLED
from meshwright.money import ZERO, Amount, from_pico
from meshwright.sql.database import Session

By = Literal["agent", "tag", "model", "task", "tenant"]
MAX_KEYS = 500  # listed of one sum
MILLION = 1_000_000  # picodollars are added up in two parts, since SQLite's sum of them may not hold
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

GROUPS: dict[By, str] = {
    "agent": "agent_id",
    "model": "nullif(model, '')",
    "task": "task_id",
    "tenant": "tenant_id",
}
"""The key of each way to sum."""

ESTIMATED = "WHERE cost_source = 'estimated'"
_SUMS = (
    "count(*)",
    "count(*) FILTER (WHERE outcome <> 'ok')",
    "coalesce(sum(cache_hit), 0)",
    "coalesce(sum(prompt_tokens), 0)",
    "coalesce(sum(cached_tokens), 0)",
    "coalesce(sum(completion_tokens), 0)",
    "count(*) FILTER (WHERE cost_pico IS NULL)",
    f"sum(cost_pico / {MILLION})",
    f"sum(cost_pico % {MILLION})",
    f"coalesce(sum(cost_pico / {MILLION}) FILTER ({ESTIMATED}), 0)",
    f"coalesce(sum(cost_pico % {MILLION}) FILTER ({ESTIMATED}), 0)",
    f"coalesce(sum(saved_pico / {MILLION}), 0)",
    f"coalesce(sum(saved_pico % {MILLION}), 0)",
)
_INTO_CALLS = f"calls ({', '.join(COLUMNS)})"
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


class CallProjection:
    """The table `calls`."""

    name = "calls"
    version = 1
    event_types: Collection[str] = (MODEL_CALLED,)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Write a row for each call."""
        session.insert(_INTO_CALLS, [row_of(event, seconds(event.time)) for event in events])

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the calls whose event is in the log."""
        session.execute("DELETE FROM calls WHERE seq >= ?", (oldest,))


async def costs_of(
    log: EventLog,
    *,
    tenant_id: str | None,
    by: By = "agent",
    since: datetime | None = None,
    limit: int = MAX_KEYS,
) -> Costs:
    """What a tenant's calls of models have cost, most expensive first, and all of them together.

    None sums up those of all tenants.
    """
    return await log.view_apart(_sum_costs, tenant_id, by, since, limit)


def _sum_costs(session: Session, tenant_id: str | None, by: By, since: datetime | None, limit: int) -> Costs:
    key, joined = _tags(session) if by == "tag" else (GROUPS[by], "")
    wanted: dict[str, Any] = {}
    conditions = ["1 = 1"]
    if tenant_id is not None:
        conditions.append("tenant_id = :tenant_id")
        wanted["tenant_id"] = session.bindable(tenant_id)
    if since is not None:
        conditions.append("time >= :since")
        wanted["since"] = since.timestamp()
    # A scan looks nothing up: the index pays where it leaves little.
    source = session.by_index("calls", "calls_by_time" if len(wanted) == 2 else None)
    where = f"WHERE {' AND '.join(conditions)}"
    grouped = ("SELECT count(*) OVER (),", key, "AS whose,", ", ".join(_SUMS), "FROM", source, joined, where)
    order = (
        "GROUP BY whose ORDER BY coalesce(sum(cost_pico * 1.0), 0) DESC, count(*) DESC, whose LIMIT :limit"
    )
    rows = session.execute(" ".join((*grouped, order)), {**wanted, "limit": limit}).fetchall()
    whole = ("SELECT NULL,", ", ".join(_SUMS), "FROM", source, where)
    total = session.execute(" ".join(whole), wanted).fetchone()
    keys = rows[0][0] if rows else 0
    items = tuple(_cost(row[1:]) for row in rows)
    return Costs(by=by, since=since, items=items, omitted=keys - len(items), total=_cost(total))


def _tags(session: Session) -> tuple[str, str]:
    """Each tag of a call as a key: what to select, and what to join for it."""
    if session.dialect == "sqlite":
        return "tag.value", "LEFT JOIN json_each(calls.tags) AS tag"
    return "tag", "LEFT JOIN json_array_elements_text(calls.tags::json) AS tag ON true"


def since_of(text: str, now: datetime) -> datetime:
    """A time as people give it: `24h` ago (s, m, h, d or w), or RFC 3339; without a zone it is UTC.

    Raises InvalidInput.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:40]!r} is not a time", remedy="say 24h, 7d or 2026-01-01T00:00Z", field="since"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _cost(row: Sequence[Any]) -> Cost:
    key, *counts, cost, cost_rest, estimated, estimated_rest, saved, saved_rest = row
    fields: dict[str, Any] = {name: int(count) for name, count in zip(COUNTS, counts, strict=True)}
    known = None if cost is None else _dollars(cost, cost_rest)
    fields |= {"estimated_usd": _dollars(estimated, estimated_rest), "saved_usd": _dollars(saved, saved_rest)}
    return Cost(key=key, cost_usd=known, **fields)


def _dollars(millions: int, rest: int) -> Decimal:
    return from_pico(int(millions) * MILLION + int(rest))
