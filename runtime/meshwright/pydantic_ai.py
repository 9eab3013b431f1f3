"""Makes agents of pydantic-ai durable in a run: `Agent(..., capabilities=[MeshDurability()])`.

Needs the extra `meshwright[pydantic-ai]`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_ai import DeferredToolRequests, DeferredToolResults, RunContext, ToolApproved, ToolDenied
from pydantic_ai.capabilities import WrapModelRequestHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationBackend,
    DurableOperationId,
    JournalCallableOperationBackend,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    conversation_id_from_run_id,
)
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext, ModelSelectionContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_core import from_json, to_json, to_jsonable_python

from meshwright.agents.run.framework_tools import FrameworkTool, approve_framework_call, run_framework_call
from meshwright.agents.run.run import Run
from meshwright.core.errors import AgentError, InvalidInput, ToolFailed

__all__ = ["MeshDurability"]


class _Repeat(Enum):
    """Whether a step runs again that a crash cut off. No bool: False would mean that a call is no step."""

    YES = "yes"
    NO = "no"


class MeshDurability(BaseDurabilityCapability[Any]):
    """Makes each call of a model and of a tool a step of the run that the agent works in.

    Calls of models go to the models of the mesh, whatever model the agent has: to `model`, or those of the
    prompt of the run's agent. So they are in the ledger, and wait for money and for providers. A tool that a
    crash cut off is run again if its metadata says `idempotent` (or an MCP server says so); else a person is
    asked first. A tool with `requires_approval` waits for a person, as one of the mesh does. Outside a run
    it does nothing.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Meshwright",
        durable_unit_noun="step",
        durable_container_noun="run",
        codec=JSON_CODEC,
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        toolset_lifecycles={
            "function": "enter-always",
            "mcp": "enter-in-durable-unit",
            "dynamic": "enter-never",
        },
        tool_config_key="mesh",
    )

    def __init__(self, *, model: str = "default", name: str | None = None) -> None:
        super().__init__(name=name)
        self._model_name = model
        self._models: WeakKeyDictionary[Run, Model] = WeakKeyDictionary()
        self._agent_runs: WeakKeyDictionary[Run, int] = WeakKeyDictionary()

    @property
    def in_durable_context(self) -> bool:
        """Whether the code is within a run."""
        return Run.current() is not None

    def get_durable_operation_backend(self) -> DurableOperationBackend[_Repeat]:
        """The backend that makes operations steps."""
        config = RoleBasedOperationConfig(
            model=_Repeat.YES,
            event=_Repeat.YES,
            capability=_Repeat.YES,
            tool=_Repeat.NO,
            resolve_tool=_repeat_of_tool,
        )
        return _Steps(agent_name=self.name, config=config)

    def get_default_run_id(self) -> str | None:
        """An id that is the same when the run is resumed; None outside a run."""
        if (run := Run.current()) is None:
            return None
        number = self._agent_runs[run] = self._agent_runs.get(run, 0) + 1
        return f"{run.task.task_id}:{number}"

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """An id that is the same when the run is resumed; None outside a run."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """The time from which the `timeout` of an agent's run counts, also after a restart."""
        if (run := Run.current()) is None:
            return None
        return datetime.fromisoformat(await run.step(f"start of {run_id}", _now))

    def get_model(self) -> Callable[[ModelSelectionContext[Any]], Model | str]:
        """The selection of the mesh's model within a run, and of the agent's own outside one."""
        return self._select

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """Have the run's client make the request, whose transport makes it a step."""
        return await handler(self._through_the_run(request_context))

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """As before, where a hook has chosen another model."""
        return self._through_the_run(request_context)

    async def prepare_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """As before, for each attempt."""
        return self._through_the_run(request_context)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Ask a person about each call that needs approval; it waits through restarts, without a slot."""
        run = Run.current()
        if run is None or not requests.approvals:
            return None
        calls = [(_framework_tool(ctx, call.tool_name), call) for call in requests.approvals]
        decisions = await run.gather(*(_decide(run, tool, call) for tool, call in calls))
        ids = [call.tool_call_id for call in requests.approvals]
        return DeferredToolResults(approvals=dict(zip(ids, decisions, strict=True)))

    def _select(self, ctx: ModelSelectionContext[Any]) -> Model | str:
        if (run := Run.current()) is not None:
            return self._run_model(run)
        if ctx.model is None:
            raise AgentError(
                f"The agent {self.name!r} of pydantic-ai runs outside a run of the mesh, and has no model",
                remedy="Call it in `run` of an agent of the mesh, or give it a model",
            )
        return ctx.model

    def _through_the_run(self, request_context: ModelRequestContext) -> ModelRequestContext:
        if (run := Run.current()) is not None:
            request_context.model = self._run_model(run)
        return request_context

    def _run_model(self, run: Run) -> Model:
        if (model := self._models.get(run)) is None:
            provider = OpenAIProvider(openai_client=run.openai())
            model = self._models[run] = OpenAIChatModel(self._model_name, provider=provider)
        return model


class _Steps(JournalCallableOperationBackend[_Repeat]):
    """Runs each operation of an agent as a step of the run."""

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: _Repeat,
    ) -> object:
        run = Run.current()
        if run is None:
            return await body()
        is_repeatable = config is _Repeat.YES
        if isinstance(operation_id, ToolsetCallToolId):
            tool, arguments, *_ = cache_key
            text = to_json(arguments).decode()
            work = partial(_plain_result, body)
            result = await run_framework_call(run, str(tool), text, work, repeatable=is_repeatable)
            is_recorded = isinstance(result, dict) and _RECORDED in result
            return result[_RECORDED] if is_recorded else {"kind": "tool_return", "result": result}
        return (await run.step(name, lambda: _recorded(body), repeatable=is_repeatable))[_RECORDED]


_RECORDED = "recorded"


async def _recorded(body: Callable[[], Awaitable[object]]) -> dict[str, object]:
    return {_RECORDED: await body()}


async def _plain_result(body: Callable[[], Awaitable[object]]) -> object:
    """The value that a tool returned, or the whole record of the framework for another kind of result."""
    record: Any = to_jsonable_python(await body())
    is_plain = isinstance(record, dict) and record.keys() == {"kind", "result"}
    if is_plain and record["kind"] == "tool_return":
        result = record["result"]
        if not (isinstance(result, dict) and _RECORDED in result):
            return result
    return {_RECORDED: record}


async def _now() -> str:
    return datetime.now(UTC).isoformat()


async def _decide(run: Run, tool: FrameworkTool, call: ToolCallPart) -> ToolApproved | ToolDenied:
    given = to_json(call.args_as_dict()).decode()
    try:
        arguments = await approve_framework_call(run, tool, given)
    except (ToolFailed, InvalidInput) as error:
        return ToolDenied(str(error))
    return ToolApproved(override_args=None if arguments == given else from_json(arguments))


def _framework_tool(ctx: RunContext[Any], name: str) -> FrameworkTool:
    definition = ctx.tools.get(name)
    if definition is None:
        return FrameworkTool(name, "", {"type": "object"})
    return FrameworkTool(name, definition.description or "", definition.parameters_json_schema)


def _repeat_of_tool(operation_id: DurableOperationId, tool: Any, name: str) -> Any:
    """Whether a call runs again; False: it is no step, since its tool is one of the mesh."""
    metadata = getattr(getattr(tool, "tool_def", None), "metadata", None) or {}
    if metadata.get("mesh") is False:
        return False
    hints = metadata.get("annotations") or {}
    is_repeatable = metadata.get("idempotent") or hints.get("readOnlyHint") or hints.get("idempotentHint")
    return _Repeat.YES if is_repeatable or not isinstance(operation_id, ToolsetCallToolId) else _Repeat.NO
