"""Toolsets that start, ask another system for their tools, and wrap them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from meshwright import Agent, Capability
from meshwright.agents.component import AgentsComponent
from meshwright.agents.display import AGENTS
from meshwright.agents.loader import BoundAgents
from meshwright.component import Component
from meshwright.core.errors import ConfigError, InvalidInput, NoAgentAvailable
from meshwright.core.settings import load_settings
from meshwright.core.settings.forms import Table
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing import ManualClock, ScriptedModel, mesh_for, tool_call
from meshwright.tools import Tool, ToolContext, Toolset, ToolWrapper, tool
from meshwright.toolsets.rest import RestPart, RestService, RestTools


class Remote(Tool):
    """A tool of another system, known by its JSON schema alone."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.description = name, f"Do {name} elsewhere."
        self.parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
        self.idempotent = True
        self._seen = seen

    async def call(self, arguments: str, context: ToolContext) -> Any:
        self._seen.append(f"{self.name} for {context.agent_id}")
        return {"twice": 2 * json.loads(arguments)["n"]}


class Approved(ToolWrapper):
    """Lets only small numbers through."""

    async def call(self, arguments: str, context: ToolContext) -> Any:
        if json.loads(arguments)["n"] > 10:
            raise InvalidInput("n is too large", field="n")
        return await super().call(arguments, context)


class RemoteTools(Toolset):
    """Asks at its start which tools there are, and has one of its own."""

    log: list[str]

    async def start(self) -> None:
        self.log.append("start")
        self.names = ["double", "treble"]

    async def tools(self) -> Sequence[Tool]:
        return [*await super().tools(), *(Approved(Remote(name, self.log)) for name in self.names)]

    async def close(self) -> None:
        self.log.append("close")

    @tool(idempotent=True)
    async def local(self) -> str:
        """Answer from here."""
        return "here"


def an_agent(log: list[str], toolset: type[RemoteTools] = RemoteTools) -> type[Agent]:
    own = type("Own", (toolset,), {"log": log})
    fields = {"agent_id": "caller", "capabilities": (Capability("calling"),), "toolsets": (own,)}
    return type("Caller", (Agent,), {**fields, "remembers": False, "__doc__": "Calls tools."})


async def test_toolset_offers_tools_that_it_finds_at_its_start() -> None:
    log: list[str] = []
    model = ScriptedModel(tool_call("double", n=4), tool_call("double", n=40), tool_call("local"), "Done.")
    async with mesh_for(an_agent(log), model=model) as mesh:
        outcome = await mesh.ask("caller", "Double four.")
        assert [spec.name for spec in model.requests[0].tools] == ["local", "double", "treble"]
        results = [message.content for message in model.requests[-1].messages if message.role == "tool"]
    assert outcome.text == "Done."
    assert json.loads(results[0]) == {"twice": 8}
    assert "n is too large" in results[1]
    assert results[2] == "here"
    assert log == ["start", "double for caller", "close"]


async def test_toolset_that_offers_a_name_twice_is_left_out() -> None:
    class Doubled(RemoteTools):
        async def start(self) -> None:
            self.names = ["same", "same"]

    model = ScriptedModel(tool_call("local"), "I went on without it.")
    async with mesh_for(an_agent([], Doubled), model=model) as mesh:
        outcome = await mesh.ask("caller", "Call it.")
        [event] = mesh.events("toolset.degraded")
    assert "two tools named 'same'" in event.payload["reason"]
    assert outcome.text == "I went on without it."
    assert [spec.name for spec in model.requests[0].tools] == ["local"]
    assert "two tools named 'same'" in results_in(model)[0]


def results_in(model: ScriptedModel) -> list[str]:
    return [message.text for message in model.requests[-1].messages if message.role == "tool"]


class Flaky(RemoteTools):
    """Starts only while the other system is there, and says when that goes away."""

    there: ClassVar[bool] = False
    made: ClassVar[list[Flaky]] = []

    async def start(self) -> None:
        self.log.append("start")
        if not type(self).there:
            raise OSError("nobody answers at port 1")
        self.names = ["double"]
        type(self).made.append(self)


def an_agent_with(flaky: type[Flaky], agent_id: str = "caller") -> type[Agent]:
    fields = {"agent_id": agent_id, "capabilities": (Capability("calling"),), "toolsets": (flaky,)}
    return type("Caller", (Agent,), {**fields, "remembers": False, "__doc__": "Calls tools."})


def a_flaky_toolset() -> type[Flaky]:
    return type("Own", (Flaky,), {"log": [], "made": [], "name": "remote"})


