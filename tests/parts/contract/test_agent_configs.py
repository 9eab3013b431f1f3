"""The table of agent configurations: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest

from meshwright.core.errors import Conflict, NotFound, Overloaded
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts.agent_config import migrations, records
from meshwright.parts.agent_config.records import AgentRow
from tests.support.postgres import Location

ROW = AgentRow(
    tenant_id="acme",
    agent_id="helper",
    name="Hélper",
    description="",
    llm_provider="openai",
    llm_endpoint="https://models.example.com/v1",
    llm_model="gpt-5.4",
    llm_api_key_encrypted="gAAAA-encrypted",
    llm_timeout=12.5,
    llm_temperature=0.1,
    llm_max_tokens=300,
    is_default=False,
    is_active=True,
    created_at=1_700_000_000.25,
    updated_at=1_700_000_000.25,
)


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("agent_config", resources.files(migrations))
    await opened.open()
    yield opened
    await opened.close()


async def test_migration_seeds_an_inactive_default(database: Database) -> None:
    [row] = (await database.read(records.read_all)).rows
    assert (row.tenant_id, row.model, row.llm_endpoint) == (
        "default",
        "ollama/mistral:7b-instruct",
        "http://localhost:11434",
    )
    assert (row.is_default, row.is_active, row.updated_at) == (True, False, None)
    assert (row.llm_timeout, row.llm_temperature, row.llm_max_tokens) == (30, 0.7, None)
    assert row.created_at > 1_600_000_000
    assert await database.read(records.find, "default", "default") == row


async def test_rows_are_read_as_they_were_written(database: Database) -> None:
    await database.write(records.insert, ROW, 10)
    assert await database.read(records.find, "acme", "helper") == ROW
    changed = ROW.model_copy(update={"llm_model": "gpt-5.4-mini", "updated_at": 1_700_000_001.5})
    await database.write(records.replace, ROW, changed)
    assert await database.read(records.find, "acme", "helper") == changed
    with pytest.raises(Conflict, match="just been changed"):
        await database.write(records.replace, ROW, ROW.model_copy(update={"updated_at": 1_700_000_002.0}))
    assert await database.read(records.find, "acme", "helper") == changed
    await database.write(records.delete, "acme", "helper")
    with pytest.raises(NotFound, match="helper"):
        await database.read(records.find, "acme", "helper")


async def test_a_tenant_has_one_default_and_a_limit(database: Database) -> None:
    first = ROW.model_copy(update={"is_default": True})
    second = first.model_copy(update={"agent_id": "other"})
    await database.write(records.insert, first, 2)
    await database.write(records.insert, second, 2)
    assert (await database.read(records.find, "acme", "default")).agent_id == "other"
    assert not (await database.read(records.find, "acme", "helper")).is_default
    with pytest.raises(Conflict, match="already"):
        await database.write(records.insert, first, 2)
    with pytest.raises(Overloaded, match="may have 2"):
        await database.write(records.insert, ROW.model_copy(update={"agent_id": "third"}), 2)
    assert (await database.read(records.find, "default", "default")).agent_id == "default-agent"


async def test_tenants_do_not_see_each_others_rows(database: Database) -> None:
    await database.write(records.insert, ROW, 10)
    await database.write(records.insert, ROW.model_copy(update={"tenant_id": "other", "llm_model": "x"}), 10)
    await database.write(records.delete, "other", "helper")
    assert await database.read(records.find, "acme", "helper") == ROW
    with pytest.raises(NotFound):
        await database.read(records.find, "other", "default")
