"""The parent's side of the child program: starts children one by one, hears what they say, kills them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.faults.node import ROOT, Job

KILLED = -signal.SIGKILL


class Nodes:
    """One program that has everything imported, and the child that it forked last."""

    def __init__(self, **environment: str) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults.node"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | environment,
        )
        self._child = 0
        self.writer = 0
        """The process that writes for the child, where it has one and has said so."""

    @property
    def pid(self) -> int:
        """The child, 0 where it has ended."""
        return self._child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._program.stdin is not None and self._program.stdout is not None
        self.kill()
        self._program.stdin.close()
        self._program.wait()
        self._program.stdout.close()

    def start(self, job: Job) -> Iterator[str]:
        """Start a child, and give what it says, line by line, until it has ended; last is "exit STATUS"."""
        assert self._program.stdin is not None
        self.end()
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        self._program.stdin.write(job.encode() + "\n")
        self._child = int(self._line().removeprefix("pid "))
        return self._lines()

    def run(self, job: Job) -> int:
        """Run a child to its end: 0, its exit status, or minus the signal that killed it."""
        *_, last = self.start(job)
        return int(last.removeprefix("exit "))

    def kill(self) -> None:
        """Kill -9 the child, if it is not gone."""
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    def kill_writer(self) -> None:
        """Kill -9 the process that writes for the child, or the child where it has none yet."""
        if self.writer:
            with suppress(ProcessLookupError):
                os.kill(self.writer, signal.SIGKILL)
        else:
            self.kill()

    def end(self) -> None:
        """Be rid of a child that a test has left behind."""
        if self._child:
            self.kill()
            for _ in self._lines():
                pass

    def _lines(self) -> Iterator[str]:
        line = ""
        while not line.startswith("exit "):
            line = self._line()
            if line.startswith("writer "):
                self.writer = int(line.removeprefix("writer "))
                continue
            if line.startswith("exit "):
                self._child = self.writer = 0
            yield line

    def _line(self) -> str:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        assert line, "the child program has ended"
        return line.strip()
