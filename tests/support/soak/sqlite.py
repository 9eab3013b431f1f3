"""The soak on SQLite: a mesh and its writer, a process each, die apart and together while tasks go on."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from meshwright.parts.proving.processes import send, writer_pids
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults.node import Job
from tests.support.faults.nodes import KILLED, Nodes
from tests.support.soak.course import Course, deal
from tests.support.soak.small_disk import SmallDisk
from tests.support.soak.wall_clock import JUMPS_SECONDS, WallClock

SILENT_SECONDS = 90.0  # after which a mesh that says nothing has hung
FROZEN_SECONDS = 2.0
FULL_SECONDS = 1.0
LOOK_SECONDS = 0.02


class SqliteSoak:
    """One mesh after another on the same folder, until the plan is done."""

    def __init__(
        self, nodes: Nodes, job: Job, course: Course, rng: random.Random, *, clock: WallClock, disk: SmallDisk
    ) -> None:
        self._nodes, self._job, self._course, self._rng = nodes, job, course, rng
        self._clock, self._disk = clock, disk
        self._books = Records(Path(job.folder))
        self._lines: Iterator[str] = iter(())
        self._heard_at, self._was_full = time.monotonic(), False
        self._kinds: dict[str, Callable[[], None]] = {
            "main killed": self._kill_main,
            "writer killed": self._kill_writer,
            "both killed": self._kill_both,
        }
        self._others: dict[str, Callable[[], None]] = {
            "main frozen": lambda: self._freeze(self._nodes.pid),
            "writer frozen": lambda: self._freeze(self._writer()),
        }
        if clock.is_there:
            self._others["clock jumped"] = self._jump
        if disk.is_there:
            self._others["disk full"] = self._fill_the_disk

    def run(self) -> None:
        """Have the plan done, with all faults, and end where the mesh has ended by itself, at rest."""
        size = self._course.size
        faults = deal(self._rng, list(self._kinds), size.kills) + deal(
            self._rng, list(self._others), size.others
        )
        self._rng.shuffle(faults)
        with self._watched():
            self._start()
            for number, kind in enumerate(faults):
                self._await_progress(len(faults) - number)
                (self._kinds | self._others)[kind]()
                self._course.struck(kind, is_kill=kind in self._kinds, ended=self._books.outcomes.count())
            while (last := self._last()) != "exit 0":
                self._go_on_after(last)

    # The mesh

    def _start(self) -> None:
        told = {task_id for task_id, _, _ in self._books.outcomes.read()}
        accepted = dict(self._books.accepted.read())
        left: Sequence[PlannedTask] = [item for item in self._job.plan if accepted.get(item.key) not in told]
        self._lines, self._was_full = self._nodes.start(replace(self._job, plan=left)), False

    def _go_on_after(self, last: str) -> None:
        """Start another mesh after one that was killed, was done, or ended since its disk was full."""
        ends = [f"exit {KILLED}", "exit 0", *["exit 1"] * self._was_full]
        assert last in ends, f"the mesh ended by itself, with {last}"
        self._start()

    def _last(self) -> str:
        """Wait for the end of the mesh, and return how it ended."""
        last = ""
        for line in self._lines:
            last, self._heard_at = line, time.monotonic()
        return last

    def _await_progress(self, faults_left: int) -> None:
        """Let some tasks end, about a fair share of those left; one mesh in five is struck as it starts."""
        left = self._course.size.tasks - self._books.outcomes.count()
        wanted = 0 if self._rng.random() < 0.2 else self._rng.randint(1, max(1, left // faults_left))
        while wanted:
            line = next(self._lines)
            self._heard_at = time.monotonic()
            if line.startswith("exit "):
                self._go_on_after(line)
            wanted -= line.startswith("ended ")
            if self._books.outcomes.count() >= self._course.size.tasks:
                return
        time.sleep(self._rng.uniform(0, 0.03))  # nothing is waited for: chance decides how far it comes

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """End a mesh that has hung, so that it says where, and the test fails."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(1.0):
                if time.monotonic() - self._heard_at > SILENT_SECONDS:
                    send(self._nodes.pid, signal.SIGABRT)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _writer(self) -> int:
        """The process that writes; of a mesh that has none, the mesh itself."""
        until = time.monotonic() + FROZEN_SECONDS
        while time.monotonic() < until:
            if found := writer_pids(self._nodes.pid):
                return found[0]
            time.sleep(LOOK_SECONDS)
        return self._nodes.pid

    # Faults

    def _kill_main(self) -> None:
        self._nodes.kill()
        self._go_on_after(self._last())

    def _kill_writer(self) -> None:
        writer = self._writer()
        send(writer, signal.SIGKILL)
        if writer == self._nodes.pid:
            self._go_on_after(self._last())

    def _kill_both(self) -> None:
        for writer in writer_pids(self._nodes.pid):
            send(writer, signal.SIGKILL)
        time.sleep(self._rng.uniform(0, 0.05))
        self._kill_main()

    def _freeze(self, pid: int) -> None:
        send(pid, signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.2, FROZEN_SECONDS))
        send(pid, signal.SIGCONT)

    def _jump(self) -> None:
        self._clock.jump(self._rng.choice(JUMPS_SECONDS))

    def _fill_the_disk(self) -> None:
        self._disk.fill()
        self._was_full = True
        time.sleep(self._rng.uniform(0.1, FULL_SECONDS))
        self._disk.make_room()
