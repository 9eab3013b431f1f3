"""Answers several callers with one query, so that many tasks share a round trip to a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")
AnswerT = TypeVar("AnswerT")

_MAX_KEYS = 500
_Waiting = tuple[KeyT, "asyncio.Future[AnswerT]"]


class Together(Generic[KeyT, AnswerT]):
    """Queries all waiting keys at a time; each caller gets the answer to all of them.

    A query starts after its callers have asked, so that it sees all that was durable by then.
    """

    def __init__(self, query: Callable[[Sequence[KeyT]], Awaitable[AnswerT]]) -> None:
        self._query = query
        self._waiting: list[_Waiting[KeyT, AnswerT]] = []
        self._querying: asyncio.Task[None] | None = None

    async def ask(self, key: KeyT) -> AnswerT:
        """Return the answer to the keys of all callers of now. Raises what the query raises."""
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if self._querying is None:
            self._querying = asyncio.create_task(self._query_all(), name="queries")
        return await answer

    async def _query_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting[:_MAX_KEYS], self._waiting[_MAX_KEYS:]
                await self._query_some(waiting)
        except asyncio.CancelledError:
            for _, answer in self._waiting:
                answer.cancel()
            raise
        finally:
            self._querying = None

    async def _query_some(self, waiting: Sequence[_Waiting[KeyT, AnswerT]]) -> None:
        answers = [answer for _, answer in waiting]
        try:
            result = await self._query(list(dict.fromkeys(key for key, _ in waiting)))
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 each caller gets the error
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for answer in answers:
                if not answer.done():
                    answer.set_result(result)
