"""Care for the event loop of a process that serves a mesh: its garbage, and code that holds it.

The collector walks every object that it looks at while the loop stands still, about a microsecond each. A
mesh leaves no circles behind (a test holds that), so almost everything is freed without it; what agents and
libraries leave is found when the process is idle, or when too much has been set aside, by the number of
objects or by the memory of the process.

The watchdog is a thread that sees whether the loop still turns. A call that keeps the interpreter lock stops
that thread too: then the alarms of the system, which the thread puts off at each look, do its work. Python
handles them within long regular expressions of the main thread. If it cannot, the system ends the process
after twice the time, by a timer of CPU seconds (`SIGPROF`), which a stopped process does not use. A process
that it replaces counts against the work in it as every other end of its process does, and it notes which line
held the loop.

A loop may turn and still be deaf, for example after some code closed its sockets. A second thread therefore
asks the process's own `/healthz`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import logging
import os
import resource
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from socket import create_connection, socket
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.agents.tools.functions import FunctionTool
from meshwright.console.process import keep_text
from meshwright.core.errors import StoreFailed
from meshwright.edges.http.settings import WatchdogSettings
from meshwright.engine.events.event_types import LoopHeld
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.sql.folder import make_private, read_private, write_private

if TYPE_CHECKING:
    from meshwright.core.settings import Settings
    from meshwright.mesh.mesh import Mesh

logger = logging.getLogger("meshwright.watchdog")

LISTENER = "MESHWRIGHT_LISTENER"
"""The variable by which a run hands its listening socket to the one that replaces it."""
_SWITCH_SECONDS = 0.001
_GROUPS_BEFORE_PROCESS = 500

YOUNG_OBJECTS = 5_000  # more than were freed since: where 1,000 tasks wait, one walks ten times as many
IDLE_OBJECTS = 50_000  # set aside since the last full collection: worth another while nothing runs
_BUSY_OBJECTS = 2_000_000  # the same while work runs; the walk stalls the loop, a leak would end the process
IDLE_BYTES = 32_000_000  # of memory, grown since: a few objects may hold megabytes
_BUSY_BYTES = 512_000_000
_NEVER = 1_000_000_000  # collections of the young before an older generation is collected
_CHECK_SECONDS = 60.0

_HELD_FILE = "held.json"
_LOOKS = 20  # of the thread, until it counts the loop as held
_LOOKS_TO_ALARM = 10  # that the thread misses, until alarms take their place
_ASKS = 6  # of its own API, in the time after which a silent process starts again
_ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_DEAF = 70  # the exit status; EX_SOFTWARE of sysexits.h
_NOT_AUTHORS = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "scripts"))
_PACKAGE = str(Path(__file__).parents[1])


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop that this machine has; None is Python's own."""
    try:
        import uvloop
    except ImportError:  # not made for every system
        return None
    return uvloop.new_event_loop


def switch_often() -> None:
    """Let the writer's thread in sooner while the loop is busy.

    It lets go of the interpreter at each statement, and by default waits up to 5 ms to get it back: a commit
    of a dozen statements then takes longer than its tasks.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)


def writes_apart(settings: Settings) -> bool:
    """Whether a process of its own is to write to SQLite, in a mesh that serves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.writer == "process" or (settings.writer == "auto" and cores > 1)


def groups_before_apart(settings: Settings) -> int | None:
    """The groups of writes after which a process of its own is to write. None means never.

    Its start costs almost a second of a core, and 50 MB, which a mesh with little to do is spared.
    """
    if not writes_apart(settings):
        return None
    return 0 if settings.writer == "process" else _GROUPS_BEFORE_PROCESS


