"""A run makes the parts that only tools and delegations need at their first use."""

from __future__ import annotations

import gc
from collections import Counter

from meshwright import Agent, Capability, tool
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.testing import ScriptedModel, mesh_for

LATE = {"Masks", "Outputs", "Knowledge", "ToolExclusion", "RunTools", "Repeats"}
"""The parts of a run that an answer without tools does not need."""


class Asker(Agent):
    """Answers, and may look things up."""

    agent_id = "asker"
    capabilities = (Capability("answers"),)

    @tool(idempotent=True)
    async def look_up(self, word: str) -> str:
        """Look up a word."""
        return f"{word}: a word"


class Counting(ScriptedModel):
    """Counts the objects of the run that asks, by their classes."""

    def __init__(self, *replies: ModelReply | str) -> None:
        super().__init__(*replies)
        self.counted: list[Counter[str]] = []

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.counted.append(objects_of_runs())
        return await super().complete(request)


def objects_of_runs() -> Counter[str]:
    """How many objects there are of each class of the package of runs that is made for one run."""
    types = [type(thing) for thing in gc.get_objects()]
    of_runs = (kind for kind in types if str(kind.__module__).startswith("meshwright.agents.run."))
    return Counter(kind.__name__ for kind in of_runs)


async def test_an_answer_without_tools_makes_none_of_the_parts_for_tools() -> None:
    model = Counting("Yes.")
    async with mesh_for(Asker, model=model) as mesh:
        gc.collect()  # the runs of other tests
        before = objects_of_runs()
        await mesh.ask("asker", "Is it so?")
    added = model.counted[0] - before
    assert not added.keys() & LATE
    assert added["Run"] == added["RunState"] == added["Dialogue"] == 1
    assert added.total() <= 18, added


async def test_a_call_of_a_tool_makes_the_parts_that_it_needs() -> None:
    call = ToolCall(id="c1", name="look_up", arguments='{"word": "turn"}')
    model = Counting(ModelReply(content="", model="m", tool_calls=(call,)), "It is.")
    async with mesh_for(Asker, model=model) as mesh:
        gc.collect()
        before = objects_of_runs()
        outcome = await mesh.ask("asker", "What is a turn?")
    assert outcome.text == "It is."
    assert {"Masks", "Outputs", "Knowledge", "ToolExclusion"} <= (model.counted[1] - before).keys()
