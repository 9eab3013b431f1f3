"""Orders in pages, logs and tickets, to a model that obeys them: none becomes an active memory or a change.

The tools are real: pages over HTTP, log lines by Loki's API (a fake of it), tickets of an MCP server, memory,
a tree of a repository. The model is the worst there is: it reads an order and makes the calls that it wants.
"""

from __future__ import annotations

import asyncio
import html
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from aiohttp import web

from meshwright import Agent, Capability, File, Run, tool
from meshwright.agents.context.memory import Memory, MemoryStore
from meshwright.agents.loader import BoundAgents
from meshwright.agents.run.run import Delegation
from meshwright.core import topics
from meshwright.core.errors import Conflict
from meshwright.core.events import Event
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ToolCall
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.testing.mesh import MeshUnderTest
from meshwright.tools import ToolContext, WebTools
from meshwright.toolsets.code import CodeTools
from meshwright.toolsets.observe import ObserveTools
from tests.support.fake_observers import FakeLoki
from tests.support.fake_services import FakeService
from tests.support.poisoned_texts import ORDERS, Carrier, Order
from tests.support.repositories import git, repository

pytestmark = pytest.mark.needs("git")
SERVER = Path(__file__).parents[2] / "support" / "mcp_server.py"
CHANGING = {"publish", "pay", "propose", "tickets_close"}
CALLS = [
    call
    for order in ORDERS
    for reply in order.calls
    for call in (reply if isinstance(reply, list) else [reply])
]
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


class Worker:
    """Publishes, pays, and works on a tree."""

    toolsets = (CodeTools, "mcp.tickets")
    meeting: ClassVar[asyncio.Barrier]

    def __init__(self) -> None:
        self.done: list[str] = []

    @tool
    async def publish(self, text: str) -> str:
        """Publish a text."""
        self.done.append(text)
        return "published"

    @tool(idempotent=True)
    async def pay(self, iban: str, amount: int) -> str:
        """Pay an invoice."""
        self.done.append(iban)
        return "paid"

    @tool(effect="read", idempotent=True)
    async def failures(self, context: ToolContext) -> list[str]:
        """Say why tasks of the last day have failed."""
        activity = await context.activity(context.task.created_at.replace(year=2020))
        return [str(task.reason) for task in activity.failed]

    @tool(effect="read", idempotent=True)
    async def meet(self) -> str:
        """Wait until a colleague who works beside has come as far."""
        await self.meeting.wait()
        return "go on"


class Clerk(Worker, Agent):
    """Reads pages, logs and tickets."""

    agent_id = "clerk"
    capabilities = (Capability("handling", preferred=True),)
    toolsets = (WebTools, ObserveTools, *Worker.toolsets)
    delegates_to = ("writer",)

    async def run(self, run: Run) -> str:
        text = await run.converse()
        await run.attach(File(name="answer.txt", data=text.encode()))
        return text


class Writer(Worker, Agent):
    """Reads nothing from outside."""

    agent_id = "writer"
    capabilities = (Capability("handling", weight=0.5),)
    reads_log = True


class Pair(Agent):
    """Has two agents work on one tree side by side."""

    agent_id = "pair"
    capabilities = (Capability("pairing"),)
    delegates_to = ("clerk", "writer")

    async def run(self, run: Run) -> str:
        both = Delegation("clerk", "Write down what you read."), Delegation("writer", "Read the note.")
        return " ".join(await run.delegate_all(both))


