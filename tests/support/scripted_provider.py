"""A fake provider whose replies follow from the request alone: a repeated request gets the same one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from meshwright.models.port import ToolCall
from tests.support.fake_provider import FakeProvider, tool_call


class ScriptedProvider(FakeProvider):
    """Gives each agent the reply of its script that its request has come to: by its results of tools.

    A request of one of the agents that it `holds` is not answered from that place on, and is put in `held`.
    """

    def follow(self, calls: Mapping[str, Sequence[ToolCall | str]]) -> None:
        """Set the calls of tools, and the answers, of each agent; without an answer the last is `Done.`"""
        self._one_by_one = asyncio.Lock()
        self.held: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.holds: Mapping[str, int] = {}
        self.scripts = {agent_id: replies_of(made) for agent_id, made in calls.items()}

    def place(self, body: Mapping[str, Any]) -> int:
        """The place in the script that a request has come to."""
        return sum(message["role"] == "tool" for message in body["messages"])

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        agent_id, place = body["user"], self.place(body)
        if place >= self.holds.get(agent_id, place + 1):
            self.held.put_nowait((agent_id, place))
            await asyncio.Event().wait()
        async with self._one_by_one:  # agents ask side by side
            self.replies = deque([self.scripts[agent_id][place]])
            return await super().complete(request)

    async def until_held(self, *places: tuple[str, int]) -> None:
        """Wait until each of the agents has come to its place."""
        left = {*places}
        while left:
            left.discard(await self.held.get())


def replies_of(made: Sequence[ToolCall | str]) -> list[dict[str, Any]]:
    """A script as messages, with an answer at its end."""
    ends = () if made and isinstance(made[-1], str) else ("Done.",)
    return [
        {"content": one} if isinstance(one, str) else tool_call(one.name, one.arguments, f"call_{place}")
        for place, one in enumerate((*made, *ends))
    ]