async def test_toolset_that_cannot_start_stops_no_mesh_and_is_tried_again(clock: ManualClock) -> None:
    flaky = a_flaky_toolset()
    model = ScriptedModel(tool_call("local"), "Without.", tool_call("double", n=2), "With.")
    async with mesh_for(an_agent_with(flaky), model=model, clock=clock) as mesh:
        assert flaky.log == []
        await mesh.ask("caller", "Call it.")
        assert results_in(model) == [
            '{"error": "local was not run: remote is not available: OSError: nobody answers at port 1. '
            'It is tried again: go on without it, or call it later"}'
        ]
        [info] = [agent for agent in mesh.mesh.get(Registry).agents() if agent.agent_id == "caller"]
        assert info.metadata["toolsets"] == {"remote": "OSError: nobody answers at port 1"}
        flaky.there = True
        await mesh.advance(1)
        await mesh.ask("caller", "Call it again.")
        assert results_in(model) == ['{"twice": 4}']
        assert mesh.events("toolset.ready").payloads == [{"name": "remote", "tools": 2}]
        [info] = [agent for agent in mesh.mesh.get(Registry).agents() if agent.agent_id == "caller"]
        assert info.metadata["toolsets"] == {"remote": "ready, 2 tools"}
    assert flaky.log == ["start", "close", "start", "double for caller", "close"]


async def test_pauses_between_starts_grow_to_a_minute(clock: ManualClock) -> None:
    flaky = a_flaky_toolset()
    async with mesh_for(an_agent_with(flaky), model=ScriptedModel("Done."), clock=clock) as mesh:
        await mesh.ask("caller", "Hello.")
        starts = []
        for _ in range(200):
            starts.append(flaky.log.count("start"))
            await mesh.advance(1)
        assert len(mesh.events("toolset.degraded")) == 1
    changes = [second for second in range(1, 200) if starts[second] != starts[second - 1]]
    assert changes == [1, 3, 7, 15, 31, 63, 123, 183]


async def test_lost_toolset_fails_calls_until_it_has_started_again(clock: ManualClock) -> None:
    flaky = a_flaky_toolset()
    flaky.there = True

    class Losing(flaky):  # type: ignore[misc, valid-type]
        @tool(idempotent=True)
        async def cut(self) -> str:
            """Cut the connection."""
            self.lost("the other system has gone")
            return "cut"

    model = ScriptedModel(
        [tool_call("cut")], tool_call("double", n=2), "Lost.", tool_call("double", n=3), "Back."
    )
    async with mesh_for(an_agent_with(Losing), model=model, clock=clock) as mesh:
        await mesh.ask("caller", "Go.")
        assert "remote is not available: the other system has gone" in results_in(model)[1]
        await mesh.advance(1)
        await mesh.ask("caller", "Go on.")
        assert results_in(model) == ['{"twice": 6}']
        names = [event.event_type for event in mesh.events() if event.event_type.startswith("toolset.")]
    assert names == ["toolset.ready", "toolset.degraded", "toolset.ready"]


async def test_agents_share_one_instance_of_a_toolset() -> None:
    flaky = a_flaky_toolset()
    flaky.there = True
    model = ScriptedModel(tool_call("double", n=1), "One.", tool_call("double", n=2), "Two.")
    agents = [an_agent_with(flaky, "first"), an_agent_with(flaky, "second")]
    async with mesh_for(*agents, model=model) as mesh:
        await mesh.ask("first", "Go.")
        await mesh.ask("second", "Go.")
    assert flaky.log == ["start", "double for first", "double for second", "close"]


class Changing(RemoteTools):
    """Has other tools after a call of `change`."""

    async def start(self) -> None:
        self.names = ["double", "treble"]

    @tool(needs_approval=True)
    async def change(self) -> str:
        """Change which tools there are."""
        self.names = ["double", "quadruple"]
        self.changed()
        return "changed"


async def test_run_keeps_the_tools_that_it_began_with() -> None:
    model = ScriptedModel(tool_call("change"), tool_call("treble", n=1), "Done.", "Hello.")
    async with mesh_for(an_agent([], Changing), model=model) as mesh:
        receipt = await mesh.submit(agent_id="caller", payload={"text": "Change."})
        [question] = await mesh.questions()
        [shared] = mesh.mesh.get(BoundAgents)["caller"].toolsets
        assert isinstance(shared.toolset, Changing)
        shared.toolset.names = ["double", "quadruple"]
        changed = asyncio.Event()
        mesh.mesh.runtime.listen("#", lambda event: changed.set(), ("toolset.changed",))
        shared.toolset.changed()
        await changed.wait()
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(receipt.task_id)
        resumed = [spec.name for spec in model.requests[-1].tools]
        assert results_in(model)[-1].startswith('{"error": "treble is not there any more')
        await mesh.ask("caller", "Hello.")
    began = [spec.name for spec in model.requests[0].tools]
    assert began == resumed == ["local", "change", "double", "treble"]
    assert [spec.name for spec in model.requests[-1].tools] == ["local", "change", "double", "quadruple"]


