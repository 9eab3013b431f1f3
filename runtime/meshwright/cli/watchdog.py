"""The watchdog of a process that serves a mesh: it notices an event loop that is held, and restarts it.

A thread sees whether the loop still turns. Work that held the loop when the process ended, however it ended,
counts as one that broke off: after three times it fails.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import logging
import os
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from meshwright.cli.reports import keep_text
from meshwright.envelope import ActorRef
from meshwright.errors import StoreFailed
from meshwright.sql.folder import make_private, read_private, write_private

if TYPE_CHECKING:
    from meshwright.mesh import Mesh

logger = logging.getLogger("meshwright.watchdog")

FILE_NAME = "held.json"
_LOOKS = 20  # of the thread, until it counts the loop as held
_FORGOTTEN_SECONDS = 3600.0
_NOT_AUTHORS = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "scripts"))
PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds the loop: a place as file:line, and the work that runs there, where it is known."""

    where: str
    works: Sequence[tuple[ActorRef, str]]

    def __str__(self) -> str:
        works = [f"in task {task_id} of {ref.type}" for ref, task_id in self.works]
        return ", ".join([self.where, *works])


@contextmanager
def watching(mesh: Mesh, restart: Callable[[], None] | None = None) -> Iterator[None]:
    """Watch the running loop while the block lasts. Enter it before the mesh starts.

    `restart` replaces the process once the loop is held for `watchdog.restart_seconds`; without it, somebody
    else does, and SIGUSR2 dumps the stacks of all threads to stderr.
    """
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    _recall_holders(mesh)
    watchdog = _Watchdog(mesh, asyncio.get_running_loop(), restart)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def _recall_holders(mesh: Mesh) -> None:
    """Tell the worker which work held the loop when an earlier process ended."""
    for entry in _entries(mesh.settings.data_dir / FILE_NAME).values():
        mesh.worker.held_before(
            ActorRef.parse(entry["ref"]), entry["task_id"], entry["times"], str(entry["where"])
        )


class _Watchdog:
    """The thread and what it knows. Looks are counted, not time: a stopped process holds nothing."""

    def __init__(
        self, mesh: Mesh, loop: asyncio.AbstractEventLoop, restart: Callable[[], None] | None
    ) -> None:
        self._mesh = mesh
        self._loop = loop
        self._restart = restart
        self._settings = mesh.settings
        self._path = mesh.settings.data_dir / FILE_NAME
        self._pause = mesh.settings.watchdog.held_seconds / _LOOKS
        self._of_loop = threading.get_ident()
        self._turned = threading.Event()
        self._stopping = threading.Event()
        self._holder: Holder | None = None
        self._thread = threading.Thread(target=self._watch, name="mesh-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._turned.set()
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        looks = 0
        while not self._stopping.wait(self._pause):
            if self._turned.is_set():
                if self._holder is not None:
                    self._went_on(self._holder, looks * self._pause)
                looks = 0
                self._turned.clear()
                with suppress(RuntimeError):  # the loop is closed: the process is about to end
                    self._loop.call_soon_threadsafe(self._turned.set)
                continue
            looks += 1
            if looks == _LOOKS:
                self._held()
            limit = self._settings.watchdog.restart_seconds
            if self._restart is not None and limit and looks * self._pause >= limit:
                self._end(self._restart, looks * self._pause)

    def _held(self) -> None:
        """Say who holds the loop, once, and note it where the next process finds it."""
        frame = sys._current_frames().get(self._of_loop)
        stack = traceback.extract_stack(frame)
        self._holder = self._find_holder(stack)
        text = f"The event loop is held at {self._holder}:\n{''.join(traceback.format_list(stack))}"
        logger.warning(
            "The event loop has been held for %g s at %s; nothing else runs meanwhile (%s). "
            "Give slow or blocking code to a tool that is a plain def: it runs in a thread",
            self._settings.watchdog.held_seconds,
            self._holder,
            keep_text(text, self._settings.data_dir),
        )
        self._note(self._holder, +1)

    def _find_holder(self, stack: traceback.StackSummary) -> Holder:
        """The place, and the work whose asyncio task is running; else all work of the agent of that file."""
        where, worker = _place(stack), self._mesh.worker
        if work := worker.at_work(asyncio.current_task(self._loop)):
            return Holder(where, [work])
        agents = {
            agent_id
            for agent_id, employed in self._mesh.agents.items()
            if inspect.getfile(type(employed.agent)) == where.rpartition(":")[0]
        }
        return Holder(where, [work for work in worker.works() if work[0].type in agents])

    def _went_on(self, holder: Holder, seconds: float) -> None:
        self._holder = None
        self._note(holder, -1)
        logger.warning("The event loop went on after %.1f s at %s", seconds, holder)
        with suppress(RuntimeError):  # the loop is closed by now
            self._loop.call_soon_threadsafe(self._publish, holder, seconds)

    def _publish(self, holder: Holder, seconds: float) -> None:
        known = {"agent_id": holder.works[0][0].type, "task_id": holder.works[0][1]} if holder.works else {}
        self._mesh.tell("loop.held", {"seconds": round(seconds, 1), "where": holder.where, **known}, **known)

    def _note(self, holder: Holder, times: int) -> None:
        if not holder.works:
            return
        entries = _entries(self._path)
        for ref, task_id in holder.works:
            entry = entries.setdefault(task_id, {"times": 0})
            entry |= {"ref": str(ref), "task_id": task_id, "where": holder.where, "at": time.time()}
            entry["times"] += times
        kept = {key: entry for key, entry in entries.items() if entry["times"] > 0}
        with suppress(OSError, StoreFailed):  # a full disk: the mesh says so itself
            write_private(make_private(self._path.parent) / FILE_NAME, to_json(kept).decode())

    def _end(self, restart: Callable[[], None], seconds: float) -> None:
        """Dump the stacks of all threads, and start this process again."""
        logger.error("The event loop has been held for %g s: the mesh starts again. Its threads:", seconds)
        faulthandler.dump_traceback(all_threads=True)
        restart()


def _place(stack: traceback.StackSummary) -> str:
    """Where it is held: the innermost line that is neither Python's, nor a library's, nor ours."""
    authors = [
        frame for frame in stack if not frame.filename.startswith((*_NOT_AUTHORS, f"{PACKAGE}{os.sep}", "<"))
    ]
    frame = (authors or stack)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """What held the loop of an earlier process, by task, of the last hour."""
    try:
        entries = from_json(read_private(path))
        return {
            key: entry
            for key, entry in entries.items()
            if entry["at"] > time.time() - _FORGOTTEN_SECONDS and entry["times"] > 0 and entry["ref"]
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # there is none, or none of ours
        return {}
