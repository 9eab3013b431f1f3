"""The worker program of a crash trial: it forks a process with a whole mesh for each job that it reads.

A job is a line of JSON on stdin; the program answers with the id of the process, then with its exit status.
The process works on a folder of the trial with the user's agent, kills itself at one step, or ends with the
task or the first question that a crash asks a person. All end with the process that started the program.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meshwright.agents.agent import Agent
from meshwright.agents.tools.chain import ToolCallWrapper, ToolInvocation, ToolLink
from meshwright.agents.tools.tool import MARK
from meshwright.core.access import ALL_ROLES
from meshwright.core.errors import MeshError
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.part import Part
from meshwright.core.settings import Settings, load_settings
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.engine.work.people import APPROVAL
from meshwright.mesh.app import build_mesh, load_agents
from meshwright.mesh.components import Component
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import stream_words
from meshwright.models.offline_text import SchemaFiller
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.parts.proving.records import RecordFile

POINTS, CALLS, RESULT, LOG = "points.jsonl", "calls.jsonl", "result.json", "worker.log"
"""Files of a run: the points passed, [tool, arguments, result] of each call, the end of the task, its log."""
_KEY = "crash-trial"
_LOOK_SECONDS = 0.05
_MAX_JOB_BYTES = 65_536  # a pipe takes so much at once
_KEPT_TABLES = (
    *("agents", "prompts", "tools", "context", "skills", "sandbox"),
    *("mcp", "kube", "coding", "trees"),
)
"""The tables of the user's settings that a trial keeps: those that agents need, and none that reaches out."""


@dataclass(frozen=True)
class CrashJob:
    """The work of one process."""

    folder: str
    """The folder of the run, for records and data."""
    agent_id: str
    """The agent that works on the task."""
    text: str
    """The request of the task."""
    tools: tuple[str, ...]
    """The tools that the simulated model calls, once each, in this order. Empty: all that it is offered."""
    kill_at: int | None = None
    """The number of the point at which the process kills itself. None: it lives."""

    def encode(self) -> str:
        """Return the job as JSON."""
        return json.dumps(asdict(self))


def trial_settings(folder: Path) -> Settings:
    """Return the project's settings with a store in a folder, and without whatever reaches other systems."""
    settings = load_settings(Path())
    fields = type(settings).model_fields
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if name not in _KEPT_TABLES and not field.is_required()
    }
    return settings.model_copy(update={**defaults, "data_dir": folder})


def own_tools(agent: type[Agent]) -> tuple[str, ...]:
    """Return the names of the tools that are methods of an agent, in the order of their definition."""
    classes = reversed(agent.__mro__[: agent.__mro__.index(Agent)])
    values = (value for cls in classes for value in vars(cls).values() if hasattr(value, MARK))
    return tuple(dict.fromkeys(getattr(value, MARK).name for value in values))


class _Points:
    """Counts the points that a process passes, and kills it at one."""

    def __init__(self, job: CrashJob) -> None:
        self._file = RecordFile(Path(job.folder) / POINTS)
        self._kill_at = job.kill_at
        self._count = 0

    def pass_by(self, point: str) -> None:
        """Note a point, or end there as kill -9 does."""
        self._file.write(point)
        if self._count == self._kill_at:
            os.killpg(0, signal.SIGKILL)
        self._count += 1


