"""Sums of calls of models whose tasks' records are gone.

One for each hour, tenant, agent, model, deployment, prompt and tags.

Each row of calls is added to its sum and deleted in one transaction, so that costs stay what they were; only
the task and the thread of a call are lost. A sum is of the calls of one block of events, so that a rebuild
makes it again; once those events are pruned it becomes a part of the sum of all such (`seq` 0).
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.events.table import BLOCK_EVENTS
from meshwright.sql.database import Session, marks

MILLION = 1_000_000  # picodollars are added up in two parts, since SQLite's sum of them may not hold
HOUR_SECONDS = 3600
_KEYS = ("seq", "time", "tenant_id", "agent_id", "model", "deployment", "prompt", "tags")
_COUNTS = {
    "calls": "1",
    "failed": "CASE WHEN outcome <> 'ok' THEN 1 ELSE 0 END",
    "cache_hits": "cache_hit",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "completion_tokens": "completion_tokens",
    "unpriced": "CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END",
}
_ESTIMATED_PICO = "CASE WHEN cost_source = 'estimated' THEN cost_pico END"
_AMOUNTS = {"cost": "cost_pico", "estimated": _ESTIMATED_PICO, "saved": "saved_pico"}
_PARTS = {
    f"{name}_{part}": f"{value} {operator} {MILLION}"
    for name, value in _AMOUNTS.items()
    for part, operator in (("millions", "/"), ("rest", "%"))
}
FIGURES = {**_COUNTS, **_PARTS}
"""The figures of a sum by name, each as that of one row of calls. An amount is NULL where none is known."""
_MAY_LACK = "coalesce(deployment, '') AS deployment, coalesce(prompt, '') AS prompt"
_NONE_IF_EMPTY = "nullif(deployment, '') AS deployment, nullif(prompt, '') AS prompt"
_SHARED = f"time, tenant_id, agent_id, model, {_NONE_IF_EMPTY}, tags"
_OF_CALL = ", ".join(f"{value} AS {name}" for name, value in FIGURES.items())
_OLDEST = "(SELECT coalesce(min(seq), 1) FROM events)"
_BLOCK = (
    f"CASE WHEN seq < {_OLDEST} THEN 0 ELSE seq / {BLOCK_EVENTS} * {BLOCK_EVENTS} + {BLOCK_EVENTS - 1} END"
)
_ADDED = ", ".join(
    f"{name} = coalesce(call_sums.{name} + excluded.{name}, call_sums.{name}, excluded.{name})"
    for name in FIGURES
)
_OF_PRUNED_EVENTS = f"seq > 0 AND seq < {_OLDEST}"


def all_calls(calls: str, condition: str, *, of_tasks: bool = False) -> str:
    """The calls that a condition finds and the sums of others, as one table `calls`.

    `calls` is the table, perhaps with its index. A sum has the beginning of its hour as its time, and no
    task and no thread: a condition that is about those reads calls alone (`of_tasks`).
    """
    own = f"SELECT task_id, {_SHARED}, {_OF_CALL} FROM {calls} WHERE {condition}"  # noqa: S608 code
    if of_tasks:
        return f"({own}) AS calls"
    sums = f"SELECT NULL, {_SHARED}, {', '.join(FIGURES)} FROM call_sums AS calls WHERE {condition}"  # noqa: S608
    return f"({own} UNION ALL {sums}) AS calls"


def sum_up(session: Session, tenant_id: str, task_ids: Sequence[str]) -> None:
    """Add the calls of a tenant's tasks to the sums, and delete their rows."""
    of_tasks = f"tenant_id = ? AND task_id IN ({marks(len(task_ids))})"
    keys = f"{_BLOCK} AS seq, {_hour(session)} AS time, tenant_id, agent_id, model, {_MAY_LACK}, tags"
    values = [session.bindable(value) for value in (tenant_id, *task_ids)]
    session.execute(_add(f"SELECT {keys}, {_OF_CALL} FROM calls WHERE {of_tasks}"), values)  # noqa: S608
    session.execute(f"DELETE FROM calls WHERE {of_tasks}", values)  # noqa: S608 code
    rest = ", ".join((*_KEYS[1:], *FIGURES))
    session.execute(_add(f"SELECT 0 AS seq, {rest} FROM call_sums WHERE {_OF_PRUNED_EVENTS}"))  # noqa: S608
    session.execute(f"DELETE FROM call_sums WHERE {_OF_PRUNED_EVENTS}")  # noqa: S608 code


def clear_sums(session: Session, oldest: int) -> None:
    """Delete the sums of calls whose event is in the log."""
    session.execute("DELETE FROM call_sums WHERE seq >= ?", (oldest,))


def _hour(session: Session) -> str:
    """The beginning of the hour in which a call ended, as unix seconds."""
    return f"{whole_part(session, f'time / {HOUR_SECONDS}')} * {HOUR_SECONDS}"


def whole_part(session: Session, number: str) -> str:
    """A positive number without its fraction."""
    return f"CAST({number} AS INTEGER)" if session.dialect == "sqlite" else f"floor({number})"


def _add(calls: str) -> str:
    keys, sums = ", ".join(_KEYS), ", ".join(f"sum({name})" for name in FIGURES)
    return (
        f"INSERT INTO call_sums ({keys}, {', '.join(FIGURES)}) SELECT {keys}, {sums} "  # noqa: S608 code
        f"FROM ({calls}) AS added WHERE 1 = 1 GROUP BY {keys} "
        f"ON CONFLICT ({keys}) DO UPDATE SET {_ADDED}"
    )
