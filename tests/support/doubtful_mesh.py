"""A mesh that was killed while a payment ran, with a question of that, and approvals beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from meshwright import Agent, Capability, CheckResult, Run, TaskRequest, tool
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.interrupted_mesh import kept, told_of

EVIDENCE = "The bank lists:\nno charge today\none charge at 23:59"
"""The evidence of a check that cannot tell of the payment, in several lines."""
KEY = "zK8vQ2mXw7Rt4LpN9bYc3HsJ6dFgA1eU5iTo"


class Payer(Agent):
    """Pays, which a test can hold for ever."""

    agent_id = "payer"
    capabilities = (Capability("paying"),)
    remembers = False
    paid: ClassVar[list[str]] = []
    step_ids: ClassVar[set[str]] = set()
    began: ClassVar[asyncio.Event]
    holds: ClassVar[bool]

    async def run(self, run: Run) -> str:
        return await run.step("charge the card", self._charge, check=self._was_charged)

    async def _charge(self) -> str:
        self.paid.append("paid")
        if self.holds:
            self.began.set()
            await asyncio.Event().wait()
        return "receipt 8"

    async def _was_charged(self, step_id: str) -> CheckResult:
        self.step_ids.add(step_id)
        return CheckResult.unknown(EVIDENCE)


class Deployer(Agent):
    """Deploys and notifies, where a person lets it."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    prompt_text = "Deploy."
    remembers = False
    done: ClassVar[list[str]] = []

    @tool(needs_approval=True)
    async def deploy(self, version: str, note: str = "") -> str:
        """Deploy a version."""
        self.done.append(f"deploy {version}")
        return "deployed"

    @tool(needs_approval=True)
    async def notify(self, who: str) -> str:
        """Notify somebody."""
        self.done.append(f"notify {who}")
        return "notified"


@dataclass
class Doubtful:
    """The mesh, the script of its deployer, and the task of the payment in doubt."""

    api: Api
    script: ScriptedModel
    task_id: str

    async def asks(self, name: str, **arguments: str) -> str:
        """Give the deployer a task in which it calls a tool; returns the task once it waits."""
        count = len(await self.api.client.inbox())
        self.script.replies(tool_call(name, **arguments))
        task_id = await self.api.submit(agent_id="deployer", payload={"text": "Do it."})
        await self.until_asked(count + 1)
        return task_id

    async def until_asked(self, count: int) -> None:
        """Wait until so many questions are open."""
        while len(await self.api.client.inbox()) < count:
            await self.api.mesh.runtime.emit([])

    async def ends(self, *tasks: str) -> None:
        """Have the tasks end after their calls."""
        for task_id in tasks:
            await self.api.client.outcome(task_id)


@asynccontextmanager
async def doubtful_mesh(folder: Path, before: type[Agent] | None = None) -> AsyncIterator[Doubtful]:
    """A mesh with a payment in doubt; an agent `before` has asked a person something before that."""
    Payer.paid, Payer.began, Payer.holds, Deployer.done = [], asyncio.Event(), True, []
    others = [] if before is None else [before]
    async with kept(folder, Payer, *others) as mesh:
        for agent in others:
            await mesh.get(Tasks).submit(TaskRequest(agent_id=agent.agent_id, payload={"text": "Ask."}))
            await told_of(mesh, "task.waiting")
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="payer", payload={"text": "Pay."}))
        await Payer.began.wait()
    Payer.holds, script = False, ScriptedModel()
    async with http_mesh(folder, Payer, Deployer, *others, script=script) as api:
        doubtful = Doubtful(api, script, receipt.task_id)
        await doubtful.until_asked(1 + len(others))
        yield doubtful
