"""The hash chain of the event log: whatever is changed in the database by other means is found and named."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshwright.cli.app import mesh as cli
from meshwright.core.clock import SystemClock
from meshwright.core.events import Event
from meshwright.engine.events import table
from meshwright.engine.events.heads import FILE_NAME, KEY_NAME, SIGNED, Head, HeadKeeper, Signer, stored_heads
from meshwright.engine.events.rows import ERASED_EVENT, PRUNED_EVENT
from meshwright.engine.events.verify import ChainReport, verify
from meshwright.engine.sql.sqlite import SqliteDatabase
from tests.support.event_logs import START, LogOnFile, event, forge, open_log
from tests.support.postgres import Location

BLOCK = 2048
ROWS = 40


class Logs:
    """Logs at one location, and what a verification says of them."""

    def __init__(self, location: Location, folder: Path) -> None:
        self.location, self.folder = location, folder

    async def write(self, *counts: int, clock: Any = None, **options: Any) -> None:
        """Write so many events, and sign a head behind each part."""
        async with open_log(self.location, clock, **options) as store:
            store.database.folder = self.folder
            for count in counts:
                await store.write([event(n, payload={"n": n, "text": "naïve ☃"}) for n in range(count)])
                await sign(store)

    def verify(self, **options: Any) -> ChainReport:
        found = verify(self._database(), **options)
        environment = {} if isinstance(self.location, Path) else {"MESH_DATABASE": str(self.location)}
        named = [part for name, value in options.items() for part in (f"--{name}", value)]
        arguments = ["verify", "--audit", "--data", str(self.folder), *named]
        done = CliRunner().invoke(cli, arguments, env=environment, catch_exceptions=False)
        assert done.exit_code == (1 if found.faults else 0)
        assert [f"mesh: {fault}" for fault in found.faults] == done.stderr.splitlines()[: len(found.faults)]
        assert ("compare with a backup that verifies" in done.stderr) is bool(found.faults)
        assert found.sentence() in done.stdout
        return found

    def _database(self) -> Any:
        if isinstance(self.location, Path):
            return SqliteDatabase(self.location)
        from meshwright.engine.sql.postgres import PostgresDatabase

        return PostgresDatabase(self.location, self.folder)

    def change(self, *statements: str) -> None:
        """Change the database as sqlite3 or psql does."""
        if isinstance(self.location, Path):
            with closing(sqlite3.connect(self.location / "mesh.db")) as connection, connection:
                for statement in statements:
                    connection.execute(statement)
            return
        import psycopg

        with psycopg.connect(self.location) as connection:
            for statement in statements:
                connection.execute(statement.encode())


async def sign(store: LogOnFile) -> None:
    """Sign a head as a mesh does when it stops."""
    keeper = HeadKeeper(store.database, store.log, SystemClock(), _unpublished, rows=10_000, seconds=60)
    await keeper.start()
    await keeper.stop()


async def _unpublished(head: Head) -> None:
    raise AssertionError("a mesh that stops publishes nothing")


@pytest.fixture
def logs(location: Location, tmp_path: Path) -> Logs:
    return Logs(location, tmp_path)


async def test_a_log_that_nobody_touched_is_unaltered(logs: Logs) -> None:
    await logs.write(10, BLOCK, 30)
    found = logs.verify()
    assert (found.faults, found.notes) == ([], [])
    assert (found.rows, found.first, found.last, found.heads) == (BLOCK + 40, 1, BLOCK + 40, 3)
    assert found.sentence() == "2,088 rows from 1 to 2,088 unaltered; 3 signed heads"


ALTERED = {
    "payload": "UPDATE events SET payload = (SELECT payload FROM events WHERE seq = 2) WHERE seq = 17",
    "fact": "UPDATE events SET tenant_id = 'mallory' WHERE seq = 17",
    "time": "UPDATE events SET time = time + 1 WHERE seq = 17",
    "empty": "UPDATE events SET task_id = NULL, agent_id = '' WHERE seq = 17",
    "link": "UPDATE events SET link = (SELECT link FROM events WHERE seq = 2) WHERE seq = 17",
    "no link": "UPDATE events SET link = NULL WHERE seq = 17",
}


@pytest.mark.parametrize("what", ALTERED)
async def test_an_altered_row_is_named(logs: Logs, what: str) -> None:
    await logs.write(ROWS)
    logs.change(ALTERED[what])
    assert logs.verify().faults == ["Row 17 was altered"]


async def test_a_deleted_row_is_named(logs: Logs) -> None:
    await logs.write(ROWS)
    logs.change("DELETE FROM events WHERE seq BETWEEN 17 AND 19")
    assert logs.verify().faults == ["Rows 17 to 19 are missing"]
    logs.change("DELETE FROM events WHERE seq = 9")
    assert logs.verify().faults == ["Row 9 is missing"]


async def test_an_inserted_row_is_named(logs: Logs) -> None:
    await logs.write(ROWS)
    logs.change(
        "UPDATE events SET seq = -seq - 1 WHERE seq >= 17",
        "UPDATE events SET seq = -seq WHERE seq < 0",
        _copied(5, 17),
        "UPDATE event_log SET seq = seq + 1",
    )
    assert logs.verify().faults == ["Row 17 was inserted"]


async def test_a_row_beyond_the_end_is_named(logs: Logs) -> None:
    await logs.write(ROWS)
    logs.change(_copied(5, ROWS + 3))
    assert logs.verify().faults == [f"Row {ROWS + 3} was inserted: the log has not come so far"]


async def test_exchanged_rows_are_named(logs: Logs) -> None:
    await logs.write(ROWS)
    logs.change(
        "UPDATE events SET seq = -1 WHERE seq = 17",
        "UPDATE events SET seq = 17 WHERE seq = 18",
        "UPDATE events SET seq = 18 WHERE seq = -1",
    )
    assert logs.verify().faults == ["Rows 17 and 18 were exchanged"]


async def test_a_log_that_was_cut_is_found_by_its_count_and_by_the_heads(logs: Logs) -> None:
    await logs.write(20, 20)
    logs.change("DELETE FROM events WHERE seq > 30")
    assert logs.verify().faults == ["Rows behind 30 are missing: the log had come to row 40"]
    await _rewind(logs, 30)
    assert logs.verify().faults == [cut(logs, 31)]


def cut(logs: Logs, first: int) -> str:
    """The finding that rows up to 40 are gone: an older server may have taken the place of PostgreSQL's."""
    if isinstance(logs.location, Path):
        return f"Rows {first} to 40 are missing: the log was cut, a signed head names them"
    return (
        f"Rows {first} to 40 are missing: a signed head names them. The database is older, or the log was "
        "cut. So it is after a failover to a standby that was behind, at an old primary, and after a restore"
    )


