"""A mesh in the environment of the agent frameworks, whose agents work until it is killed, and go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.fake_provider import FakeProvider, tool_call, tool_calls
from tests.support.killed_mesh import KilledMesh
from tests.support.postgres import Address
from tests.support.running_mesh import ROOT
from tests.support.services import unavailable

HERE = Path(__file__).parent
EXAMPLES = ROOT / "examples" / "frameworks"
STOCK = tool_calls(*(("stock", json.dumps({"item": item}), f"call_{item}") for item in ("lamp", "rug")))
SCRIPT: Mapping[tuple[str, int], dict[str, Any]] = {
    ("", 0): STOCK,
    ("", 2): tool_call("charge", json.dumps({"cents": 500}), "call_charge"),
    ("", 3): tool_call("ship", json.dumps({"item": "lamp"}), "call_ship"),
    ("", 4): {"content": "The lamp is sold."},
}
"""The reply of the model at each place, which is how many results of tools it was sent."""
COST = Decimal("0.011")  # of a call, in dollars
USAGE = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}
PRICE = '{"input": "10", "output": "20"}'


def python_of_frameworks() -> str:
    """The Python that has the agent frameworks; skips where they are not installed."""
    if own := os.environ.get("FRAMEWORK_PYTHON"):
        return own
    where = subprocess.run(
        [sys.executable, HERE / "install", "--where"], capture_output=True, text=True, check=False
    )
    if where.returncode:
        unavailable("needs agent frameworks, which make frameworks installs")
    return where.stdout.strip()


class TextProvider(FakeProvider):
    """Replies by what a request is: to whom it is said, and how many results of tools it has.

    While it `holds`, it never answers a request that its task wants to be held at.
    """

    def __init__(self, replies: Mapping[tuple[str, int], dict[str, Any]]) -> None:
        super().__init__(usage=dict(USAGE))
        self.holds = True
        self.asked = Counter[tuple[str, tuple[str, int]]]()
        """The requests that have arrived, by the text of their task."""
        self.held = Counter[str]()
        self._one_by_one = asyncio.Lock()
        self._replies = replies

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        messages = body["messages"]
        text = text_in(messages, "user").rpartition("task:")[2].strip()  # some frameworks introduce it so
        place = sum(map(results_in, messages))
        system = text_in(messages, "system")
        known = [key for key in self._replies if system.startswith(key[0]) and key[1] == place]
        [key] = known or [("", place)]
        self.asked[text, key] += 1
        if self.holds and f"hold=model:{place}." in text:
            self.held[text] += 1
            await asyncio.Event().wait()
        async with self._one_by_one:
            self.replies = deque([with_final_tool(self._replies[key], body.get("tools", []))])
            return await super().complete(request)

    def asked_of(self, text: str) -> dict[tuple[str, int], int]:
        """How often a task made each request."""
        return {key: count for (task, key), count in self.asked.items() if task == text}


def text_in(messages: list[dict[str, Any]], role: str) -> str:
    """The text of the first message of a role."""
    content = next(message["content"] for message in messages if message["role"] == role)
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def results_in(message: dict[str, Any]) -> int:
    """How many results of tools a message stands for: those of smolagents follow a text with their calls."""
    if message["role"] == "tool":
        return 1
    is_text_of_calls = message["role"] == "assistant" and "Calling tools:" in str(message["content"])
    return str(message["content"]).count("'type': 'function'") if is_text_of_calls else 0


def with_final_tool(reply: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The reply; where a framework takes answers by a tool `final_answer` alone, as a call of that."""
    final = next((tool["function"] for tool in tools if tool["function"]["name"] == "final_answer"), None)
    if final is None or reply.get("content") is None:
        return reply
    [name] = final["parameters"]["properties"]
    return tool_call("final_answer", json.dumps({name: reply["content"]}), "call_final")


class FrameworksMesh(KilledMesh):
    """A mesh with agents of frameworks on a store."""

    def __init__(
        self, store: str, folder: Path, url: Address | None, provider: TextProvider, actors: Path
    ) -> None:
        self.folder, self.provider = folder, provider
        (folder / "actors").mkdir()
        shutil.copy(actors, folder / "actors")
        shutil.copy(HERE / "places.py", folder / "_places.py")
        (folder / "holds").touch()
        environment = {
            "PYTHONPATH": str(ROOT / "runtime"),
            "SHOP_FOLDER": str(folder),
            "MESH_MODELS__ADAPTER": "http",
            "MESH_MODELS__BASE_URL": provider.url,
            "MESH_LEDGER__DEFAULT_PRICE": PRICE,
            "OPENAI_API_KEY": "sk-of-nobody",  # with which a framework could call a model past its run
        }
        command = [python_of_frameworks(), "-m", "meshwright.cli"]
        super().__init__(store, folder / "data", url, environment, command=command, cwd=folder)

    def effects(self, text: str) -> Counter[str]:
        """The effects of the tools of a task, and `held` where it stayed in one."""
        path = self.folder / "effects"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(what for line in lines for task, what in [line.split("\t")] if task == text)

    def release(self) -> None:
        """Hold no task any more from the next process on."""
        (self.folder / "holds").unlink()
        self.provider.holds = False

    async def calls(self, task_id: str) -> list[Any]:
        """The calls of models of a task, in the ledger's words."""
        page = await self.running.get("/events", event_type="model.called", task_id=task_id, limit=1_000)
        return [event["payload"] for event in page.body["items"]]


class ShopMesh(FrameworksMesh):
    """The shops of an example."""

    def __init__(
        self, example: str, store: str, folder: Path, url: Address | None, provider: TextProvider
    ) -> None:
        own = os.environ.get("FRAMEWORK_SHOP")
        self.example = Path(own) if own else EXAMPLES / f"{example}.py"
        is_durability = example == "pydantic_ai_durability"
        super().__init__(
            store, folder, url, provider, HERE / ("durable_shops.py" if is_durability else "shops.py")
        )
        for name in ("_example.py", "_deployed.py"):
            shutil.copy(self.example, folder / name)

    def deploy(self, old: str, new: str) -> None:
        """Change the prompt of the shop that is deployed."""
        source = self.example.read_text()
        assert old in source
        (self.folder / "_deployed.py").write_text(source.replace(old, new))
