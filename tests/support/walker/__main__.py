"""Walk: `python -m tests.support.walker --seconds 60`, `--seeds 0..1000`, or `--seed 7` to see one whole."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from meshwright.core.task_events import TaskWaiting
from meshwright.engine.work.people import is_doubt
from tests.support.postgres import Address, running_cluster
from tests.support.walker.history import History, Plan
from tests.support.walker.mesh import StartTimedOut
from tests.support.walker.oracle import findings_of
from tests.support.walker.report import script_of, shortest
from tests.support.walker.walk import run_walk

_TOLD_EVERY_SECONDS = 15.0
_SEEDS_AT_ONCE = {"memory": 8}
"""The walks of a process between two reports, on a store; else 1, since these take seconds."""
_MAX_WALK_SECONDS = 900  # on processes, on a machine with other work
_MAX_LATE_STARTS = 3
_CHECKS = {"some": None, "all": True, "none": False}
_BROKE_OFF = "the walk broke off"


class Seen(NamedTuple):
    """The findings of one seed: rule, circumstances and text of each."""

    seed: int
    findings: list[tuple[str, str, str]]
    doubts: int = 0
    """How many doubts whether a step was done have reached people."""
    late_starts: int = 0
    """How many walks of it were begun anew, since a mesh did not start in time."""


class Place(NamedTuple):
    """The store to walk on, PostgreSQL at the address of a database: each walk has a schema of its own."""

    store: str = "memory"
    database: str | None = None

    def walk(self, plan: Plan) -> History:
        if self.store == "memory":
            return run_walk(plan)
        from tests.support.killed_mesh import KilledMesh
        from tests.support.walker.process import walk_on

        with tempfile.TemporaryDirectory(prefix="walk-") as name, self._schema() as database:
            folder = Path(name)
            make = partial(KilledMesh, self.store, folder / "data", database)
            return asyncio.run(walk_on(plan, folder, make))

    @contextmanager
    def _schema(self) -> Iterator[Address | None]:
        """An empty schema of the database, which is removed."""
        if self.database is None:
            yield None
            return
        import psycopg

        name = f"walk_{os.getpid()}_{time.monotonic_ns()}"
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
            try:
                yield Address(f"{self.database}?options={quote(f'-csearch_path={name}')}")
            finally:
                connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


@contextmanager
def database_for(options: argparse.Namespace) -> Iterator[str | None]:
    """The address of the database of walks on PostgreSQL, by default on a server of their own."""
    if options.store != "postgres" or options.database is not None:
        yield options.database
        return
    with running_cluster() as cluster:
        yield cluster.url().partition("?")[0]


def walk(place: Place, checks: bool | None, seed: int) -> Seen:
    plan = Plan.of(seed)
    plan = plan if checks is None else replace(plan, checks=checks)
    for late_starts in range(_MAX_LATE_STARTS):
        with suppress(StartTimedOut):
            return _walk_once(place, plan, seed)._replace(late_starts=late_starts)
    text = f"a mesh did not start in time in {_MAX_LATE_STARTS} walks of this seed"
    return Seen(seed, [("no start", "", f"== no start\n{text}")])


def _walk_once(place: Place, plan: Plan, seed: int) -> Seen:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_MAX_WALK_SECONDS)
    try:
        history = place.walk(plan)
        findings = findings_of(history)
    except StartTimedOut:
        raise
    except Exception as error:  # noqa: BLE001 a walk that breaks off is a finding too
        where = traceback.extract_tb(error.__traceback__)[-1]
        rule = f"{_BROKE_OFF}: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        text = "".join(traceback.format_exception(error, limit=-4))
        return Seen(seed, [(rule, "", f"== {rule}\n{text}")])
    finally:
        signal.alarm(0)
    rows = [(finding.rule, finding.shape, script_of(history, finding, place.store)) for finding in findings]
    return Seen(seed, rows, doubts_of(history))


def doubts_of(history: History) -> int:
    """How many steps of a walk people were asked about, whether they were done; each time counts."""
    waits = (waiting for event in history.events if (waiting := TaskWaiting.read(event)) is not None)
    return len({waiting.key for waiting in waits if "request" in waiting.subject and is_doubt(waiting.key)})


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"the walk took more than {_MAX_WALK_SECONDS} s")


def walk_some(place: Place, checks: bool | None, seeds: list[int]) -> list[Seen]:
    return [walk(place, checks, seed) for seed in seeds]


def seeds_of(options: argparse.Namespace) -> Iterator[int]:
    if options.seeds:
        first, _, last = options.seeds.partition("..")
        return iter(range(int(first), int(last)))
    start = random.SystemRandom().randrange(10**6, 10**9) if options.random else 0
    return itertools.count(start)


def batches_of(seeds: Iterable[int], size: int, ends_at: float) -> Iterator[list[int]]:
    seeds = iter(seeds)
    while time.monotonic() < ends_at and (batch := list(itertools.islice(seeds, size))):
        yield batch


def results_of(options: argparse.Namespace) -> Iterator[Seen]:
    ends_at = time.monotonic() + (options.seconds or float("inf"))
    batches = batches_of(seeds_of(options), _SEEDS_AT_ONCE.get(options.store, 1), ends_at)
    walked = partial(walk_some, Place(options.store, options.database), _CHECKS[options.checks])
    if options.processes == 1:
        yield from itertools.chain.from_iterable(map(walked, batches))
        return
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = [pool.submit(walked, batch) for batch in itertools.islice(batches, 2 * options.processes)]
        while waiting:
            done, *waiting = waiting
            waiting += [pool.submit(walked, batch) for batch in itertools.islice(batches, 1)]
            yield from done.result()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.walker", description=__doc__)
    parser.add_argument("--seed", type=int, help="one walk, shown whole")
    parser.add_argument("--seeds", help="walks of seeds A..B, without B")
    parser.add_argument("--seconds", type=float, help="walk for so long")
    parser.add_argument("--random", action="store_true", help="begin at a random seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--store", default="memory", choices=("memory", "sqlite", "postgres", "dapr"))
    parser.add_argument("--database", help="of --store postgres: another than one of their own")
    parser.add_argument(
        "--except",
        action="append",
        default=[],
        dest="exceptions",
        help="beginning of a kind of findings that is no failure",
    )
    parser.add_argument("--checks", choices=_CHECKS, default="some", help="whether checks of steps can look")
    parser.add_argument("--tries", type=int, default=300, help="walks to shrink a finding by; 0: as it is")
    options = parser.parse_args()
    if options.seed is not None:
        return show(options.seed, options.tries)
    with database_for(options) as options.database:
        return Report(options).run()


class Report:
    """Counts findings by kind, and shows the shortest walk of each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._kinds: dict[tuple[str, str], str] = {}
        """The kind of the shortest walk, by rule and circumstances of a longer one."""
        self._counts = Counter[str]()
        self._news = 0

    def run(self) -> int:
        begun = told = time.monotonic()
        walks = doubts = late_starts = 0
        for walks, seen in enumerate(results_of(self._options), 1):
            doubts += seen.doubts
            late_starts += seen.late_starts
            for rule, shape, text in seen.findings:
                self._take(walks, seen.seed, rule, shape, text)
            if time.monotonic() - told > _TOLD_EVERY_SECONDS:
                told = time.monotonic()
                rate = walks / (told - begun)
                print(f"{walks} walks, {rate:.1f} a second, {self._counts.total()} findings", flush=True)
        print(f"{walks} walks in {time.monotonic() - begun:.0f} s, {doubts} doubts reached people")
        if late_starts:
            print(f"{late_starts} walks were begun anew, since a mesh did not start in time")
        for kind, count in self._counts.most_common():
            print(f"{count:6} {kind}")
        return 1 if self._news else 0

    def _take(self, walks: int, seed: int, rule: str, shape: str, text: str) -> None:
        if (rule, shape) not in self._kinds:
            kind, script = self._shortest(seed, rule, shape, text)
            if kind not in self._kinds.values() and not kind.startswith(tuple(self._options.exceptions)):
                self._news += 1
                print(f"-- walk {walks}, seed {seed}\n{script}", flush=True)
            self._kinds[rule, shape] = kind
        self._counts[self._kinds[rule, shape]] += 1

    def _shortest(self, seed: int, rule: str, shape: str, text: str) -> tuple[str, str]:
        kind = f"{rule} [{shape}]"
        if (
            self._options.store != "memory"
            or not self._options.tries
            or rule.startswith(_BROKE_OFF)
            or kind.startswith(tuple(self._options.exceptions))
        ):
            return kind, text
        history, finding = shortest(Plan.of(seed), rule, max_tries=self._options.tries)
        return finding.kind, script_of(history, finding)


def show(seed: int, tries: int) -> int:
    plan = Plan.of(seed)
    history = run_walk(plan)
    findings = findings_of(history)
    for finding in findings:
        seen = shortest(plan, finding.rule, max_tries=tries) if tries else (history, finding)
        print(script_of(*seen))
    if not findings:
        print("\n".join([*map(str, history.lines), "no finding"]))
    return 1 if findings else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of a walk
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.support.walker", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
