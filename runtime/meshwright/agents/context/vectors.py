"""Memories by their meaning: their vectors, the rows that hold them, and ranking by likeness and by words.

A model of embeddings makes the vectors: texts that mean the same are near, whatever their words are. A vector
has the length 1, in single precision. Its signs, a bit for each number, are compared at once as one large
number, which finds the vectors that are worth to be compared in full.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from array import array
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import groupby
from math import isfinite, sqrt
from operator import mul
from typing import Any, NamedTuple

from meshwright.agents.context.memory_table import RECALLED, Fields, selected, wording
from meshwright.agents.context.text import coverage
from meshwright.core.clock import Clock
from meshwright.core.errors import MeshError
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.sql.database import Database, Session
from meshwright.models.port import CallContext, Model, ModelReply, ModelRequest

_MAX_DIMENSIONS = 4096
_MAX_CHARS = 4000
_USER = "memory"
_logger = logging.getLogger(__name__)


class EmbeddedTexts(NamedTuple):
    """The vectors of texts, in their order, and the name of the model that made them."""

    model: str
    vectors: list[array[float]]


class Embedder:
    """Has texts embedded by a group of deployments, whose calls are in the ledger like all others."""

    def __init__(self, group: str, model: Callable[[], Model | None]) -> None:
        self.group = group
        self._model = model
        self._is_away = False

    async def embed(self, texts: Sequence[str], seconds: float, context: CallContext) -> EmbeddedTexts | None:
        """The vectors of texts; None while no model makes them, which the log says once."""
        try:
            embedded = await self._attempt(texts, seconds, context)
        except MeshError as error:
            if not self._is_away:
                _logger.warning("memories are recalled by their words alone: %s", error)
            self._is_away = True
            return None
        self._is_away = False
        return embedded

    async def _attempt(self, texts: Sequence[str], seconds: float, context: CallContext) -> EmbeddedTexts:
        model = self._model()
        if model is None:
            raise MeshError("This mesh has no model", remedy="Leave context.embedding_model empty")
        request = ModelRequest(
            model=self.group,
            messages=(),
            user=context.agent_id or _USER,
            context=context.model_copy(update={"purpose": _USER}),
            inputs=tuple(text[:_MAX_CHARS] for text in texts),
            timeout_seconds=seconds,
            cache=False,
        )
        reply = await model.complete(request)
        return EmbeddedTexts(reply.model, [_vector(numbers, reply) for numbers in reply.embeddings])


def _vector(numbers: Sequence[float], reply: ModelReply) -> array[float]:
    length = sqrt(sum(number * number for number in numbers))
    if not length > 0 or not isfinite(length) or len(numbers) > _MAX_DIMENSIONS:
        raise MeshError(
            f"{reply.model} made a vector of {len(numbers):,} numbers and the length {length:g}",
            remedy=f"Name a model of at most {_MAX_DIMENSIONS:,} dimensions in context.embedding_model",
        )
    return array("f", [number / length for number in numbers])


def sign_bits(vector: array[float]) -> bytes:
    """A bit for each number of a vector: whether it is above 0."""
    bits = "".join("1" if number > 0 else "0" for number in vector)
    return int(bits, 2).to_bytes((len(bits) + 7) // 8, "big")


def apart(signs: bytes, other: bytes) -> int:
    """How many signs of two vectors differ."""
    return (int.from_bytes(signs, "big") ^ int.from_bytes(other, "big")).bit_count()


def likeness(vector: array[float], other: bytes) -> float:
    """The cosine of a vector and a stored one: 1 for the same direction; 0 where their sizes differ."""
    if len(other) != len(vector) * vector.itemsize:
        return 0.0
    return sum(map(mul, vector, array("f", other)))


# In the table of memories

_COMPARED = 200  # vectors that are compared in full: those with the most equal signs


class UnembeddedMemory(NamedTuple):
    """A memory whose text has no vector of the model."""

    n: int
    tenant_id: str
    agent_id: str | None
    text: str


def unembedded(session: Session, model: str, before: int, limit: int) -> list[UnembeddedMemory]:
    """Active memories without a vector of a model ('' for any), those with the highest numbers first.

    All of their numbers are below `before`.
    """
    rows = session.execute(
        "SELECT n, tenant_id, agent_id, text FROM memories WHERE status = 'active' AND n < ? "
        "AND (embedded_by IS NULL OR (? <> '' AND embedded_by <> ?)) ORDER BY n DESC LIMIT ?",
        (before, model, model, limit),
    )
    return [UnembeddedMemory(*row) for row in rows.fetchall()]


def embed(
    session: Session, model: str, memories: Sequence[UnembeddedMemory], vectors: Sequence[array[float]]
) -> None:
    """Write the vectors of memories whose texts are still those."""
    for memory, vector in zip(memories, vectors, strict=True):
        session.execute(
            "UPDATE memories SET embedded_by = ?, signs = ?, vector = ? WHERE n = ? AND text = ?",
            (model, sign_bits(vector), vector.tobytes(), memory.n, memory.text),
        )


def nearest(
    session: Session, model: str, vector: array[float], also: Set[int], values: Fields, limit: int
) -> list[tuple[Fields, float]]:
    """The active memories of `owners` whose vectors are nearest to one, with their likeness, best first.

    Memories with the numbers in `also` are among them, if they have a vector. The values are as in
    `memory_table.search`.
    """
    shared_values = {name: values[name] for name in ("tenant_id", "now", "kind")}
    of_owner = {f"owner{n}": owner for n, owner in enumerate(values["owners"])}
    any_owner = ", ".join(f":{name}" for name in of_owner)
    statement = (
        f"SELECT n, signs FROM memories WHERE owner IN ({any_owner}) "  # noqa: S608 names of values in code
        f"AND embedded_by = :model AND {RECALLED}"
    )
    rows = session.execute(statement, {**shared_values, **of_owner, "model": model}).fetchall()
    signs = sign_bits(vector)
    close = heapq.nsmallest(_COMPARED, rows, key=lambda row: apart(signs, bytes(row[1])))
    numbers = {n for n, _ in close} | (also & {n for n, _ in rows})
    stored = session.select_in("SELECT vector, n FROM memories WHERE n", numbers)
    likest = {n: likeness(vector, bytes(other)) for other, n in stored if other is not None}
    best = sorted(likest, key=lambda n: -likest[n])[:limit]
    rows_by_number = {row["n"]: row for row in selected(session, {*best, *(also & likest.keys())})}
    return [(rows_by_number[n], likest[n]) for n in sorted(rows_by_number, key=lambda n: -likest[n])]


# Of a mesh

_QUERY_SECONDS = 5.0
_BATCH_SECONDS = 30.0
_BATCH = 32
_NEAREST = 10  # in the middle of a long list, a text outweighs the best one of another list
_BY_MEANING, _BY_WORDS = 0.8, 0.2  # what each counts; the benchmark in tests chose them
_PAUSE_SECONDS = 60.0
_LAST = 2**62


class Vectors:
    """The vectors of the memories of a database, by one embedder.

    A text gets its vector after it is durable: soon, or once a model is there that makes it. `floor` is the
    likeness to a query that a memory has at least.
    """

    def __init__(self, database: Database, embedder: Embedder, floor: float) -> None:
        self._database = database
        self._embedder = embedder
        self._floor = floor
        self._wanted = asyncio.Event()
        self._made_by = ""
        self._duties: list[Duty] = []

    def want(self) -> None:
        """Say that a text may have no vector yet."""
        self._wanted.set()

    async def begin(self, clock: Clock) -> None:
        """Begin to embed what has no vector of the model. Idempotent."""
        if not self._duties:
            self._duties = [Duty(clock, _PAUSE_SECONDS, self.fill), Duty(clock, 0, self._fill_when_wanted)]
        for duty in self._duties:
            await duty.start()

    async def stop(self) -> None:
        """Embed no more."""
        for duty in self._duties:
            await duty.stop()

    async def _fill_when_wanted(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
        await self.fill()

    async def fill(self) -> None:
        """Embed the texts that have no vector of the model that made one last, tenant by tenant.

        Those of a tenant for which no model makes any are left for the next time.
        """
        before, refused = _LAST, set[str]()
        while rows := await self._database.read(unembedded, self._made_by, before, _BATCH):
            before = rows[-1].n
            open_rows = sorted((row for row in rows if row.tenant_id not in refused), key=_payer)
            for (tenant_id, agent_id), some in groupby(open_rows, key=_payer):
                context = CallContext(tenant_id=tenant_id, agent_id=agent_id or None)
                if not await self._embed([*some], context):
                    refused.add(tenant_id)

    async def _embed(self, rows: Sequence[UnembeddedMemory], context: CallContext) -> bool:
        embedded = await self._embedder.embed([row.text for row in rows], _BATCH_SECONDS, context)
        if embedded is None:
            return False
        self._made_by = embedded.model
        await self._database.write(embed, embedded.model, rows, embedded.vectors)
        return True

    async def ranked(
        self, query: str, rows: Sequence[Fields], values: Fields, scopes: Mapping[str, str], floor: float
    ) -> list[Fields]:
        """The memories that suit a query by their words or by their meaning, best first, with `score`.

        `rows` are those found by words, best first; they count from the share `floor` of the query's words.
        While no model embeds the query, they are all. The values are as in `memory_table.search`.
        """
        by_words = [row for row in rows if coverage(query, wording(row)) >= floor]
        who = CallContext(
            tenant_id=values["tenant_id"], task_id=scopes.get("task"), agent_id=scopes.get("agent")
        )
        embedded = await self._embedder.embed([query], _QUERY_SECONDS, who)
        if embedded is None:
            return by_words
        if embedded.model != self._made_by:
            self._made_by = embedded.model
            self.want()
        also = {row["n"] for row in by_words}
        near = await self._database.read(nearest, embedded.model, embedded.vectors[0], also, values, _NEAREST)
        return self._fused(by_words, near)

    def _fused(self, by_words: Sequence[Fields], near: Sequence[tuple[Fields, float]]) -> list[Fields]:
        best = max((row["score"] for row in by_words), default=0.0) or 1.0
        words = {row["n"]: row["score"] / best for row in by_words}
        likeness = {row["n"]: like for row, like in near}
        rows: dict[int, Any] = {row["n"]: row for row in by_words}
        rows |= {row["n"]: row for row, like in near if like >= self._floor}
        scores = {
            n: _BY_MEANING * likeness[n] + _BY_WORDS * words.get(n, 0.0) if n in likeness else words[n]
            for n in rows
        }
        return [{**rows[n], "score": scores[n]} for n in sorted(rows, key=lambda n: -scores[n])]


def _payer(row: UnembeddedMemory) -> tuple[str, str]:
    return row.tenant_id, row.agent_id or ""
