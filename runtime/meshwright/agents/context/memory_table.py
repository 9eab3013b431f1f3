"""The table of memories: written, searched, changed and deleted by functions of a session.

A row is a dictionary of `FIELDS`, with times in unix seconds. The names in statements are code, never input.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.core.ids import new_id
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.meta import DELETED, write_note

Fields = dict[str, Any]
FIELDS = (
    "memory_id",
    "tenant_id",
    "scope",
    "scope_id",
    "text",
    "created_at",
    "task_id",
    "agent_id",
    "kind",
    "subject",
    "status",
    "trust",
    "step",
    "expires_at",
    "superseded_by",
    "approved_by",
    "changed_by",
    "changed_at",
    "used",
    "helped",
)
TIMES = ("created_at", "expires_at", "changed_at")
_MUTABLE = ("text", "kind", "subject", "status", "trust", "expires_at", "superseded_by", "approved_by")
_OF_VECTOR = ("embedded_by", "signs", "vector")
_WEEK = 7 * 86_400.0
_COLUMNS = ", ".join(f"memories.{name}" for name in FIELDS)
_READ = f"SELECT {_COLUMNS}, n, owner, previous FROM memories"  # noqa: S608
_ONE = "tenant_id = ? AND memory_id = ?"
RECALLED = (
    "status = 'active' AND tenant_id = :tenant_id AND (expires_at IS NULL OR expires_at > :now) "
    "AND (:kind = '' OR kind = :kind)"
)
"""The condition of memories that are recalled; its values are `tenant_id`, `now` and `kind` ('' for any)."""
_SEARCH = {
    "sqlite": f"""
SELECT {_COLUMNS}, n, memories.owner, previous, -bm25(memory_text, 1.0, 1.0, 0.0) AS score
FROM memory_text JOIN memories ON memories.n = memory_text.rowid
WHERE memory_text MATCH :words AND {RECALLED}
ORDER BY score DESC, created_at DESC, n DESC LIMIT :limit
""",  # noqa: S608
    "postgres": f"""
WITH terms AS (
    SELECT to_tsquery('english', word) AS term FROM unnest(CAST(:terms AS TEXT[])) AS word
), weighted AS (
    SELECT term, ln(1 + (SELECT count(*) FROM memories WHERE owner = ANY(:owners))
        / (0.5 + (SELECT count(*) FROM memories WHERE search @@ term AND owner = ANY(:owners)))) AS weight
    FROM terms
)
SELECT {_COLUMNS}, n, owner, previous,
    (SELECT sum(weight * ts_rank(search, term, 1)) FROM weighted WHERE search @@ term) AS score
FROM memories
WHERE search @@ to_tsquery('english', :words) AND owner = ANY(:owners) AND {RECALLED}
ORDER BY score DESC, created_at DESC, n DESC LIMIT :limit
""",  # noqa: S608
}
_FOLDED = str.maketrans("äàáâãåöòóôõøüùúûéèêëíìîïñç", "aaaaaaoooooouuuueeeeiiiinc")  # as the index has them
_SELECT_AMONG = """
    SELECT owner FROM unnest(?::text[]) AS candidates (owner)
    WHERE EXISTS (SELECT 1 FROM memories WHERE memories.owner = candidates.owner)
