"""Toolsets that start, ask another system for their tools, and wrap them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.tools import Tool, ToolContext, Toolset, ToolWrapper, tool


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


async def test_toolset_that_offers_a_name_twice_stops_the_start() -> None:
    class Doubled(RemoteTools):
        async def start(self) -> None:
            self.names = ["same", "same"]

    with pytest.raises(ConfigError, match="agent caller has two tools named 'same'"):
        async with mesh_for(an_agent([], Doubled), model=ScriptedModel("unused")):
            pass
