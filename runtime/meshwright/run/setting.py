"""What a run is begun with: its prompt, filled in with a context of history and memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from meshwright.agent import Agent
from meshwright.context.memory import MemoryItem
from meshwright.context.request import CompressResponse, context_request
from meshwright.envelope import ActorRef
from meshwright.errors import InvalidInput, MemoryUnavailable
from meshwright.messages import MemoryScope, Task
from meshwright.models.port import CallContext, OnCall, OutputMode
from meshwright.run.question import summary_of
from meshwright.run.services import Services
from meshwright.tracing import Span
from meshwright.work import Work
from meshwright.work.thread import HISTORY

_MAX_HISTORY = 20  # entries of the thread that a run looks back on


def _renamed(mode: object) -> object:
    return "prompted" if mode == "instruction" else mode  # as earlier versions called it


class Setting(BaseModel):
    """What a run was begun with, and keeps when it is resumed: prompt, context and model settings."""

    system: str
    model: str
    temperature: float
    max_tokens: int
    tags: tuple[str, ...]
    cache: bool = True
    structure: Annotated[OutputMode, BeforeValidator(_renamed)] = "native"
    memories: int = 0
    memory_tokens: int = 0
    memory_error: str | None = None
    method: str = "deterministic"
    input_tokens: int = 0
    output_tokens: int = 0
    validation_passed: bool = True
    error: str | None = None


class Preparation:
    """Makes the setting of a run, in that step of it."""

    def __init__(
        self,
        services: Services,
        agent: Agent,
        ref: ActorRef,
        work: Work,
        span: Span,
        step: int,
        record: OnCall,
    ) -> None:
        self._services = services
        self._agent = agent
        self._ref = ref
        self._work = work
        self._span = span
        self._step = step
        self._record = record
        self._task = work.task
        self._agent_id = agent.agent_id

    async def setting(self) -> Setting:
        """Recall memories and history, compress them into the context, and fill in the prompt."""
        prompt = self._services.prompts.get(self._agent.prompt)
        memories: list[MemoryItem] = []
        memory_error = None
        try:
            memories = await self._recall()
        except MemoryUnavailable as error:  # an agent without its memories still has its task
            memory_error = str(error)
        history = await self._thread_history()
        context = await self._compress(memories, history)
        values = {
            "agent_name": self._agent_id,
            "task": summary_of(self._task),
            "context": context.compressed_context,
        }
        system = prompt.render_from(values)
        if "context" not in prompt.variables and (memories or history):
            system = f"{system.rstrip()}\n\n{context.compressed_context}"
        return Setting(
            system=system,
            model=self._agent.model or prompt.model,
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
            tags=tags_of(self._agent, self._task, prompt.tags),
            cache=prompt.cache,
            structure=prompt.structure,
            memories=len(memories),
            memory_tokens=sum(item.tokens for item in memories),
            memory_error=memory_error,
            method=context.method,
            input_tokens=context.stats.input_tokens,
            output_tokens=context.stats.output_tokens,
            validation_passed=context.validation_passed,
            error=context.error,
        )

    async def _recall(self) -> list[MemoryItem]:
        if not self._task.text:
            return []
        return await self._services.memory.recall(
            self._task.text,
            tenant_id=self._task.tenant_id,
            scopes=scopes_of(self._task, self._agent_id, self._services.project_id),
            max_tokens=self._services.max_memory_tokens,
        )

    async def _compress(
        self, memories: Sequence[MemoryItem], history: Sequence[dict[str, Any]]
    ) -> CompressResponse:
        request = context_request(
            sender=self._task.chain[-1] if self._task.chain else "orchestrator",
            receiver=self._agent_id,
            project_id=self._services.project_id,
            max_tokens=self._services.max_context_tokens,
            task=self._task,
            history=history,
            memories=memories,
        )
        return await self._services.context.compress(
            request,
            tenant_id=self._task.tenant_id,
            traceparent=self._span.traceparent,
            context=call_context(self._work, self._agent_id, self._step, self._record),
        )

    async def _thread_history(self) -> list[dict[str, Any]]:
        last = self._work.history
        if not last:
            return []
        first = max(1, last - _MAX_HISTORY + 1)
        records = await self._services.host.records(self._ref, HISTORY, first=first, last=last)
        return [record.value for record in records]


def call_context(work: Work, agent_id: str, step: int, record: OnCall) -> CallContext:
    """Whose a call of a model is: what budgets, ledger and cache know it by."""
    task = work.task
    return CallContext(
        budget_usd=task.budget_usd,
        budgets_above=task.budgets_above,
        budgets=task.budgets,
        task_id=task.task_id,
        thread_id=task.thread_id,
        agent_id=agent_id,
        tenant_id=task.tenant_id,
        generation=task.generation,
        attempt=work.dispatch.attempt,
        step=step,
        record=record,
    )


def tags_of(agent: Agent, task: Task, of_prompt: Sequence[str]) -> tuple[str, ...]:
    """The tags of a task's model calls: the task's own where its agent allows it, else the agent's, else the
    prompt's.

    Whoever asks is not trusted with the choice of a model: an agent that allows no tags never looks at
    `payload.tags`. Raises InvalidInput for a tag that an agent does not allow.
    """
    wanted = task.payload.get("tags") if agent.task_tags else None
    if wanted:
        if not isinstance(wanted, list) or not agent.task_tags.issuperset(map(str, wanted)):
            raise InvalidInput(
                f"payload.tags of task {task.task_id} is not a list of tags that {agent.agent_id} allows",
                remedy=f"it allows {', '.join(sorted(agent.task_tags))}",
                field="payload.tags",
            )
        return tuple(map(str, wanted))
    own = agent.tags(task)
    return tuple(of_prompt if own is None else own)


def scopes_of(task: Task, agent_id: str, project_id: str) -> list[tuple[MemoryScope, str]]:
    """Whose memories a run may use: scopes, each with what it is the scope of."""
    return [("task", task.task_id), ("agent", agent_id), ("project", project_id), ("global", "global")]
