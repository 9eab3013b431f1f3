"""Counts the steps of SQLite's machine, in this process and in the writers that it starts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

STEPS_AT_ONCE = 10
QUIET_LOOKS = 10
_COUNTING_WRITER = '''\
"""Makes a writer's connections count their steps into a file of its own."""

import mmap
import os
import sqlite3

_connect = sqlite3.connect
_file = open(os.path.join({folder!r}, str(os.getpid())), "w+b")
_file.truncate(8)
_counter = mmap.mmap(_file.fileno(), 8)


def _add():
    _counter[:] = (int.from_bytes(_counter, "little") + {steps}).to_bytes(8, "little")
    return 0


def _counted(*arguments, **options):
    connection = _connect(*arguments, **options)
    connection.set_progress_handler(_add, {steps})
    return connection


sqlite3.connect = _counted
'''


class Steps:
    """Counts the steps of all connections that are made from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._own = 0
        self._counters = folder / "counters"
        site = folder / "site"
        self._counters.mkdir(parents=True)
        site.mkdir()
        program = _COUNTING_WRITER.format(folder=str(self._counters), steps=STEPS_AT_ONCE)
        (site / "sitecustomize.py").write_text(program)
        monkeypatch.syspath_prepend(site)
        connect = sqlite3.connect

        def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_progress_handler(self._add, STEPS_AT_ONCE)
            return connection

        monkeypatch.setattr(sqlite3, "connect", counted)

    @property
    def count(self) -> int:
        """The steps so far."""
        counters = self._counters.iterdir()
        return self._own + sum(int.from_bytes(counter.read_bytes(), "little") for counter in counters)

    def _add(self) -> int:
        self._own += STEPS_AT_ONCE
        return 0

    async def rest(self) -> None:
        """Wait until nothing has been read or written in ten looks: duties of the start, and folds."""
        quiet, before = 0, self.count
        while quiet < QUIET_LOOKS:
            await asyncio.sleep(0.02)
            quiet = quiet + 1 if self.count == before else 0
            before = self.count

    async def fewest(self, operation: Callable[[], Awaitable[object]], *, and_rest: bool = False) -> int:
        """The steps of an operation, `and_rest` with all that it sets off: the fewest of three tries, since
        regular duties read beside it."""
        counts = []
        for _ in range(3):
            before = self.count
            await operation()
            if and_rest:
                await self.rest()
            counts.append(self.count - before)
        return min(counts)
