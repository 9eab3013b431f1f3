"""Agents whose code calls models and tools itself, and a model that answers them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from tests.support.interrupted_mesh import kept


class EchoingModel:
    """Answers each question with its number among equal ones; one that is held is never answered."""

    name = "echo"

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.calls: Counter[str] = Counter()
        self.reached = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        text = request.messages[-1].content
        self.calls[text] += 1
        if text in self.held:
            self.reached.set()
            await asyncio.Event().wait()
        return ModelReply(content=f"{text} {self.calls[text]}", model=self.name, cost_usd=Decimal(0))

    async def close(self) -> None:
        pass


def author(run: Callable[[Any, Run], Awaitable[Any]], *bases: type[Agent], **fields: Any) -> type[Agent]:
    own = {"agent_id": "author", "capabilities": (Capability("writing"),), "run": run}
    return type("Author", bases or (Agent,), {**own, **fields})


async def submitted(mesh: Mesh) -> str:
    request = TaskRequest(agent_id="author", payload={"text": "Do it."})
    return (await mesh.get(Tasks).submit(request)).task_id


async def resumed_text(tmp_path: Path, agent: type[Agent], first: EchoingModel, second: EchoingModel) -> str:
    """The answer of a task that is held in a call of one mesh, and taken up by the next."""
    async with kept(tmp_path, agent, model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, agent, model=second) as mesh:
        return (await mesh.get(Tasks).outcome(task_id)).text or ""


def ask(run: Run, text: str) -> Awaitable[ModelReply]:
    return run.complete([{"role": "user", "content": text}])


async def swallowing(call: Awaitable[Any]) -> Any:
    """As a framework that catches every error does."""
    try:
        return await call
    except Exception as error:  # noqa: BLE001  as frameworks do
        return f"swallowed {error}"
