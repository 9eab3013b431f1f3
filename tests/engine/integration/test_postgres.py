"""PostgreSQL as the database of a mesh: shared by processes, away for a while, its password never shown."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from meshwright.core.errors import ConfigError, Conflict, StoreFailed, StoreUnavailable
from meshwright.engine.events import table
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.table import BLOCK_EVENTS
from meshwright.engine.events.verify import verify
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import AlreadyTaken, Batch
from meshwright.engine.sql import postgres
from meshwright.engine.sql.database import Row, Session
from meshwright.engine.sql.postgres import PostgresDatabase, PostgresSession
from meshwright.engine.stores.postgres import PostgresStore, store
from meshwright.money.spending import read_activity
from tests.support.event_logs import event, open_log, seqs
from tests.support.observer import PATIENCE_SECONDS
from tests.support.postgres import PASSWORD, Address, Cluster
from tests.support.sample_actors import DIARY, Line, diary, lines_of

Start = Callable[[], Awaitable[tuple[Runtime, PostgresStore, PostgresDatabase]]]


@pytest.fixture
async def start(postgres_url: Address, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one more worker; it stops with the test."""
    workers: list[Runtime] = []

    async def start() -> tuple[Runtime, PostgresStore, PostgresDatabase]:
        database = PostgresDatabase(postgres_url, tmp_path, durable=False)
        shared = PostgresStore(database, EventLog(database))
        workers.append(Runtime(shared))
        workers[-1].register(DIARY)
        await workers[-1].start()
        return workers[-1], shared, database

    yield start
    for worker in workers:
        await worker.stop()


async def test_writers_number_events_together_without_gaps(postgres_url: Address) -> None:
    async with open_log(postgres_url) as one, open_log(postgres_url) as other:
        writes = [
            log.write([event(n, aggregate_id=f"Diary/{n}-{k}") for k in range(3)])
            for n, log in enumerate([one, other] * 20)
        ]
        written = await asyncio.gather(*writes)
    assert sorted(seq for events in written for seq in seqs(events)) == list(range(1, 121))


async def test_event_from_outside_is_written_once_by_two_writers(postgres_url: Address) -> None:
    async with open_log(postgres_url) as one, open_log(postgres_url) as other:
        written = await asyncio.gather(*(log.log.append([event(7)]) for log in [one, other] * 10))
        assert sum(map(len, written)) == 1
        assert len(await one.log.query(EventFilter())) in (0, 1)
    async with open_log(postgres_url) as after:
        assert seqs(await after.log.query(EventFilter())) == [1]


async def test_blocks_that_were_filled_before_a_crash_are_summed_up_at_the_next_start(
    postgres_url: Address, tmp_path: Path
) -> None:
    wanted = EventFilter(aggregate_id="Diary/7")
    async with open_log(postgres_url) as kept:
        rows, _ = kept.log.rows([event(n, aggregate_id=f"Diary/{n}") for n in range(2 * BLOCK_EVENTS)])
        await kept.database.write(append_alone, rows)
        await kept.log.catch_up()
        assert await kept.database.read(summaries) == []
        assert seqs(await kept.log.query(wanted)) == [8]
    async with open_log(postgres_url) as again:
        assert await again.database.read(summaries) == [(0,), (1,)]
        assert seqs(await again.log.query(wanted)) == [8]
    assert verify(PostgresDatabase(postgres_url, tmp_path)).faults == []


def append_alone(session: Session, rows: list[Row]) -> None:
    """As a worker does that is killed between its commit and the summary of the block that it filled."""
    columns = session.lists(table.SEALED_KINDS, zip(*table.sealed_rows(session, rows), strict=True))
    session.call("mesh_append_events", [session.channel, None, *columns]).fetchall()


def summaries(session: Session) -> list[Row]:
    return session.execute("SELECT block FROM event_blocks ORDER BY block").fetchall()