async def test_rows_that_no_head_names_yet_are_missed_by_the_mark(logs: Logs) -> None:
    await logs.write(20)
    async with open_log(logs.location) as store:  # and it ends without a head, as when it is killed
        await store.write([event(n) for n in range(20)])
    logs.change("DELETE FROM events WHERE seq > 20")
    assert logs.verify().faults == ["Rows behind 20 are missing: the log had come to row 40"]
    await _rewind(logs, 20)
    lost = "Rows 21 to 40 are missing: the log was cut, mesh.mark names them"
    assert logs.verify().faults == ([lost] if isinstance(logs.location, Path) else [])


async def test_an_emptied_log_is_found_by_the_heads(logs: Logs) -> None:
    await logs.write(ROWS)
    logs.change("DELETE FROM events", f"UPDATE event_log SET seq = 0, hash = {_blob(bytes(32), logs)}")
    assert logs.verify().faults == [cut(logs, 1)]


async def test_a_chain_that_was_made_again_does_not_agree_with_the_heads(logs: Logs) -> None:
    await logs.write(20, 20)
    logs.change(ALTERED["fact"])
    await _rewind(logs, 40, relink=True)
    [fault] = logs.verify().faults
    assert fault.startswith("Row 1, or one up to 20, was altered, and the hashes made to fit")


async def test_a_head_that_was_exchanged_or_signed_by_another_is_named(logs: Logs, tmp_path: Path) -> None:
    await logs.write(20, 20)
    lines = (logs.folder / FILE_NAME).read_text().splitlines()
    forged = Head.model_validate_json(lines[0]).model_copy(update={"seq": 19})
    (logs.folder / FILE_NAME).write_text(f"{forged.model_dump_json()}\n{lines[1]}\n")
    assert (
        logs.verify().faults[0].startswith("Head 1 of audit.heads (row 19) is not signed by this mesh's key")
    )

    other = Signer(tmp_path / "other").sign(Head.model_validate_json(lines[0]))
    (logs.folder / FILE_NAME).write_text(f"{other.model_dump_json()}\n{lines[1]}\n")
    assert logs.verify().faults[0].startswith("Head 1 of audit.heads (row 20) is not signed")

    (logs.folder / FILE_NAME).write_text(f"{lines[0]}\n{lines[1]}\n")
    assert logs.verify().faults == []
    assert len(logs.verify(key=Signer(tmp_path / "other").public_key()).faults) == 2
    (logs.folder / KEY_NAME).unlink()
    Signer(logs.folder).sign(forged)  # another key in its place
    assert len(logs.verify().faults) == 2


