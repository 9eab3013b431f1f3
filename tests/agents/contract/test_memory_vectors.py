"""Vectors of memories: made when a model is there, found by meaning, and gone with their texts."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from meshwright.agents.context.component import TABLES
from meshwright.agents.context.memory import FLOOR, Memory, MemoryItem
from meshwright.agents.context.vectors import Embedder, Vectors
from meshwright.engine.sql.database import Database
from meshwright.models.server import HttpModel
from meshwright.testing import ManualClock
from tests.support.event_logs import database_at
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.postgres import Location

LIFT, DEPLOY, MEANT = "The elevator is out of order.", "Deploys happen on Fridays.", "Does any lift work?"
UNMEANT = "Who won the football final?"
VECTORS = {
    LIFT: [0.9, 0.1, -0.3, 0.2],
    DEPLOY: [-0.2, 0.9, 0.1, -0.4],
    MEANT: [0.8, 0.0, -0.4, 0.3],
    UNMEANT: [-0.5, -0.6, 0.6, 0.1],
}
GROUP = "embeddings"


@pytest.fixture
async def database(location: Location) -> AsyncIterator[Database]:
    database = database_at(location)
    database.migrate("context", TABLES)
    await database.open()
    yield database
    await database.close()


class Kept:
    """Memories with vectors of the fake, which says that it has a model of some name."""

    def __init__(self, database: Database, fake: FakeProvider) -> None:
        self.database, self.fake = database, fake
        self.models = [HttpModel(fake.url, model_name=name) for name in ("small", "large")]
        self.name = 0
        self.vectors = Vectors(database, Embedder(GROUP, lambda: self.models[self.name]), 0.35)
        self.memory = Memory(database, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), self.vectors)

    async def remember(self, memory_id: str, text: str, **fields: Any) -> None:
        await self.memory.remember(
            MemoryItem(memory_id=memory_id, text=text, **{"scope": "global", **fields})
        )

    async def recall(self, query: str, tenant_id: str = "default") -> list[str]:
        found = await self.memory.recall(
            query, tenant_id=tenant_id, scopes=[("global", "")], max_tokens=1000, floor=FLOOR
        )
        return [item.text for item in found]

    async def made(self) -> list[tuple[str, str | None]]:
        """The memories with the models of their vectors."""
        query = "SELECT memory_id, embedded_by FROM memories ORDER BY memory_id"
        return [
            tuple(row) for row in await self.database.read(lambda session: session.execute(query).fetchall())
        ]


@pytest.fixture
async def kept(database: Database) -> AsyncIterator[Kept]:
    async with FakeProvider(vectors=dict(VECTORS)) as fake:
        kept = Kept(database, fake)
        yield kept
        for model in kept.models:
            await model.close()


async def test_a_memory_is_recalled_by_its_meaning(kept: Kept) -> None:
    await kept.remember("m1", LIFT)
    await kept.remember("m2", DEPLOY)
    await kept.remember("m3", LIFT, tenant_id="theirs")
    await kept.remember("m4", LIFT, scope="agent", scope_id="other")
    await kept.remember("m5", LIFT, scope="agent", scope_id="third", status="quarantined", trust=0)
    assert await kept.recall(MEANT) == []
    await kept.vectors.fill()
    assert await kept.recall(MEANT) == [LIFT]
    assert await kept.recall(UNMEANT) == []
    assert await kept.recall(MEANT, "nobody") == []
    sent = [text for call in kept.fake.calls for text in call.body["input"]]
    assert sent.count(LIFT) == 3
    assert ("m5", None) in await kept.made()  # what strangers said is sent nowhere
    for status in ("forgotten", "quarantined"):
        await kept.memory.change("m1", "default", {"status": status}, "ann")
        assert await kept.recall(MEANT) == [], status


async def test_words_find_memories_while_the_model_is_away(kept: Kept) -> None:
    kept.fake.faults_of["small"].extend([Fault(status=503)] * 3)
    await kept.remember("m1", LIFT)
    await kept.vectors.fill()
    assert await kept.made() == [("m1", None)]
    kept.fake.vectors["Is the elevator out of order?"] = VECTORS[UNMEANT]
    assert await kept.recall("Is the elevator out of order?") == [LIFT]
    assert await kept.recall(MEANT) == []
    await kept.vectors.fill()  # it is back
    assert await kept.made() == [("m1", "small")]
    assert await kept.recall(MEANT) == [LIFT]


async def test_vectors_are_made_again_when_the_model_or_the_text_changes(kept: Kept) -> None:
    await kept.remember("m1", LIFT)
    await kept.vectors.fill()
    asked = len(kept.fake.calls)
    await kept.vectors.fill()
    assert len(kept.fake.calls) == asked  # nothing is embedded twice
    kept.name = 1
    assert await kept.recall(MEANT) == []  # vectors of two models are not compared
    await kept.vectors.fill()
    assert await kept.made() == [("m1", "large")]
    assert await kept.recall(MEANT) == [LIFT]
    await kept.memory.change("m1", "default", {"text": DEPLOY}, "ann")
    assert await kept.made() == [("m1", None)]
    assert await kept.recall(MEANT) == []
    await kept.memory.undo("m1", "default", "ann")
    await kept.vectors.fill()
    assert await kept.recall(MEANT) == [LIFT]
    await kept.memory.forget("m1", "default")
    assert await kept.made() == [] and await kept.recall(MEANT) == []


@pytest.mark.parametrize("numbers", [[0.0, 0.0], [1.0] * 5000])
async def test_a_vector_that_cannot_be_compared_is_refused(kept: Kept, numbers: list[float]) -> None:
    kept.fake.vectors[LIFT] = numbers
    await kept.remember("m1", LIFT)
    await kept.vectors.fill()
    assert await kept.made() == [("m1", None)]
