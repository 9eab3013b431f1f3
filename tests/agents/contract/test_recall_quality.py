"""How well memories are found by questions, among the sentences of our documentation.

Each case is a kind, a memory and a question: in the same words (w), as a paraphrase (p), in other forms of
the words (f), or in another language (d).
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from zlib import crc32

import pytest

from meshwright.agents.context.component import TABLES
from meshwright.agents.context.memory import FLOOR, Memory, MemoryItem
from meshwright.agents.context.vectors import Embedder, Vectors
from meshwright.engine.sql.database import Database
from meshwright.models.server import HttpModel
from meshwright.testing import ManualClock
from tests.support.event_logs import database_at
from tests.support.fake_provider import FakeProvider
from tests.support.postgres import Location
from tests.support.recall_sets import CASES, EMBEDDED, IRRELEVANT, TEXTS, vectors
from tests.support.running_mesh import ROOT


def sentences() -> list[str]:
    """A fourth of the sentences of the documentation: the same ones, wherever others are added."""
    found: dict[str, None] = {}
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        parts = [part.strip() for part in re.split(r"(?<=[.;:])\s+|\n\n", text)]
        found |= dict.fromkeys(part for part in parts if 40 < len(part) < 240 and not part.startswith("|"))
    return [part for part in found if crc32(part.encode()) % 4 == 0]


SETS = {"first": 0.80, "held out": 0.70, "fresh": 0.75}
"""The share of questions that find their memory by words.

A third of those held out, and a sixth of the fresh ones, share no word with it.
"""
BY_MEANING = {"first": 0.95, "held out": 0.85}
"""The same with vectors."""


def items(texts: Sequence[str]) -> list[MemoryItem]:
    """The memories, and the same texts where nobody may find them."""
    found = [MemoryItem(memory_id=f"m{n}", scope="global", text=text) for n, text in enumerate(texts)]
    foreign = [
        item.model_copy(update={"memory_id": f"f{item.memory_id}", "scope": "agent", "scope_id": "b"})
        for item in found[:96]
    ]
    theirs = [item.model_copy(update={"tenant_id": "theirs"}) for item in found[:96]]
    gone = {"status": "forgotten"}
    hidden = [item.model_copy(update={"memory_id": f"g{item.memory_id}", **gone}) for item in found[:96]]
    return [*found, *foreign, *theirs, *hidden]


@asynccontextmanager
async def database_of(location: Location) -> AsyncIterator[Database]:
    database = database_at(location)
    database.migrate("context", TABLES)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def model_at(url: str) -> AsyncIterator[HttpModel]:
    model = HttpModel(url, model_name="all-MiniLM-L6-v2")
    try:
        yield model
    finally:
        await model.close()


@pytest.fixture(params=SETS)
async def by_words(location: Location, request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Memory]]:
    async with database_of(location) as database:
        memory = Memory(database, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
        await asyncio.gather(*map(memory.remember, items([*TEXTS[request.param], *sentences()])))
        yield request.param, memory


async def recall(memory: Memory, question: str) -> list[MemoryItem]:
    scopes = [("task", "t"), ("agent", "a"), ("project", "p"), ("global", "")]
    return await memory.recall(
        question, tenant_id="default", scopes=scopes, max_tokens=1000, limit=5, floor=FLOOR
    )


async def check(memory: Memory, of: str, least: float) -> None:
    found = {case.question: await recall(memory, case.question) for case in CASES[of]}
    hits = [(case.kind, case.text in [item.text for item in found[case.question]]) for case in CASES[of]]
    rate = sum(hit for _, hit in hits) / len(hits)
    assert rate >= least, (
        f"recall@5 is {rate:.3f}, not found: {Counter(kind for kind, hit in hits if not hit)}"
    )
    recalled = [item for items in found.values() for item in items]
    assert {(item.tenant_id, item.scope, item.status) for item in recalled} == {
        ("default", "global", "active")
    }


async def check_irrelevant(memory: Memory, questions: Sequence[str]) -> None:
    found = {question: [item.text for item in await recall(memory, question)] for question in questions}
    wrong = {question: texts for question, texts in found.items() if texts}
    assert len(wrong) <= len(questions) / 10, wrong


async def test_memories_are_recalled_by_words(by_words: tuple[str, Memory]) -> None:
    name, memory = by_words
    await check(memory, name, SETS[name])
    await check_irrelevant(memory, IRRELEVANT[name])
    if name == "fresh":
        await check_irrelevant(memory, IRRELEVANT["near"])


async def test_memories_are_recalled_by_their_meaning(location: Location) -> None:
    async with (
        FakeProvider(vectors=vectors()) as fake,
        model_at(fake.url) as model,
        database_of(location) as database,
    ):
        found = Vectors(database, Embedder("default", lambda: model), 0.35)
        memory = Memory(database, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), found)
        await asyncio.gather(*map(memory.remember, items([text for of in EMBEDDED for text in TEXTS[of]])))
        await found.fill()
        for name, least in BY_MEANING.items():
            await check(memory, name, least)
        await check_irrelevant(memory, IRRELEVANT["first"])
        # The model knows English alone: all questions in German are alike to it.
        await check_irrelevant(memory, IRRELEVANT["held out"][:10])
