"""Memories by what is remembered, found and forgotten, over a real database."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.agents.context.component import TABLES
from meshwright.agents.context.memory import Memory, MemoryItem
from meshwright.agents.context.text import count_tokens, query_words
from meshwright.core.errors import InvalidInput, MemoryUnavailable, TooLarge
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.meta import DELETED, read_note
from meshwright.testing import ManualClock
from tests.support.event_logs import database_at
from tests.support.postgres import Location

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYWHERE = [("task", "t1"), ("agent", "a1"), ("project", "p1"), ("global", "")]


def memories_at(location: Location) -> Database:
    database = database_at(location)
    database.migrate("context", TABLES)
    return database


@pytest.fixture
async def database(location: Location) -> AsyncIterator[Database]:
    database = memories_at(location)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def memory(database: Database) -> Memory:
    return Memory(database, ManualClock(NOW))


def item(memory_id: str, text: str, **fields: Any) -> MemoryItem:
    return MemoryItem(memory_id=memory_id, text=text, **{"scope": "global", **fields})


async def remember(memory: Memory, *texts: str) -> None:
    for n, text in enumerate(texts):
        await memory.remember(item(f"m{n}", text))


async def recall(memory: Memory, query: str, **options: Any) -> list[str]:
    chosen = {"tenant_id": "default", "scopes": EVERYWHERE, "max_tokens": 1000, **options}
    return [found.text for found in await memory.recall(query, **chosen)]


async def test_a_memory_is_found_by_a_form_of_its_words(memory: Memory) -> None:
    await remember(memory, "The event log is stored in SQLite.", "Deployments happen on Fridays.")
    assert await recall(memory, "Where are events being stored?") == ["The event log is stored in SQLite."]


async def test_a_memory_comes_back_as_it_was_written(memory: Memory) -> None:
    written = item("m1", "Use WAL.", scope="project", scope_id="p1", task_id="t1", agent_id="a1")
    await memory.remember(written)
    (found,) = await memory.recall("wal", tenant_id="default", scopes=EVERYWHERE, max_tokens=100)
    assert found.score > 0
    assert found.model_copy(update={"score": 0.0}) == written.model_copy(update={"created_at": NOW})
    assert found.tokens == count_tokens("Use WAL.")


async def test_a_second_memory_of_one_id_changes_nothing(memory: Memory) -> None:
    assert await memory.remember(item("m1", "first words")) is True
    assert await memory.remember(item("m1", "second words")) is False
    assert await recall(memory, "words") == ["first words"]


async def test_tenants_never_see_each_other_s_memories_nor_ids(memory: Memory) -> None:
    assert await memory.remember(item("m1", "our secret plan", tenant_id="ours"))
    assert await memory.remember(item("m1", "their secret plan", tenant_id="theirs"))
    assert await recall(memory, "secret plan", tenant_id="ours") == ["our secret plan"]
    assert await recall(memory, "secret plan", tenant_id="default") == []
    assert await memory.forget("m1", "ours")
    assert await recall(memory, "secret plan", tenant_id="theirs") == ["their secret plan"]


async def test_only_the_scopes_that_are_named_are_searched(memory: Memory) -> None:
    for scope, scope_id in [
        ("task", "t1"),
        ("task", "t2"),
        ("agent", "a1"),
        ("project", "p1"),
        ("global", ""),
    ]:
        text = f"word of {scope} {scope_id}".strip()
        await memory.remember(item(f"{scope}-{scope_id}", text, scope=scope, scope_id=scope_id))
    assert await recall(memory, "word", scopes=[("task", "t1")]) == ["word of task t1"]
    assert await recall(memory, "word", scopes=[("agent", "t1")]) == []
    assert await recall(memory, "word", scopes=[("agent", "a1"), ("global", "x")]) == [
        "word of global",
        "word of agent a1",
    ]
    assert await recall(memory, "word", scopes=[]) == []


async def test_the_more_relevant_memory_comes_first(memory: Memory) -> None:
    await remember(
        memory, "A disk is full.", "The event log fills the disk.", "Nothing of the kind.", "A cat sat."
    )
    assert await recall(memory, "why does the event log fill my disk") == [
        "The event log fills the disk.",
        "A disk is full.",
    ]


async def test_of_equally_relevant_memories_the_newest_comes_first(memory: Memory) -> None:
    names = {1: "one", 3: "three", 2: "two"}
    for day, name in names.items():
        when = NOW + timedelta(days=day)
        await memory.remember(item(f"m{day}", f"release of day {name}", created_at=when))
    assert await recall(memory, "release") == [
        "release of day three",
        "release of day two",
        "release of day one",
    ]


async def test_what_says_nearly_the_same_comes_once(memory: Memory) -> None:
    await remember(memory, "The log is stored in one SQLite file.", "the log is stored in one SQLite file")
    await memory.remember(item("other", "The log is read by an HTTP client."))
    assert len(await recall(memory, "log")) == 2


async def test_the_least_relevant_are_dropped_when_the_budget_is_spent(memory: Memory) -> None:
    await remember(memory, "deploy the log service", "deploy a cat", "nothing else", "a third thing")
    best = "deploy the log service"
    assert await recall(memory, "deploy log service", max_tokens=count_tokens(best)) == [best]
    assert await recall(memory, "deploy log service", max_tokens=0) == []


async def test_no_more_come_than_were_asked_for(memory: Memory) -> None:
    await remember(memory, *[f"word and {chr(97 + n) * 5}" for n in range(10)])
    assert len(await recall(memory, "word", limit=3)) == 3


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("the outage is INC-2041", "ticket 2041"),
        ("drafts by gpt-4", "gpt 4o or 4"),
        ("reviews by model 3.75", "version 75"),
        ("due on 2026-11-29", "29 of the month"),
        ("runs at http://host/v2?page=7", "page 7"),
        ("kept in app_settings", "settings"),
    ],
)
async def test_a_memory_is_found_by_a_part_of_a_name(memory: Memory, text: str, query: str) -> None:
    await remember(memory, "another text", text)
    assert await recall(memory, query) == [text]


async def test_a_forgotten_memory_is_gone_from_the_search_too(memory: Memory, database: Database) -> None:
    await remember(memory, "a word to forget")
    assert await memory.forget("m0", "default") is True
    assert await memory.forget("m0", "default") is False
    assert await recall(memory, "word forget") == []
    if database.dialect == "postgres":
        return  # the index is the table's own
    check = "INSERT INTO memory_text (memory_text, rank) VALUES ('integrity-check', 1)"
    await database.write(lambda connection: connection.execute(check))


async def test_memories_outlive_the_process_that_wrote_them(location: Location) -> None:
    for attempt in range(2):
        database = memories_at(location)
        await database.open()
        memory = Memory(database, ManualClock())
        if attempt == 0:
            await remember(memory, "a lasting word")
        assert await recall(memory, "word") == ["a lasting word"]
        await database.close()


@pytest.mark.parametrize("query", ["", "   ", "the of and", '"', "AND OR NOT", "* - ( ) : ^ {}", "a"])
async def test_a_query_without_a_word_of_meaning_finds_nothing(memory: Memory, query: str) -> None:
    await remember(memory, "the AND of a *word*")
    assert await recall(memory, query) == []


@pytest.mark.parametrize(
    "query",
    [
        '"word',
        "word*",
        "text:word",
        "owner:x OR word",
        "NEAR(word, 2)",
        "word NOT word",
        "(word",
        "word'; DROP TABLE",
    ],
)
async def test_the_marks_and_operators_of_a_query_mean_nothing(memory: Memory, query: str) -> None:
    await remember(memory, "a word")
    assert await recall(memory, query) == ["a word"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text())
async def test_any_text_may_be_a_query(memory: Memory, query: str) -> None:
    await memory.remember(item("m0", "a word"))
    assert await recall(memory, f"{query} word") == ["a word"] or "word" not in query_words(f"{query} word")


async def test_a_long_query_is_searched_by_its_first_words(memory: Memory) -> None:
    await remember(memory, "a word")
    assert await recall(memory, "word " + " ".join(f"x{n}" for n in range(5000))) == ["a word"]


@pytest.mark.parametrize(
    ("text", "error"), [(" ", InvalidInput), ("x" * 4001, TooLarge), ("\ud800", InvalidInput)]
)
async def test_a_text_that_cannot_be_a_memory_is_refused(
    memory: Memory, text: str, error: type[InvalidInput]
) -> None:
    with pytest.raises(error) as refused:
        await memory.remember(item("m1", text))
    assert refused.value.field == "text"


async def test_a_database_that_fails_makes_memories_unavailable(memory: Memory, database: Database) -> None:
    await remember(memory, "a word")
    await database.write(lambda connection: connection.execute("DROP TABLE memories"))
    with pytest.raises(MemoryUnavailable, match="cannot be read"):
        await recall(memory, "word")
    with pytest.raises(MemoryUnavailable, match="cannot be written"):
        await memory.remember(item("m9", "another"))


WEEK = timedelta(days=7)


async def counting(memory: Memory, query: str = "port") -> list[str]:
    return [found.memory_id for found in await items(memory, query)]


async def items(memory: Memory, query: str, **options: Any) -> list[MemoryItem]:
    chosen = {"tenant_id": "default", "scopes": EVERYWHERE, "max_tokens": 1000, **options}
    return await memory.recall(query, **chosen)


async def status_of(memory: Memory, memory_id: str) -> str | None:
    found = await memory.find(memory_id, "default")
    return None if found is None else found.status


def port(memory_id: str, number: int, **fields: Any) -> MemoryItem:
    return item(memory_id, f"The staging port is {number}.", **{"subject": "Staging  port", **fields})


@pytest.mark.parametrize(
    ("trust", "later", "statuses"),
    [
        (1, WEEK, ("superseded", "active")),
        (1, WEEK / 2, ("active", "active")),
        (2, timedelta(0), ("superseded", "active")),
        (0, WEEK, ("active", "quarantined")),
    ],
)
async def test_the_newer_memory_of_a_subject_counts_by_its_trust(
    memory: Memory, trust: int, later: timedelta, statuses: tuple[str, str]
) -> None:
    await memory.remember(port("old", 5433, created_at=NOW))
    await memory.remember(port("new", 5434, created_at=NOW + later, trust=trust))
    assert (await status_of(memory, "old"), await status_of(memory, "new")) == statuses
    active = [name for name, status in zip(("old", "new"), statuses, strict=True) if status == "active"]
    assert sorted(await counting(memory)) == sorted(active)


async def test_memories_of_other_subjects_scopes_and_tenants_are_left_alone(memory: Memory) -> None:
    await memory.remember(port("old", 5433, created_at=NOW - WEEK))
    await memory.remember(port("a", 5434, subject="production port"))
    await memory.remember(port("b", 5434, scope="agent", scope_id="a1"))
    await memory.remember(port("c", 5434, tenant_id="theirs"))
    await memory.remember(port("d", 5434, subject=None))
    assert await status_of(memory, "old") == "active"


async def test_both_of_two_that_contradict_each_other_are_recalled_and_marked(memory: Memory) -> None:
    await memory.remember(port("m-old", 5433))
    await memory.remember(item("m-new", "It moved to 5434.", subject="staging port"))
    found = await items(memory, "port")
    assert [(one.memory_id, one.contradicts) for one in found] == [
        ("m-old", ("m-new",)),
        ("m-new", ("m-old",)),
    ]
    assert (
        found[1].line(NOW + timedelta(days=3))
        == "[m-new] (fact, 3 d old, contradicts m-old) It moved to 5434."
    )


async def test_only_active_memories_that_have_not_expired_are_recalled(memory: Memory) -> None:
    for status in ("active", "quarantined", "superseded", "forgotten"):
        await memory.remember(item(status, f"a word of {status}", status=status))
    await memory.remember(item("expired", "a word of old", expires_at=NOW))
    await memory.remember(item("fresh", "a word of new", expires_at=NOW + timedelta(seconds=1)))
    assert sorted(await counting(memory, "word")) == ["active", "fresh"]


async def test_a_kind_may_be_recalled_alone(memory: Memory) -> None:
    await memory.remember(item("one", "a word of caution", kind="failure"))
    await memory.remember(item("two", "a word of thanks"))
    assert [found.memory_id for found in await items(memory, "word", kind="failure")] == ["one"]


async def test_below_the_floor_nothing_is_recalled(memory: Memory) -> None:
    await memory.remember(item("one", "Alice approves deploys to production."))
    assert await items(memory, "Which restaurant does Alice like in Naples?", floor=0.5) == []
    assert len(await items(memory, "Who approves deploys?", floor=0.5)) == 1


@pytest.mark.parametrize("query", ["值班表在哪里?", "请问值班", "請求書"])
async def test_scripts_without_spaces_are_searched_by_their_parts(memory: Memory, query: str) -> None:
    await memory.remember(item("zh", "顾客服务的值班表在 wiki 的首页。"))
    await memory.remember(item("ja", "請求書は毎月二十日に送ります。"))
    await memory.remember(item("theirs", "值班表 請求書", tenant_id="theirs"))
    assert await counting(memory, query) == ["ja" if "請" in query and "请" not in query else "zh"]


async def test_a_memory_is_found_by_the_words_of_its_subject(memory: Memory) -> None:
    await memory.remember(item("one", "It moved to 5434.", subject="Ports of the staging database"))
    await memory.remember(item("two", "Nothing was said of it.", subject="lunch"))
    assert await counting(memory, "Which port has the staging database?") == ["one"]
    found = await items(memory, "Which port has the staging database?", floor=0.9)
    assert [one.memory_id for one in found] == ["one"]
    await memory.change("one", "default", {"subject": "printers"}, "ann")
    assert await counting(memory, "staging database") == [] and await counting(memory, "printer") == ["one"]
    await memory.forget("one", "default")
    assert await counting(memory, "printer") == []


@pytest.mark.parametrize("query", ["Wann wird ein Druckauftrag gesammelt?", "Wo ist der Druckauftrag?"])
async def test_a_word_is_found_in_a_form_with_other_accents(memory: Memory, query: str) -> None:
    await memory.remember(item("one", "Die Druckaufträge werden über Nacht gesammelt."))
    await memory.remember(item("two", "Wann wird ein Wo ist der"))
    assert [found.memory_id for found in await items(memory, query, floor=0.34)] == ["one"]


async def test_a_change_is_made_and_taken_back(memory: Memory) -> None:
    await memory.remember(item("m1", "first words", subject="it"))
    changed = await memory.change("m1", "default", {"text": "second thoughts", "trust": 3}, "ann")
    assert changed is not None
    assert (changed.text, changed.trust, changed.changed_by, changed.changed_at) == (
        "second thoughts",
        3,
        "ann",
        NOW,
    )
    assert await counting(memory, "words") == [] and await counting(memory, "thoughts") == ["m1"]
    undone = await memory.undo("m1", "default", "bob")
    assert undone is not None and (undone.text, undone.trust, undone.changed_by) == ("first words", 1, "bob")
    assert await counting(memory, "words") == ["m1"] and await counting(memory, "thoughts") == []
    assert await memory.change("m1", "theirs", {"text": "stolen"}, "eve") is None
    assert (
        await memory.undo("m1", "theirs", "eve") is None and await memory.undo("m2", "default", "ann") is None
    )


async def test_a_promoted_memory_supersedes_and_a_forgotten_one_brings_back(memory: Memory) -> None:
    await memory.remember(port("old", 5433))
    await memory.remember(port("new", 5434, trust=0, status="quarantined"))
    assert await counting(memory) == ["old"]
    await memory.change("new", "default", {"status": "active", "trust": 3, "approved_by": "ann"}, "ann")
    assert await counting(memory) == ["new"] and await status_of(memory, "old") == "superseded"
    await memory.change("new", "default", {"status": "forgotten"}, "ann")
    assert await counting(memory) == ["old"]
    await memory.undo("new", "default", "ann")
    assert await counting(memory) == ["new"]
    assert await memory.forget("new", "default")
    assert await counting(memory) == ["old"]


async def test_a_memory_that_another_outranks_stays_superseded_when_its_successor_goes(
    memory: Memory,
) -> None:
    for n, memory_id in enumerate(("first", "second", "third")):
        await memory.remember(port(memory_id, 5433 + n, created_at=NOW + n * WEEK))
    assert await counting(memory) == ["third"]
    assert await memory.forget("second", "default")
    assert await counting(memory) == ["third"]
    assert await memory.forget("third", "default")
    assert await counting(memory) == ["first"]


async def test_a_superseded_memory_comes_back_when_an_undo_takes_the_trust_from_the_other(
    memory: Memory,
) -> None:
    await memory.remember(port("one", 5433))
    await memory.remember(port("two", 5434))
    await memory.change("two", "default", {"text": "The staging port is 5435.", "trust": 3}, "ann")
    assert await counting(memory) == ["two"]
    await memory.undo("two", "default", "ann")
    assert sorted(await counting(memory)) == ["one", "two"]


async def test_a_superseded_memory_comes_back_when_the_other_gets_another_subject(memory: Memory) -> None:
    await memory.remember(port("old", 5433))
    await memory.remember(port("new", 5434, created_at=NOW + WEEK))
    await memory.change("new", "default", {"subject": "production port"}, "ann")
    assert sorted(await counting(memory)) == ["new", "old"]


async def test_all_of_a_subject_is_forgotten_for_good(memory: Memory, database: Database) -> None:
    await memory.remember(port("one", 5433, created_at=NOW - WEEK))
    await memory.remember(port("two", 5434))
    await memory.remember(port("theirs", 5435, tenant_id="theirs"))
    await memory.remember(item("other", "another port"))
    assert await memory.forget_subject(" staging PORT ", "default") == 2
    assert [found.memory_id for found in (await memory.page("default")).items] == ["other"]
    assert (await memory.page("theirs")).items != []
    if database.dialect == "sqlite":
        words = "SELECT count(*) FROM memory_text WHERE memory_text MATCH '5433'"
        assert await database.read(lambda session: session.execute(words).fetchone()[0]) == 0


async def test_undo_brings_no_subject_back_that_was_forgotten(memory: Memory, database: Database) -> None:
    for memory_id in ("moved", "kept"):
        await memory.remember(port(memory_id, 5433))
        await memory.change(memory_id, "default", {"subject": "elsewhere", "text": "It moved."}, "ann")
    await memory.change("kept", "default", {"text": "It moved again."}, "ann")
    await memory.remember(port("theirs", 5433, tenant_id="theirs"))
    await memory.change("theirs", "theirs", {"subject": "elsewhere"}, "eve")
    assert await memory.forget_subject("staging port", "default") == 0
    assert await memory.undo("moved", "default", "ann") is None
    undone = [await memory.undo(*ids, "ann") for ids in (("kept", "default"), ("theirs", "theirs"))]
    assert [found.subject for found in undone if found is not None] == ["elsewhere", "staging port"]
    assert (await memory.page("default", filters={"subject": "staging port"})).items == []
    assert await database.read(read_note, DELETED) is not None


async def test_the_forgotten_and_the_expired_are_deleted_later(memory: Memory) -> None:
    await memory.remember(item("kept", "a word"))
    await memory.remember(item("gone", "a word of it"))
    await memory.remember(item("old", "a word of old", expires_at=NOW - timedelta(days=1)))
    await memory.change("gone", "default", {"status": "forgotten"}, "ann")
    assert await memory.purge(NOW - timedelta(days=2)) == 0
    assert await memory.purge(NOW + timedelta(seconds=1)) == 2
    assert [found.memory_id for found in (await memory.page("default")).items] == ["kept"]


async def test_memories_are_listed_by_pages_and_by_their_fields(memory: Memory) -> None:
    for n in range(5):
        await memory.remember(item(f"m{n}", f"100% of text {n}", kind="decision" if n % 2 else "fact"))
    await memory.remember(item("other", "x", tenant_id="theirs"))
    first = await memory.page("default", limit=3)
    rest = await memory.page("default", after=first.cursor or 0, limit=3)
    assert [one.memory_id for one in (*first.items, *rest.items)] == ["m4", "m3", "m2", "m1", "m0"]
    assert rest.cursor is None
    found = await memory.page("default", ("active",), {"kind": "decision", "contains": "0% OF TEXT"})
    assert [one.memory_id for one in found.items] == ["m3", "m1"]
    assert (await memory.page("default", ("forgotten",))).items == []
    assert (await memory.page("default", filters={"contains": "_"})).items == []


async def test_uses_are_counted(memory: Memory) -> None:
    await memory.remember(item("m1", "a word"))
    await memory.count(["m1", "m2"], "default", "used")
    await memory.count(["m1"], "theirs", "helped")
    found = await memory.find("m1", "default")
    assert found is not None and (found.used, found.helped) == (1, 0)


async def test_memories_of_an_older_database_are_recalled_as_before(location: Location) -> None:
    older = database_at(location)
    await older.open()
    columns = "tenant_id, memory_id, scope, scope_id, owner, text, created_at, agent_id"
    owner = "o" + hashlib.sha256(b"default\x00global\x00").hexdigest()[:24]
    values = ("default", "m-old", "global", "", owner, "an old word", NOW.timestamp(), "a1")
    insert = f"INSERT INTO memories ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    await older.write(lambda session: session.execute(insert, values).rowcount)
    await older.close()
    database = memories_at(location)
    await database.open()
    memory = Memory(database, ManualClock(NOW))
    [found] = await items(memory, "word")
    assert (found.memory_id, found.kind, found.status, found.trust) == ("m-old", "fact", "active", 1)
    await memory.change("m-old", "default", {"text": "a new text"}, "ann")
    assert await counting(memory, "word") == [] and await counting(memory, "text") == ["m-old"]
    await database.close()


async def test_of_equal_memories_written_side_by_side_one_is_stored(
    memory: Memory, database: Database, location: Location
) -> None:
    async with AsyncExitStack() as stack:
        beside = memory
        if not database.exclusive:  # another worker
            other = memories_at(location)
            await other.open()
            stack.push_async_callback(other.close)
            beside = Memory(other, ManualClock(NOW))
        writing = [
            writer.remember(item(f"m{n}{name}", "Deployments happen on Fridays.", subject="deployments"))
            for n in range(10)
            for name, writer in (("a", memory), ("b", beside))
        ]
        assert sum(await asyncio.gather(*writing)) == 1
    assert await memory.remember(item("trusted", "Deployments happen on Fridays.", trust=3))