async def test_doctor_starts_a_toolset_and_closes_it() -> None:
    flaky = a_flaky_toolset()
    mesh = build_mesh(load_settings(Path(), store="memory"), agents=[an_agent_with(flaky)])
    checks = {check.name: check for part in mesh.components for check in cast("Component", part).checks()}
    with pytest.raises(OSError, match="port 1"):
        await checks["remote"].ask()
    flaky.there = True
    assert await checks["remote"].ask() == "2 tools"
    assert flaky.log == ["start", "close", "start", "close"]


class AlarmSettings(Table):
    server: RestService | None = None


class Alarms(RestTools):
    """A service that may have no settings."""

    name = "alarms"
    config_type = AlarmSettings
    parts: ClassVar = {"server": RestPart}


class Watcher(Agent):
    """Watches alarms, and answers questions."""

    agent_id = "watcher"
    capabilities = (Capability("watching", requirements=("alarms", "a good ear")), Capability("answering"))
    toolsets = (Alarms,)
    remembers = False


class Guard(Agent):
    """Watches less well, without tools."""

    agent_id = "guard"
    capabilities = (Capability("watching", weight=0.5),)
    remembers = False


async def test_agent_without_settings_of_its_tools_leaves_their_capability_to_others() -> None:
    model = ScriptedModel("Watched.", "Answered.")
    async with mesh_for(Watcher, Guard, model=model) as mesh:
        registry = mesh.mesh.get(Registry)
        watched = await mesh.outcome((await mesh.submit(capability="watching")).task_id)
        answered = await mesh.ask("watcher", "Is it loud?")
        [watcher] = [agent for agent in registry.agents() if agent.agent_id == "watcher"]
        with pytest.raises(
            NoAgentAvailable, match=r"no tools for it: \[tools.alarms.server\] of mesh.toml is"
        ):
            await mesh.submit(capability="watching", agent_id="watcher")
    assert (watched.agent_id, answered.capability) == ("guard", "answering")
    assert watcher.unmet == {"watching": "[tools.alarms.server] of mesh.toml is not set"}
    shown = {column.head: column.cell(watcher.model_dump(mode="json")) for column in AGENTS.columns}
    assert shown["status"] == "degraded"
    assert shown["can do"] == "answering; not watching: [tools.alarms.server] of mesh.toml is not set"


async def test_agent_with_settings_of_its_tools_has_their_capability() -> None:
    tools = {"alarms": {"server": {"url": "http://127.0.0.1:9"}}}
    async with mesh_for(Watcher, Guard, tools=tools) as mesh:
        registry = mesh.mesh.get(Registry)
        assert [card.score for card in registry.scores("watching")] == [1.0, 0.5]
        assert registry.find("watcher").unmet == {}


async def test_several_tables_without_a_default_stop_no_mesh() -> None:
    toolsets, needy = ("kube", "kube.gone"), Capability("watching", requirements=("kube",))
    fields = {"agent_id": "watcher", "capabilities": (Capability("talking"), needy)}
    watcher = type("Watcher", (Agent,), {**fields, "toolsets": toolsets, "prompt_text": "Go."})
    tables = {"one": {}, "two": {"agents": ["nobody"]}}
    tools = {"pager": {"team": "x"}}
    async with mesh_for(watcher, kube=tables, tools=tools, model=ScriptedModel("Done.")) as mesh:
        [info] = [info for info in mesh.mesh.get(Registry).agents() if info.agent_id == "watcher"]
        states = info.metadata["toolsets"]
        warnings = mesh.mesh.warnings
        [component] = [part for part in mesh.mesh.components if isinstance(part, AgentsComponent)]
        checks = {check.name: check for check in component.checks()}
        assert (await mesh.ask("watcher", "Go.")).text == "Done."
        with pytest.raises(ConfigError, match=r"\[kube.one\], \[kube.two\]"):
            await checks["kube"].ask()
    remedy = "call one of them [kube.default], or name it in the agent's toolsets"
    meant = f"Several tables fit: [kube.one], [kube.two]; {remedy}"
    gone = "There is no table [kube.gone]; did you mean 'one'?"
    assert (states["kube"], states["kube.gone"]) == (meant, gone)
    assert info.unmet["watching"] in (meant, gone)
    assert set(warnings) == {
        meant,
        gone,
        "[tools.pager]: no toolset has that name; load an agent that has it, or take the table out",
        "[kube.two] is for agents nobody, and there is none of that name",
    }
    assert {"kube", "kube.gone", "tools.pager"} <= checks.keys()
