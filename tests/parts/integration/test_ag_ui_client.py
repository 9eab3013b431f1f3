"""The official client of AG-UI, `@ag-ui/client` 1.0.0, with agents of a mesh."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import http_mesh
from tests.support.running_mesh import mesh_up
from tests.support.services import unavailable

pytestmark = pytest.mark.needs("node")
SUPPORT = Path(__file__).parents[2] / "support" / "ag_ui"
AGENT = """
from pydantic import BaseModel

from meshwright import Agent, Capability, Run


class Size(BaseModel):
    size: str


class Orders(Agent):
    agent_id = "orders"
    capabilities = (Capability("ordering"),)
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.ask_person("Which size?", shape=Size)
        return f"ordered {answer.size}"
"""
Ask = Callable[..., Awaitable[dict[str, Any]]]


class Buyer(Agent):
    """Looks, and buys where a person lets it."""

    agent_id = "buyer"
    capabilities = (Capability("buying"),)
    prompt_text = "You buy."

    @tool
    async def price(self, item: str) -> str:
        """Look up a price."""
        return f"{item} costs $3"

    @tool(needs_approval=True)
    async def buy(self, item: str) -> str:
        """Buy something."""
        return f"bought {item}"


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Has a client run, and returns what it saw; skips where the client is not installed."""
    install = [sys.executable, str(SUPPORT / "install"), "--where"]
    place = subprocess.run(install, capture_output=True, text=True, check=False)
    if place.returncode:
        unavailable("needs the client of AG-UI, which make ag-ui installs")
    command = ["node", str(SUPPORT / "client.mjs"), place.stdout.strip()]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**20)
    assert process.stdin and process.stdout
    written, read = process.stdin, process.stdout

    async def send(client: str, url: str, run_id: str, text: str = "", **run: Any) -> dict[str, Any]:
        line = {"client": client, "url": url, "thread": "t", "text": text, "run": {"runId": run_id, **run}}
        written.write(json.dumps(line).encode() + b"\n")
        seen = json.loads(await read.readline())
        assert not seen["error"], seen
        return seen

    yield send
    written.close()
    await process.wait()


def answers(seen: dict[str, Any], payload: Any) -> list[dict[str, Any]]:
    return [{"interruptId": item["id"], "status": "resolved", "payload": payload} for item in seen["pending"]]


def shown(seen: dict[str, Any]) -> list[tuple[str, Any]]:
    """The messages that a client shows: who says what, and the calls of tools with their arguments."""
    return [
        (
            message["role"],
            message.get("content")
            or [
                (call["function"]["name"], json.loads(call["function"]["arguments"]))
                for call in message["toolCalls"]
            ],
        )
        for message in seen["messages"]
    ]


async def test_client_shows_text_tools_and_approvals(tmp_path: Path, ask: Ask) -> None:
    """A client that stays and one that comes later show the same once the task has ended."""
    model = ScriptedModel(
        tool_call("price", item="tea"), tool_call("buy", item="tea"), "Bought it.", "Nothing else."
    )
    async with http_mesh(tmp_path, Buyer, script=model) as api:
        url = f"{api.url}/ag-ui/buyer"
        seen = await ask("stays", url, "r1", "Buy tea")
        [interrupt] = seen["pending"]
        assert interrupt["reason"] == "tool_call" and seen["finished"]["outcome"]["type"] == "interrupt"
        before = [("user", "Buy tea"), ("assistant", [("price", {"item": "tea"})]), ("tool", "tea costs $3")]
        assert shown(seen) == [*before, ("assistant", [("buy", {"item": "tea"})])]
        assert seen["messages"][-1]["toolCalls"][0]["id"] == interrupt["toolCallId"]

        late = await ask("late", url, "r1")
        assert late["pending"] == seen["pending"] and shown(late) == shown(seen)

        seen = await ask("stays", url, "r2", resume=answers(seen, {"approve": True}))
        assert seen["finished"]["result"] == {"text": "Bought it."} and not seen["pending"]
        after = [
            ("assistant", [("buy", {"item": "tea"})]),
            ("tool", "bought tea"),
            ("assistant", "Bought it."),
        ]
        assert shown(seen) == [*before, *after]
        late = await ask("late", url, "r2", resume=answers(late, {"approve": True}))  # which is late
        assert shown(late) == shown(seen) and late["finished"] == seen["finished"]

        seen = await ask("stays", url, "r3", "And?")
        assert seen["messages"][-1]["content"] == "Nothing else." and seen["state"]["status"] == "succeeded"


async def test_run_outlives_kill_9_and_is_resumed_by_another_client(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/orders.py").write_text(AGENT)
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_MODELS__ADAPTER": "offline"}
    async with mesh_up(tmp_path / "data", **environment) as mesh:
        first = await ask("first", f"{mesh.url}/ag-ui/orders", "r1", "tea")
        assert [item["message"] for item in first["pending"]] == ["Which size?"]
        await mesh.kill()
    async with mesh_up(tmp_path / "data", **environment) as mesh:
        url = f"{mesh.url}/ag-ui/orders"
        other = await ask("other", url, "r1")
        assert other["pending"] == first["pending"] and shown(other) == [("user", "tea")]
        other = await ask("other", url, "r2", resume=answers(other, {"size": "L"}))
        assert other["finished"]["result"] == {"text": "ordered L"}
        again = await ask("first", url, "r3", resume=answers(first, {"size": "S"}))  # the first answer counts
        assert again["finished"]["result"] == {"text": "ordered L"}
        assert shown(again) == shown(other) == [("user", "tea"), ("assistant", "ordered L")]
        assert len(await mesh.client.tasks()) == 1
