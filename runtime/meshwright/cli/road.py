"""The road of a task: its events, with those of the tasks that it waits for in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from meshwright.cli.client import ENDINGS, Document, MeshClient

MAX_LAG_SECONDS = 2.0  # a child's last events may reach us after its parent's next


class Step(NamedTuple):
    """One event of a road; `depth` counts the tasks above its own."""

    depth: int
    event: Document


async def road(client: MeshClient, task_id: str, depth: int = 0) -> AsyncGenerator[Step, None]:
    """Follow a task to its outcome, which is the last step, and each task it delegates on the way."""
    async with aclosing(client.follow(task_id=task_id)) as events:
        following = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                event = await following
                if event is None:
                    return
                yield Step(depth, event)
                if event["event_type"] in ENDINGS:
                    return
                following = asyncio.ensure_future(anext(events, None))
                if child := awaited_task(event):
                    async for step in _beside(following, client, child, depth + 1):
                        yield step
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def awaited_task(event: Document) -> str | None:
    """The id of the task that an event says it waits for."""
    if event["event_type"] != "task.waiting" or not isinstance(event["payload"], dict):
        return None
    return event["payload"].get("child_task_id")


async def _beside(
    parent: asyncio.Future[Document | None], client: MeshClient, child: str, depth: int
) -> AsyncGenerator[Step, None]:
    """The road of a child, until it ends, or until its parent goes on and nothing more comes soon."""
    async with aclosing(road(client, child, depth)) as steps:
        while True:
            following = asyncio.ensure_future(anext(steps, None))
            try:
                await asyncio.wait([following, parent], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([following], timeout=MAX_LAG_SECONDS)
                step = following.result() if following.done() else None
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if step is None:
                return
            yield step
