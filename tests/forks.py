"""Runs tests side by side in forks of the process that collected them: `pytest --forks 4`.

Tests are collected and imported once. A fork asks for the next group when it has run one, so that groups
begin in their order. A test whose fork dies has failed, and another fork runs the tests behind it. Session
fixtures live as long as their fork. While cores are idle, since tests wait, more forks begin, up to twice as
many.
"""

import gc
import itertools
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import pytest
from _pytest.junitxml import xml_key

GROUP = pytest.StashKey[str]()
"""Tests with the same run one after another in one fork; by default those of a file."""

IDLE, BUSY = 0.25, 0.1
"""The idle share of the cores above which another fork begins, and below which one too many ends."""
LOOK_SECONDS = 5.0
REPLAYED = ("pytest_runtest_logstart", "pytest_runtest_logreport", "pytest_runtest_logfinish")
REPORTERS = ("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin")
"""Plugins that report, which the first process does alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="so many processes run tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    count = session.config.getoption("forks")
    if not count or session.config.option.collectonly or session.testsfailed:
        return None
    groups = [
        [*items]
        for _, items in itertools.groupby(session.items, lambda item: item.stash.get(GROUP, str(item.path)))
    ]
    Forks(session, iter(groups)).run(count)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    return True


class Reporter:
    """Sends the reports of a fork to the first process."""

    def __init__(self, config: pytest.Config, pipe: Connection) -> None:
        self._config = config
        self._pipe = pipe

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._pipe.send((REPLAYED[0], {"nodeid": nodeid, "location": location}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._pipe.send((REPLAYED[1], data))

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        self._pipe.send((REPLAYED[2], {"nodeid": nodeid, "location": location}))


@dataclass
class Fork:
    """A process that runs tests, and the tests it has not ended yet, the one that runs first."""

    pid: int
    pipe: Connection
    items: list[pytest.Item]


class Cores:
    """The share of the time of the cores that nobody used between the last two looks."""

    def __init__(self) -> None:
        self.idle = 0.0
        self._looked_at = time.monotonic()
        self._before = self._times()

    def look(self) -> bool:
        """Measure, if the last time is some seconds ago; says whether it did."""
        if (now := time.monotonic()) - self._looked_at < LOOK_SECONDS:
            return False
        times, before = self._times(), self._before
        self._looked_at, self._before = now, times
        self.idle = (sum(times[3:5]) - sum(before[3:5])) / max(1, sum(times) - sum(before))
        return True

    @staticmethod
    def _times() -> list[int]:
        stat = Path("/proc/stat")
        return [int(field) for field in stat.read_text().split(maxsplit=9)[1:9]] if stat.exists() else []


class Forks:
    """Gives groups of tests to forks, and reports for them."""

    def __init__(self, session: pytest.Session, groups: Iterator[list[pytest.Item]]) -> None:
        self._session = session
        self._config = session.config
        self._groups = groups
        self._numbers = {item: number for number, item in enumerate(session.items)}
        self._forks: dict[Connection, Fork] = {}
        self._begun = 0
        self._count = 0
        self._cores = Cores()

    def run(self, count: int) -> None:
        self._count = count
        gc.collect()
        gc.freeze()  # forks share the pages that no collection writes to
        try:
            for _ in range(count):
                self._begin(next(self._groups, []))
            while self._forks:
                for pipe in wait([*self._forks], LOOK_SECONDS):
                    assert isinstance(pipe, Connection)
                    self._hear(self._forks[pipe])
                if self._cores.look() and self._cores.idle > IDLE and len(self._forks) < 2 * self._count:
                    self._begin([] if self._is_over() else next(self._groups, []))
        finally:
            for fork in self._forks.values():
                os.kill(fork.pid, signal.SIGKILL)
                os.waitpid(fork.pid, 0)
            gc.unfreeze()

    def _begin(self, items: list[pytest.Item]) -> None:
        """Start a fork on some tests."""
        if not items:
            return
        folder = self._config._tmp_path_factory.getbasetemp() / f"fork-{self._begun}"
        self._begun += 1
        ours, theirs = Pipe()
        if not (pid := os.fork()):
            ours.close()
            for other in self._forks:
                other.close()
            run_child(self._session, theirs, folder)
        theirs.close()
        self._forks[ours] = Fork(pid, ours, items)
        self._give(self._forks[ours], items)

    def _give(self, fork: Fork, items: list[pytest.Item]) -> None:
        fork.items = items
        fork.pipe.send([self._numbers[item] for item in items])

    def _hear(self, fork: Fork) -> None:
        """Take one message of a fork: a report, that it has done, or its end."""
        name, data = received(fork.pipe)
        if name == "ended":
            self._end(fork)
        elif name == "done":
            fork.items = []
            is_one_too_many = len(self._forks) > self._count and self._cores.idle < BUSY
            self._give(fork, [] if self._is_over() or is_one_too_many else next(self._groups, []))
        elif name == "failed":
            self._fail("forks", ("tests/forks.py", None, "session fixtures"), data)
        elif name == REPLAYED[1]:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            self._config.hook.pytest_runtest_logreport(report=report)
        else:
            getattr(self._config.hook, name)(**data)
            if name == REPLAYED[2]:
                fork.items = fork.items[1:]

    def _end(self, fork: Fork) -> None:
        """Forget a fork; another one goes on behind the test that it died of."""
        del self._forks[fork.pipe]
        fork.pipe.close()
        _, status = os.waitpid(fork.pid, 0)
        if fork.items:
            first, *others = fork.items
            self._fail(
                first.nodeid, first.location, f"its process ended: {os.waitstatus_to_exitcode(status)}"
            )
            self._begin([] if self._is_over() else others or next(self._groups, []))

    def _fail(self, nodeid: str, location: tuple[str, int | None, str], text: str) -> None:
        report = pytest.TestReport(nodeid, location, {}, "failed", text, "call")
        self._config.hook.pytest_runtest_logreport(report=report)

    def _is_over(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)


def received(pipe: Connection) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return "ended", None


def run_child(session: pytest.Session, pipe: Connection, folder: Path) -> None:
    """Run tests until none are given, and end this process."""
    status = 1
    try:
        be_a_fork(session.config, pipe, folder)
        while numbers := pipe.recv():
            items = [session.items[number] for number in numbers]
            for item, following in zip(items, [*items[1:], session], strict=True):  # which keeps its fixtures
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            pipe.send(("done", None))
        session._setupstate.teardown_exact(None)
        status = 0
    except (EOFError, BrokenPipeError):
        pass  # the first process is gone
    except BaseException:  # noqa: BLE001 - the first process reports it
        pipe.send(("failed", traceback.format_exc()))
    finally:
        os._exit(status)


def be_a_fork(config: pytest.Config, pipe: Connection, folder: Path) -> None:
    """Report to the first process, with output and files apart from those of other forks."""
    random.seed()
    for plugin in (*map(config.pluginmanager.getplugin, REPORTERS), config.stash.get(xml_key, None)):
        if plugin is not None:
            config.pluginmanager.unregister(plugin)
    config.pluginmanager.register(Reporter(config, pipe))
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    folder.mkdir(mode=0o700)
    config._tmp_path_factory._basetemp = folder
