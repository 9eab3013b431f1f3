"""Memories by what is remembered, found and forgotten, over a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.context.memory import Memory, MemoryItem, query_words
from meshwright.context.text import count_tokens
from meshwright.core.errors import InvalidInput, MemoryUnavailable, TooLarge
from meshwright.sql.database import Database
from meshwright.testing import ManualClock
from tests.support.event_logs import database_at
from tests.support.postgres import Location

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYWHERE = [("task", "t1"), ("agent", "a1"), ("project", "p1"), ("global", "")]


@pytest.fixture
async def database(location: Location) -> AsyncIterator[Database]:
    database = database_at(location)
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
        database = database_at(location)
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
