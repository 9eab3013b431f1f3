"""One agent's work on one task: context, then the model and its tools, each step journaled."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from meshwright import genai
from meshwright.agent import Agent
from meshwright.clock import Clock
from meshwright.context.memory import Memory, MemoryItem
from meshwright.context.request import CompressResponse, context_request
from meshwright.context.service import ContextClient
from meshwright.envelope import ActorRef
from meshwright.errors import InvalidInput, MemoryUnavailable, ToolFailed
from meshwright.host import Host
from meshwright.messages import MemoryScope, Parent, Task, Usage, derived_id
from meshwright.models.port import ChatMessage, Model, ModelReply, ModelRequest, ToolCall
from meshwright.prompts import Prompts
from meshwright.tools.tool import Tool
from meshwright.tracing import NoTracing, Span, Tracing
from meshwright.work import Journal, Work
from meshwright.work.journal import Told
from meshwright.work.thread import HISTORY

MAX_HISTORY = 20  # entries of the thread that a run looks back on
MAX_SUMMARY_CHARS = 120  # of a tool's arguments, in an event
ANSWER_NOW = "Answer now, with what you have; no more tools can be called."
ALREADY_CALLED = "You called this already with the same arguments; its result stands above."


@dataclass(frozen=True, slots=True)
class Services:
    """What every run of a mesh uses."""

    host: Host
    model: Model
    context: ContextClient
    memory: Memory
    prompts: Prompts
    tracing: Tracing | NoTracing
    clock: Clock
    project_id: str = "default"
    max_steps: int = 12
    max_chain: int = 5
    max_context_tokens: int = 4000
    max_memory_tokens: int = 400
    trace_content: bool = False


class Setting(BaseModel):
    """What a run was begun with, and keeps when it is resumed: prompt, context and model settings."""

    system: str
    model: str
    temperature: float
    max_tokens: int
    tags: tuple[str, ...]
    memories: int = 0
    memory_tokens: int = 0
    memory_error: str | None = None
    method: str = "deterministic"
    input_tokens: int = 0
    output_tokens: int = 0
    validation_passed: bool = True
    error: str | None = None
    compression: ModelReply | None = None


@dataclass(slots=True)
class Spent:
    """What the models of a run have cost so far, replayed calls included."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    model: str | None = None

    def add(self, reply: ModelReply) -> None:
        """Count one reply."""
        self.usage = self.usage + reply.usage
        self.cost_usd += reply.cost_usd or 0.0
        self.model = reply.model


