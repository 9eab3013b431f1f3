"""Memories by their meaning: has their texts embedded, and ranks them by likeness and by words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from meshwright.context import vector_table
from meshwright.context.embeddings import Embedder
from meshwright.context.memory_table import Fields, wording
from meshwright.context.relevance import coverage
from meshwright.context.vector_table import Unembedded
from meshwright.core.clock import Clock
from meshwright.kernel.timers import every
from meshwright.models.port import CallContext
from meshwright.sql.database import Database

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
        self._duties: list[asyncio.Task[None]] = []

    def want(self) -> None:
        """Say that a text may have no vector yet."""
        self._wanted.set()

    def begin(self, clock: Clock) -> None:
        """Begin to embed what has no vector of the model. Idempotent."""
        if not self._duties:
            self._duties = [
                asyncio.create_task(every(clock, _PAUSE_SECONDS, self.fill)),
                asyncio.create_task(self._fill_when_wanted(clock)),
            ]

    async def stop(self) -> None:
        """Embed no more."""
        duties = [*self._duties]
        self._duties.clear()
        for duty in duties:
            duty.cancel()
            with suppress(asyncio.CancelledError):
                await duty

    async def _fill_when_wanted(self, clock: Clock) -> None:
        async def once() -> None:
            await self._wanted.wait()
            self._wanted.clear()
            await self.fill()

        await every(clock, 0, once)

    async def fill(self) -> None:
        """Embed the texts that have no vector of the model that made one last, tenant by tenant.

        Those of a tenant for which no model makes any are left for the next time.
        """
        before, refused = _LAST, set[str]()
        while rows := await self._database.read(vector_table.unembedded, self._made_by, before, _BATCH):
            before = rows[-1].n
            open_rows = sorted((row for row in rows if row.tenant_id not in refused), key=_payer)
            for (tenant_id, agent_id), some in groupby(open_rows, key=_payer):
                context = CallContext(tenant_id=tenant_id, agent_id=agent_id or None)
                if not await self._embed([*some], context):
                    refused.add(tenant_id)

    async def _embed(self, rows: Sequence[Unembedded], context: CallContext) -> bool:
        embedded = await self._embedder.embed([row.text for row in rows], _BATCH_SECONDS, context)
        if embedded is None:
            return False
        self._made_by = embedded.model
        await self._database.write(vector_table.embed, embedded.model, rows, embedded.vectors)
        return True

    async def ranked(
        self, query: str, rows: Sequence[Fields], values: Fields, scopes: Mapping[str, str], floor: float
    ) -> list[Fields]:
        """The memories that suit a query by their words or by their meaning, best first, with `score`.

        `rows` are those found by words, best first; they count from the share `floor` of the query's words.
        While no model embeds the query, they are all. The values are those of `memory_table.search`.
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
        near = await self._database.read(
            vector_table.nearest, embedded.model, embedded.vectors[0], also, values, _NEAREST
        )
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


def _payer(row: Unembedded) -> tuple[str, str]:
    return row.tenant_id, row.agent_id or ""
