"""The tables of registered prompts: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import Conflict, NotFound, StorageExceeded
from meshwright.core.events import Event
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts import llmops
from meshwright.parts.llmops import table
from meshwright.parts.llmops.event_types import (
    PromptDeleted,
    PromptLabelled,
    PromptRegistered,
    PromptUnlabelled,
)
from meshwright.parts.llmops.table import Live, PreconditionFailed, PromptRow
from tests.support.postgres import Location

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)
REGISTERED, LABELLED, UNLABELLED, DELETED = (
    Event(id="x/1", event_type=payload.event_type, topic="mesh", time=NOW, payload=payload)
    for payload in (
        PromptRegistered(name="greeter", digest="d", author="ann", message=None),
        PromptLabelled(name="greeter", label="production", version=0),
        PromptUnlabelled(name="greeter", label="production"),
        PromptDeleted(name="greeter"),
    )
)
MOST = (10, 10)


def row(text: str, name: str = "greeter", tenant: str = "acme") -> PromptRow:
    return PromptRow(
        tenant_id=tenant,
        name=name,
        version=0,
        text=text,
        digest=f"digest of {text}",
        author="adá",
        message="why",
        created_at=1_700_000_000.25,
    )


async def add(database: Database, wanted: PromptRow, **options: Any) -> int:
    """Add a version; returns its number, which the event has too where one was made."""
    options = {"limits": MOST, "is_new": False, **options}
    number, events = await database.write(table.add, REGISTERED, wanted, **options)
    assert [event.payload.version for event in events] in ([], [number])
    return number


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("llmops", resources.files(llmops) / "tables")
    await opened.open()
    yield opened
    await opened.close()


async def test_versions_are_numbered_and_stay_as_they_are(database: Database) -> None:
    assert await add(database, row("one"), is_new=True) == 1
    assert await add(database, row("two")) == 2
    assert await add(database, row("two")) == 2  # the same text makes none
    assert await add(database, row("one")) == 3
    for number, text in ((None, "one"), (1, "one"), (2, "two"), (3, "one")):
        found = await database.read(table.find, "acme", "greeter", number)
        assert found.row == row(text).model_copy(update={"version": number or 3})
    versions = await database.read(table.history, "acme", "greeter", 3, 10)
    assert [(found.row.version, found.row.text) for found in versions] == [(2, ""), (1, "")]
    with pytest.raises(Conflict, match="already"):
        await add(database, row("four"), is_new=True)
    with pytest.raises(NotFound, match="no version 4"):
        await database.read(table.find, "acme", "greeter", 4)


async def test_a_version_is_made_of_the_newest_that_was_expected(database: Database) -> None:
    await add(database, row("one"), is_new=True)
    assert await add(database, row("two"), expected=("digest of zero", "digest of one")) == 2
    with pytest.raises(PreconditionFailed, match="newer version 2"):
        await add(database, row("three"), expected=("digest of one",))
    assert (await database.read(table.find, "acme", "greeter")).row.text == "two"


async def test_labels_point_at_versions_and_move(database: Database) -> None:
    await add(database, row("one"), is_new=True)
    await add(database, row("two"))
    for version, before in ((1, None), (2, 1), (1, 2)):
        _, [event] = await database.write(table.set_label, LABELLED, "acme", "greeter", "production", version)
        assert event.payload.before == before
        assert await database.read(table.live) == table.LivePrompts(
            items=(Live(tenant_id="acme", name="greeter", version=version),)
        )
    assert (await database.write(table.set_label, LABELLED, "acme", "greeter", "production", 1))[1] == []
    await database.write(table.set_label, LABELLED, "acme", "greeter", "canary", 2)
    found = await database.read(table.find, "acme", "greeter", None, "canary")
    assert (found.row.text, found.labels) == ("two", {"canary": 2, "production": 1})
    for wrong in (("greeter", "canary", 3), ("ghost", "canary", 1)):
        with pytest.raises(NotFound):
            await database.write(table.set_label, LABELLED, "acme", *wrong)
    for number in range(48):
        await database.write(table.set_label, LABELLED, "acme", "greeter", f"l{number}", 1)
    with pytest.raises(StorageExceeded, match="50 labels"):
        await database.write(table.set_label, LABELLED, "acme", "greeter", "l48", 1)
    await database.write(table.set_label, LABELLED, "acme", "greeter", "l0", 2)
    await database.write(table.delete_label, UNLABELLED, "acme", "greeter", "production")
    with pytest.raises(NotFound, match="no label 'production'"):
        await database.write(table.delete_label, UNLABELLED, "acme", "greeter", "production")
    assert (await database.read(table.live)).items == ()


async def test_a_deleted_prompt_keeps_its_versions_and_goes_on_counting(database: Database) -> None:
    await add(database, row("one"), is_new=True)
    await database.write(table.set_label, LABELLED, "acme", "greeter", "production", 1)
    with pytest.raises(Conflict, match="just got"):
        await database.write(table.delete, DELETED, "acme", "greeter", also_live=False)
    _, [event] = await database.write(table.delete, DELETED, "acme", "greeter", also_live=True)
    assert event.payload == PromptDeleted(name="greeter", version=1, labels={"production": 1})
    assert (await database.read(table.live)).items == ()
    assert await database.read(table.page, "acme", "", 10) == []
    found = await database.read(table.find, "acme", "greeter", 1)
    assert (found.row.text, found.is_deleted, found.labels) == ("one", True, {})
    for fails in (
        database.read(table.find, "acme", "greeter"),
        database.write(table.set_label, LABELLED, "acme", "greeter", "production", 1),
        add(database, row("two")),
    ):
        with pytest.raises(NotFound, match="No prompt 'greeter'"):
            await fails
    assert await add(database, row("one"), is_new=True) == 2
    assert (await database.read(table.find, "acme", "greeter")).labels == {}


async def test_a_tenant_has_so_many_prompts_and_a_prompt_so_many_versions(database: Database) -> None:
    await add(database, row("one"), is_new=True, limits=(1, 2))
    with pytest.raises(StorageExceeded, match="registered 1 prompts"):
        await add(database, row("one", "other"), is_new=True, limits=(1, 2))
    await add(database, row("one", "other", "globex"), is_new=True, limits=(1, 2))
    await add(database, row("two"), limits=(1, 2))
    with pytest.raises(StorageExceeded, match="has 2 versions"):
        await add(database, row("three"), limits=(1, 2))
    await database.write(table.delete, DELETED, "acme", "greeter", also_live=False)
    with pytest.raises(StorageExceeded, match="registered 1 prompts"):
        await add(database, row("one", "other"), is_new=True, limits=(1, 2))


async def test_pages_go_by_name_and_tenants_see_their_own(database: Database) -> None:
    for name in ("c", "a", "b"):
        await add(database, row(name, name), is_new=True)
        await database.write(table.set_label, LABELLED, "acme", name, "production", 1)
    await add(database, row("secret", "a", "globex"), is_new=True)
    first = await database.read(table.page, "acme", "", 2)
    assert [(found.row.name, found.row.digest, found.labels) for found in first] == [
        (name, f"digest of {name}", {"production": 1}) for name in "ab"
    ]
    assert [found.row.name for found in await database.read(table.page, "acme", "b", 2)] == ["c"]
    [other] = await database.read(table.page, "globex", "", 10)
    assert (other.row.digest, other.labels) == ("digest of secret", {})
    assert [live.tenant_id for live in (await database.read(table.live)).items] == ["acme"] * 3
    assert await database.read(table.version_text, Live(tenant_id="globex", name="a", version=1)) == "secret"