class _ToolsOnceModel:
    """Calls each tool once, with arguments made of its schema, then answers. Costs nothing."""

    name = "simulated"

    def __init__(self, job: CrashJob, points: _Points) -> None:
        self._job = job
        self._points = points

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Give the next reply of a conversation, by the calls that it has."""
        if request.user != self._job.agent_id:
            reply = self._answer(request)
        else:
            self._points.pass_by("model before")
            reply = self._next(request)
            self._points.pass_by("model behind")
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _next(self, request: ModelRequest) -> ModelReply:
        called = {call.name for message in request.messages for call in message.tool_calls}
        offered = {tool.name: tool for tool in request.tools}
        for name in self._job.tools or tuple(offered):
            if name in offered and name not in called:
                value = SchemaFiller(offered[name].parameters, [], self._job.text).value()
                call = ToolCall(id=f"call_{len(called)}", name=name, arguments=json.dumps(value))
                return self._reply(tool_calls=(call,), finish_reason="tool_calls")
        return self._answer(request)

    def _answer(self, request: ModelRequest) -> ModelReply:
        if request.response_schema is None:
            return self._reply(content="done")
        value = SchemaFiller(request.response_schema, [], self._job.text).value()
        return self._reply(content=json.dumps(value))

    def _reply(self, **fields: Any) -> ModelReply:
        return ModelReply(model=self.name, cost_usd=Decimal(0), **fields)


class _TrialLink(ToolLink[ToolInvocation]):
    """Passes a point before and behind each call of a tool, and records its result."""

    def __init__(self, inner: ToolLink[Any], points: _Points, calls: RecordFile) -> None:
        super().__init__(inner)
        self._points = points
        self._calls = calls

    async def call(self, call: ToolInvocation) -> dict[str, Any]:
        name = call.tool.name
        if name.startswith("check of "):
            return await self.inner.call(call)
        self._points.pass_by(f"{name} before")
        result: dict[str, Any] = await self.inner.call(call)
        self._calls.write([name, call.arguments, repr(result.get("value"))])
        self._points.pass_by(f"{name} behind")
        return result


def _trial_component(job: CrashJob, points: _Points) -> type[Component]:
    calls = RecordFile(Path(job.folder) / CALLS)

    class TrialComponent(Component):
        """Wraps the calls of tools."""

        name = "crash-trial"

        def tool_wrappers(self) -> Iterable[ToolCallWrapper]:
            """Kills next to the tool: its effect is there, and its result is recorded nowhere."""
            return [ToolCallWrapper("limit", partial(_TrialLink, points=points, calls=calls))]

    return TrialComponent


async def _work(job: CrashJob) -> None:
    folder = Path(job.folder)
    settings = trial_settings(folder / "data")
    points = _Points(job)
    part = Part(__name__, "crash-trial", component=_trial_component(job, points))
    agents = load_agents(load_settings(Path()), Path())
    mesh = build_mesh(settings, agents=agents, model=_ToolsOnceModel(job, points), parts=[part])
    async with mesh:
        result = await _result(mesh, job)
    draft = folder / f"{RESULT}.draft"
    draft.write_text(json.dumps(result))
    draft.rename(folder / RESULT)


async def _result(mesh: Mesh, job: CrashJob) -> dict[str, Any]:
    """Wait for the end of the task, or for the first question that is no approval: these are given."""
    tasks = mesh.get(Tasks)
    request = TaskRequest(agent_id=job.agent_id, payload={"text": job.text})
    receipt = await tasks.submit(request, idempotency_key=_KEY)
    ended = asyncio.ensure_future(tasks.outcome(receipt.task_id))
    try:
        while not ended.done():
            for question in (await mesh.get(Inbox).page(Caller().tenant_id)).items:
                if question.subject.get("kind") != APPROVAL:
                    return {"question": question.question}
                await _approve(tasks, question)
            await asyncio.wait([ended], timeout=_LOOK_SECONDS)
    finally:
        ended.cancel()
    outcome = ended.result()
    error = "" if outcome.error is None else f"{outcome.error.type}: {outcome.error.message}"
    return {"status": outcome.status, "error": error}


async def _approve(tasks: Tasks, question: Question) -> None:
    caller = Caller(requested_by="crash-trial", roles=ALL_ROLES)
    try:
        await tasks.answer(question.task_id, question.wait_id, {"approve": True}, caller)
    except MeshError:  # it has just ended
        await asyncio.sleep(_LOOK_SECONDS)


def _end_with_trial() -> None:
    """End this process and what it has started once the trial has: nobody writes to stdin while it runs."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _be_child(job: CrashJob) -> None:
    os.setpgid(0, 0)
    log = os.open(Path(job.folder) / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_end_with_trial, daemon=True).start()
    try:
        asyncio.run(_work(job))
    except Exception as error:  # noqa: BLE001 - agents' code may raise anything
        logging.getLogger("meshwright").error("%s: %s", type(error).__name__, error)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Do the jobs of stdin, one after the other."""
    import meshwright.engine.stores.sqlite  # noqa: F401 each process would import it again

    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    while line := os.read(0, _MAX_JOB_BYTES):
        job = TypeAdapter(CrashJob).validate_json(line)
        if (pid := os.fork()) == 0:
            _be_child(job)
        os.write(1, f"{pid}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(1, f"{status}\n".encode())


if __name__ == "__main__":
    main()
