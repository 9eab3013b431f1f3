"""Runs tools within the limits of their agent: time, size, and threads for those that are not async."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import logging
import math
import sysconfig
import time
import traceback
from asyncio import Future
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.agents.tools.tool import ToolContext, Unchanged
from meshwright.core.checks import CheckResult
from meshwright.core.encoding import plain
from meshwright.core.errors import MeshError, ToolFailed
from meshwright.core.files import File, TaskFile
from meshwright.core.messages import Task

_PACKAGE = str(Path(__file__).parents[2])
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class _Place(NamedTuple):
    """A line of a file."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """The place without the folders that say where on this machine the project lies."""
        return f"{'/'.join(Path(self.path).parts[-2:])}:{self.line}"


def author_place(error: BaseException) -> _Place | None:
    """The last line of the author's code that an error passed through, if it passed through any."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((_Place(path, line) for path, line, _, _ in frames if line and is_of_an_author(path)), None)


def is_of_an_author(filename: str) -> bool:
    """Whether a file is part of a project, not of Meshwright or a library."""
    return not filename.startswith(("<", _PACKAGE, *_LIBRARIES))


logger = logging.getLogger("meshwright.tools")
_MAX_WHOLE_CHARS = 400_000


class LimitedWork(Protocol):
    """Something that runs within the limits of a tool."""

    @property
    def name(self) -> str:
        """Its name, for errors."""

    @property
    def timeout(self) -> float | None:
        """Its own seconds, None for the usual ones."""

    @property
    def idempotent(self) -> bool:
        """Whether it does no harm to run it twice."""


async def within_limits(
    tool: LimitedWork,
    work: Awaitable[Any],
    task: Task,
    read_result: Callable[[Any], Any],
    timeout_seconds: float,
) -> Any:
    """Read the result of a tool within the limits of its time: its own timeout, else `timeout_seconds`.

    A MeshError of a tool passes as it is, every other exception becomes ToolFailed, and so does a call that
    takes longer, or than the task says.
    """
    seconds, of_task = tool.timeout or timeout_seconds or math.inf, task.timeout
    if of_task is not None and seconds != math.inf:
        seconds = min(seconds, of_task)
    limit = asyncio.timeout(None if seconds == math.inf else seconds)
    try:
        async with limit:
            result = await work
        return read_result(result)
    except MeshError:
        raise
    # A tool's body is not ours and may raise anything: its model must see it, and its run go on.
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            problem = f"{tool.name} did not end within {seconds:g} seconds and was given up"
            remedy = "It may still take effect: find out before you call it again"
            raise ToolFailed.without_reply(problem, remedy="" if tool.idempotent else remedy) from error
        place = author_place(error)
        logger.error("tool %s failed at %s", tool.name, place or "no line of its author's", exc_info=error)
        problem = f"{type(error).__name__}: {error}{f' ({place.short})' if place else ''}"
        raise ToolFailed.without_reply(problem) from error


def plain_result(result: Any, max_chars: int) -> dict[str, Any]:
    """The result of a tool as plain data, with its files beside it, each described in its place.

    One over `max_chars` is text, and one over 400,000 characters says what of it is left out.
    """
    files: list[File] = []
    value = _plain(_described(result, files))
    text = value if isinstance(value, str) else to_json(value).decode()
    if len(text) > max_chars:
        value = head_and_tail(text, _MAX_WHOLE_CHARS)
    return {"value": value, "error": None, "files": files} if files else {"value": value, "error": None}


def as_check_result(value: Any, check: Callable[..., Any]) -> CheckResult:
    """The value of a check. Raises ToolFailed, with file and line, where it is none."""
    if isinstance(value, CheckResult):
        return value
    if inspect.iscoroutine(value):
        value.close()
    name = getattr(check, "__name__", repr(check))
    code = getattr(inspect.unwrap(check), "__code__", None)
    place = "" if code is None else f" ({_Place(code.co_filename, code.co_firstlineno).short})"
    problem = f"{name} returned a {type(value).__name__}, not a CheckResult{place}"
    logger.error("The check %s", problem)
    raise ToolFailed(problem, remedy="Let it return CheckResult.happened, did_not_happen or unknown")


def plain_effect(effect: Any) -> Any:
    """The effect that a preview says, as plain data; nothing of it is left out."""
    return Unchanged(_plain(effect.shown)) if isinstance(effect, Unchanged) else _plain(effect)


def cut(text: str, max_chars: int) -> str:
    """A text no longer than it may be, which says so if it was cut."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[cut: the first {max_chars:,} of {len(text):,} characters]"


def head_and_tail(text: str, max_chars: int, output_id: str = "") -> str:
    """The first and the last of a text, in halves, which says what is left out and where the rest is."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    tail = len(text) - (max_chars - head)
    where = f", output({output_id!r}, {head}) shows them" if output_id else ""
    left_out = f"[cut: characters {head:,} to {tail:,} of {len(text):,} are left out{where}]"
    return f"{text[:head]}\n{left_out}\n{text[tail:]}"


def _described(result: Any, files: list[File]) -> Any:
    """A result with a description in the place of each file, which goes to `files`."""
    match result:
        case TaskFile():
            return _described(result.file, files)
        case File():
            files.append(result)
            return str(result)
        case list() | tuple() if result and all(isinstance(item, str | File | TaskFile) for item in result):
            described = [_described(item, files) for item in result]
            return "\n".join(described) if files else described
        case dict():
            return {name: _described(value, files) for name, value in result.items()}
        case list() | tuple() if not hasattr(result, "_fields"):
            return [_described(value, files) for value in result]
        case _:
            return result


def _plain(result: Any) -> Any:
    try:
        return from_json(to_json(result, inf_nan_mode="null", fallback=plain))
    except (PydanticSerializationError, ValueError) as error:
        raise ToolFailed(f"its result is not what JSON can hold: {error}") from error


_DEFAULT_THREADS = 8


@dataclass(frozen=True, slots=True)
class Overrun:
    """A call whose thread goes on after its caller has left, or one that did, and has ended."""

    agent_id: str
    tool: str
    task: Task
    seconds: float
    has_ended: bool


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
                self._report(call, has_ended=False)
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
            self._report(call, has_ended=True)
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

    def _report(self, call: _ThreadCall, *, has_ended: bool) -> None:
        seconds = round(time.perf_counter() - call.started, 3)
        what = "has ended, after" if has_ended else "was given up and still runs, after"
        where, task = f"tool {call.tool} of {self._agent_id}", call.context.task
        logger.warning("%s %s %.1f s (task %s)", where, what, seconds, task.task_id)
        self._on_overrun(Overrun(self._agent_id, call.tool, task, seconds, has_ended))
