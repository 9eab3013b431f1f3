"""The tables of evaluations: statements that SQLite and PostgreSQL both take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from meshwright import Event
from meshwright.kit import Conflict, NotFound, Overloaded, Session, Struct, marks


class EvaluationKey(NamedTuple):
    """The name of an evaluation."""

    tenant_id: str
    evaluation_id: str


class EvaluationRow(Struct):
    """An evaluation; `spec` is JSON."""

    tenant_id: str
    id: str
    spec: str
    items: int
    created_at: float
    ended_at: float | None = None
    failed: int | None = None
    cost_usd: str | None = None


class ItemRow(Struct):
    """An item; its texts, its state (column `known`) and its figures are JSON."""

    number: int
    texts: str | None
    state: str
    figures: str | None = None


_KEY = "WHERE tenant_id = ? AND id = ?"
_OF = "WHERE tenant_id = ? AND evaluation_id = ?"
_SELECT = "SELECT tenant_id, id, spec, items, created_at, ended_at, failed, cost_usd FROM evaluations"
_ITEMS = f"SELECT number, texts, known, figures FROM evaluation_items {_OF}"  # noqa: S608 names in code
_PAGE = (
    f"{_SELECT} WHERE tenant_id = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?"
)
_TASKS = "evaluation_tasks (tenant_id, task_id, evaluation_id, number)"
_ONCE = "ON CONFLICT (tenant_id, task_id, evaluation_id, number) DO NOTHING"


def add(
    session: Session,
    event: Event,
    row: EvaluationRow,
    items: Sequence[ItemRow],
    tasks: Sequence[tuple[str, int]],
    limits: tuple[int, int],
) -> tuple[None, list[Event]]:
    """Add an evaluation with its items, and the tasks that they are of, each with the number of its item.

    Raises Conflict for an id that there is, and Overloaded where as many run as may. `limits` are the
    evaluations that a tenant keeps, and those that run.
    """
    key = (row.tenant_id, row.id)
    if session.execute(f"{_SELECT} {_KEY}", key).fetchone() is not None:
        raise Conflict(
            f"There is an evaluation {row.id!r} already", remedy="Name another id", field="evaluation_id"
        )
    query = "SELECT COUNT(*), COUNT(ended_at) FROM evaluations WHERE tenant_id = ?"
    [count, ended_count] = session.execute(query, (row.tenant_id,)).fetchone()
    if count - ended_count >= limits[1]:
        raise Overloaded(
            f"{count - ended_count:,} evaluations of the tenant run",
            remedy="Wait for the end of one, or raise max_open in [evaluations]",
        )
    oldest = (
        "SELECT id FROM evaluations WHERE tenant_id = ? AND ended_at IS NOT NULL ORDER BY created_at LIMIT ?"
    )
    for [old] in session.execute(oldest, (row.tenant_id, max(0, count + 1 - limits[0]))).fetchall():
        delete(session, EvaluationKey(row.tenant_id, old))
    session.insert(
        "evaluations (tenant_id, id, spec, items, created_at)", [(*key, row.spec, row.items, row.created_at)]
    )
    into = "evaluation_items (tenant_id, evaluation_id, number, texts, known)"
    session.insert(into, [(*key, item.number, item.texts, item.state) for item in items])
    session.insert(_TASKS, [(key[0], task_id, key[1], number) for task_id, number in tasks], then=_ONCE)
    return None, [event]


def delete(session: Session, key: EvaluationKey) -> None:
    """Delete an evaluation with its items."""
    for table in ("evaluation_tasks", "evaluation_items"):
        session.execute(f"DELETE FROM {table} {_OF}", key)  # noqa: S608 names in code
    session.execute(f"DELETE FROM evaluations {_KEY}", key)  # noqa: S608 names in code


def find(session: Session, key: EvaluationKey) -> EvaluationRow:
    """An evaluation. Raises NotFound."""
    row = session.execute(f"{_SELECT} {_KEY}", key).fetchone()
    if row is None:
        raise NotFound(
            f"There is no evaluation {key.evaluation_id!r}", remedy="GET /v1/evaluations lists them"
        )
    return _row(row)


def page(session: Session, tenant_id: str, before: tuple[float, str], limit: int) -> list[EvaluationRow]:
    """A tenant's evaluations before a time and an id, the newest first."""
    return [_row(row) for row in session.execute(_PAGE, (tenant_id, *before, limit)).fetchall()]


