"""Harnesses that open, crash and open again a runtime of each sort on the same data.

A new store joins by a `RuntimeHarness` of its own and a line in `HARNESSES`; no test knows its store.
"""

import itertools
import random
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.encoding import MAX_RECORD_BYTES
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.guarantees import Signals, Subscription
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import FILE_NAME
from meshwright.engine.stores.memory import Faults, MemoryData
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.testing.mesh import memory_runtime
from tests.run import SOAKING
from tests.support.observer import Watch


@dataclass(frozen=True)
class Setup:
    kinds: Sequence[ActorKind]
    subscriptions: Sequence[Subscription] = ()
    worker: Signals | None = None
    staff: Callable[[Runtime], Signals] | None = None
    clock: Clock = field(default_factory=SystemClock)
    max_mailbox: int = 1000
    max_record_bytes: int = MAX_RECORD_BYTES


def with_kinds(setup: Setup, kinds: Sequence[ActorKind]) -> Setup:
    """A setup with other kinds; with none, as it is."""
    return replace(setup, kinds=kinds) if kinds else setup


class RuntimeHarness(ABC):
    """Opens hosts of one sort, and watches them. Subclasses build one on some data, and copy data."""

    shares_data = False
    """Whether two hosts may run on the same data; where not, the second gets StoreLocked."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.watch = Watch()
        self._open: dict[Runtime, tuple[Setup, Any]] = {}

    @abstractmethod
    def new_data(self) -> Any:
        """A place for data, empty."""

    @abstractmethod
    def build(self, data: Any, setup: Setup) -> Runtime:
        """A host on that data, not started yet."""

    def snapshot(self, runtime: Runtime) -> Any:
        """A copy of what is committed at this very moment: all that a crash right now would leave."""
        pytest.skip(f"the data of {runtime.name} cannot be copied while it runs")

    async def end(self, runtime: Runtime) -> None:
        """Be done with a host as kill -9 is, its data still wanted."""
        await runtime.crash()

    async def open(self, *kinds: ActorKind, **options: Any) -> Runtime:
        """A started host on data of its own; the options are those of `Setup`."""
        return await self.open_on(self.new_data(), Setup(kinds, **options))

    async def open_on(self, data: Any, setup: Setup) -> Runtime:
        runtime = self.build(data, setup)
        for kind in setup.kinds:
            runtime.register(kind)
        for subscription in setup.subscriptions:
            runtime.subscribe(subscription)
        runtime.listen("#", self.watch.take)
        if setup.worker is not None:
            runtime.attach(setup.worker)
        if setup.staff is not None:
            runtime.attach(setup.staff(runtime))
        await runtime.start()
        self._open[runtime] = setup, data
        return runtime

    async def open_beside(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        """A second worker on the data of the first, with other kinds where they are named."""
        setup, data = self._open[runtime]
        return await self.open_on(data, with_kinds(setup, kinds))

    async def kill(self, runtime: Runtime) -> None:
        """End a host as kill -9 would, beside others on its data."""
        self._open.pop(runtime)
        await self.end(runtime)

    async def redrive(self, runtime: Runtime, ref: ActorRef) -> None:
        """Have an actor ask again, by a turn in this host's process, for what may have been lost."""
        await runtime.call(ref, "redrive")

    async def lose_lease(self, runtime: Runtime) -> None:
        """Have a runtime find that it did not renew its lease in time."""
        if not self.shares_data:
            pytest.skip(f"a runtime on {runtime.name} has no lease to lose")
        runtime.lease_lost()

    async def reopen(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        """Stop a host, and open another on its data, with other kinds where they are named."""
        setup, data = self._open.pop(runtime)
        await runtime.stop()
        return await self.open_on(data, with_kinds(setup, kinds))

    async def crash(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        """End a host as kill -9 would, now, and open another on what it leaves, with other kinds if named."""
        return await self.open_snapshot(runtime, self.snapshot(runtime), *kinds)

    async def open_snapshot(self, runtime: Runtime, snapshot: Any, *kinds: ActorKind) -> Runtime:
        """End a host, and open another on data as it was at a snapshot."""
        setup, _ = self._open.pop(runtime)
        await self.end(runtime)
        return await self.open_on(snapshot, with_kinds(setup, kinds))

    async def close(self) -> None:
        for runtime in self._open:
            await runtime.stop()


class MemoryHarness(RuntimeHarness):
    shares_data = True

    def new_data(self) -> MemoryData:
        return MemoryData()

    def build(self, data: MemoryData, setup: Setup) -> Runtime:
        return memory_runtime(
            setup.clock,
            data=data,
            faults=self.faults(),
            max_mailbox=setup.max_mailbox,
            max_record_bytes=setup.max_record_bytes,
        )

    def faults(self) -> Faults | None:
        return None

    def snapshot(self, runtime: Runtime) -> MemoryData:
        _, data = self._open[runtime]
        return data.copy()


class MishapHarness(MemoryHarness):
    """Memory, with everything going wrong that may."""

    lose = 0.0

    def faults(self) -> Faults:
        chances = random.Random(self.seed)
        self.seed += 1
        return Faults(
            self.seed,
            duplicate=chances.choice((0.1, 0.5)),
            delay=chances.choice((0.1, 0.5)),
            reorder=chances.choice((0.1, 0.5)),
            conflict=chances.choice((0.02, 0.1)),
            restart=chances.choice((0.02, 0.1)),
            lose=self.lose,
        )


class LossyHarness(MishapHarness):
    """With a bus, besides, that loses what it is to deliver."""

    lose = 0.3


class SqliteHarness(RuntimeHarness):
    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._numbers = itertools.count(1)

    def new_data(self) -> Path:
        folder = self.folder / f"data{next(self._numbers)}"
        folder.mkdir()
        return folder

    def build(self, data: Path, setup: Setup) -> Runtime:
        return Runtime(
            SqliteStore.in_folder(data),
            clock=setup.clock,
            max_mailbox=setup.max_mailbox,
            max_record_bytes=setup.max_record_bytes,
        )

    def snapshot(self, runtime: Runtime) -> Path:
        _, folder = self._open[runtime]
        snapshot = self.new_data()
        source = sqlite3.connect(f"{(folder / FILE_NAME).as_uri()}?mode=ro", uri=True)
        target = sqlite3.connect(snapshot / FILE_NAME)
        source.backup(target)
        source.close()
        target.close()
        return snapshot

    async def end(self, runtime: Runtime) -> None:
        await runtime.stop()


from tests.support.dapr_harness import DaprHarness, DaprHttpHarness  # noqa: E402 built on what is above
from tests.support.postgres_harness import PostgresHarness, PostgresTrioHarness  # noqa: E402 as above

HARNESSES: dict[str, tuple[type[RuntimeHarness], int]] = {
    "memory": (MemoryHarness, 0),
    **{f"mishaps-{n}": (MishapHarness, n) for n in ((1, 2, 3) if SOAKING else (1,))},
    "embedded": (SqliteHarness, 0),
    "postgres": (PostgresHarness, 0),
    "postgres-3": (PostgresTrioHarness, 0),
    "dapr": (DaprHarness, 0),
    "dapr-http": (DaprHttpHarness, 0),
}
"""Each sort of host by name, with a number that is added to the seed of all chance."""

LOSSY: dict[str, tuple[type[RuntimeHarness], int]] = {f"lossy-{n}": (LossyHarness, n) for n in range(1, 6)}
"""Those whose bus may lose an event on its way to a subscriber, by name, likewise."""

SEVERAL = ("test_claims", "test_messages", "test_turns", "test_recovery", "test_alarms", "test_broken_off")
PARTLY = {
    "dapr-http": ("test_messages", "test_missing_apps", *(["test_claims"] if SOAKING else ())),
    **({} if SOAKING else {"postgres-3": (*SEVERAL, "test_schedules")}),
}
"""Those that are tried on some modules alone: the rest is the same as on another, and left to `make soak`."""

OF_ONE_WORKER = {
    "postgres-3": (
        "test_an_alarm_that_fell_due_while_no_host_ran_fires_at_the_start",
        "test_different_threads_run_side_by_side_as_far_as_there_are_slots",
        "test_a_drain_lets_work_end_and_begins_nothing_more",
        "test_a_zombie_with_an_old_fence_commits_nothing",
        "test_events_to_subscribers_outlive_a_crash",
        "test_a_listener_hears_of_nothing_that_a_crash_could_undo",
        "test_no_work_starts_that_a_crash_could_undo",
        "test_messages_sent_by_a_turn_outlive_a_crash_in_their_order",
        "test_a_crash_before_the_claim_leaves_a_task_that_runs_at_the_next_start",
        "test_a_drain_leaves_what_is_unfinished_to_the_next_start",
        "test_a_stop_of_the_process_does_not_count",
        "test_a_wait_gives_up_its_slot_and_its_thread_goes_on",
        "test_a_delegated_task_runs_in_the_slot_that_its_parent_gave_up",
        "test_a_queued_a_running_and_a_waiting_task_are_cancelled",
        "test_a_cancel_before_a_crash_holds_after_it",
        "test_a_deadline_ends_a_task_whose_work_hangs_and_frees_its_thread",
        "test_what_is_cancelled_ends_as_cancelled_wherever_it_is_on_its_road",
        "test_workers",  # they say which of two has the work
    )
}
"""Tests that say what one worker does, or has left, while no other could do it."""

ON_TURNS = (
    "test_approvals",
    "test_budgets",
    "test_cut_calls",
    "test_hold",
    "test_joined_turns",
    "test_keys",
    "test_mcp_consent",
    "test_read_outside",
    "test_sent_values",
    "test_shared_trees",
)
"""Modules that rest on turns, claims and topics alone, which Dapr has tests of: left to `make soak` there."""

WITHOUT = {
    "dapr": ("test_actors_deleted", *(() if SOAKING else ON_TURNS)),  # the documents of its actors stay
    "embedded": (
        "test_each_process_follows_and_one_that_drains_goes_on_draining",
    ),  # one process has its data
}
"""Tests of what a host does not do."""

STEADY = [name for name, (sort, _) in HARNESSES.items() if sort is not MishapHarness]
"""Those that no fault restarts."""

SHARED = [name for name in STEADY if HARNESSES[name][0].shares_data]
"""Those of them on whose data two processes may work."""