async def test_a_line_that_a_crash_cut_off_is_passed_over(logs: Logs) -> None:
    await logs.write(20)
    with (logs.folder / FILE_NAME).open("a") as file:
        file.write('{"seq": 4')
    assert logs.verify().faults == []
    await logs.write(20)
    assert [head.seq for head in stored_heads(logs.folder) if head] == [20, 40]
    assert logs.verify().faults == []


async def test_the_chain_holds_behind_rows_that_were_deleted_by_age(logs: Logs) -> None:
    async with open_log(logs.location) as store:
        store.database.folder = logs.folder
        for _ in range(3):
            await store.write([event(n) for n in range(BLOCK)])
            await sign(store)
        assert await store.log.prune(max_events=BLOCK) == 2 * BLOCK - 1
        await store.write([event(n) for n in range(10)])
    found = logs.verify()
    assert found.faults == []
    assert (found.pruned_seq, found.first, found.heads) == (2 * BLOCK - 1, 2 * BLOCK, 2)
    logs.change("DELETE FROM events WHERE event_type = 'events.pruned'")
    assert logs.verify().faults != []


async def test_rows_deleted_as_if_by_age_are_found(logs: Logs) -> None:
    await logs.write(BLOCK, 10)
    logs.change(
        "UPDATE event_log SET pruned_seq = 2047, pruned_hash = (SELECT hash FROM event_blocks)",
        "DELETE FROM event_blocks WHERE block = 0",
        "DELETE FROM events WHERE seq < 2048",
    )
    assert logs.verify().faults == ["Rows up to 2,047 are missing, and no event says that age was the reason"]


async def test_rows_of_any_value_are_chained_as_they_are_stored(logs: Logs) -> None:
    async with open_log(logs.location) as store:
        store.database.folder = logs.folder
        await store.write(
            [
                event(1, task_id="half \ud800 a character"),
                event(2, task_id="a\0b\nc"),
                event(3, event_version=2**70),
                event(4, time=START + timedelta(microseconds=1)),
                Event.model_validate({**event(5).model_dump(), "of_a_newer_version": [1]}),
            ]
        )
        await sign(store)
    assert logs.verify().faults == []


def _copied(seq: int, to: int) -> str:
    columns = "time, event_type, event_version, topic, tenant_id, aggregate_id, own_id, payload, link"
    return f"INSERT INTO events (seq, {columns}) SELECT {to}, {columns} FROM events WHERE seq = {seq}"


def _blob(data: bytes, logs: Logs) -> str:
    return f"x'{data.hex()}'" if isinstance(logs.location, Path) else f"decode('{data.hex()}', 'hex')"


async def _rewind(logs: Logs, last: int, *, relink: bool = False) -> None:
    """Make the rest of the log consistent with itself, as somebody can who has read our code."""
    from meshwright.engine.events.rows import _TAG_BYTES, COLUMN_LIST, next_hash

    head = bytes(32)
    with closing(logs._database().connect_reader()) as session:
        rows = session.execute(f"SELECT {COLUMN_LIST}, link FROM events ORDER BY seq").fetchall()
    statements = []
    for row in rows[:last]:
        found = next_hash(row, head)
        assert found is not None
        head = found
        own = bytes(row[-1])[:-_TAG_BYTES] + head[:_TAG_BYTES]
        statements.append(f"UPDATE events SET link = {_blob(own, logs)} WHERE seq = {row[0]}")
    logs.change(
        *(statements if relink else ()), f"UPDATE event_log SET seq = {last}, hash = {_blob(head, logs)}"
    )


@pytest.mark.parametrize(
    "payload", [{}, None, [7], {"ranges": [[1]], "through": {}}, {"ranges": 7, "seq": "x"}]
)
async def test_events_without_the_payload_of_their_type_are_named(logs: Logs, payload: Any) -> None:
    types = (ERASED_EVENT, PRUNED_EVENT, "store.loss_accepted", SIGNED)
    async with open_log(logs.location) as store:
        await store.write([event(n, kind, payload=payload) for n, kind in enumerate(types)])
    found = logs.verify()
    assert (found.faults, found.rows, found.last) == ([], 4, 4)
    assert [note[: note.index(")") + 1] for note in found.notes] == [
        f"Row {number} ({kind})" for number, kind in enumerate(types, start=1)
    ]


async def test_an_erasure_that_a_caller_claims_excuses_no_erased_payload(logs: Logs) -> None:
    await logs.write(5)
    async with open_log(logs.location) as store:
        await store.database.write(table.erase_payload, 3)
        await forge(store.database, store.log, ERASED_EVENT, {"ranges": [[1, 10**15]]})
    assert logs.verify().faults == ["The payload of row 3 was erased, and no event says by whom"]
