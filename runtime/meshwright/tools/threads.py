"""Threads for tools that are not async: each agent has its own, so that none holds up another's tools."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import time
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any

from meshwright.core.errors import ToolFailed
from meshwright.core.messages import Task

if TYPE_CHECKING:
    from meshwright.tools.tool import ToolContext

_DEFAULT_THREADS = 8
logger = logging.getLogger("meshwright.tools")


@dataclass(frozen=True, slots=True)
class Overrun:
    """A call whose thread goes on after its caller has left, or one that did and has `ended`."""

    agent_id: str
    tool: str
    task: Task
    seconds: float
    ended: bool


@dataclass(eq=False, slots=True)
class _ThreadCall:
    tool: str
    context: ToolContext
    result: Future[Any]
    started: float = field(default_factory=time.perf_counter)
    is_overrunning: bool = False


class ToolThreads:
    """Runs functions in threads of one agent, at most `size` at a time; a call waits for a free one.

    Nothing can stop a thread. One that goes on when its call was given up is an overrun: it still counts, and
    `on_overrun` is called when that is found and when it ends. While all the threads are overruns, further
    calls are refused. The threads are daemons: they do not keep a process from exiting.
    """

    def __init__(
        self,
        agent_id: str = "agent",
        size: int = _DEFAULT_THREADS,
        on_overrun: Callable[[Overrun], None] = lambda overrun: None,
    ) -> None:
        self._agent_id = agent_id
        self._size = size
        self._on_overrun = on_overrun
        self._numbers = itertools.count(1)
        self._running: set[_ThreadCall] = set()
        self._waiting: list[Future[None]] = []

    async def run(self, function: Callable[[], Any], *, tool: str, context: ToolContext) -> Any:
        """Run a function in a thread and return what it does, or raise what it raises.

        Raises ToolFailed while all the threads are held by calls that were given up.
        """
        await self._free_thread(tool)
        loop = asyncio.get_running_loop()
        call = _ThreadCall(tool, context, loop.create_future())
        variables = contextvars.copy_context()

        def work() -> None:
            result, error = None, None
            try:
                result = variables.run(function)
            except BaseException as raised:  # noqa: BLE001 - whatever it is, the call raises it
                error = raised
            with suppress(RuntimeError):  # the mesh and its loop have ended meanwhile
                loop.call_soon_threadsafe(self._end, call, result, error)

        name = f"{self._agent_id}:{tool}:{next(self._numbers)}"
        Thread(target=work, name=name, daemon=True).start()
        self._running.add(call)
        try:
            return await call.result
        except asyncio.CancelledError:
            if call in self._running:
                call.is_overrunning = True
                self._report(call, ended=False)
                self._wake()
            raise

    def close(self) -> None:
        """Report nothing more: the mesh has stopped."""
        self._on_overrun = lambda overrun: None

    async def _free_thread(self, tool: str) -> None:
        while len(self._running) >= self._size:
            if all(call.is_overrunning for call in self._running):
                names = ", ".join(sorted({call.tool for call in self._running}))
                raise ToolFailed(
                    f"{tool} cannot run: all {self._size} threads of {self._agent_id} are held by calls that "
                    f"were given up and still run ({names})",
                    remedy="It works again when one of them ends; restart the mesh if none does",
                )
            change: Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(change)
            await change

    def _end(self, call: _ThreadCall, result: Any, error: BaseException | None) -> None:
        self._running.discard(call)
        self._wake()
        if call.is_overrunning:
            self._report(call, ended=True)
        elif not call.result.done():  # cancelled, but its caller does not know yet
            if error is None:
                call.result.set_result(result)
            else:
                call.result.set_exception(error)

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
        self._waiting.clear()

    def _report(self, call: _ThreadCall, *, ended: bool) -> None:
        seconds = round(time.perf_counter() - call.started, 3)
        what = "has ended, after" if ended else "was given up and still runs, after"
        where, task = f"tool {call.tool} of {self._agent_id}", call.context.task
        logger.warning("%s %s %.1f s (task %s)", where, what, seconds, task.task_id)
        self._on_overrun(Overrun(self._agent_id, call.tool, task, seconds, ended))
