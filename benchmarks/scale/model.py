"""A simulation of workers that share one database: discrete events, by the costs of one real worker.

A task is some rounds: the loop of its worker works on it, the worker's writer gathers what waits into a
group, the server writes the group, in part under the lock of the log, and the disk makes it durable. Loops,
writers and server processes share the cores of their machine. A core that has run several other processes
since serves one more slowly, from cold caches.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 4
"""The commits of a task."""
WARM = 3
"""How many processes find their data in the caches of a core."""
SLICE = 64
"""How many tasks a loop works on before the first of them is written."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds of CPU: of a task, and of a group that is written."""

    task: float
    group: float


@dataclass(frozen=True)
class Costs:
    """What one worker costs, as measured. `locked` is the share of the server's work under the log's lock."""

    loop: Cost
    writer: Cost
    server: Cost
    cold_ms: float
    busy: float
    locked: float
    durable_ms: float


@dataclass(frozen=True)
class Result:
    """Tasks in a second, and the CPU of each in milliseconds."""

    rate: float
    cpu_ms: float


class _Machine:
    """Cores, and the jobs of processes that wait for one."""

    def __init__(self, simulation: Simulation, cores: int, cold_ms: float, busy: float) -> None:
        self._simulation, self._cold_ms, self._busy = simulation, cold_ms, busy
        self._recent: list[deque[object]] = [deque(maxlen=WARM) for _ in range(cores)]
        self._idle = set(range(cores))
        self._waiting: deque[tuple[object, float, Callable[[], None]]] = deque()
        self.used_ms = 0.0

    def run(self, process: object, milliseconds: float, done: Callable[[], None]) -> None:
        """Work for a process, once there is a core; a core that knows it is taken first."""
        self._waiting.append((process, milliseconds, done))
        self._next()

    def _next(self) -> None:
        while self._idle and self._waiting:
            process, milliseconds, done = self._waiting.popleft()
            core = next((core for core in self._idle if process in self._recent[core]), min(self._idle))
            self._idle.discard(core)
            recent = self._recent[core]
            if process in recent:
                recent.remove(process)
            elif len(recent) == WARM:
                milliseconds += self._cold_ms
            recent.append(process)
            if not self._idle:
                milliseconds *= self._busy
            self.used_ms += milliseconds
            self._simulation.after(milliseconds, self._freed(core, done))

    def _freed(self, core: int, done: Callable[[], None]) -> Callable[[], None]:
        def freed() -> None:
            self._idle.add(core)
            done()
            self._next()

        return freed


class _Lock:
    """The lock of the log, first come first served."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_taken = False

    def take(self, then: Callable[[], None]) -> None:
        if self._is_taken:
            self._waiting.append(then)
        else:
            self._is_taken = True
            then()

    def give(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._is_taken = False


class _Worker:
    """A worker with its share of the tasks, each followed by another as it ends."""

    def __init__(self, simulation: Simulation, own: _Machine, costs: Costs) -> None:
        self._simulation, self._machine, self._costs = simulation, own, costs
        self._loop, self._writer, self._backend = object(), object(), object()
        self._ready: deque[int] = deque()  # the rounds of tasks that the loop works on next
        self._filling: list[int] = []
        self._is_working = self._is_writing = False

    def begin(self, tasks: int) -> None:
        self._ready.extend([0] * tasks)
        self._work()

    def _work(self) -> None:
        if self._is_working or not self._ready:
            return
        self._is_working = True
        batch = [self._ready.popleft() for _ in range(min(SLICE, len(self._ready)))]
        cost = self._costs.loop.task / ROUNDS * len(batch)
        self._machine.run(self._loop, cost, lambda: self._worked(batch))

    def _worked(self, batch: list[int]) -> None:
        self._is_working = False
        self._filling += batch
        self._write()
        self._work()

    def _write(self) -> None:
        if self._is_writing or not self._filling:
            return
        self._is_writing = True
        group, self._filling = self._filling, []
        cost = self._costs.writer
        milliseconds = cost.group + cost.task / ROUNDS * len(group)
        loop = self._costs.loop.group
        self._machine.run(
            self._loop, loop, lambda: self._machine.run(self._writer, milliseconds, lambda: self._send(group))
        )

    def _send(self, group: list[int]) -> None:
        cost, server, simulation = self._costs.server, self._simulation.server, self._simulation
        milliseconds = cost.group + cost.task / ROUNDS * len(group)
        locked = milliseconds * self._costs.locked

        def append() -> None:
            server.run(self._backend, locked, lambda: simulation.after(self._costs.durable_ms, durable))

        def durable() -> None:
            simulation.log.give()
            self._written(group)

        server.run(self._backend, milliseconds - locked, lambda: simulation.log.take(append))

    def _written(self, group: list[int]) -> None:
        self._is_writing = False
        for round_ in group:
            if round_ + 1 == ROUNDS:
                self._simulation.ended += 1
            self._ready.append((round_ + 1) % ROUNDS)
        self._write()
        self._work()


class Simulation:
    """Workers on machines of their own, or (`cores` 0) all with the server on one that has `server_cores`."""

    def __init__(self, costs: Costs, workers: int, *, server_cores: int, cores: int = 0) -> None:
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.ended = 0
        self.log = _Lock()
        self.server = _Machine(self, server_cores, costs.cold_ms, costs.busy)
        self._machines = [
            _Machine(self, cores, costs.cold_ms, costs.busy) if cores else self.server for _ in range(workers)
        ]
        self._workers = [_Worker(self, machine, costs) for machine in self._machines]

    def after(self, milliseconds: float, call: Callable[[], None]) -> None:
        """Call a function later."""
        heapq.heappush(self._events, (self._now + milliseconds, next(self._numbers), call))

    def run(self, in_flight: int, seconds: float = 4.0) -> Result:
        """Keep so many tasks in flight in all, and count those that end after a warm-up of a quarter."""
        for number, worker in enumerate(self._workers):
            worker.begin(in_flight // len(self._workers) + (number < in_flight % len(self._workers)))
        begins, ends = seconds * 250, seconds * 1250
        before = self._until(begins)
        ended, used = before
        last_ended, last_used = self._until(ends)
        tasks = last_ended - ended
        return Result(tasks / seconds, (last_used - used) / max(tasks, 1))

    def _until(self, end: float) -> tuple[int, float]:
        while self._events and self._events[0][0] <= end:
            self._now, _, call = heapq.heappop(self._events)
            call()
        return self.ended, sum(machine.used_ms for machine in {*self._machines, self.server})
