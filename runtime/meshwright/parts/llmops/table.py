"""The tables of registered prompts: statements that SQLite and PostgreSQL both take.

Functions that return events are called within a transaction in which no other process logs any, so that of
two changes of a prompt one follows the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from meshwright import Event
from meshwright.kit import Conflict, NotFound, Session, StorageExceeded, Struct

PRODUCTION = "production"
"""The label of the version that agents use."""

_MAX_LABELS = 50


class PreconditionFailed(Conflict):
    """The newest version is another than `If-Match` names."""

    status = 412


class PromptRow(Struct):
    """A version of a prompt: `text` is that of a whole prompt file, `digest` its SHA-256."""

    tenant_id: str
    name: str
    version: int
    text: str
    digest: str
    author: str
    message: str
    created_at: float


class MatchedVersion(Struct):
    """A version with the labels of its prompt, and whether that is deleted."""

    row: PromptRow
    labels: dict[str, int]
    is_deleted: bool = False


class Live(Struct):
    """The version that the agents of a tenant use."""

    tenant_id: str
    name: str
    version: int


class LivePrompts(Struct):
    """The live versions of all tenants."""

    items: tuple[Live, ...] = ()


class _Head(Struct):
    version: int
    is_deleted: bool


_COLUMNS = tuple(field.name for field in msgspec.structs.fields(PromptRow))
_LISTED = ", ".join(f"v.{name}" if name != "text" else "''" for name in _COLUMNS)
_KEY = "WHERE tenant_id = ? AND name = ?"
_INSERT = f"prompt_versions ({', '.join(_COLUMNS)})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM prompt_versions {_KEY}"  # noqa: S608 names in code
_PAGE = f"""
    SELECT {_LISTED} FROM prompts p
    JOIN prompt_versions v ON v.tenant_id = p.tenant_id AND v.name = p.name AND v.version = p.version
    WHERE p.tenant_id = ? AND p.deleted = 0 AND p.name > ? ORDER BY p.name LIMIT ?
"""  # noqa: S608 names in code
_HISTORY = f"""
    SELECT {_LISTED} FROM prompt_versions v
    WHERE v.tenant_id = ? AND v.name = ? AND v.version < ? ORDER BY v.version DESC LIMIT ?
"""  # noqa: S608 names in code
_LIVE = """
    SELECT l.tenant_id, l.name, l.version FROM prompt_labels l
    JOIN prompts p ON p.tenant_id = l.tenant_id AND p.name = l.name AND p.deleted = 0
    WHERE l.label = ? ORDER BY l.tenant_id, l.name
"""


def page(session: Session, tenant_id: str, after: str, limit: int) -> list[MatchedVersion]:
    """The newest versions of a tenant's prompts by name, without their texts."""
    rows = session.execute(_PAGE, (tenant_id, after, limit)).fetchall()
    prompts = [_row(row) for row in rows]
    statement = "SELECT name, label, version FROM prompt_labels WHERE tenant_id = ? AND name >= ? ORDER BY 2"
    labels: dict[str, dict[str, int]] = {prompt.name: {} for prompt in prompts}
    for name, label, version in session.execute(statement, (tenant_id, after)).fetchall():
        if name in labels:
            labels[name][label] = version
    return [MatchedVersion(row=prompt, labels=labels[prompt.name]) for prompt in prompts]


def history(session: Session, tenant_id: str, name: str, before: int, limit: int) -> list[MatchedVersion]:
    """The versions of a prompt below a number, the newest first, without their texts. Raises NotFound."""
    head, labels = _head(session, tenant_id, name), _labels(session, tenant_id, name)
    if head is None:
        raise _unknown(name)
    rows = session.execute(_HISTORY, (tenant_id, name, before, limit)).fetchall()
    return [MatchedVersion(row=_row(row), labels=labels, is_deleted=head.is_deleted) for row in rows]


def find(
    session: Session, tenant_id: str, name: str, version: int | None = None, label: str | None = None
) -> MatchedVersion:
    """A version by its number or by a label, else the newest. Raises NotFound.

    The versions of a deleted prompt are found by their numbers alone.
    """
    head, labels = _head(session, tenant_id, name), _labels(session, tenant_id, name)
    if head is None or (head.is_deleted and version is None):
        raise _unknown(name)
    if label is not None and label not in labels:
        names = ", ".join(labels) or "none"
        raise NotFound(f"Prompt {name!r} has no label {label!r}", remedy=f"It has {names}", field="label")
    number = version or (labels[label] if label is not None else head.version)
    return MatchedVersion(
        row=_version(session, tenant_id, name, number), labels=labels, is_deleted=head.is_deleted
    )


