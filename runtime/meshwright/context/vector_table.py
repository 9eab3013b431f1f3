"""The vectors of memories, in their rows: read, written and compared by functions of a session."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence, Set
from typing import NamedTuple

from meshwright.context.embeddings import apart, likeness, signs_of
from meshwright.context.memory_table import RECALLED, Fields, selected
from meshwright.sql.database import Session

_COMPARED = 200  # vectors that are compared in full: those with the most equal signs


class Unembedded(NamedTuple):
    """A memory whose text has no vector of the model."""

    n: int
    tenant_id: str
    agent_id: str | None
    text: str


def unembedded(session: Session, model: str, before: int, limit: int) -> list[Unembedded]:
    """Active memories without a vector of a model ('' for any), those with the highest numbers first.

    All of their numbers are below `before`.
    """
    rows = session.execute(
        "SELECT n, tenant_id, agent_id, text FROM memories WHERE status = 'active' AND n < ? "
        "AND (embedded_by IS NULL OR (? <> '' AND embedded_by <> ?)) ORDER BY n DESC LIMIT ?",
        (before, model, model, limit),
    )
    return [Unembedded(*row) for row in rows.fetchall()]


def embed(
    session: Session, model: str, memories: Sequence[Unembedded], vectors: Sequence[array[float]]
) -> None:
    """Write the vectors of memories whose texts are still those."""
    for memory, vector in zip(memories, vectors, strict=True):
        session.execute(
            "UPDATE memories SET embedded_by = ?, signs = ?, vector = ? WHERE n = ? AND text = ?",
            (model, signs_of(vector), vector.tobytes(), memory.n, memory.text),
        )


def nearest(
    session: Session, model: str, vector: array[float], also: Set[int], values: Fields, limit: int
) -> list[tuple[Fields, float]]:
    """The active memories of `owners` whose vectors are nearest to one, with their likeness, best first.

    Those with the numbers in `also` are among them, if they have a vector. The values are those of
    `memory_table.search`.
    """
    known = {name: values[name] for name in ("tenant_id", "now", "kind")}
    of_owner = {f"owner{n}": owner for n, owner in enumerate(values["owners"])}
    any_owner = ", ".join(f":{name}" for name in of_owner)
    statement = (
        f"SELECT n, signs FROM memories WHERE owner IN ({any_owner}) "  # noqa: S608 names of values in code
        f"AND embedded_by = :model AND {RECALLED}"
    )
    rows = session.execute(statement, {**known, **of_owner, "model": model}).fetchall()
    signs = signs_of(vector)
    close = heapq.nsmallest(_COMPARED, rows, key=lambda row: apart(signs, bytes(row[1])))
    numbers = {n for n, _ in close} | (also & {n for n, _ in rows})
    stored = session.select_in("SELECT vector, n FROM memories WHERE n", numbers)
    likest = {n: likeness(vector, bytes(other)) for other, n in stored if other is not None}
    best = sorted(likest, key=lambda n: -likest[n])[:limit]
    found = {row["n"]: row for row in selected(session, {*best, *(also & likest.keys())})}
    return [(found[n], likest[n]) for n in sorted(found, key=lambda n: -likest[n])]
