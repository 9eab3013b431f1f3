"""Fills the index of the search with the texts of tasks.

That happens behind the lists, in small parts while the mesh is quiet, so that no task waits for it, and at
each search. The position of the index is the last event whose text is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.core.encoding import Json, Struct, encode
from meshwright.core.redaction import redact
from meshwright.engine.events.rows import COLUMN_LIST as EVENT_LIST
from meshwright.engine.events.rows import read_row
from meshwright.engine.events.search import COLUMN_LIST as TEXT_LIST
from meshwright.engine.events.search import COLUMNS, POSITION, delete_texts, separate
from meshwright.engine.sql.database import Row, Session, marks

_MAX_TEXT_CHARS = 4_000  # of each column
_MAX_SECRET_CHARS = 1_000  # read behind them, so that a secret is recognized that the end would cut
_EVENTS_AT_ONCE = 100  # some ten milliseconds of the writer
_MAX_EVENTS_READ = 5_000
_ENDS = ("task.succeeded", "task.failed", "task.cancelled", "task.timed_out")
_TYPES = ("task.dispatched", "task.waiting", "run.title", *_ENDS)
_COLLECTED = ("request", "question")  # each with the older texts behind the newest
_INTO = f"task_texts (seq, {TEXT_LIST})"
_REPLACE = "ON CONFLICT (seq) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)
_LOCK_POSITION = {"sqlite": POSITION, "postgres": f"{POSITION} FOR UPDATE"}
_TRY_POSITION = {"sqlite": POSITION, "postgres": f"{POSITION} FOR UPDATE SKIP LOCKED"}
_SELECT_EVENTS = (
    f"SELECT {EVENT_LIST} FROM events WHERE seq > ? AND seq <= ? "  # noqa: S608 code
    f"AND event_type IN ({marks(len(_TYPES))}) ORDER BY seq LIMIT {_EVENTS_AT_ONCE}"
)
_LISTED = "SELECT coalesce(max(position), 0) FROM projection_positions WHERE name = 'tasks'"


def index_next(session: Session) -> tuple[int, bool]:
    """Take the texts of the next events that the list of tasks has.

    Returns the position, and whether there is more. While another process does the same, nothing is taken.
    """
    [(listed,)] = session.execute(_LISTED).fetchall()
    row = session.execute(_TRY_POSITION[session.dialect]).fetchone()
    if row is None:
        return 0, True
    position = row[0]
    if position >= listed:
        return position, False
    last = min(listed, position + _MAX_EVENTS_READ)
    rows = session.execute(_SELECT_EVENTS, (position, last, *_TYPES)).fetchall()
    if len(rows) == _EVENTS_AT_ONCE:
        last = rows[-1][0]
    _take(session, rows)
    session.execute("UPDATE task_texts_position SET seq = ?", (last,))
    return last, last < listed


def _take(session: Session, rows: Sequence[Row]) -> None:
    changes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        event = read_row(row, Json)
        if event.task_id and event.tenant_id and (texts := _read_texts(event.event_type, event.payload)):
            changes.setdefault((event.tenant_id, event.task_id), []).extend(texts)
    task_ids = {session.bindable(task_id) for _, task_id in changes}
    listed = session.select_in("SELECT seq, tenant_id, task_id FROM tasks WHERE task_id", task_ids)
    seqs = {(tenant_id, task_id): seq for seq, tenant_id, task_id in listed}
    stored = session.select_in(f"SELECT seq, {TEXT_LIST} FROM task_texts WHERE seq", seqs.values())  # noqa: S608 code
    by_seq = {seq: dict(zip(COLUMNS, texts, strict=True)) for seq, *texts in stored}
    values: list[Row] = []
    for key, texts in changes.items():
        if (seq := seqs.get(key)) is None:
            continue  # it has left the lists
        columns = by_seq.get(seq) or dict.fromkeys(COLUMNS, "")
        for name, text in texts:
            if name in _COLLECTED and (before := columns[name]):
                text = before if text in before else f"{text}\n{before}"
            columns[name] = text[:_MAX_TEXT_CHARS]
        values.append((seq, *columns.values()))
    session.insert(_INTO, values, then=_REPLACE)


class _WaitingText(Struct):
    asked: Any = None
    kind: Any = None


class _TitledText(Struct):
    title: Any = None


class _TaskText(Struct):
    payload: Any = None


class _DispatchText(Struct):
    task: _TaskText


class _FaultText(Struct):
    type: Any = ""
    message: Any = ""


class _EndText(Struct):
    result: Any = None
    error: _FaultText | None = None


def _read_texts(event_type: str, payload: Any) -> list[tuple[str, str]]:
    """The columns that an event changes; none of an event whose contents were erased."""
    data = bytes(payload)
    try:
        if event_type == "task.dispatched":
            return [("request", _clean(_plain(_DispatchText.model_validate_json(data).task.payload)))]
        if event_type == "task.waiting":
            waiting = _WaitingText.model_validate_json(data)
            return [("question", _clean(waiting.asked))] if waiting.kind in ("person", "money") else []
        if event_type == "run.title":
            return [("request", _clean(_TitledText.model_validate_json(data).title))]
        end = _EndText.model_validate_json(data)
    except (ValueError, ArithmeticError):
        return []
    error = "" if end.error is None else f"{end.error.type}: {end.error.message}"
    return [("answer", _clean(_plain(end.result))), ("error", _clean(error))]


def _plain(document: Any) -> str:
    """The text of a request or an answer; of one without words its JSON."""
    if not isinstance(document, dict) or not document:
        return ""
    text = document.get("text")
    return text if isinstance(text, str) else encode(document).decode()


def _clean(text: Any) -> str:
    """A text as it is stored: without secrets, words of scripts without spaces apart."""
    if not isinstance(text, str) or not text:
        return ""
    read = redact(text[: _MAX_TEXT_CHARS + _MAX_SECRET_CHARS])[:_MAX_TEXT_CHARS].replace("\0", " ")
    return separate(read.encode(errors="replace").decode())


def erase_texts(session: Session, tenant_id: str, task_id: str) -> None:
    """Delete the texts of a task in the transaction that erases its events, so that none is taken again."""
    session.execute(_LOCK_POSITION[session.dialect]).fetchall()
    delete_texts(session, "tenant_id = ? AND task_id = ?", (tenant_id, session.bindable(task_id)))


def purge_words(session: Session) -> None:
    """Have the index forget the words of deleted texts: SQLite keeps them until it merges its parts."""
    if session.dialect == "sqlite":
        session.execute("INSERT INTO task_words (task_words) VALUES ('optimize')")


def clear_texts(session: Session) -> None:
    """Delete the texts of the tasks whose first event is in the log: they are taken again."""
    session.execute(_LOCK_POSITION[session.dialect]).fetchall()
    [(oldest,)] = session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchall()
    session.execute("DELETE FROM task_texts WHERE seq >= ?", (oldest,))
    session.execute("UPDATE task_texts_position SET seq = ?", (oldest - 1,))