def open_keys(session: Session) -> list[EvaluationKey]:
    """The evaluations of all tenants that run."""
    statement = "SELECT tenant_id, id FROM evaluations WHERE ended_at IS NULL ORDER BY created_at"
    return [EvaluationKey(*row) for row in session.execute(statement).fetchall()]


def items(session: Session, key: EvaluationKey, after: int = 0, limit: int = 1_000_000) -> list[ItemRow]:
    """The items of an evaluation behind a number."""
    rows = session.execute(
        f"{_ITEMS} AND number > ? ORDER BY number LIMIT ?", (*key, after, limit)
    ).fetchall()
    return [_item(row) for row in rows]


def facts(session: Session, keys: Sequence[EvaluationKey]) -> dict[str, list[ItemRow]]:
    """The items of evaluations of one tenant, without their texts."""
    statement = f"SELECT number, NULL, known, figures FROM evaluation_items {_OF} ORDER BY number"  # noqa: S608
    return {
        key.evaluation_id: [_item(row) for row in session.execute(statement, key).fetchall()] for key in keys
    }


def open_items(session: Session, key: EvaluationKey) -> list[int]:
    """The numbers of the items of an evaluation that are not done."""
    statement = f"SELECT number FROM evaluation_items {_OF} AND figures IS NULL ORDER BY number"  # noqa: S608
    return [number for [number] in session.execute(statement, key).fetchall()]


def end_item(
    session: Session, key: EvaluationKey, number: int, texts: str | None, figures: str, tasks: Sequence[str]
) -> None:
    """Note what came of an item, and its tasks; of an item whose texts were erased no texts."""
    statement = f"""
        UPDATE evaluation_items SET figures = ?, texts = CASE WHEN texts IS NULL THEN NULL ELSE ? END
        {_OF} AND number = ?
    """  # noqa: S608 names in code
    session.execute(statement, (figures, texts, *key, number))
    rows = [(key.tenant_id, task_id, key.evaluation_id, number) for task_id in tasks]
    session.insert(_TASKS, rows, then=_ONCE)


def end(
    session: Session, event: Event, key: EvaluationKey, now: float, failed: int, cost_usd: str | None
) -> tuple[None, list[Event]]:
    """Note that an evaluation has ended, with its sums. One that has stays as it is, without an event."""
    statement = f"""
        UPDATE evaluations SET ended_at = ?, failed = ?, cost_usd = ? {_KEY} AND ended_at IS NULL
    """  # noqa: S608 names in code
    has_ended = session.execute(statement, (now, failed, cost_usd, *key)).rowcount
    return None, [event] if has_ended else []


def erase(session: Session, tenant_id: str, task_ids: Sequence[str]) -> None:
    """Delete the texts of the items that come of tasks, or that tasks have judged."""
    statement = f"""
        UPDATE evaluation_items SET texts = NULL WHERE tenant_id = ? AND (evaluation_id, number) IN (
            SELECT evaluation_id, number FROM evaluation_tasks
            WHERE tenant_id = ? AND task_id IN ({marks(len(task_ids))}))
    """  # noqa: S608 names in code
    session.execute(statement, (tenant_id, tenant_id, *task_ids))


def _row(values: Sequence[Any]) -> EvaluationRow:
    return EvaluationRow(**dict(zip(EvaluationRow.__struct_fields__, values, strict=True)))


def _item(values: Sequence[Any]) -> ItemRow:
    return ItemRow(**dict(zip(ItemRow.__struct_fields__, values, strict=True)))
