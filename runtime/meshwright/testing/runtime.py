"""A runtime in memory, for tests of actors."""

from __future__ import annotations

from typing import Any, TypeVar

from meshwright.clock import Clock
from meshwright.events.log import EventLog
from meshwright.kernel.runtime import Runtime
from meshwright.sql.database import Database
from meshwright.stores.memory import Faults, MemoryData, MemoryStore

RuntimeT = TypeVar("RuntimeT", bound=Runtime)


def memory_runtime(
    clock: Clock | None = None,
    *,
    sort: type[RuntimeT] = Runtime,  # type: ignore[assignment]
    data: MemoryData | None = None,
    log: EventLog | None = None,
    database: Database | None = None,
    faults: Faults | None = None,
    **options: Any,
) -> RuntimeT:
    """A runtime in memory, of a subclass if you name a `sort`; the options are those of `Runtime`.

    Runtimes on the same `data` stand for workers that share a store. `log` gets every event, and its
    `database` is opened and closed with the runtime. `faults` brings about what may go wrong.
    """
    store = MemoryStore(data, log=log, database=database, faults=faults)
    return sort(store, clock=clock, strict=True, **options)
