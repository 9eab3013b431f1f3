"""A real mesh behind its real server, with agents whose end the test decides."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from meshwright import Agent, Capability, Client, Run, ToolFailed
from meshwright.core.encoding import encode, struct_reader
from meshwright.core.events import Event
from meshwright.core.payloads import Payload, find_payload
from meshwright.edges.http.server import serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel
from tests.support.settings import load_settings

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
"""Of a client that traces its calls."""
TOO_LARGE_AMOUNTS = ("1e20000000", "1e300000000", "1e3000000000", "1e-1000000", "0e-300000000")
"""Amounts that are some bytes long, and up to gigabytes when they are written out."""
WRONG_TASKS = [
    ("{nope", 400, "body", "MalformedJson"),
    ("", 400, "body", "MalformedJson"),
    ('{"agent_id": "echo", "payload": {"n": NaN}}', 400, "body", "MalformedJson"),
    ('{"agent_id": "echo", "payload": {"t": "\\ud800"}}', 400, "body", "MalformedJson"),
    ("[]", 422, "body", "InvalidInput"),
    ("{}", 422, "capability", "InvalidInput"),
    ('{"capability": "echoing", "payload": [1]}', 422, "payload", "InvalidInput"),
    ('{"capability": "echoing", "priority": 11}', 422, "priority", "InvalidInput"),
    ('{"capability": "echoing", "timeout": 0}', 422, "timeout", "InvalidInput"),
    ('{"capability": "echoing", "timeout": 1e9}', 422, "timeout", "InvalidInput"),
    *(
        (f'{{"agent_id": "echo", "budget_usd": "{amount}"}}', 422, "budget_usd", "InvalidInput")
        for amount in (*TOO_LARGE_AMOUNTS, "1000000000.01", "0.0000000000001", "-1", "NaN", "Infinity")
    ),
    ('{"agent_id": "echo", "budget_usd": 1e300}', 422, "budget_usd", "InvalidInput"),
    ('{"capability": "two words"}', 422, "capability", "InvalidInput"),
    ('{"capability": "echoing", "task_id": "../x"}', 422, "task_id", "InvalidInput"),
    ('{"capability": "echoing", "thread_id": "' + "x" * 65 + '"}', 422, "thread_id", "InvalidInput"),
    ('{"capability": "painting"}', 503, "capability", "NoAgentAvailable"),
    ('{"capability": "waiting", "agent_id": "echo"}', 503, "capability", "NoAgentAvailable"),
    ('{"agent_id": "ghost"}', 404, "agent_id", "NotFound"),
    ('{"agent_id": "event-logger"}', 404, "agent_id", "NotFound"),
    ('{"agent_id": "echo", "payload": ' + '{"a":' * 40 + "1" + "}" * 41, 413, "body", "TooLarge"),
    ('{"agent_id": "echo", "payload": ' + "[" * 90_000 + "]" * 90_000 + "}", 413, "body", "TooLarge"),
    ('{"agent_id": "echo", "payload": {"t": "' + "x" * 300_000 + '"}}', 413, "body", "TooLarge"),
]
"""Bodies of a task that are refused, each with its status, field and code."""


class Echo(Agent):
    """Says it again, or fails where it is told to."""

    agent_id = "echo"
    capabilities = (Capability("echoing", preferred=True),)
    remembers = False

    async def run(self, run: Run) -> str:
        if run.task.payload.get("fail"):
            raise ToolFailed("told to fail")
        return f"you said: {run.task.text}"


class Gate(Agent):
    """Answers when the test opens it."""

    agent_id = "gate"
    capabilities = (Capability("waiting"),)
    remembers = False
    opened: asyncio.Event

    async def run(self, run: Run) -> str:
        await self.opened.wait()
        return "opened"


class Api:
    """One running mesh: `client` for what a client does, `session` for what only tests send."""

    def __init__(
        self,
        mesh: Mesh,
        session: aiohttp.ClientSession,
        client: Client,
        gate: asyncio.Event,
        url: str,
        misfits: set[str] | None = None,
    ) -> None:
        self.mesh = mesh
        self.session = session
        self.gate = gate
        self.url = url
        self.client = client
        self.misfits = set[str]() if misfits is None else misfits

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status and the document of an answer; a problem must be one by its type too."""
        async with self.session.request(method, path, **options) as response:
            wanted = "application/problem+json" if response.status >= 400 else "application/json"
            assert response.content_type == wanted
            return response.status, await response.json(content_type=None)

    async def get(self, path: str, **params: Any) -> Any:
        """The document at a path, which must be there."""
        status, document = await self.call("GET", path, params=params)
        assert status == 200, document
        return document

    async def submit(self, **request: Any) -> str:
        """Submit a task; returns its id."""
        return (await self.client.submit(**request)).task_id

    async def finished(self, **request: Any) -> str:
        """Submit a task and wait for its end; returns its id."""
        task_id = await self.submit(**request)
        await self.mesh.get(Tasks).outcome(task_id)
        return task_id

    @asynccontextmanager
    async def stream(
        self, path: str, last_id: int | None = None, token: str = "", **params: Any
    ) -> AsyncIterator["Stream"]:
        """A stream of events; it has begun when the block is entered."""
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": str(last_id)} if last_id is not None else {}
        )
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        lasting = aiohttp.ClientTimeout(total=120)
        async with self.session.get(path, params=params, headers=headers, timeout=lasting) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            stream = Stream(response)
            await stream.block()  # `retry`, which comes first
            yield stream


class Stream:
    """The events of a response, as a browser would read them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def block(self) -> dict[str, str]:
        """The fields of the next block, none at the end."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if not line.strip() and fields:
                break
            if name:  # a comment has none
                fields[name] = value
        return fields

    async def event(self) -> dict[str, Any] | None:
        """The next event, None at the end."""
        fields = await self.block()
        if not fields:
            return None
        event = json.loads(fields["data"])
        assert (fields["id"], fields["event"]) == (str(event["seq"]), event["event_type"])
        return event

    async def rest(self) -> list[dict[str, Any]]:
        """Every event until the end."""
        events = []
        while event := await self.event():
            events.append(event)
        return events


@asynccontextmanager
async def http_mesh(
    project: Path, *agents: type[Agent], script: ScriptedModel | None = None, **settings: Any
) -> AsyncIterator[Api]:
    """A mesh with an echo, a gate and other agents, served on a free port.

    At the end each event that it has published fits the payload of its type, as `read` takes it without a
    default in the place of a field. A test that forges events clears `misfits`.
    """
    opened = asyncio.Event()
    misfits = set[str]()
    gate = type("TestGate", (Gate,), {"opened": opened, "__doc__": Gate.__doc__})
    chosen = load_settings(project, **{"durability": "normal", "model": "offline", **settings})
    mesh = build_mesh(chosen, project=project, agents=[Echo, gate, *agents], model=script)
    async with (
        mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=120)) as session,
        Client(server.url) as client,
    ):
        mesh.runtime.listen("#", lambda event: misfits.update(misfit(mesh.events, event)), sealed=True)
        yield Api(mesh, session, client, opened, server.url, misfits)
        opened.set()
    assert misfits == set()


def misfit(kinds: Mapping[str, type[Payload]], event: Event) -> set[str]:
    """The fault of a payload that does not fit the type of its event."""
    try:
        if (kind := find_payload(kinds, event.event_type)) is not None:
            struct_reader(kind, strict=True)(encode(event.payload))
    except ValueError as error:
        return {f"{event.event_type}: {error}"}
    return set()