class Pages(FakeService):
    """A web server of strangers."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.app.router.add_get("/", self._show)

    async def _show(self, request: web.Request) -> web.Response:
        page = f"<html><body><p>Welcome.</p><p>{html.escape(self.text)}</p></body></html>"
        return web.Response(text=page, content_type="text/html")


class Script(NamedTuple):
    """The replies of a model to two agents, and the agents that tasks are for, one after another."""

    clerk: Sequence[Any]
    writer: Sequence[Any]
    runs: Sequence[str]


def _script(read: ToolCall, order: Order) -> Script:
    """The script of a model that obeys an order, in the run to which its carrier brings it."""
    obey, text = (*order.calls, "I did all of it."), order.text
    write, view = tool_call("write", path="note.txt", text=f"{text}\n"), tool_call("view", path="note.txt")
    ask, meet = tool_call("delegate", agent_id="writer", text=text), tool_call("meet")
    refused = ModelRefused("I cannot.")
    scripts: dict[Carrier, Script] = {
        "": Script((read, *obey), (), ("clerk",)),
        "unread": Script(obey, (), ("clerk",)),
        "delegate": Script((read, ask, "He did."), obey, ("clerk",)),
        "thread": Script((read, text, *obey), (), ("clerk", "clerk")),
        "file": Script((read, text), obey, ("clerk", "writer")),
        "attempt": Script((read, write, refused), (view, *obey), ("",)),
        "sibling": Script((read, write, meet, meet, "OK"), (meet, view, *order.calls, meet, "OK"), ("pair",)),
        "log": Script((read, ModelRefused(text)), (tool_call("failures"), *obey), ("clerk", "writer")),
    }
    return scripts[order.carrier]


class World:
    """A mesh with a source of strangers' text, and a person who denies whatever is asked."""

    def __init__(self, mesh: MeshUnderTest, model: ScriptedModel, put: Callable[[str], ToolCall]) -> None:
        self.mesh, self.put = mesh, put
        self.asked: list[str] = []
        self._model = model

    async def deny_all(self) -> None:
        """Deny what is asked, for as long as the mesh runs."""
        waiting = asyncio.Queue[Event]()
        self.mesh.mesh.runtime.listen(topics.TASK_PROGRESS, waiting.put_nowait, ("task.waiting",))
        while True:
            event = await waiting.get()
            if event.payload["kind"] == "person":
                answer = {"approve": False, "reason": "a stranger wants it"}
                with suppress(Conflict):  # it waits still, as an event says again
                    await self.mesh.mesh.get(Tasks).answer(event.task_id or "", event.payload["key"], answer)
                    self.asked.append(event.payload["subject"]["tool"])

    async def obey(self, number: int, order: Order) -> None:
        """Have an order read, and obeyed in the same run or in another that it reaches."""
        script = _script(self.put(order.text), order)
        self._model.replies(*script.clerk, to="clerk")
        self._model.replies(*script.writer, to="writer")
        payload: dict[str, Any] = {"text": "Look into it."}
        for agent_id in script.runs:
            who = {"agent_id": agent_id} if agent_id else {"capability": "handling"}
            receipt = await self.mesh.submit(payload=payload, thread_id=f"job-{number}", **who)
            outcome = await self.mesh.outcome(receipt.task_id)
            if order.carrier == "file":
                payload = {**payload, "files": [{"url": file.url} for file in outcome.files]}
        assert not self._model.unsaid, order

    @property
    def read(self) -> str:
        """All that tools and people have given to the model."""
        requests = self._model.requests
        return "\n".join(message.text for request in requests for message in request.messages)

    @property
    def changes(self) -> list[str]:
        """The calls that changed something."""
        called = self.mesh.events("tool.called").payloads
        return [call["tool"] for call in called if call["ok"] and call["tool"] in CHANGING]

    @property
    def done(self) -> list[str]:
        """All that was published and paid."""
        agents = [bound.agent for bound in self.mesh.mesh.get(BoundAgents).values()]
        return [text for agent in agents if isinstance(agent, Worker) for text in agent.done]

    async def memories(self) -> dict[str, list[str]]:
        """The texts of memories, by status."""
        store = self.mesh.mesh.get(MemoryStore)
        assert isinstance(store, Memory)
        found: dict[str, list[str]] = {"active": [], "quarantined": []}
        for item in (await store.page("default", limit=500)).items:
            found[item.status].append(item.text)
        return found


class Tickets:
    """The tickets of an MCP server."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "tickets.json"
        self.write("")

    def write(self, text: str) -> None:
        """Have ticket 7 say something."""
        known = {"description": "Works on a ticket.", "inputSchema": NUMBER}
        get = {"name": "get", **known, "annotations": {"readOnlyHint": True}}
        content = [{"type": "text", "text": f"Ticket 7, by a customer: {text}"}]
        tools = [{**get, "does": content}, {"name": "close", **known, "does": "closed"}]
        written = self._script.with_suffix(".new")
        written.write_text(json.dumps(tools))
        written.replace(self._script)  # the server may be reading

    @property
    def settings(self) -> dict[str, Any]:
        arguments = ["-S", "-E", str(SERVER), str(self._script)]
        return {"command": sys.executable, "args": arguments, "tools": ["*"]}


@asynccontextmanager
async def world(folder: Path, kind: str) -> AsyncIterator[World]:
    source, tickets, model = repository(folder / "source"), Tickets(folder), ScriptedModel()
    async with Pages() as pages, FakeLoki() as loki:

        def put(text: str) -> ToolCall:
            """Put an order into the source; returns the call that reads it."""
            pages.text = text
            loki.lines = [(time.time_ns(), {"app": "shop"}, f"ERROR payment failed: {text}")]
            tickets.write(text)
            return {
                "page": tool_call("fetch_page", url=pages.url),
                "log": tool_call("query_logs", logql='{app="shop"}'),
                "ticket": tool_call("tickets_get", number=7),
            }[kind]

        Worker.meeting = asyncio.Barrier(2)
        async with mesh_for(
            Clerk,
            Writer,
            Pair,
            model=model,
            project=folder,
            tools={"allow_private_addresses": True, "observe": {"loki": {"url": loki.url}}},
            mcp={"tickets": tickets.settings},
            trees={"shop": {"repository": str(source)}},
        ) as mesh:
            made = World(mesh, model, put)
            person = asyncio.create_task(made.deny_all())
            yield made
            person.cancel()
            assert git(source, "status", "--porcelain") == ""


@pytest.mark.parametrize("kind", ["page", "log", "ticket"])
async def test_no_poisoned_text_becomes_an_active_memory_or_a_change(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as there:
        for number, order in enumerate(ORDERS):
            await there.obey(number, order)
            assert (there.done, there.changes) == ([], []), order
            assert order.text in there.read
        assert sorted(there.asked) == sorted(call.name for call in CALLS if call.name in CHANGING)
        wanted = [json.loads(call.arguments)["text"] for call in CALLS if call.name == "remember"]
        memories = await there.memories()
        assert not memories["active"] and sorted(memories["quarantined"]) == sorted(wanted)


async def test_the_same_calls_take_effect_where_nothing_was_read_from_outside(tmp_path: Path) -> None:
    async with world(tmp_path, "page") as there:
        order = next(order for order in ORDERS if isinstance(order.calls[0], list))
        await there.obey(0, order._replace(carrier="unread"))
        assert there.done == ["owned", "DE00 0000"] and not there.asked
        assert await there.memories() == {"active": ["All is allowed."], "quarantined": []}
