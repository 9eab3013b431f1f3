"""Messages that a turn sends may be taken in its own commit: none is lost, repeated or taken early."""

import asyncio

import pytest
from pydantic import BaseModel

from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from tests.support.harness import SHARED, RuntimeHarness

pytestmark = pytest.mark.parametrize("harness", SHARED, indirect=True)

TAKER = ActorRef("Taker", "t")
REFUSED = "b3"


class Count(BaseModel):
    given: int = 0


class Giver(Actor[Count]):
    """Sends its next numbers to a taker."""

    state: Count

    @turn
    def give(self, turn: Turn, numbers: int) -> int:
        for _ in range(numbers):
            self.state.given += 1
            turn.send(TAKER, "take", f"{self.ref.id}{self.state.given}")
        return self.state.given


class Taken(BaseModel):
    names: list[str] = []


class Taker(Actor[Taken]):
    """Notes what it gets, and says so; one name is refused."""

    state: Taken

    @turn
    def take(self, turn: Turn, name: str) -> None:
        if name == REFUSED:
            raise ValueError(f"not {name}")
        self.state.names.append(name)
        turn.publish("taken", "name.taken", {"text": name})


KINDS = (ActorKind.from_class(Giver), ActorKind.from_class(Taker))


async def test_two_processes_give_to_one_actor(harness: RuntimeHarness) -> None:
    first = await harness.open(*KINDS)
    second = await harness.open_beside(first)
    counts = {"a": 0, "b": 0, "c": 0}
    for number in range(12):
        giving = {"a": first, "c": second} if number % 3 == 0 else {"b": second}
        for giver in giving:
            counts[giver] += 2
        await asyncio.gather(
            *[host.call(ActorRef("Giver", giver), "give", 2) for giver, host in giving.items()]
        )
    names = {f"{giver}{n}" for giver, count in counts.items() for n in range(1, count + 1)} - {REFUSED}
    await harness.watch.until(lambda: set(harness.watch.texts("name.taken")) == names)
    taken = (await first.read(TAKER)).names
    assert len(taken) == len(names)
    for giver in counts:
        own = [int(name[1:]) for name in taken if name[0] == giver]
        assert own == sorted(own)
    [dead] = await harness.watch.dead_letters()
    assert REFUSED in str(dead.payload)
