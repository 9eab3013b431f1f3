"""Runtimes on PostgreSQL: one worker alone, and one of three."""

from importlib import resources
from pathlib import Path

from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.migrations import MESH, create_versions, upgrade
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.stores.postgres import PostgresStore
from tests.support.harness import RuntimeHarness, Setup, with_kinds
from tests.support.postgres import Address, Cluster

TABLES = ("event_log", "events", "event_blocks", "projection_positions", "tasks", "agent_outcomes", "calls")
TABLES += ("event_keys", "call_hours", "task_hours", "virtual_keys", "workers", "heads", "messages")
TABLES += ("records",)


class PostgresHarness(RuntimeHarness):
    """One worker; a second one may join it."""

    shares_data = True

    def __init__(self, folder: Path, seed: int, cluster: Cluster) -> None:
        super().__init__(folder, seed)
        self.cluster = cluster

    def new_data(self) -> Address:
        return self.cluster.new_schema()

    def build(self, data: Address, setup: Setup) -> Runtime:
        database = PostgresDatabase(data, self.folder, durable=False)
        return Runtime(
            PostgresStore(database, EventLog(database)),
            clock=setup.clock,
            max_mailbox=setup.max_mailbox,
            max_record_bytes=setup.max_record_bytes,
        )

    def snapshot(self, runtime: Runtime) -> Address:
        _, data = self._open[runtime]
        copy = self.new_data()
        session = PostgresDatabase(copy, self.folder).connect_reader()
        create_versions(session)
        upgrade(session, MESH, resources.files("meshwright.engine.sql.migrations"), "a copy")
        old, new = data.rpartition("%3D")[2], copy.rpartition("%3D")[2]
        with session.connection.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("DELETE FROM event_log")
            for table in TABLES:
                session.execute(f"INSERT INTO {new}.{table} SELECT * FROM {old}.{table}")
            session.execute(f"SELECT setval('{new}.message_numbers', nextval('{old}.message_numbers'))")
        session.close()
        return copy


class PostgresTrioHarness(PostgresHarness):
    """Three workers: messages land on each of them, and a crash ends them all."""

    def __init__(self, folder: Path, seed: int, cluster: Cluster) -> None:
        super().__init__(folder, seed, cluster)
        self._others: dict[Runtime, list[Runtime]] = {}

    async def open_on(self, data: Address, setup: Setup) -> Runtime:
        runtime = await super().open_on(data, setup)
        self._others[runtime] = [
            await super(PostgresTrioHarness, self).open_on(data, setup) for _ in range(2)
        ]
        return runtime

    async def open_beside(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        setup, data = self._open[runtime]
        return await super().open_on(data, with_kinds(setup, kinds))

    async def end(self, runtime: Runtime) -> None:
        for other in self._others.pop(runtime, []):
            self._open.pop(other, None)
            await super().end(other)
        await super().end(runtime)

    async def crash(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        setup, data = self._open.pop(runtime)
        await self.end(runtime)
        return await self.open_on(data, with_kinds(setup, kinds))

    async def kill(self, runtime: Runtime) -> None:
        self._open.pop(runtime)
        await super().end(runtime)

    async def reopen(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        for other in self._others.pop(runtime, []):
            self._open.pop(other, None)
            await other.stop()
        return await super().reopen(runtime, *kinds)