def start_again(listener: socket) -> None:
    """Replace this process by a new run of the same command, which goes on with the listening socket.

    Safe at any moment: what is accepted is on disk, and the new run goes on as after kill -9.
    """
    listener.set_inheritable(True)  # callers wait in its queue meanwhile
    os.environ[LISTENER] = str(listener.fileno())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def inherited_listener() -> socket | None:
    """The listening socket of the run that this one replaces."""
    number = os.environ.pop(LISTENER, None)
    if number is None:
        return None
    listener = socket(fileno=int(number))
    listener.set_inheritable(False)
    return listener


def collect_young() -> None:
    """Let the collector walk new objects alone, some thousands at a time, and each object once."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, _NEVER, _NEVER)
    gc.enable()
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


@asynccontextmanager
async def collecting(
    is_idle: Callable[[], bool], check_seconds: float = _CHECK_SECONDS
) -> AsyncGenerator[None]:
    """Collect young objects within a block, and everything now and then when `is_idle()`.

    That is also when what the start left is first looked through, which takes 0.1 s.
    """
    collect_young()

    async def collect_when_idle() -> None:
        objects, resident = 0, _resident_bytes()
        while True:
            await asyncio.sleep(check_seconds)
            limits = (IDLE_OBJECTS, IDLE_BYTES) if is_idle() else (_BUSY_OBJECTS, _BUSY_BYTES)
            if gc.get_freeze_count() - objects > limits[0] or _resident_bytes() - resident > limits[1]:
                gc.unfreeze()
                gc.collect()
                gc.freeze()
                objects, resident = gc.get_freeze_count(), _resident_bytes()

    task = asyncio.create_task(collect_when_idle(), name="garbage collection")
    try:
        yield
    finally:
        task.cancel()


def _resident_bytes() -> int:
    """The memory of the process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:  # not Linux: objects alone count
        return 0
    return pages * resource.getpagesize()


def _set_aside(phase: str, info: dict[str, int]) -> None:
    """Keep what survived a collection of the young from being walked again."""
    if phase == "stop" and info["generation"] == 0:
        gc.freeze()


class _Holder(NamedTuple):
    """The holder of the loop: a place as file:line, and the work that runs there, if it is known."""

    where: str
    works: Sequence[tuple[ActorRef, str]]
    tool: str | None = None

    def __str__(self) -> str:
        tool = [f"in the tool {self.tool}"] if self.tool else []
        works = [f"in task {task_id} of {ref.type}" for ref, task_id in self.works]
        return ", ".join([self.where, *tool, *works])


@contextmanager
def watching(
    mesh: Mesh, restart: Callable[[], None] | None = None
) -> Iterator[Callable[[socket, bool], None]]:
    """Watch the running loop while the block lasts. Enter it before the mesh starts.

    `restart` replaces the process once the loop is held for `watchdog.restart_seconds`; without it, somebody
    else does, and SIGUSR2 dumps the stacks of all threads to stderr. Gives a function to call with the socket
    of a server once that is ready, and whether it speaks TLS: if it is silent for that time, the process is
    replaced too, or ends.
    """
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    watchdog = _Watchdog(mesh, restart)
    for ref, task_id, where in _held_before(mesh.settings.data_dir / _HELD_FILE):
        watchdog.worker.held_before(ActorRef.parse(ref), task_id, where)
    before = signal.signal(signal.SIGALRM, watchdog.alarm)
    faulthandler.register(
        signal.SIGPROF, all_threads=True, chain=True
    )  # shows the stacks, then ends the process
    watchdog.set_alarm()  # work that begins at once may keep the interpreter lock from the thread
    watchdog.thread.start()
    try:
        yield watchdog.watch_api
    finally:
        watchdog.stopping.set()
        watchdog.thread.join()
        watchdog.set_timers(0, 0)
        signal.signal(signal.SIGALRM, before)