"""
_LIKE = "lower(text) LIKE ? ESCAPE '!'"


def owners(session: Session) -> set[str]:
    """The owners of memories."""
    return {owner for (owner,) in session.execute("SELECT DISTINCT owner FROM memories").fetchall()}


def owners_among(session: Session, groups: Iterable[Sequence[str]]) -> set[str]:
    """Those of some owners that have memories, on PostgreSQL."""
    names = [*{name for group in groups for name in group}]
    return {owner for (owner,) in session.execute(_SELECT_AMONG, (names,)).fetchall()}


def insert(session: Session, owner: str, fields: Fields) -> bool:
    """Write a memory; False if there is one of its id, or an equal one. Of a subject the newer may count.

    It supersedes memories of less trust, and a week older ones of its own trust. Below an older one of
    more trust it is quarantined.
    """
    row = {**fields, "owner": owner}
    if _is_there(session, row):
        return False
    if any(other["trust"] > row["trust"] for other in _subject_rows(session, row)):
        row["status"] = "quarantined"
    insertion = session.execute(
        f"INSERT INTO memories ({', '.join(row)}) VALUES ({_marks(row)}) ON CONFLICT DO NOTHING",  # noqa: S608
        _bound(session, row.values()),
    )
    if insertion.rowcount:
        _outrank(session, row)
    return bool(insertion.rowcount)


def _is_there(session: Session, row: Fields) -> bool:
    """Whether a memory that counts as much says the same, also if two are written side by side."""
    if session.dialect == "postgres":  # SQLite has one writer
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (row["owner"],))
    equal = "owner = ? AND text = ? AND coalesce(subject, '') = ? AND kind = ?"
    counts = "trust >= ? AND status IN ('active', ?) AND (expires_at IS NULL OR expires_at > ?)"
    values = [row["owner"], row["text"], row["subject"] or "", row["kind"]]
    values += [row["trust"], row["status"], row["created_at"]]
    select = f"SELECT 1 FROM memories WHERE {equal} AND {counts}"  # noqa: S608
    return session.execute(select, _bound(session, values)).fetchone() is not None


def search(session: Session, words: Sequence[str], values: Fields) -> list[Fields]:
    """Active memories of `owners` by their relevance to words, with `score`.

    The values are `tenant_id`, `owners`, `now`, `kind` ('' for any) and `limit`.
    """
    # Quoted, a word is a word to the index, whatever it means elsewhere.
    values = dict(values)
    if session.dialect == "sqlite":  # owners match, but do not score
        quoted = " OR ".join(f'"{word}"' for word in words)
        values["words"] = f"owner:({' OR '.join(values.pop('owners'))}) AND {{text subject}}:({quoted})"
    else:
        values["terms"] = [f"'{word}'" for word in (word.translate(_FOLDED) for word in words)]
        values["words"] = " | ".join(values["terms"])
    rows = session.execute(_SEARCH[session.dialect], values).fetchall()
    return [{**row_fields(row), "score": float(row[-1])} for row in rows]


def search_parts(session: Session, parts: Sequence[str], values: Fields) -> list[Fields]:
    """Active memories whose texts have some of these parts, with how many as `score`; see `search`.

    It reads every memory of the owners: the index has no parts of words.
    """
    values = dict(values)
    of_owner = {f"owner{n}": owner for n, owner in enumerate(values.pop("owners"))}
    of_part = {f"part{n}": f"%{part}%" for n, part in enumerate(parts)}
    score = " + ".join(f"CASE WHEN text LIKE :{name} THEN 1 ELSE 0 END" for name in of_part)
    any_owner = ", ".join(f":{name}" for name in of_owner)
    statement = f"""
