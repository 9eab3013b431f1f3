"""The routes of registered prompts that read more than a body: tests of a version, and changes of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Path, Query, Response
from pydantic import BaseModel, Field, RootModel

from meshwright import Agent, ChatMessage, Outcome, TaskRequest
from meshwright.agents.run.question import input_texts, question_below, render_prompt, summary_of_payload
from meshwright.component import (
    Caller,
    Mesh,
    Model,
    ModelRequest,
    Operations,
    Prompt,
    Tasks,
    make_router,
    parse_prompt,
)
from meshwright.kit import (
    ID_PATTERN,
    LLM_SERVICE,
    AgentTypes,
    Amount,
    Dollars,
    Fault,
    Identifier,
    Input,
    InvalidInput,
    MeshDep,
    ModelOperations,
    NotFound,
    ReadyMesh,
    TaskVariant,
    Usage,
    by_rule,
    problems,
)
from meshwright.parts.llmops.operations import CHANGE, FULL, MAY_CHANGE, NONE, PromptRegistry
from meshwright.parts.llmops.records import PromptChange, PromptVersion, Version
from meshwright.parts.llmops.table import Live

router = make_router("prompts", names_tenant=True)
_IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description='The digest of the newest version, as its ETag: `"9f86..."`.'),
]


TEST = "test"
"""The experiment of the variant that such a task has."""


class PromptTestOptions(Input):
    """The version to test, by its number or a label, else the newest; the agent, and how long to wait."""

    version: Version | None = None
    label: Identifier | None = None
    agent_id: Identifier | None = Field(
        default=None, description="Default: the one that has this prompt, else a model alone."
    )
    model: str | None = Field(default=None, max_length=200, description="A group of models to test it with.")
    budget_usd: Dollars | None = None
    wait: float = Field(default=60.0, ge=0, le=300, description="Seconds to wait for the result.")


class PromptInputs(RootModel[dict[str, Any]]):
    """The payload that a prompt is tested with: its inputs, and usually the `text` of a request."""


class PromptTest(BaseModel):
    """A test of a version: a task, and its result once it has ended. `cost_usd` is None until then, and where
    a price is unknown. `task_id` and `agent_id` are None for a prompt that no agent has."""

    prompt_id: str
    version: int
    digest: str
    task_id: str | None = None
    agent_id: str | None = None
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
    def from_outcome(
        cls, version: PromptVersion, agent_id: str, task_id: str, outcome: Outcome | None
    ) -> PromptTest:
        """The test of a version by an agent: as it ended, or that it goes on."""
        of_version = {"prompt_id": version.prompt_id, "version": version.version, "digest": version.digest}
        if outcome is None:
            return cls(**of_version, task_id=task_id, agent_id=agent_id, status="running")
        visible_names = {*cls.model_fields} & {*Outcome.__struct_fields__} - {"task_id", "version"}
        fields = {name: getattr(outcome, name) for name in visible_names}
        return cls(**of_version, task_id=task_id, text=outcome.text or None, **fields)


async def test_prompt(
    mesh: Mesh, caller: Caller, name: str, inputs: dict[str, Any], options: PromptTestOptions
) -> PromptTest:
    """Have an agent do a task with a version of its prompt, and wait for the result as long as asked.

    A prompt that no agent has is tested by one call of a model. `inputs` is the payload; both are charged to
    the caller. Raises NotFound for a version that is not registered and an agent without that prompt,
    InvalidInput for an input that is missing, and what `Operations.submit` or a model raises.
    """
    registry = mesh.get(PromptRegistry)
    version = await registry.show(caller, name, version=options.version, label=options.label)
    agent = _find_agent(mesh, name, options.agent_id)
    prompt = parse_prompt(name, version.text.encode(), f"registry:v{version.version}")
    own = {
        **(agent.variables if agent is not None else {}),
        "agent_name": name,
        "task": summary_of_payload(inputs),
    }
    values = {**input_texts(inputs), **own}
    for needed in (*prompt.variables, *prompt.inputs):
        if needed not in values:
            remedy = f"Send it as a field of the body; there are {', '.join(values)}"
            raise InvalidInput(f"The prompt needs a value for {needed}", remedy=remedy, field=needed)
    if agent is None:
        rendered, used = render_prompt(prompt, inputs, own)
        messages = rendered.messages(question_below(rendered.request, inputs, used))
        return await _test_on_model(mesh, caller, version, prompt, messages, options)
    agent_id = agent.agent_id
    variant = TaskVariant(
        experiment=TEST,
        name=f"v{version.version}",
        agent_id=agent_id,
        version=version.version,
        model=options.model,
    )
    await registry.prepare(Live(tenant_id=caller.tenant_id, name=name, version=version.version))
    request = TaskRequest(agent_id=agent_id, payload=inputs, budget_usd=options.budget_usd)
    receipt = await Operations(mesh, caller).submit(request, variants=(variant,))
    outcome = None
    try:
        async with asyncio.timeout(options.wait):
            outcome = await mesh.get(Tasks).outcome(receipt.task_id, caller.tenant_id)
    except TimeoutError:  # the task goes on
        pass
    return PromptTest.from_outcome(version, agent_id, receipt.task_id, outcome)


async def _test_on_model(
    mesh: Mesh,
    caller: Caller,
    version: PromptVersion,
    prompt: Prompt,
    messages: Sequence[ChatMessage],
    options: PromptTestOptions,
) -> PromptTest:
    """Ask a model as an agent with this prompt would, without tools and memories."""
    if options.budget_usd is not None or options.wait == 0:
        field = "wait" if options.wait == 0 else "budget_usd"
        problem = f"No agent has the prompt {prompt.name!r}: a test is one call of a model, without a task"
        raise InvalidInput(problem, remedy=f"Leave {field} out", field=field)
    context = await ModelOperations(mesh, caller).call_model()
    request = ModelRequest(
        model=options.model or prompt.model,
        messages=tuple(messages),
        tags=prompt.tags,
        user=context.agent_id or LLM_SERVICE,
        context=context.model_copy(update={"prompt": prompt.version}),
        temperature=prompt.temperature,
        max_tokens=prompt.max_tokens,
        params=dict(prompt.params),
        timeout_seconds=options.wait,
        cache=prompt.cache,
    )
    started = mesh.runtime.clock.monotonic()
    reply = await mesh.get(Model).complete(request)
    return PromptTest(
        prompt_id=version.prompt_id,
        version=version.version,
        digest=version.digest,
        status="succeeded",
        success=True,
        text=reply.content,
        model=reply.model,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        duration_ms=(mesh.runtime.clock.monotonic() - started) * 1000,
    )


def _find_agent(mesh: Mesh, name: str, agent_id: str | None) -> type[Agent] | None:
    """The agent that tests a prompt: it has that prompt. None if no agent has. Raises NotFound."""
    able = {agent.agent_id: agent for agent in mesh.get(AgentTypes) if agent.prompt == name}
    if agent_id is not None and agent_id not in able:
        remedy = f"those that have it are {', '.join(sorted(able))}" if able else "leave agent_id out"
        raise NotFound(f"Agent {agent_id!r} has no prompt {name!r}", remedy=remedy, field="agent_id")
    return able.get(agent_id or name) or (able[min(able)] if able else None)


@router.post(
    "/v1/prompts/{name}/test",
    summary="Test a version",
    response_description="The result; with the status `running` where it took longer than `wait`.",
    responses=problems(NONE | MAY_CHANGE),
)
async def _test_prompt(
    mesh: ReadyMesh,
    caller: Annotated[Caller, by_rule(CHANGE)],
    name: Annotated[str, Path(pattern=ID_PATTERN)],
    query: Annotated[PromptTestOptions, Query()],
    inputs: PromptInputs,
) -> PromptTest:
    """Have the prompt's agent do a real task with a version of it, and show result and cost.

    It takes the roles operator and submitter. The task is listed, journaled and charged as any other, and may
    be followed at `/tasks/{task_id}`.
    """
    return await test_prompt(mesh, caller, name, inputs.root, query)


@router.put(
    "/v1/prompts/{name}",
    summary="Make a version",
    response_description="Durable. The newest version: a new one, or that with the same text.",
    responses=problems({412: "There is a newer version.", **NONE, **MAY_CHANGE, **FULL}),
)
async def _change_prompt(
    mesh: MeshDep,
    caller: Annotated[Caller, by_rule(CHANGE)],
    name: Annotated[str, Path(pattern=ID_PATTERN)],
    change: PromptChange,
    response: Response,
    if_match: _IfMatch = None,
) -> PromptVersion:
    """Make a version that replaces none: versions never change, and labels stay where they are."""
    version = await mesh.get(PromptRegistry).change(caller, name, change, expected=_digests(if_match))
    response.headers["ETag"] = f'"{version.digest}"'
    return version


def _digests(if_match: str | None) -> tuple[str, ...]:
    """The digests of If-Match, none for any. Raises InvalidInput."""
    tags = [tag.strip() for tag in (if_match or "*").split(",")]
    if tags == ["*"]:
        return ()
    if not all(len(tag) > 2 and tag[0] == tag[-1] == '"' for tag in tags):
        remedy = 'Send the ETag of the newest version, such as If-Match: "9f86d081..."'
        raise InvalidInput("If-Match is no list of digests in quotes", remedy=remedy, field="If-Match")
    return tuple(tag[1:-1] for tag in tags)
