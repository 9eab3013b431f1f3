"""A process whose time, threads and chance are simulated: what runs in it runs the same for the same seed.

Time stands still while anything can run, and jumps to the next timer once nothing can. Threads run where they
are started. Everything holds for the whole process, so a process that simulates does nothing else.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import math
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

from pydantic import BaseModel

from meshwright.agents import component
from meshwright.agents.prompts import sources
from meshwright.agents.tools import functions
from meshwright.core import ids
from meshwright.engine.kernel import cells, turns
from meshwright.engine.sql import database, migrations
from meshwright.engine.work import sharing
from meshwright.engine.work.people import Approval
from meshwright.mesh.orchestration import presence, status
from tests.support.walker.threads import SimulatedThreads, run_coroutine_threadsafe

ResultT = TypeVar("ResultT")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NEVER_SECONDS = 1e7  # duties that a walk does not look at
_TICK_SECONDS = 1e-6  # a sleep ends behind its time, as on real clocks
_BEGINNING_SECONDS = BEGINNING.timestamp()


class Stalled(Exception):
    """Nothing can run, and nothing ever will."""


class _TimeSelector(selectors.BaseSelector):
    """Waits for no file: it passes the time up to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.idle: list[asyncio.Future[None]] = []
        self._files: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return []
        waiting, self.idle = [future for future in self.idle if not future.done()], []
        if waiting:
            for future in waiting:
                future.set_result(None)
        elif timeout is None:
            raise Stalled
        else:
            self.now = math.ceil((self.now + timeout) * 1e6 - 1e-3) / 1e6  # clocks count microseconds
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._files.setdefault(fileobj, selectors.SelectorKey(fileobj, 0, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj)

    def get_map(self) -> Any:
        return self._files


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on simulated time. Its threads are none, but for those of a `SimulatedThreads`."""

    def __init__(self) -> None:
        self._clock = _TimeSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Any, func: Callable[..., ResultT], *args: Any
    ) -> asyncio.Future[ResultT]:
        if isinstance(executor, SimulatedThreads):
            return executor.start(self, functools.partial(func, *args))
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 it is the caller's, as of a thread
            future.set_exception(error)
        return future

    async def until_idle(self) -> None:
        """Return once nothing can run without time passing."""
        future = self.create_future()
        self._clock.idle.append(future)
        await future


class InlineExecutor:
    """Runs in place what a thread would."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 as above
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, **options: Any) -> None:
        """Nothing is left."""


class SimulatedClock:
    """The clock of a mesh on simulated time; `set` is somebody who sets the clock of the machine."""

    def __init__(self, ahead_seconds: float = 0.0) -> None:
        self.ahead_seconds = ahead_seconds
        self._sleepers: set[asyncio.Event] = set()

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=asyncio.get_running_loop().time() + self.ahead_seconds)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def set(self, seconds: float) -> None:
        """Set it forward or back. A sleep that is under way notices."""
        self.ahead_seconds += seconds
        for changed in self._sleepers:
            changed.set()

    async def sleep_until(self, when: datetime) -> None:
        changed, left = asyncio.Event(), (when - self.now()).total_seconds() + _TICK_SECONDS
        self._sleepers.add(changed)
        try:
            ahead = self.ahead_seconds
            while left > 0:
                try:
                    async with asyncio.timeout(left):
                        await changed.wait()
                except TimeoutError:
                    return
                changed.clear()
                forward, ahead = max(0.0, self.ahead_seconds - ahead), self.ahead_seconds
                left = (when - self.now()).total_seconds() + _TICK_SECONDS if forward else left
        finally:
            self._sleepers.discard(changed)
        await asyncio.sleep(0)


@functools.cache
def _remembered() -> tuple[tuple[Any, str, Any], ...]:
    """Functions of code and files alone, which each start asks anew: here they are asked once."""
    models: dict[str, Any] = {}

    def create_model(name: str, **fields: Any) -> Any:
        if (key := repr(fields)) not in models:
            models[key] = model = made_by_pydantic(name, **fields)
            schema = _schema_of(model)
            model.model_json_schema = lambda **options: copy.deepcopy(schema)
        return models[key]

    made_by_pydantic = functions.create_model
    return (
        (functions, "create_model", create_model),
        (turns, "_describe", functools.cache(turns._describe)),
        (Approval, "model_json_schema", _remembered_schemas()),
        (cells, "TypeAdapter", functools.cache(cells.TypeAdapter)),
        (component, "hash_code", functools.cache(component.hash_code)),
        (sources, "find_checkout", functools.cache(sources.find_checkout)),
        (migrations, "migration_steps", functools.cache(migrations.migration_steps)),
    )


def _remembered_schemas() -> classmethod[Any, Any, dict[str, Any]]:
    """A method that asks for the schema of each class once: those below a class have others."""
    schema_of = functools.cache(BaseModel.model_json_schema.__func__)
    return classmethod(lambda model: copy.deepcopy(schema_of(model)))


def _schema_of(model: Any) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=functions.WithoutTitles)


@contextmanager
def _simulated(loop: SimulatedLoop, seed: int | str) -> Iterator[None]:
    def now() -> float:
        return _BEGINNING_SECONDS + loop.time()

    patches = (
        (time, "monotonic", loop.time),
        (time, "perf_counter", loop.time),
        (time, "time", now),
        (time, "time_ns", lambda: int(now() * 1_000_000_000)),
        (asyncio, "run_coroutine_threadsafe", run_coroutine_threadsafe),
        (database, "ThreadPoolExecutor", InlineExecutor),
        (sharing, "SHARE_SECONDS", NEVER_SECONDS),  # a worker alone has nobody to share with
        (status, "CHECK_SECONDS", NEVER_SECONDS),
        (presence, "CHECK_SECONDS", NEVER_SECONDS),
        *_remembered(),
    )
    state = random.getstate()
    with ExitStack() as stack:
        for owner, name, simulated in patches:
            stack.enter_context(patch.object(owner, name, simulated))
        random.seed(f"chance {seed}")
        ids._RANDOM.seed(f"ids {seed}")  # ids decide the order of what is sorted by them
        try:
            yield
        finally:
            random.setstate(state)
            ids._RANDOM.seed()


def simulate(main: Callable[[SimulatedLoop], Coroutine[Any, Any, ResultT]], seed: int | str) -> ResultT:
    """Run to its end on a loop of its own, the same each time for the same seed."""
    loop = SimulatedLoop()
    logging.disable(logging.CRITICAL)  # a killed process says much
    try:
        with _simulated(loop, seed):
            return loop.run_until_complete(main(loop))
    finally:
        logging.disable(logging.NOTSET)
        asyncio.set_event_loop(None)
        loop.close()
