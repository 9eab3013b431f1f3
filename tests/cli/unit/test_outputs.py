"""Long results of tools: head and tail for the model, the whole in the journal once, and the tool for it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.earlier_records import step_streams
from meshwright.engine.work.protocol import steps_stream
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, ToolCall
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers

LINES = [f"line {number}" for number in range(20_000)]
LOG = "\n".join(LINES)


class Tester(Agent):
    """Has tools with much to say."""

    agent_id = "tester"
    capabilities = (Capability("testing"),)
    began: ClassVar[asyncio.Event]
    opened: ClassVar[asyncio.Event]

    @tool(idempotent=True, effect="read")
    async def log(self) -> str:
        """Show a log."""
        return LOG

    @tool(effect="read", max_chars=1_000)
    async def rows(self) -> list[str]:
        """Show rows."""
        return LINES[:1_000]

    @tool(effect="read")
    async def odd(self) -> str:
        """Show what takes six bytes a character in JSON."""
        return "\0" * 390_000

    @tool(idempotent=True)
    async def hold(self) -> str:
        """Wait for the test."""
        self.began.set()
        await self.opened.wait()
        return "held"


class Own(Tester):
    """Has a tool of its own by the name of ours."""

    agent_id = "own"

    @tool(effect="read")
    async def output(self) -> str:
        """Show its own output."""
        return "own"


def shown(request: ModelRequest) -> str:
    return next(message.content for message in request.messages if message.role == "tool")


def page(start: int) -> Any:
    """A call of `output` with the id that the first result names."""

    def reply(request: ModelRequest) -> ModelReply:
        output_id = re.findall(r"output\('(o\d+)', \d+\) shows them", shown(request))[0]
        made = tool_call("output", id=output_id, start=start)
        call = ToolCall(id=f"page-{start}", name=made.name, arguments=made.arguments)
        return ModelReply(model="scripted", tool_calls=(call,))

    return reply


async def test_a_model_gets_head_and_tail_and_asks_for_the_rest() -> None:
    model = ScriptedModel(tool_call("log"), page(16_000), page(len(LOG) - 5), "Done.")
    async with mesh_for(Tester, model=model) as mesh:
        assert (await mesh.ask("tester", "What does it say?")).success
    head, left_out, tail = re.split(r"\n\[(cut: .*)\]\n", first := shown(model.requests[1]))
    assert (head, tail) == (LOG[:16_000], LOG[-16_000:]) and len(first) < 32_200
    assert f"characters 16,000 to {len(LOG) - 16_000:,} of {len(LOG):,} are left out" in left_out
    _, second, last = tool_answers(model)
    assert second.startswith(LOG[16_000:32_000]) and ", 32000) goes on]" in second
    assert last == f"{LOG[-5:]}\n[characters {len(LOG) - 5:,} to {len(LOG):,} of {len(LOG):,}]"


async def test_the_tool_for_the_rest_is_offered_once_there_is_a_rest() -> None:
    model = ScriptedModel(tool_call("hold"), tool_call("rows"), tool_call("output", id="o99"), "Done.")
    Tester.began, Tester.opened = asyncio.Event(), asyncio.Event()
    Tester.opened.set()
    async with mesh_for(Tester, model=model) as mesh:
        assert (await mesh.ask("tester", "What does it say?")).success
    offered = [any(spec.name == "output" for spec in request.tools) for request in model.requests]
    assert offered == [False, False, True, True]
    _, rows, wrong = tool_answers(model)
    assert rows.startswith('["line 0","line 1"') and len(rows) < 1_150 and rows.endswith('"line 999"]')
    assert re.search(r"There is no output 'o99'; there are o\d+", wrong)


async def test_an_agents_own_tool_of_that_name_stays() -> None:
    model = ScriptedModel(tool_call("log"), tool_call("output"), "Done.")
    async with mesh_for(Own, model=model) as mesh:
        assert (await mesh.ask("own", "What does it say?")).success
    assert tool_answers(model)[1] == "own"
    assert tool_answers(model)[0].endswith(LINES[-1]) and "output(" not in tool_answers(model)[0]


async def test_a_result_that_no_record_can_hold_is_kept_as_far_as_it_can() -> None:
    model = ScriptedModel(tool_call("odd"), "Done.")
    async with mesh_for(Tester, model=model, max_record_bytes=1024 * 1024) as mesh:
        assert (await mesh.ask("tester", "What does it say?")).success


async def records_of(mesh: Mesh, task_id: str) -> list[Any]:
    ref = ActorRef("tester", f"default:{task_id}")
    streams = dict.fromkeys(await step_streams(mesh.runtime, ref, steps_stream(task_id, 1, 1)))
    return [record.value for stream in streams for record in await mesh.runtime.records(ref, stream)]


@pytest.mark.parametrize("line", ["line 9999\n", "line 19998\n"])
async def test_a_long_result_is_journaled_once_and_outlives_a_restart(tmp_path: Path, line: str) -> None:
    Tester.began, Tester.opened = asyncio.Event(), asyncio.Event()
    request = TaskRequest(agent_id="tester", payload={"text": "What does it say?"})
    async with kept(tmp_path, Tester, model=ScriptedModel(tool_call("log"), tool_call("hold"))) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await Tester.began.wait()
    Tester.opened.set()
    model = ScriptedModel(page(16_000), "Done.")
    async with kept(tmp_path, Tester, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).success
        journaled = [str(value) for value in await records_of(mesh, task_id)]
    assert tool_answers(model)[2].startswith(LOG[16_000:32_000])
    assert sum(record.count(repr(line)[1:-1]) for record in journaled) == 1
