"""Runtimes on PostgreSQL: one worker alone, and one of three."""

from importlib import resources
from pathlib import Path

from meshwright.events.log import EventLog
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.turns import ActorKind
from meshwright.sql.migrations import MESH, create_versions, upgrade
from meshwright.sql.postgres import PostgresDatabase
from meshwright.stores.postgres import PostgresStore
from tests.support.host_harness import HostHarness, Setup, with_kinds
from tests.support.postgres import Address, Cluster

TABLES = ("event_log", "events", "event_blocks", "projection_positions", "tasks", "agent_outcomes", "calls")
TABLES += ("virtual_keys", "workers", "heads", "messages", "records")


class PostgresHarness(HostHarness):
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

    def snapshot(self, host: Runtime) -> Address:
        _, data = self._open[host]
        copy = self.new_data()
        session = PostgresDatabase(copy, self.folder).connect_reader()
        create_versions(session)
        upgrade(session, MESH, resources.files("meshwright.sql.migrations"), "a copy")
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
        host = await super().open_on(data, setup)
        self._others[host] = [await super(PostgresTrioHarness, self).open_on(data, setup) for _ in range(2)]
        return host

    async def open_beside(self, host: Runtime, *kinds: ActorKind) -> Runtime:
        setup, data = self._open[host]
        return await super().open_on(data, with_kinds(setup, kinds))

    async def end(self, host: Runtime) -> None:
        for other in self._others.pop(host, []):
            self._open.pop(other, None)
            await super().end(other)
        await super().end(host)

    async def crash(self, host: Runtime, *kinds: ActorKind) -> Runtime:
        setup, data = self._open.pop(host)
        await self.end(host)
        return await self.open_on(data, with_kinds(setup, kinds))

    async def kill(self, host: Runtime) -> None:
        self._open.pop(host)
        await super().end(host)

    async def reopen(self, host: Runtime, *kinds: ActorKind) -> Runtime:
        for other in self._others.pop(host, []):
            self._open.pop(other, None)
            await other.stop()
        return await super().reopen(host, *kinds)
