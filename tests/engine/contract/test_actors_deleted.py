"""The record of an actor that is done can be deleted; one that has something to do stays."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from tests.support.harness import RuntimeHarness

ONE, TWO = ActorRef("Tally", "one"), ActorRef("Tally", "two")


class Total(BaseModel):
    total: int = 0
    is_open: bool = False


class Tally(Actor[Total]):
    @property
    def has_pending_work(self) -> bool:
        return self.state.is_open

    @turn
    def add(self, turn: Turn, amount: int) -> int:
        self.state.total += amount
        turn.append("added", self.state.total, {"amount": amount})
        return self.state.total

    @turn
    def open(self, turn: Turn) -> None:
        self.state.is_open = True

    @turn
    def set_alarm(self, turn: Turn) -> None:
        turn.wake_at(turn.now + timedelta(days=1))


TALLY = ActorKind.from_class(Tally)


async def test_an_actor_that_is_done_begins_again(harness: RuntimeHarness) -> None:
    host = await harness.open(TALLY)
    await host.call(ONE, "add", 2)
    await host.call(TWO, "add", 3)
    assert await host.delete_actors([ONE, ActorRef("Tally", "never")]) == {ONE}
    assert await host.read(ONE) is None and (await host.read(TWO)).total == 3
    assert [record.n for record in await host.records(ONE, "added")] == [2]  # streams are deleted by name
    assert await host.call(ONE, "add", 5) == 5
    assert await host.call(TWO, "add", 1) == 4
    assert await host.delete_actors([ONE, TWO]) == {ONE, TWO}


async def test_an_actor_with_something_to_do_stays(harness: RuntimeHarness) -> None:
    host = await harness.open(TALLY)
    await host.call(ONE, "add", 1)
    await host.call(ONE, "open")
    await host.call(TWO, "set_alarm")
    assert await host.delete_actors([ONE, TWO]) == set()
    assert (await host.read(ONE)).is_open and await host.read(TWO) is not None


async def test_no_turn_is_lost_to_a_delete_beside_it(harness: RuntimeHarness) -> None:
    host = await harness.open(TALLY)
    for _ in range(30):
        before = await host.call(ONE, "add", 1)
        answers = await asyncio.gather(
            host.call(ONE, "add", 1),
            host.delete_actors([ONE]),
            host.call(ONE, "add", 1),
            host.delete_actors([ONE]),
        )
        found = await host.read(ONE)
        stored = 0 if found is None else found.total
        assert (
            stored in (0, answers[2]) and answers[2] in (1, answers[0] + 1) and answers[0] in (1, before + 1)
        )