SELECT * FROM (
    SELECT {_COLUMNS}, n, owner, previous, {score} AS score FROM memories
    WHERE owner IN ({any_owner}) AND {RECALLED}
) AS found WHERE score > 0 ORDER BY score DESC, created_at DESC, n DESC LIMIT :limit
"""  # noqa: S608 names of columns and of values in code
    rows = session.execute(statement, {**values, **of_owner, **of_part}).fetchall()
    return [{**row_fields(row), "score": float(row[-1])} for row in rows]


def beside(
    session: Session, tenant_id: str, memory_ids: Sequence[str], now: float
) -> dict[str, list[Fields]]:
    """The other active memories about the subjects of some, by the id of each."""
    others_of: dict[str, list[Fields]] = {}
    for memory_id in memory_ids:
        row = _find(session, tenant_id, memory_id)
        if row is not None:
            others = _subject_rows(session, row)
            valid = [other for other in others if (other["expires_at"] or now + 1) > now]
            others_of[memory_id] = list(map(_shown, valid))
    return others_of


def wording(row: Fields) -> str:
    """The words that a search finds a memory by: its subject and its text."""
    return f"{row['subject'] or ''} {row['text']}"


def find(session: Session, tenant_id: str, memory_id: str) -> Fields | None:
    """A memory, or None."""
    row = _find(session, tenant_id, memory_id)
    return None if row is None else _shown(row)


def selected(session: Session, numbers: Iterable[int]) -> list[Fields]:
    """The memories with some numbers `n`, which their fields have too."""
    return [row_fields(row) for row in session.select_in(f"{_READ} WHERE n", numbers)]


def page(session: Session, filters: Fields, statuses: Sequence[str], after: int, limit: int) -> list[Fields]:
    """Memories whose fields have the wanted values, the newest first, with their number `n`.

    Those behind number `after`, or the first ones for 0; `contains` is a text that theirs has, in any case,
    `named` an end or a beginning of their ids, or of their tasks' ids.
    """
    filters = dict(filters)
    conditions, values = [f"status IN ({_marks(statuses)})"], list[Any](statuses)
    if contains := filters.pop("contains", None):
        escaped = "".join(f"!{char}" if char in "!%_" else char for char in contains.lower())
        conditions, values = [*conditions, _LIKE], [*values, f"%{escaped}%"]
    if id_part := filters.pop("named", None):
        ends = [
            f"substr({name}, 1, length(?)), substr({name}, length({name}) - length(?) + 1)"
            for name in ("memory_id", "task_id")
        ]
        conditions, values = [*conditions, f"? IN ({', '.join(ends)})"], [*values, *[id_part] * 5]
    if after:
        conditions, values = [*conditions, "n < ?"], [*values, after]
    conditions += [f"{name} = ?" for name in filters]
    statement = f"{_READ} WHERE {' AND '.join(conditions)} ORDER BY n DESC LIMIT ?"
    rows = session.execute(statement, _bound(session, [*values, *filters.values(), limit])).fetchall()
    return [{**_shown(row), "n": row["n"]} for row in map(row_fields, rows)]


def change(session: Session, tenant_id: str, memory_id: str, changes: Fields) -> Fields | None:
    """Set fields of a memory, which can be undone; None if there is none."""
    row = _find(session, tenant_id, memory_id)
    if row is None:
        return None
    _update(session, row, changes)
    _settle(session, tenant_id, memory_id)
    return find(session, tenant_id, memory_id)


def undo(session: Session, tenant_id: str, memory_id: str, changed: Fields) -> Fields | None:
    """Set a memory back to the state before its last change; None if there is none, or no change of it."""
    row = _find(session, tenant_id, memory_id)
    if row is None or row["previous"] is None:
        return None
    _update(session, row, {**json.loads(row["previous"]), **changed})
    _settle(session, tenant_id, memory_id)
    return find(session, tenant_id, memory_id)


def count(session: Session, tenant_id: str, memory_ids: Sequence[str], column: str) -> None:
    """Add one to a column, `used` or `helped`, of memories."""
    for memory_id in memory_ids:
        session.execute(
            f"UPDATE memories SET {column} = {column} + 1 WHERE {_ONE}",  # noqa: S608 a column in code
            _bound(session, (tenant_id, memory_id)),
        )


def delete(session: Session, filters: Fields) -> int:
    """Delete the memories whose fields have the wanted values, for good; returns how many.

    Those that were about a wanted subject before their last change stay, and that change cannot be undone.
    """
    where = " AND ".join(f"{name} = ?" for name in filters)
    rows = session.execute(f"{_READ} WHERE {where}", _bound(session, filters.values())).fetchall()
    if "subject" in filters:
        _end_undo(session, filters["tenant_id"], filters["subject"])
    return _delete_for_good(session, [row_fields(row) for row in rows])


def _end_undo(session: Session, tenant_id: str, subject: str) -> None:
    where = "tenant_id = ? AND previous IS NOT NULL"
    for row in map(row_fields, session.execute(f"{_READ} WHERE {where}", (tenant_id,)).fetchall()):
        if json.loads(row["previous"])["subject"] == subject:
            session.execute("UPDATE memories SET previous = NULL WHERE n = ?", (row["n"],))
            write_note(session, DELETED, {"id": new_id()})


def erase(session: Session, tenant_id: str, task_ids: Sequence[str]) -> int:
    """Delete what a tenant's tasks remembered, for good; returns how many memories."""
    rows = session.select_in(f"{_READ} WHERE task_id", task_ids)
    return _delete(session, [row for row in map(row_fields, rows) if row["tenant_id"] == tenant_id])


def purge(session: Session, before: float) -> int:
    """Delete memories that were forgotten, or expired, before a time; returns how many."""
    statement = f"{_READ} WHERE (status = 'forgotten' AND changed_at < ?) OR expires_at < ?"
    rows = session.execute(statement, (before, before)).fetchall()
    return _delete_for_good(session, [row_fields(row) for row in rows])