async def test_projections_have_what_other_processes_wrote(postgres_url: Address) -> None:
    async with open_log(postgres_url) as one, open_log(postgres_url) as other:
        await one.write([event(1, "task.accepted", task_id="t", payload={"capability": "writing"})])
        await other.write([event(1, "task.started", task_id="t", aggregate_id="Diary/two")])
        for log in (one.log, other.log):
            [task] = (await log.tasks(tenant_id="default")).items
            assert (task.capability, task.status) == ("writing", "running")


async def test_a_worker_commits_while_another_folds_the_lists(postgres_url: Address) -> None:
    async with open_log(postgres_url) as kept:
        await kept.write([event(1, "task.accepted", task_id="t", payload={"capability": "writing"})])
        await kept.log.tasks(tenant_id="default")
        await kept.write([event(2, "task.started", task_id="t")])
        with psycopg.connect(postgres_url) as folding:
            folding.execute("SELECT * FROM projection_positions ORDER BY name FOR UPDATE")
            listing = asyncio.create_task(kept.log.tasks(tenant_id="default"))
            for number in range(3, 13):
                await kept.write([event(number)])
            assert not listing.done()
        [task] = (await listing).items
        assert task.status == "running"


async def test_what_happened_is_summed_up(postgres_url: Address) -> None:
    async with open_log(postgres_url) as one:
        await one.write([event(1, "task.accepted", task_id="t", payload={"capability": "writing"})])
        await one.write([event(2, "task.accepted", task_id="u"), event(3, "task.failed", task_id="u")])
        times = datetime.fromtimestamp(0, UTC), datetime.now(UTC)
        found = await read_activity(one.log, "default", *times)
        nobodys = await read_activity(one.log, "acme", *times)
    assert (found.open, found.ended, [task.task_id for task in found.failed]) == (
        1,
        {"none": {"failed": 1}},
        ["u"],
    )
    assert (nobodys.open, nobodys.ended, nobodys.failed) == (0, {}, ())


async def test_a_worker_goes_on_when_the_process_that_writes_dies(start: Start) -> None:
    worker, _, database = await start()
    await database.write_apart()

    async def send(number: int) -> None:
        line = Message(id=f"m{number}", to=diary(), method="write", body=Line(text=str(number)))
        while True:
            with suppress(StoreUnavailable):
                return await worker.send(line)

    sending = [asyncio.create_task(send(number)) for number in range(200)]
    await sending[0]
    os.kill(database.writer_pid, signal.SIGKILL)
    await asyncio.gather(*sending)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await lines_of(worker)) < len(sending) or database.writer_pid == os.getpid():
            await asyncio.sleep(0.01)
    assert sorted(map(int, await lines_of(worker))) == [*range(len(sending))]
    await send(len(sending))  # by the process that has taken its location


