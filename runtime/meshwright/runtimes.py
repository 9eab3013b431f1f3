"""The hosts, by the name that the settings give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from meshwright import topics
from meshwright.clock import Clock
from meshwright.errors import ConfigError
from meshwright.events.log import EventLog
from meshwright.kernel.runtime import Runtime
from meshwright.mesh import Role
from meshwright.settings import Settings
from meshwright.sql.database import Database
from meshwright.stores.memory import MemoryStore
from meshwright.stores.sqlite import SqliteStore
from meshwright.tracing import NoTracing, Tracing


class Grounds(NamedTuple):
    """What a host is built on."""

    settings: Settings
    role: Role
    database: Database
    log: EventLog
    clock: Clock
    tracing: Tracing | NoTracing

    @property
    def turn_tracing(self) -> Tracing | NoTracing | None:
        """What records a span of each turn, where the settings ask for that."""
        return self.tracing if self.settings.tracing.turns else None


def embedded_host(grounds: Grounds) -> Runtime:
    """The default: this process and one SQLite file."""
    return Runtime(
        SqliteStore(grounds.database, grounds.log),
        clock=grounds.clock,
        tracing=grounds.turn_tracing,
        max_record_bytes=grounds.settings.max_record_bytes,
    )


def _postgres_host(grounds: Grounds) -> Runtime:
    """One of several workers on a PostgreSQL database. Raises ConfigError."""
    from meshwright.sql.postgres import PostgresDatabase
    from meshwright.stores.postgres import PostgresStore

    if not isinstance(grounds.database, PostgresDatabase):
        raise ConfigError(
            "The store postgres needs a database",
            remedy="Give its address: mesh up --database postgresql://user@host/name, or MESH_DATABASE",
            field="database",
        )
    return Runtime(
        PostgresStore(grounds.database, grounds.log),
        clock=grounds.clock,
        tracing=grounds.turn_tracing,
        max_record_bytes=grounds.settings.max_record_bytes,
    )


def _memory_host(grounds: Grounds) -> Runtime:
    """For tests: nothing is kept."""
    return Runtime(
        MemoryStore(log=grounds.log, database=grounds.database),
        clock=grounds.clock,
        max_record_bytes=grounds.settings.max_record_bytes,
        strict=True,
    )


def _dapr_host(grounds: Grounds) -> Runtime:
    """A worker beside its sidecar, which Dapr's own variables describe. Raises ConfigError."""
    from meshwright.stack.programs import require_sdk

    require_sdk()
    from meshwright.stores.dapr import DaprStore, Options

    settings = grounds.settings
    store = DaprStore(
        Options.from_environment(namespace=settings.dapr.namespace, channel=settings.dapr.channel),
        clock=grounds.clock,
        log=grounds.log,
        database=grounds.database,
        keeps_log=grounds.role.is_front,
        taken_elsewhere=(topics.tasks("#"), topics.TASK_RESULTS),
    )
    return Runtime(
        store,
        clock=grounds.clock,
        tracing=grounds.turn_tracing,
        max_record_bytes=settings.max_record_bytes,
    )


HOSTS: Mapping[str, Callable[[Grounds], Runtime]] = {
    "sqlite": embedded_host,
    "postgres": _postgres_host,
    "memory": _memory_host,
    "dapr": _dapr_host,
}
