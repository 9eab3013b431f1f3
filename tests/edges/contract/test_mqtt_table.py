"""The tables of the MQTT edge: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from meshwright.edges.broker.trial import BrokerTraits
from meshwright.edges.mqtt import table
from meshwright.edges.mqtt.table import DeliveryRow, SessionRow
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from tests.support.postgres import Location

TRAITS = BrokerTraits(
    sets_dup=True,
    keeps_packet_id=True,
    has_own_packet_ids=True,
    heeds_no_local=True,
    retained_by_wildcard=False,
)


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("mqtt", files("meshwright.edges.mqtt") / "tables")
    await opened.open()
    yield opened
    await opened.close()


async def test_messages_are_kept_in_order_for_each_client_id(database: Database) -> None:
    rows = [DeliveryRow(n, f"digest {n % 2}", 65_535, "acme", f"task-{n}") for n in (1, 2, 3, 11)]
    for row in (*rows, rows[0]):  # one of them again, whose answer was lost
        await database.write(table.add_delivery, "mesh-edge", tuple(row))
    await database.write(table.add_delivery, "other-edge", tuple(rows[0]))
    assert await database.read(table.read_deliveries, "mesh-edge") == rows
    await database.write(table.delete_deliveries, "mesh-edge", [2, 11, 12])
    assert await database.read(table.read_deliveries, "mesh-edge") == [rows[0], rows[2]]
    await database.write(table.delete_all_deliveries, "mesh-edge")
    assert await database.read(table.read_deliveries, "mesh-edge") == []
    assert await database.read(table.read_deliveries, "other-edge") == rows[:1]


async def test_a_session_has_its_broker_and_later_its_traits(database: Database) -> None:
    assert await database.read(table.read_session, "mesh-edge") is None
    await database.write(table.write_session, "mesh-edge", "mqtt://one", "")
    assert await database.read(table.read_session, "mesh-edge") == SessionRow("mqtt://one", None)
    await database.write(table.write_session, "mesh-edge", "mqtt://two", TRAITS.model_dump_json())
    assert await database.read(table.read_session, "mesh-edge") == SessionRow("mqtt://two", TRAITS)