async def test_a_worker_whose_writes_hang_gives_way_to_another(
    start: Start, postgres_url: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(store, "RENEW_SECONDS", 0.5)
    (one, _, database), (two, *_) = await start(), await start()
    await database.write_apart()
    connection = await PostgresDatabase(postgres_url, Path()).connect_async()
    async with connection as other, asyncio.timeout(PATIENCE_SECONDS):
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE events IN SHARE MODE")
        hanging = asyncio.create_task(write_here(one, "hanging"))
        while not await (await other.execute(BLOCKED, (other.info.backend_pid,))).fetchall():
            await asyncio.sleep(0.01)
        os.kill(writer := database.writer_pid, signal.SIGSTOP)
        try:
            await other.execute("ROLLBACK")  # the events are written, and the log stays locked
            await write_here(two, "free")
        finally:
            os.kill(writer, signal.SIGCONT)
        await hanging


BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"


async def write_here(worker: Runtime, name: str) -> None:
    """Write a line by this worker, again where its lease is lost meanwhile."""
    while True:
        with suppress(StoreUnavailable):
            return await worker.call(diary(name), "write", Line(text=name))
        await asyncio.sleep(0.01)


async def test_a_worker_shows_an_event_that_another_process_appends_at_once(
    postgres_url: Address, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RENEW_SECONDS", 1e6)  # no look at the log shows it
    worker, _, _ = await start()
    shown: asyncio.Queue[int | None] = asyncio.Queue()
    worker.listen("#", lambda told: shown.put_nowait(told.seq))
    async with open_log(postgres_url) as other:
        for seq in range(1, 4):
            await other.log.append([event(seq)])
            assert await asyncio.wait_for(shown.get(), 60) == seq


async def test_a_listener_that_comes_later_is_shown_events_that_had_none(
    postgres_url: Address, start: Start
) -> None:
    worker, _, _ = await start()
    shown: asyncio.Queue[int | None] = asyncio.Queue()
    worker.listen("#", lambda told: shown.put_nowait(told.seq), ("line.heard",))
    async with open_log(postgres_url) as other:
        for seq in (1, 2, 3):
            await other.log.append([event(10 + seq), event(seq, "line.heard")])
            assert await asyncio.wait_for(shown.get(), PATIENCE_SECONDS) == 2 * seq
        worker.listen("#", lambda told: shown.put_nowait(told.seq), ("line.written",))
        await other.log.append([event(14), event(4, "line.heard")])
        assert [await asyncio.wait_for(shown.get(), PATIENCE_SECONDS) for _ in range(2)] == [7, 8]


async def test_messages_land_where_their_actor_has_committed_last(
    postgres_url: Address, start: Start
) -> None:
    (one, *_), (other, *_) = await start(), await start()
    names = [f"page-{number}" for number in range(12)]
    for name in names:
        await one.call(diary(name), "write", Line(text="by one"))
    for name in names:
        await other.send(Message(id=name, to=diary(name), method="write", body=Line(text="by the other")))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any([len(await lines_of(one, name)) < 2 for name in names]):
            await asyncio.sleep(0.01)
    async with open_log(postgres_url) as log:
        assert await log.database.read(owners_of_heads) == [(one.incarnation,)]


async def test_an_actor_moves_to_the_worker_that_a_message_hands_it_to(start: Start) -> None:
    (one, *_), (other, _, database) = await start(), await start()
    await one.call(diary(), "write", Line(text="by one"))
    await one.hand_over(diary(), other.incarnation)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await database.read(owners_of_heads) != [(other.incarnation,)]:
            await asyncio.sleep(0.01)


def owners_of_heads(session: Session) -> list[tuple[str]]:
    return session.execute("SELECT DISTINCT owner FROM heads").fetchall()


async def test_a_column_takes_the_nearest_value(postgres_url: Address, tmp_path: Path) -> None:
    session = PostgresDatabase(postgres_url, tmp_path).connect_reader()
    session.script("CREATE TABLE odd (a TEXT, b BYTEA, c BIGINT, d SMALLINT, e DOUBLE PRECISION, f INTEGER)")
    rows = [("a\0\ud83d", b"\0", 2**70, True, 0.5, 1), (None,) * 6, ("\n", b"", -(2**70), 0, 1, 2)]
    session.insert("odd (a, b, c, d, e, f)", rows)
    found = session.execute("SELECT * FROM odd").fetchall()
    session.close()
    nearest = [("a??", b"\0", 2**63 - 1, 1, 0.5, 1), (None,) * 6, ("\n", b"", -(2**63), 0, 1.0, 2)]
    assert found == nearest


async def test_several_processes_may_make_the_tables_at_once(postgres_url: Address) -> None:
    databases = [PostgresDatabase(postgres_url, Path()) for _ in range(5)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        await EventLog(database).start()
        await database.close()


async def test_database_that_restarts_is_used_again(own_postgres: Cluster) -> None:
    async with open_log(own_postgres.url()) as kept:
        await kept.write([event(1)])
        own_postgres.stop(signal.SIGINT)
        with pytest.raises(StoreFailed) as refused:
            await kept.write([event(2)])
        assert PASSWORD not in str(refused.value)
        own_postgres.start()
        await kept.write([event(3)])
        assert [found.payload["number"] for found in await kept.log.query(EventFilter())] == [1, 3]


async def test_a_start_waits_for_a_server_that_is_away(
    own_postgres: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    own_postgres.stop(signal.SIGINT)
    database = PostgresDatabase(own_postgres.url(), Path())
    opening = asyncio.create_task(database.open())
    async with asyncio.timeout(240):
        while not caplog.records:
            await asyncio.sleep(0.01)
    own_postgres.start()
    await opening
    await database.close()
    waiting, unsafe = caplog.messages
    assert "waiting for it, up to 30 s" in waiting
    assert "has fsync and full_page_writes off" in unsafe


async def test_a_connection_that_ends_as_a_pipeline_does_is_replaced(
    postgres_url: Address, tmp_path: Path
) -> None:
    database = PostgresDatabase(postgres_url, tmp_path, durable=False)
    await database.open()
    await database.write(lambda session: session.script(ENDED_BY_ITS_COMMIT))
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await database.write(write_what_ends_the_connection)
        assert await database.write(lambda session: session.execute("SELECT 1").fetchall()) == [(1,)]
    await database.close()


ENDED_BY_ITS_COMMIT = """
    CREATE TABLE deadly (n INTEGER);
    CREATE FUNCTION end_connection() RETURNS TRIGGER LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER ended AFTER INSERT ON deadly DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION end_connection();
"""


def write_what_ends_the_connection(session: Session) -> None:
    """The server says so in its answer to the end of the transaction."""
    session.execute("INSERT INTO deadly VALUES (1)")


async def test_a_connection_that_still_waits_for_a_result_is_replaced(
    postgres_url: Address, tmp_path: Path
) -> None:
    database = PostgresDatabase(postgres_url, tmp_path, durable=False)
    await database.open()
    for use in (database.write, database.read):
        with pytest.raises(StoreFailed):
            await use(leave_a_command)
        assert await use(lambda session: session.execute("SELECT 1").fetchall()) == [(1,)]
    await database.close()


def leave_a_command(session: Session) -> None:
    """As the driver does where the server dies: what was sent has no result, and nobody waits for one."""
    assert isinstance(session, PostgresSession)
    session.connection.pgconn.send_query(b"SELECT pg_sleep(60)")
    session.execute("SELECT 1")


@pytest.mark.parametrize("wrong", ["password", "host", "name"])
async def test_refused_connection_does_not_show_the_password(
    postgres_url: Address, wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 5.0 if wrong == "password" else 0.0)
    secret = "wr0ng-secret"
    urls = {
        "password": postgres_url.replace(PASSWORD, secret),
        "host": f"postgresql://mesh:{secret}@127.0.0.1:1/mesh",
        "name": postgres_url.replace("/mesh?", "/nowhere?"),
    }
    database = PostgresDatabase(urls[wrong], Path())
    with pytest.raises(StoreFailed, match=r"PostgreSQL '.*' on 127\.0\.0\.1 failed") as refused:
        await database.open()
    assert secret not in str(refused.value)
    assert PASSWORD not in str(refused.value)
    if wrong == "password":  # nothing to wait for
        assert "waiting for it" not in caplog.text
    elif wrong == "host":
        assert "Is the server running" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["postgresql//mesh:s3cret@host", "postgresql://mesh:s3cret@host/db?sslmod=off"]
)
def test_address_that_is_none_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ConfigError, match="Write it like") as refused:
        PostgresDatabase(url, Path())
    assert "s3cret" not in str(refused.value)


async def test_refused_batch_leaves_a_new_actor_without_a_record(start: Start) -> None:
    _, shared, _ = await start()
    refused = Batch(actors={diary(): ActorRecord(revision=1)}, expected={diary(): 0}, taken_numbers=[7])
    with pytest.raises(AlreadyTaken):
        await shared.commit(refused)
    await shared.commit(Batch(actors={diary(): ActorRecord(revision=1)}, expected={diary(): 0}))


async def test_a_message_that_waits_is_not_overtaken_by_one_of_the_same_commit(start: Start) -> None:
    _, shared, database = await start()
    await database.write(leave_message, diary())
    ahead = Batch(actors={diary(): ActorRecord(revision=1)}, expected={diary(): 0}, ahead={diary()})
    with pytest.raises(Conflict):
        await shared.commit(ahead)
    await database.write(remove_messages)
    await shared.commit(ahead)


def leave_message(session: Session, ref: ActorRef) -> None:
    values = (1_000_000, *ref, "somebody", Message("m", ref, "write").encode())
    session.execute("INSERT INTO messages VALUES (?, ?, ?, ?, 1, 0, ?)", values)


def remove_messages(session: Session) -> None:
    session.execute("DELETE FROM messages")


async def test_stop_ends_a_writer_that_has_not_connected_yet(
    postgres_url: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 3600)
    server, _, rest = postgres_url.rpartition(":")
    port, _, name = rest.partition("/")
    monkeypatch.setenv("PGPORT", port)
    database = PostgresDatabase(f"{server}/{name}", tmp_path, durable=False)
    await database.open()
    descriptors = set(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setenv("PGPORT", str(silent.getsockname()[1]))
        ready = database.write_apart()
        connection, _ = await asyncio.to_thread(silent.accept)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await database.close()
        connection.close()
    assert ready.cancelled()
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def test_a_connection_to_a_silent_server_ends_unless_its_address_says_otherwise(
    postgres_url: Address, tmp_path: Path
) -> None:
    by_default, patient = {"tcp_user_timeout": "20000", "keepalives_idle": "10"}, "tcp_user_timeout=0"
    for url, expected in (
        (postgres_url, by_default),
        (f"{postgres_url}&{patient}", {**by_default, "tcp_user_timeout": "0"}),
    ):
        with PostgresDatabase(url, tmp_path).connect() as connection:
            assert connection.info.get_parameters().items() >= expected.items()


async def test_a_worker_whose_lease_is_gone_journals_nothing(start: Start) -> None:
    worker, _, database = await start()
    ref = ActorRef("Diary", "one")
    await worker.append(Record(ref, "steps", 1, "before"))
    await database.write(remove_worker, worker.incarnation)  # as another does that takes over its work
    with pytest.raises(StoreUnavailable, match="lease"):
        await worker.append(Record(ref, "steps", 2, "of the former claim"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(records := await worker.records(ref, "steps")) < 2:  # it joins again by itself
            with suppress(StoreUnavailable):
                await worker.append(Record(ref, "steps", 3, "after"))
    assert [record.n for record in records] == [1, 3]


async def test_a_process_that_takes_a_new_lease_never_seems_to_have_ended(start: Start) -> None:
    worker, other = (await start())[0], await start()
    looks: list[bool] = []

    async def look() -> None:
        while True:
            looks.append(await other[0].has_ended(worker.process))

    looking = asyncio.create_task(look())
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(2):
            former = worker.incarnation
            await other[2].write(remove_worker_and_end_commits, former)
            while worker.incarnation == former or not worker.is_ready:
                await asyncio.sleep(0.01)
    looking.cancel()
    assert looks and not any(looks)


def remove_worker_and_end_commits(session: Session, incarnation: str) -> None:
    session.execute(
        "WITH gone AS (DELETE FROM workers WHERE incarnation = ? RETURNING lock_key) "
        "SELECT pg_terminate_backend(pid) FROM gone JOIN pg_locks "
        "ON locktype = 'advisory' AND objsubid = 2 AND classid::bigint = lock_key >> 32",
        (incarnation,),
    )


def remove_worker(session: Session, incarnation: str) -> None:
    session.execute("DELETE FROM workers WHERE incarnation = ?", (incarnation,))