def _delete_for_good(session: Session, rows: Sequence[Fields]) -> int:
    """Delete rows, and note that their text is in free pages until the database is compacted."""
    if rows:
        write_note(session, DELETED, {"id": new_id()})  # a compaction under way may have passed these rows
    return _delete(session, rows)


def _delete(session: Session, rows: Sequence[Fields]) -> int:
    session.delete_in("memories", "n", [row["n"] for row in rows])
    for row in rows:
        _bring_back(session, row)
    if rows and session.dialect == "sqlite":  # its index has the words of deleted rows until it is merged
        session.execute("INSERT INTO memory_text (memory_text) VALUES ('rebuild')")
    return len(rows)


# Which of two memories of one subject counts


def _settle(session: Session, tenant_id: str, memory_id: str) -> None:
    """Supersede what a memory outranks, and bring back what it has superseded and outranks no longer."""
    row = _find(session, tenant_id, memory_id)
    assert row is not None
    _bring_back(session, row)
    _outrank(session, row)


def _outrank(session: Session, row: Fields) -> None:
    for other in _subject_rows(session, row):
        if _outranks(row, other):
            _supersede(session, other, row)


def _bring_back(session: Session, row: Fields) -> None:
    where = "tenant_id = ? AND superseded_by = ? AND status = 'superseded'"
    values = (row["tenant_id"], row["memory_id"])
    for other in map(row_fields, session.execute(f"{_READ} WHERE {where}", values).fetchall()):
        above = [
            one for one in _subject_rows(session, {**other, "status": "active"}) if _outranks(one, other)
        ]
        if not above:
            _update(session, other, {"status": "active", "superseded_by": None})
        elif all(one["n"] != row["n"] for one in above):
            _supersede(session, other, above[0])


def _supersede(session: Session, row: Fields, by: Fields) -> None:
    author = by.get("changed_by") or by["agent_id"]
    change = {"superseded_by": by["memory_id"], "changed_by": author, "changed_at": _said_at(by)}
    _update(session, row, {"status": "superseded", **change})


def _subject_rows(session: Session, row: Fields) -> list[Fields]:
    if row["status"] != "active" or not row.get("subject"):
        return []
    where = "owner = ? AND subject = ? AND status = 'active' AND memory_id <> ?"
    values = _bound(session, (row["owner"], row["subject"], row["memory_id"]))
    return list(map(row_fields, session.execute(f"{_READ} WHERE {where}", values).fetchall()))


def _outranks(row: Fields, other: Fields) -> bool:
    if row["trust"] == other["trust"]:
        return _said_at(row) - _said_at(other) >= _WEEK
    return row["trust"] > other["trust"] and _said_at(row) >= _said_at(other)


def _said_at(row: Fields) -> float:
    """The time that counts for a memory: when a person vouched for it, else when it was written."""
    return float(row.get("changed_at") or row["created_at"]) if row["trust"] > 2 else float(row["created_at"])


# Rows


def _find(session: Session, tenant_id: str, memory_id: str) -> Fields | None:
    values = _bound(session, (tenant_id, memory_id))
    row = session.execute(f"{_READ} WHERE {_ONE}", values).fetchone()
    return None if row is None else row_fields(row)


def row_fields(values: Sequence[Any]) -> Fields:
    """A row as a dictionary, with its number `n`."""
    return dict(zip((*FIELDS, "n", "owner", "previous"), values, strict=False))


def _shown(row: Mapping[str, Any]) -> Fields:
    return {name: row[name] for name in FIELDS}


def _update(session: Session, row: Fields, changes: Fields) -> None:
    previous = json.dumps({name: row[name] for name in _MUTABLE})
    changes = {**changes, "previous": previous}
    if changes.get("text", row["text"]) != row["text"]:
        changes |= dict.fromkeys(_OF_VECTOR)
    assigned = ", ".join(f"{name} = ?" for name in changes)
    session.execute(
        f"UPDATE memories SET {assigned} WHERE n = ?",  # noqa: S608 names of columns in code
        _bound(session, [*changes.values(), row["n"]]),
    )


def _bound(session: Session, values: Iterable[Any]) -> list[Any]:
    return [session.bindable(value) for value in values]


def _marks(values: Iterable[Any]) -> str:
    return ", ".join("?" for _ in values)