class Run:
    """The work of one agent on one task. Tools get it as their context."""

    def __init__(
        self,
        services: Services,
        agent: Agent,
        tools: Mapping[str, Tool],
        ref: ActorRef,
        work: Work,
        journal: Journal,
        span: Span,
    ) -> None:
        self.agent = agent
        self.tools = tools
        self.spent = Spent()
        self._services = services
        self._ref = ref
        self._work = work
        self._journal = journal
        self._span = span

    @property
    def task(self) -> Task:
        """The task being worked on."""
        return self._work.task

    @property
    def agent_id(self) -> str:
        """The agent that works on it."""
        return self.agent.agent_id

    async def converse(self) -> str:
        """Prepare the context, then let the model call tools until it answers; returns its answer.

        It stops when the model repeats a call, or after `max_steps` calls of the model: it is then asked
        once more, without tools. Raises ToolFailed where even so it does not answer.
        """
        setting = await self.prepare()
        specs = tuple(tool.spec for tool in self.tools.values())
        messages = [ChatMessage(role="system", content=setting.system), self._question()]
        called: set[tuple[str, str]] = set()
        for _ in range(self._services.max_steps):
            reply = await self._ask(setting, messages, specs)
            if not reply.tool_calls:
                return reply.content
            messages.append(ChatMessage(role="assistant", content=reply.content, tool_calls=reply.tool_calls))
            repeated = False
            for call in reply.tool_calls:
                key = (call.name, _canonical(call.arguments))
                repeated = repeated or key in called
                content = ALREADY_CALLED if key in called else await self._call_tool(call)
                called.add(key)
                messages.append(ChatMessage(role="tool", content=content, tool_call_id=call.id))
            if repeated:
                break
        messages.append(ChatMessage(role="user", content=ANSWER_NOW))
        reply = await self._ask(setting, messages, ())
        if not reply.content:
            raise ToolFailed(
                "the model calls tools and never answers",
                remedy="give it a larger max_steps, or say in its prompt when to stop",
            )
        return reply.content

    async def prepare(self) -> Setting:
        """Recall memories and history, compress them into the context, and fill in the prompt."""
        request = {"task_id": self.task.task_id}
        setting: Setting = await self._journal.step(
            "context", request, self._prepare, shape=Setting, costly=False, tell=_tell_context
        )
        if setting.compression is not None:
            self.spent.add(setting.compression)
            await self._journal.confirm()
        return setting

    async def step(self, name: str, run: Callable[[], Awaitable[Any]], *, repeatable: bool = True) -> Any:
        """Run something once, however often the work is resumed; the result is plain JSON data.

        With `repeatable=False` it is never run a second time where it may have happened already.
        """
        return await self._journal.step(name, {}, run, repeatable=repeatable)

    async def delegate(self, agent_id: str, text: str) -> str:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer.

        Raises ToolFailed where that agent may not be asked, or did not succeed.
        """
        self._check_delegation(agent_id)
        child = self._child(agent_id, text)
        outcome = await self._journal.wait("delegate", {"agent_id": agent_id, "text": text}, child)
        if not outcome["success"]:
            error = outcome.get("error") or {}
            raise ToolFailed(f"{agent_id} did not succeed: {error.get('message', outcome['status'])}")
        return (outcome.get("result") or {}).get("text", "")

    async def remember(self, text: str, scope: MemoryScope) -> str:
        """Store a memory in a scope."""
        item = MemoryItem(
            memory_id=derived_id(self._work.stream, str(self._journal.step_number)),
            tenant_id=self.task.tenant_id,
            scope=scope,
            scope_id=dict(self._scopes())[scope],
            text=text,
            created_at=self._services.clock.now(),
            task_id=self.task.task_id,
            agent_id=self.agent_id,
        )
        await self._services.memory.remember(item)
        return f"Remembered for {scope}."

    def history(self, answer: str) -> tuple[dict[str, Any], ...]:
        """What the thread is to keep of this run; nothing where nobody asked for a thread."""
        if self.task.thread_id == self.task.task_id:
            return ()
        return (
            {"role": "user", "content": self._question().content, "task_id": self.task.task_id},
            {"role": "assistant", "content": answer, "task_id": self.task.task_id},
        )

    # Context

    async def _prepare(self) -> Setting:
        prompt = self._services.prompts.get(self.agent.prompt)
        memories: list[MemoryItem] = []
        memory_error = None
        try:
            memories = await self._recall()
        except MemoryUnavailable as error:  # an agent without its memories still has its task
            memory_error = str(error)
        context = await self._compress(memories)
        tags = self.agent.tags(self.task)
        values = {
            "agent_name": self.agent_id,
            "task": self._question().content,
            "context": context.compressed_context,
        }
        return Setting(
            system=prompt.render_from(values),
            model=prompt.model,
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
            tags=tuple(prompt.tags if tags is None else tags),
            memories=len(memories),
            memory_tokens=sum(item.tokens for item in memories),
            memory_error=memory_error,
            method=context.method,
            input_tokens=context.stats.input_tokens,
            output_tokens=context.stats.output_tokens,
            validation_passed=context.validation_passed,
            error=context.error,
            compression=context.reply,
        )

    async def _recall(self) -> list[MemoryItem]:
        if not self.task.text:
            return []
        return await self._services.memory.recall(
            self.task.text,
            tenant_id=self.task.tenant_id,
            scopes=self._scopes(),
            max_tokens=self._services.max_memory_tokens,
        )

    async def _compress(self, memories: Sequence[MemoryItem]) -> CompressResponse:
        request = context_request(
            sender=self.task.chain[-1] if self.task.chain else "orchestrator",
            receiver=self.agent_id,
            project_id=self._services.project_id,
            max_tokens=self._services.max_context_tokens,
            task=self.task,
            history=await self._thread_history(),
            memories=memories,
        )
        return await self._services.context.compress(
            request,
            tenant_id=self.task.tenant_id,
            traceparent=self._span.traceparent,
            task_id=self.task.task_id,
        )

    async def _thread_history(self) -> list[dict[str, Any]]:
        if not self._work.history:
            return []
        records = await self._services.host.records(self._ref, HISTORY, last=MAX_HISTORY)
        return [record.value for record in records]

    def _scopes(self) -> list[tuple[MemoryScope, str]]:
        return [
            ("task", self.task.task_id),
            ("agent", self.agent_id),
            ("project", self._services.project_id),
            ("global", "global"),
        ]

    def _question(self) -> ChatMessage:
        text = self.task.text or json.dumps(self.task.payload, ensure_ascii=False)
        return ChatMessage(role="user", content=text)

    # The model

    async def _ask(
        self, setting: Setting, messages: Sequence[ChatMessage], specs: tuple[Any, ...]
    ) -> ModelReply:
        request = ModelRequest(
            model=setting.model,
            messages=tuple(messages),
            tags=setting.tags,
            user=self.agent_id,
            metadata={
                "task_id": self.task.task_id,
                "agent_id": self.agent_id,
                "tenant_id": self.task.tenant_id,
                "attempt": self._work.dispatch.attempt,
                "step": self._journal.step_number + 1,
            },
            tools=specs,
            temperature=setting.temperature,
            max_tokens=setting.max_tokens,
            timeout_seconds=self.task.timeout,
        )
        started = time.perf_counter()

        def tell(reply: ModelReply) -> list[Told]:
            return [("model.called", _model_called(request, reply, started))]

        reply: ModelReply = await self._journal.step(
            "model", request, lambda: self._complete(request), shape=ModelReply, tell=tell
        )
        self.spent.add(reply)
        return reply

    async def _complete(self, request: ModelRequest) -> ModelReply:
        attributes = {
            genai.OPERATION_NAME: genai.CHAT,
            genai.REQUEST_MODEL: request.model,
            genai.REQUEST_MAX_TOKENS: request.max_tokens,
            genai.REQUEST_TEMPERATURE: request.temperature,
            genai.AGENT_ID: self.agent_id,
            genai.CONVERSATION_ID: self.task.thread_id,
        }
        with self._services.tracing.span(
            f"chat {request.model}", parent=self._span.traceparent, attributes=attributes, kind="client"
        ) as span:
            reply = await self._services.model.complete(request)
            span.set(
                {
                    genai.RESPONSE_MODEL: reply.model,
                    genai.USAGE_INPUT_TOKENS: reply.usage.prompt_tokens,
                    genai.USAGE_OUTPUT_TOKENS: reply.usage.completion_tokens,
                    genai.RESPONSE_FINISH_REASONS: (reply.finish_reason,),
                }
            )
            if self._services.trace_content:
                span.set(
                    {genai.INPUT_MESSAGES: _dump(request.messages), genai.OUTPUT_MESSAGES: reply.content}
                )
            return reply

    # Tools

    async def _call_tool(self, call: ToolCall) -> str:
        """The result of a call as the model is told it: a fault of the call is told too, not raised."""
        tool = self.tools.get(call.name)
        if tool is None:
            return _error_text(f"there is no tool {call.name!r}; there are {', '.join(self.tools) or 'none'}")
        started = time.perf_counter()

        def tell(result: dict[str, Any]) -> list[Told]:
            return _tool_events(call, result, started)

        result = await self._journal.step(
            f"tool {call.name}",
            {"arguments": call.arguments},
            lambda: self._run_tool(tool, call),
            repeatable=tool.idempotent,
            tell=tell,
        )
        if not isinstance(result, dict) or result.keys() != {"value", "error"}:
            result = {"value": result, "error": None}  # what a person says came of it
        if result["error"] is not None:
            return _error_text(str(result["error"]))
        value = result["value"]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    async def _run_tool(self, tool: Tool, call: ToolCall) -> dict[str, Any]:
        attributes = {
            genai.OPERATION_NAME: genai.EXECUTE_TOOL,
            genai.TOOL_NAME: tool.name,
            genai.TOOL_CALL_ID: call.id,
            genai.AGENT_ID: self.agent_id,
        }
        with self._services.tracing.span(
            f"execute_tool {tool.name}", parent=self._span.traceparent, attributes=attributes
        ) as span:
            try:
                return {"value": await tool.call(call.arguments, self), "error": None}
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                span.fail(error)
                return {"value": None, "error": str(error)}

    # Delegation

    def _check_delegation(self, agent_id: str) -> None:
        if agent_id not in self.agent.delegates_to:
            allowed = ", ".join(self.agent.delegates_to) or "nobody"
            raise ToolFailed(f"{self.agent_id} may not delegate to {agent_id!r}, only to {allowed}")
        chain = (*self.task.chain, self.agent_id)
        if agent_id in chain:
            raise ToolFailed(f"{agent_id} already waits for this answer: {' -> '.join(chain)}")
        if len(chain) > self._services.max_chain:
            raise ToolFailed(f"delegation is {len(chain)} deep already: {' -> '.join(chain)}")

    def _child(self, agent_id: str, text: str) -> Task:
        step = self._journal.step_number + 1
        task_id = derived_id(self.task.tenant_id, self._work.stream, str(step))
        return Task(
            task_id=task_id,
            capability="",
            agent_id=agent_id,
            payload={"text": text},
            priority=self.task.priority,
            timeout=self.task.timeout,
            deadline_at=self.task.deadline_at,
            requested_by=self.agent_id,
            tenant_id=self.task.tenant_id,
            thread_id=task_id,
            parent=Parent(
                actor_type=self._ref.type,
                actor_id=self._ref.id,
                key=f"{self._work.stream}/{step}",
                task_id=self.task.task_id,
            ),
            chain=(*self.task.chain, self.agent_id),
            created_at=self._services.clock.now(),
            traceparent=self._span.traceparent,
        )


def _tell_context(setting: Setting) -> list[Told]:
    compressed = {
        "method": setting.method,
        "input_tokens": setting.input_tokens,
        "output_tokens": setting.output_tokens,
        "validation_passed": setting.validation_passed,
        "error": setting.error,
    }
    events: list[Told] = [("context.compressed", compressed)]
    if setting.memory_error is not None:
        events.insert(0, ("memory.unavailable", {"error": setting.memory_error}))
    if setting.memories:
        events.insert(0, ("memory.recalled", {"count": setting.memories, "tokens": setting.memory_tokens}))
    return events


def _model_called(request: ModelRequest, reply: ModelReply, started: float) -> dict[str, Any]:
    return {
        "model": reply.model,
        "group": request.model,
        "tags": request.tags,
        "user": request.user,
        "usage": reply.usage,
        "cost_usd": reply.cost_usd,
        "tool_calls": [call.name for call in reply.tool_calls],
        "duration_ms": _since(started),
    }


def _tool_events(call: ToolCall, result: dict[str, Any], started: float) -> list[Told]:
    called = {
        "tool": call.name,
        "arguments": call.arguments[:MAX_SUMMARY_CHARS],
        "ok": result["error"] is None,
        "error": result["error"],
        "duration_ms": _since(started),
    }
    events = [("tool.called", called)]
    if call.name == "remember" and result["error"] is None:
        events.append(("memory.stored", {"text_chars": len(call.arguments)}))
    return events


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _canonical(arguments: str) -> str:
    """Arguments that mean the same, written the same."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except ValueError:
        return arguments


def _error_text(message: str) -> str:
    return json.dumps({"error": message}, ensure_ascii=False)


def _dump(messages: Sequence[ChatMessage]) -> str:
    return json.dumps([message.model_dump(mode="json") for message in messages], ensure_ascii=False)