def add(
    session: Session,
    event: Event,
    row: PromptRow,
    limits: tuple[int, int],
    *,
    is_new: bool,
    expected: Sequence[str] = (),
) -> tuple[int, list[Event]]:
    """Add a version, whose number is the result; the newest one's where it has the same text.

    `limits` are the prompts of a tenant and the versions of a prompt. Raises Conflict for a name that is to
    be new and exists, NotFound for one that does not, PreconditionFailed where the newest digest is none of
    those that are `expected`, and StorageExceeded.
    """
    key = (row.tenant_id, row.name)
    head = _head(session, *key)
    if is_new:
        _check_new(session, row, head, limits[0])
    else:
        if head is None or head.is_deleted:
            raise _unknown(row.name)
        newest = _version(session, *key, head.version)
        if expected and newest.digest not in expected:
            raise PreconditionFailed(
                f"Prompt {row.name!r} has a newer version {newest.version}: {newest.digest}",
                remedy="Read it, and change that",
                field="If-Match",
            )
        if newest.digest == row.digest:
            return head.version, []
    number = 1 if head is None else head.version + 1
    if number > limits[1]:
        raise StorageExceeded(
            f"Prompt {row.name!r} has {number - 1:,} versions, and may have no more",
            remedy="Register another name, or raise max_versions in [llmops]",
        )
    replace = "ON CONFLICT (tenant_id, name) DO UPDATE SET version = excluded.version, deleted = 0"
    session.insert("prompts (tenant_id, name, version, deleted)", [(*key, number, 0)], then=replace)
    values = msgspec.structs.astuple(row.model_copy(update={"version": number}))
    session.insert(_INSERT, [values])
    return number, [_with(event, version=number)]


def _check_new(session: Session, row: PromptRow, head: _Head | None, most: int) -> None:
    if head is not None and not head.is_deleted:
        raise Conflict(
            f"There is a prompt {row.name!r} already",
            remedy=f"PUT /v1/prompts/{row.name} makes a new version of it",
            field="name",
        )
    [count] = session.execute("SELECT COUNT(*) FROM prompts WHERE tenant_id = ?", (row.tenant_id,)).fetchone()
    if head is None and count >= most:
        raise StorageExceeded(
            f"The tenant has registered {count:,} prompts, and may register no more",
            remedy="Register a deleted one again, or raise max_prompts in [llmops]",
        )


def set_label(
    session: Session, event: Event, tenant_id: str, name: str, label: str, version: int
) -> tuple[None, list[Event]]:
    """Point a label at a version. Raises NotFound, and StorageExceeded for one label too many."""
    newest = find(session, tenant_id, name)
    _version(session, tenant_id, name, version)
    before = newest.labels.get(label)
    if before == version:
        return None, []
    if before is None and len(newest.labels) >= _MAX_LABELS:
        raise StorageExceeded(f"Prompt {name!r} has {_MAX_LABELS} labels", remedy="Delete one first")
    replace = "ON CONFLICT (tenant_id, name, label) DO UPDATE SET version = excluded.version"
    row = (tenant_id, name, label, version)
    session.insert("prompt_labels (tenant_id, name, label, version)", [row], then=replace)
    return None, [_with(event, before=before)]


def delete_label(
    session: Session, event: Event, tenant_id: str, name: str, label: str
) -> tuple[None, list[Event]]:
    """Delete a label. Raises NotFound."""
    version = find(session, tenant_id, name, label=label).labels[label]
    statement = f"DELETE FROM prompt_labels {_KEY} AND label = ?"  # noqa: S608 names in code
    session.execute(statement, (tenant_id, name, label))
    return None, [_with(event, version=version)]


def delete(
    session: Session, event: Event, tenant_id: str, name: str, *, also_live: bool
) -> tuple[None, list[Event]]:
    """Delete a prompt with its labels; its versions stay. Raises NotFound.

    Raises Conflict for one that agents use, unless `also_live`.
    """
    newest = find(session, tenant_id, name)
    if PRODUCTION in newest.labels and not also_live:
        raise Conflict(f"Prompt {name!r} has just got the label {PRODUCTION}", remedy="Read it again")
    session.execute(f"UPDATE prompts SET deleted = 1 {_KEY}", (tenant_id, name))  # noqa: S608 names in code
    session.execute(f"DELETE FROM prompt_labels {_KEY}", (tenant_id, name))  # noqa: S608 names in code
    return None, [_with(event, version=newest.row.version, labels=newest.labels)]


def live(session: Session) -> LivePrompts:
    """The versions that agents use."""
    rows = session.execute(_LIVE, (PRODUCTION,)).fetchall()
    return LivePrompts(
        items=tuple(Live(tenant_id=tenant, name=name, version=version) for tenant, name, version in rows)
    )


def version_text(session: Session, version: Live) -> str:
    """The text of a version."""
    return _version(session, version.tenant_id, version.name, version.version).text


def _head(session: Session, tenant_id: str, name: str) -> _Head | None:
    statement = f"SELECT version, deleted FROM prompts {_KEY}"  # noqa: S608 names in code
    row = session.execute(statement, (tenant_id, name)).fetchone()
    return None if row is None else _Head(version=row[0], is_deleted=bool(row[1]))


def _labels(session: Session, tenant_id: str, name: str) -> dict[str, int]:
    statement = f"SELECT label, version FROM prompt_labels {_KEY} ORDER BY label"  # noqa: S608 names in code
    return dict(session.execute(statement, (tenant_id, name)).fetchall())


def _version(session: Session, tenant_id: str, name: str, number: int) -> PromptRow:
    row = session.execute(f"{_SELECT} AND version = ?", (tenant_id, name, number)).fetchone()
    if row is None:
        raise NotFound(
            f"Prompt {name!r} has no version {number}",
            remedy=f"GET /v1/prompts/{name}/versions lists them",
            field="version",
        )
    return _row(row)


def _row(values: Sequence[Any]) -> PromptRow:
    return PromptRow(**dict(zip(_COLUMNS, values, strict=True)))


def _with(event: Event, **fields: Any) -> Event:
    return event.model_copy(update={"payload": event.payload.model_copy(update=fields)})


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"No prompt {name!r} is registered",
        remedy="`mesh registry add FILE.prompt` registers one, as does POST /v1/prompts",
        field="name",
    )