class _Watchdog:
    """The thread and what it knows. Looks are counted, not time: a stopped process holds nothing."""

    def __init__(self, mesh: Mesh, restart: Callable[[], None] | None) -> None:
        from meshwright.agents.loader import BoundAgents
        from meshwright.engine.work import Worker

        self.worker = mesh.get(Worker)
        self._agents = mesh.get(BoundAgents)
        self._mesh = mesh
        self._loop = asyncio.get_running_loop()
        self._restart = restart
        self._settings = mesh.settings
        self._path = mesh.settings.data_dir / _HELD_FILE
        self._pause = mesh.settings[WatchdogSettings].held_seconds / _LOOKS
        self._of_loop = threading.get_ident()
        self._turned = threading.Event()
        self._turned.set()
        self._alarms = 0
        self._cpu_at_turn = time.process_time()
        self._holder: _Holder | None = None
        self._stalled_claims = 1
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="mesh-watchdog", daemon=True)

    def _watch(self) -> None:
        looks = 0
        while not self.stopping.wait(self._pause):
            self._alarms = 0
            self.set_alarm()
            if self._turned.is_set():
                self._cpu_at_turn = time.process_time()
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
            self._restart_after(looks)

    def watch_api(self, listener: socket, has_tls: bool) -> None:
        """Begin to ask the server of a socket, in a thread of its own, which may wait for answers."""
        if not self._settings[WatchdogSettings].restart_seconds:
            return
        host, port = listener.getsockname()[:2]
        address = (_WILDCARDS.get(host, host), port)
        arguments = (address, has_tls)
        threading.Thread(target=self._ask_on, args=arguments, name="mesh-api-watch", daemon=True).start()

    def _ask_on(self, address: tuple[str, int], has_tls: bool) -> None:
        limit = self._settings[WatchdogSettings].restart_seconds
        pause, patience = limit / _ASKS, limit / 2
        silent_seconds = 0.0
        while not self.stopping.wait(pause):
            began = time.monotonic()
            problem = _ask_api(address, patience, has_tls)
            if not problem or self._holder is not None:
                silent_seconds = 0.0
                continue
            # A process that was stopped for long has missed one answer, which is not enough.
            silent_seconds += pause + min(time.monotonic() - began, patience)
            if silent_seconds >= limit and not self.stopping.is_set():
                consequence = "the process ends" if self._restart is None else "the mesh starts again"
                deaf = "The API of this process has not answered for %.0f s (%s): %s. Its threads:"
                logger.error(deaf, silent_seconds, problem, consequence)
                self._replace(self._restart or partial(os._exit, _DEAF))

    def set_alarm(self) -> None:
        """Have the system act unless this is called again in time."""
        self.set_timers(_LOOKS_TO_ALARM * self._pause, 2 * self._settings[WatchdogSettings].restart_seconds)

    def set_timers(self, alarm_seconds: float, cpu_seconds: float) -> None:
        """Set both timers; 0 is never."""
        signal.setitimer(signal.ITIMER_REAL, alarm_seconds, self._pause)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def alarm(self, number: int, frame: FrameType | None) -> None:
        """Do the thread's work while the main thread keeps the interpreter lock."""
        self._alarms += 1
        # The thread may run for a moment and count anew: the CPU time since the loop turned goes on.
        used = int((time.process_time() - self._cpu_at_turn) / self._pause)
        looks = max(self._alarms + _LOOKS_TO_ALARM, used)
        if looks >= _LOOKS and self._holder is None:
            self._held()
        self._restart_after(looks)

    def _restart_after(self, looks: int) -> None:
        limit = self._settings[WatchdogSettings].restart_seconds / self._stalled_claims
        if self._restart is not None and limit and looks * self._pause >= limit:
            text = "The event loop has been held for %g s: the mesh starts again. Its threads:"
            logger.error(text, looks * self._pause)
            self._replace(self._restart)

    def _replace(self, replace: Callable[[], None]) -> None:
        faulthandler.dump_traceback(all_threads=True)
        self.stopping.set()
        self.set_timers(0, 0)  # they would go on in the next run
        replace()

    def _held(self) -> None:
        """Say who holds the loop, once, and note it where the next process finds it."""
        frame = sys._current_frames().get(self._of_loop)
        stack = traceback.extract_stack(frame)
        self._holder = self._find_holder(stack, _tool_in(frame))
        text = f"The event loop is held at {self._holder}:\n{''.join(traceback.format_list(stack))}"
        logger.warning(
            "The event loop has been held for %g s at %s; nothing else runs meanwhile (%s). "
            "Give slow or blocking code to a tool that is a plain def: it runs in a thread",
            self._settings[WatchdogSettings].held_seconds,
            self._holder,
            keep_text(text, self._settings.data_dir),
        )
        self._note(self._holder)

    def _find_holder(self, stack: traceback.StackSummary, tool: str | None) -> _Holder:
        """The place, and the work whose asyncio task is running; else all work of the agent of that file."""
        where, worker = _place(stack), self.worker
        if work := worker.at_work(asyncio.current_task(self._loop)):
            return _Holder(where, [work], tool)
        agents = {
            agent_id
            for agent_id, bound in self._agents.items()
            if inspect.getfile(type(bound.agent)) == where.rpartition(":")[0]
        }
        return _Holder(where, [work for work in worker.works() if work[0].type in agents], tool)

    def _went_on(self, holder: _Holder, seconds: float) -> None:
        self._holder, self._stalled_claims = None, 1
        self._path.unlink(missing_ok=True)
        logger.warning("The event loop went on after %.1f s at %s", seconds, holder)
        with suppress(RuntimeError):  # the loop is closed by now
            self._loop.call_soon_threadsafe(self._publish, holder, seconds)

    def _publish(self, holder: _Holder, seconds: float) -> None:
        fields: Any = (
            {"agent_id": holder.works[0][0].type, "task_id": holder.works[0][1]} if holder.works else {}
        )
        stall = LoopHeld(seconds=round(seconds, 1), where=holder.where, tool=holder.tool, **fields)
        self._mesh.tell(stall, **fields)

    def _note(self, holder: _Holder) -> None:
        """Note the line for the error of the task; work that ended a process before has less time."""
        self._stalled_claims = max([1, *map(self.worker.stalled_claims, holder.works)])
        claims = [(str(ref), task_id, holder.where) for ref, task_id in holder.works]
        with suppress(OSError, StoreFailed):  # a full disk: the mesh says so itself
            write_private(make_private(self._path.parent) / _HELD_FILE, to_json(claims).decode())


