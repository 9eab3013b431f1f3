"""Tests of a version of a prompt: a real task of an agent that has a prompt of that name."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, Field, RootModel

from meshwright.agent import AgentTypes
from meshwright.core.errors import NotFound
from meshwright.core.ids import Identifier
from meshwright.core.messages import Caller, Fault, Outcome, TaskRequest, TaskVariant, Usage
from meshwright.core.money import Amount, Dollars
from meshwright.edges.bodies import Strict
from meshwright.identity.operations import Operations
from meshwright.mesh import Mesh
from meshwright.orchestration.tasks import Tasks
from meshwright.services.llmops.component import PromptRegistry
from meshwright.services.llmops.records import PromptVersion, Version
from meshwright.services.llmops.table import Live

TEST = "test"
"""The experiment of the variant that such a task has."""


class PromptTestOptions(Strict):
    """The version to test, by its number or a label, else the newest; the agent, and how long to wait."""

    version: Version | None = None
    label: Identifier | None = None
    agent_id: Identifier | None = Field(default=None, description="Default: the one that has this prompt.")
    model: str | None = Field(default=None, max_length=200, description="A group of models to test it with.")
    budget_usd: Dollars | None = None
    wait: float = Field(default=60.0, ge=0, le=300, description="Seconds to wait for the result.")


class PromptInputs(RootModel[dict[str, Any]]):
    """The payload of the task that tests a prompt: usually its `text`."""


class PromptTest(BaseModel):
    """A test of a version: a task, and its result once it has ended. `cost_usd` is None until then, and where
    a price is unknown."""

    prompt_id: str
    version: int
    digest: str
    task_id: str
    agent_id: str
    status: str
    success: bool | None = None
    text: str | None = None
    result: dict[str, Any] | None = None
    error: Fault | None = None
    model: str | None = None
    usage: Usage | None = None
    cost_usd: Amount | None = None
    duration_ms: float | None = None

    @classmethod
    def of(cls, found: PromptVersion, agent_id: str, task_id: str, ended: Outcome | None) -> PromptTest:
        """The test of a version by an agent: as it ended, or that it goes on."""
        known = {"prompt_id": found.prompt_id, "version": found.version, "digest": found.digest}
        if ended is None:
            return cls(**known, task_id=task_id, agent_id=agent_id, status="running")
        shown = {*cls.model_fields} & {*Outcome.__struct_fields__} - {"task_id", "version"}
        fields = {name: getattr(ended, name) for name in shown}
        return cls(**known, task_id=task_id, text=ended.text or None, **fields)


async def test_prompt(
    mesh: Mesh, caller: Caller, name: str, inputs: dict[str, Any], options: PromptTestOptions
) -> PromptTest:
    """Have an agent do a task with a version of its prompt, and wait for the result as long as asked.

    `inputs` is the payload of the task, which is charged as any of the caller. Raises NotFound for a version
    that is not registered and a prompt that no agent has, and what `Operations.submit` raises.
    """
    registry = mesh.get(PromptRegistry)
    found = await registry.show(caller, name, version=options.version, label=options.label)
    agent_id = _agent_of(mesh, name, options.agent_id)
    tried = TaskVariant(
        experiment=TEST,
        name=f"v{found.version}",
        agent_id=agent_id,
        version=found.version,
        model=options.model,
    )
    await registry.prepare(Live(tenant_id=caller.tenant_id, name=name, version=found.version))
    request = TaskRequest(agent_id=agent_id, payload=inputs, budget_usd=options.budget_usd)
    receipt = await Operations(mesh, caller).submit(request, variants=(tried,))
    ended = None
    try:
        async with asyncio.timeout(options.wait):
            ended = await mesh.get(Tasks).outcome(receipt.task_id, caller.tenant_id)
    except TimeoutError:  # the task goes on
        pass
    return PromptTest.of(found, agent_id, receipt.task_id, ended)


def _agent_of(mesh: Mesh, name: str, agent_id: str | None) -> str:
    """The agent that tests a prompt: it has that prompt. Raises NotFound."""
    able = sorted(agent.agent_id for agent in mesh.get(AgentTypes) if agent.prompt == name)
    if agent_id is not None and agent_id not in able:
        whose = f"those that have it are {', '.join(able)}" if able else "no agent of this mesh has it"
        raise NotFound(f"Agent {agent_id!r} has no prompt {name!r}", remedy=whose, field="agent_id")
    if not able:
        raise NotFound(
            f"No agent has the prompt {name!r}",
            remedy="Register it under the name of an agent's prompt: `mesh agents` lists agents",
            field="name",
        )
    return agent_id or (name if name in able else able[0])
