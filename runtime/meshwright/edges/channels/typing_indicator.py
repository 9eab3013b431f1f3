"""Typing: a chat shows that an agent is at work on a message, and how far it is, for as long as it is.

It is a courtesy: it is never repeated after a crash, and no reply waits for it or fails with it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from meshwright.core.errors import MeshError
from meshwright.core.messages import ENDED
from meshwright.core.redaction import redact
from meshwright.edges.channels.messages import ChannelMessage
from meshwright.edges.webhooks.outgoing import USER_AGENT, Pauses, TryLater
from meshwright.events.filter import EventFilter
from meshwright.mesh import Mesh
from meshwright.work.record import TaskView

if TYPE_CHECKING:
    from meshwright.edges.channels.receiver import ChatChannel

_logger = logging.getLogger("meshwright.edges.channels")
_LOOK_SECONDS = 1.0  # between two looks at a task; a reply that comes sooner is not announced
_MAX_SECONDS = 900.0  # that it is shown for one message
_MAX_SHOWN = 50  # messages of a channel that it is shown for at a time
_TIMEOUT_SECONDS = 10.0
_MAX_STATUS_CHARS = 100
_STATUS = "is typing..."


class Typing:
    """Shows it for the messages of all channels, in the process that took them."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._pauses = Pauses()
        self._shown: dict[str, dict[str, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Nothing is shown before a message is taken."""

    async def stop(self) -> None:
        """Show no more. Idempotent."""
        tasks = [task for shown in self._shown.values() for task in shown.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, channel: ChatChannel, message: ChannelMessage, task_id: str) -> None:
        """Show it until the task of a message has ended; does not wait for it."""
        shown = self._shown.setdefault(channel.name, {})
        if channel.settings.typing and task_id not in shown and len(shown) < _MAX_SHOWN:
            shown[task_id] = asyncio.create_task(self._show(channel, message, task_id))
            shown[task_id].add_done_callback(lambda _: shown.pop(task_id, None))

    async def _show(self, channel: ChatChannel, message: ChannelMessage, task_id: str) -> None:
        import aiohttp

        loop, chat, last = asyncio.get_running_loop(), channel.chat, ("", float("-inf"))
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        try:
            async with (
                asyncio.timeout(_MAX_SECONDS),
                aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": USER_AGENT}) as session,
            ):
                while True:
                    await asyncio.sleep(_LOOK_SECONDS)
                    task = await self._mesh.task(task_id, channel.settings.tenant)
                    if task.status in ENDED:
                        return
                    status = await self._status(task)
                    is_due = loop.time() - last[1] >= chat.typing_seconds
                    if not status or not (is_due or (chat.has_status and status != last[0])):
                        continue
                    last = status, loop.time()
                    try:
                        self._pauses.check(channel.name)
                        await chat.show_typing(session, message, status)
                        self._pauses.succeeded(channel.name)
                    except TryLater as error:
                        self._pauses.failed(channel.name, error.retry_after_seconds)
        except (MeshError, TimeoutError) as error:  # the chat does not allow it, or the mesh is stopping
            _logger.info("channel %s shows no typing: %s", channel.name, error)

    async def _status(self, task: TaskView) -> str:
        """What an agent is doing; nothing while a person, a model or a time is waited for."""
        if any(wait.kind != "task" for wait in task.waits):
            return ""
        if await self._mesh.inbox.next_of(task.tenant_id, task.thread_id) is not None:
            return ""
        of_tree: dict[str, Any] = {"tenant_id": task.tenant_id, "event_type": "run.progress"}
        of_tree |= {"trace_id": task.trace_id} if task.trace_id else {"task_id": task.task_id}
        said = await self._mesh.log.query(EventFilter(order="desc", limit=1, **of_tree))
        text = " ".join(redact(str(said[0].fields.get("text", ""))).split()) if said else ""
        return text[:_MAX_STATUS_CHARS] or _STATUS
