"""Futures: how whoever waits is told."""

from __future__ import annotations

import asyncio
from typing import Any

from meshwright.errors import Draining

ENDED = Draining("the mesh has stopped", remedy="ask again under the same id when it is up")


def settle(reply: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Answer whoever waits, if anybody still does."""
    if reply.done():
        return
    if error is not None:
        reply.set_exception(error)
        reply.exception()  # looked at: not everybody waits for what they send
    else:
        reply.set_result(result)


def pass_on(done: asyncio.Future[Any], to: asyncio.Future[Any]) -> None:
    """Let one future end as another did."""
    settle(to, None, ENDED if done.cancelled() else done.exception())


def looked_at(future: asyncio.Future[Any]) -> None:
    """See what came of it: nobody may wait for it."""
    if not future.cancelled():
        future.exception()
