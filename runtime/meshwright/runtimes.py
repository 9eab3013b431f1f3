"""The runtime over each store, by the name that the settings give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from meshwright.core import topics
from meshwright.core.clock import Clock
from meshwright.core.errors import ConfigError
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.events.log import EventLog
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.store import Store
from meshwright.roles import ProcessRole
from meshwright.settings import Settings
from meshwright.sql.database import Database
from meshwright.stores.memory import MemoryStore
from meshwright.stores.sqlite import SqliteStore


class StoreDeps(NamedTuple):
    """The dependencies of a store."""

    settings: Settings
    role: ProcessRole
    database: Database
    log: EventLog
    clock: Clock
    tracing: Tracing | NoTracing

    def runtime(self, store: Store) -> Runtime:
        """The runtime over a store; it records a span of each turn where the settings ask for that."""
        return Runtime(
            store,
            clock=self.clock,
            tracing=self.tracing if self.settings.tracing.turns else None,
            max_record_bytes=self.settings.max_record_bytes,
        )


def sqlite_runtime(deps: StoreDeps) -> Runtime:
    """The default: this process and one SQLite file."""
    return deps.runtime(SqliteStore(deps.database, deps.log))


def _postgres_runtime(deps: StoreDeps) -> Runtime:
    """One of several workers on a PostgreSQL database. Raises ConfigError."""
    from meshwright.sql.postgres import PostgresDatabase
    from meshwright.stores.postgres import PostgresStore

    if not isinstance(deps.database, PostgresDatabase):
        raise ConfigError(
            "The store postgres needs a database",
            remedy="Give its address: mesh up --database postgresql://user@host/name, or MESH_DATABASE",
            field="database",
        )
    return deps.runtime(PostgresStore(deps.database, deps.log))


def _memory_runtime(deps: StoreDeps) -> Runtime:
    """For tests: nothing is kept."""
    store = MemoryStore(log=deps.log, database=deps.database)
    return Runtime(store, clock=deps.clock, max_record_bytes=deps.settings.max_record_bytes, strict=True)


def _dapr_runtime(deps: StoreDeps) -> Runtime:
    """A worker beside its sidecar, which Dapr's own variables describe. Raises ConfigError."""
    from meshwright.stack.machine import require_sdk

    require_sdk()
    from meshwright.stores.dapr import DaprStore, Options

    settings = deps.settings.dapr
    return deps.runtime(
        DaprStore(
            Options.from_environment(namespace=settings.namespace, channel=settings.channel),
            clock=deps.clock,
            log=deps.log,
            database=deps.database,
            keeps_log=deps.role.is_front,
            taken_elsewhere=(topics.tasks("#"), topics.TASK_RESULTS),
        )
    )


RUNTIMES: Mapping[str, Callable[[StoreDeps], Runtime]] = {
    "sqlite": sqlite_runtime,
    "postgres": _postgres_runtime,
    "memory": _memory_runtime,
    "dapr": _dapr_runtime,
}