def _tool_in(frame: FrameType | None) -> str | None:
    while frame is not None:
        if frame.f_code is FunctionTool.call.__code__:
            return frame.f_locals["self"].name
        frame = frame.f_back
    return None


def _place(stack: traceback.StackSummary) -> str:
    """The innermost line of a stack that is neither Python's, nor a library's, nor ours."""
    authors = [
        frame for frame in stack if not frame.filename.startswith((*_NOT_AUTHORS, f"{_PACKAGE}{os.sep}", "<"))
    ]
    frame = (authors or stack)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _ask_api(address: tuple[str, int], seconds: float, has_tls: bool) -> str:
    """Ask the API of this process; returns why there is no answer, "" where there is one."""
    try:
        with create_connection(address, seconds) as connection, _secured(connection, has_tls) as channel:
            channel.sendall(_ASK)
            return "" if channel.recv(1) else "it closes connections"
    except ConnectionRefusedError:  # it does not listen any more, since it stops
        return ""
    except OSError as error:
        return str(error)


def _secured(connection: socket, has_tls: bool) -> socket:
    if not has_tls:
        return connection
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its own certificate
    return context.wrap_socket(connection)


def _held_before(path: Path) -> list[tuple[str, str, str]]:
    """The work that held the loop of the process before, each with its thread and the line; read once."""
    try:
        claims = [(str(ref), str(task), str(where)) for ref, task, where in from_json(read_private(path))]
        path.unlink()
    except (OSError, ValueError, TypeError):  # there is none, or none of ours
        return []
    return claims
