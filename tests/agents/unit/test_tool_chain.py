"""A component's wrappers around calls of tools, at positions of the chain that every call passes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest

from meshwright import Agent, Capability, Part, Run, TaskRequest, ToolContext, ToolFailed, tool
from meshwright.agents.run.tool_chain import tool_chain
from meshwright.agents.tools.chain import ToolPosition
from meshwright.component import Component
from meshwright.core.errors import ConfigError
from meshwright.core.tracing import Tracing
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolCallWrapper, ToolInvocation, ToolLink
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers


class PositionRecord(ToolLink):
    """Records what passes a position."""

    def __init__(self, inner: ToolLink[Any], position: ToolPosition) -> None:
        super().__init__(inner)
        self.position = position

    async def call(self, call: ToolInvocation) -> dict[str, Any]:
        Recorder.calls.append((self.position, call.tool.name, call.arguments))
        result = await self.inner.call(call)
        Recorder.results.append((self.position, result["value"] or result["error"]))
        return result


class Refusal(ToolLink):
    """Refuses what a policy does not allow."""

    async def call(self, call: ToolInvocation) -> dict[str, Any]:
        if "forbidden" in call.arguments:
            raise ToolFailed(f"{call.context.agent_id} may not do that", remedy="Do something else")
        return await self.inner.call(call)


class Recorder(Component):
    """A component of an installed package."""

    name = "recorder"
    calls: ClassVar[list[tuple[str, str, str]]] = []
    results: ClassVar[list[tuple[str, str]]] = []

    def tool_wrappers(self) -> Iterable[ToolCallWrapper]:
        for position in get_args(ToolPosition):
            yield ToolCallWrapper(position, partial(PositionRecord, position=position))
        yield ToolCallWrapper("limit", Refusal)


RECORDER = Part(__name__, "recorder", component=Recorder)


class Clerk(Agent):
    """Calls a service."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    remembers = False

    @tool(effect="read")
    async def call_service(self, text: str, context: ToolContext) -> str:
        """Call a service with a secret of the mesh."""
        if text == "refused":
            raise ToolFailed(f"it refuses {context.secret('SERVICE_TOKEN')}")
        return f"it greets {context.secret('SERVICE_TOKEN')}"

    @tool(needs_approval=True)
    async def deploy(self, place: str) -> str:
        """Deploy something."""
        return f"deployed to {place}"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package that brings the component."""
    info = tmp_path / "site" / "recorder-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recorder\nVersion: 1\n")
    entry = f"[meshwright.components]\nrecorder = {__name__}:RECORDER\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.setattr(sys, "path", [str(info.parent), *sys.path])
    monkeypatch.setenv("SERVICE_TOKEN", "a plain word")
    Recorder.calls.clear()
    Recorder.results.clear()


async def test_a_call_passes_each_position_from_the_outermost_to_the_tool() -> None:
    model = ScriptedModel(tool_call("call_service", text="hello"), "Done.")
    async with mesh_for(Clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Call it.")).success
    arguments = '{"text": "hello"}'
    positions = get_args(ToolPosition)
    assert Recorder.calls == [(position, "call_service", arguments) for position in positions]
    hidden = {position: value.endswith("[redacted]") for position, value in Recorder.results}
    assert [position for position in positions if not hidden[position]] == ["files", "limit"]


async def test_a_wrapper_refuses_a_call_with_an_error_for_the_model() -> None:
    model = ScriptedModel(tool_call("call_service", text="forbidden"), "Done.")
    async with mesh_for(Clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Call it.")).success
        [event] = mesh.events("tool.called").payloads
    assert tool_answers(model) == ['{"error": "clerk may not do that. Do something else"}']
    assert event["ok"] is False and event["error"].startswith("clerk may not do that")
    assert Recorder.results[0][0] == "result"


async def test_a_resumed_run_passes_the_positions_outside_of_the_journal_again(tmp_path: Path) -> None:
    replies = tool_call("call_service", text="hello"), tool_call("deploy", place="prod")
    request = TaskRequest(agent_id="clerk", payload={"text": "Deploy it."})
    async with kept(tmp_path, Clerk, model=ScriptedModel(*replies)) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        [question] = await MeshUnderTest(mesh, ScriptedModel(), None).questions()
    Recorder.calls.clear()
    async with kept(tmp_path, Clerk, model=ScriptedModel("Done.")) as mesh:
        await MeshUnderTest(mesh, ScriptedModel(), None).answer(question, {"approve": True})
        assert (await mesh.get(Tasks).outcome(task_id)).success
    positions = {
        name: [p for p, tool_name, _ in Recorder.calls if tool_name == name]
        for name in ("call_service", "deploy")
    }
    assert positions == {"call_service": ["approve", "journal"], "deploy": [*get_args(ToolPosition)]}


async def test_spans_of_calls_have_no_secret_of_the_mesh() -> None:
    model = ScriptedModel(tool_call("call_service", text="refused"), "Done.")
    async with mesh_for(Clerk, model=model, tracing={"content": True}) as mesh:
        tracing, spans = mesh.mesh.tracing, list[Any]()
        assert isinstance(tracing, Tracing)
        tracing.publish_to(lambda trace_id, batch: spans.extend(batch))
        assert (await mesh.ask("clerk", "Call it.")).success
        await tracing.flush()
    [span] = [span for span in spans if span["name"] == "execute_tool call_service"]
    assert span["status_message"] == "it refuses [redacted]" and "plain word" not in str(spans)


class ByCode(Clerk):
    """Calls the tool by itself, in its code."""

    agent_id = "by-code"

    async def run(self, run: Run) -> str:
        return str(await run.tools["call_service"].call('{"text": "hello"}', run))


async def test_a_tool_that_code_calls_by_itself_keeps_its_limits_and_secrets() -> None:
    async with mesh_for(ByCode) as mesh:
        assert (await mesh.ask("by-code", "Call it.")).text == "it greets [redacted]"
    assert [position for position, *_ in Recorder.calls] == ["mask", "files", "limit"]


def test_a_position_that_the_chain_does_not_have_is_named() -> None:
    outermost: Any = "outermost"
    with pytest.raises(ConfigError, match="no position 'outermost'") as refused:
        tool_chain([ToolCallWrapper(outermost, Refusal)])
    assert "approve, journal, time, trace" in str(refused.value)
