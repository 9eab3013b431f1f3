"""A mesh of real processes on a real store, walked on in real time."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from meshwright.core.errors import NotFound
from meshwright.core.events import Event
from meshwright.engine.events.inbox import Question
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.work.record import TaskView
from meshwright.mesh.orchestration.reruns import ForkResult, RetryResult
from meshwright.models.port import ChatMessage
from meshwright.money.costs import Costs
from tests.support.fake_provider import FakeProvider
from tests.support.killed_mesh import KilledMesh
from tests.support.running_mesh import READY_SECONDS, ROOT
from tests.support.walker.acts import Moment
from tests.support.walker.asks import SAY
from tests.support.walker.files import FOLDER, PACE, WorldFiles
from tests.support.walker.history import History, Plan
from tests.support.walker.mesh import APPROVER, StartTimedOut
from tests.support.walker.programs import agent_names, depth_of
from tests.support.walker.provider import answer_of
from tests.support.walker.walk import Walk
from tests.support.walker.world import PRICE, World

_MAX_TASKS, _MAX_EVENTS = 500, 100_000
_SETTLING_SECONDS = 0.4
_PROMPT_TOKENS, _COMPLETION_TOKENS = 10, 5
_ACTORS = """
import os
from pathlib import Path

from tests.support.walker.agents import WalkTools, Walker
from tests.support.walker.files import FOLDER, FileWorld

WORLD = FileWorld(Path(os.environ[FOLDER]))


class TheTools(WalkTools):
    world = WORLD
"""
_ACTOR = """

class Walker{name}(Walker):
    agent_id = "{name}"
    world = WORLD
    toolsets = (TheTools,)
    delegates_to = {below}
"""
_CONFIG = """
model_list:
  - model_name: default
    litellm_params: {{model: openai/world, api_base: "{url}/v1", api_key: sk-fake, tags: [default]}}
    model_info: {{max_input_tokens: 128000, input_cost_per_token: {price}, output_cost_per_token: {price2}}}
"""


_StartT = TypeVar("_StartT")


class WorldProvider(FakeProvider):
    """Answers as the program says."""

    def __init__(self, world: World, files: WorldFiles) -> None:
        usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": _COMPLETION_TOKENS}
        super().__init__(usage={**usage, "total_tokens": _PROMPT_TOKENS + _COMPLETION_TOKENS})
        self._world = world
        self._files = files
        self._one_by_one = asyncio.Lock()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._world.begun_calls += 1
        if self._world.provider != "up":
            status = 503 if self._world.provider == "down" else 429
            return web.json_response({"error": {"message": "the provider is away"}}, status=status)
        async with self._one_by_one:
            self.replies = deque([self._reply(body)])
            self._world.bill += PRICE
            self._world.cut_calls += 1
            self._world.calls += 1
            self._files.read()
            text = str(body["messages"][-1].get("content"))
            asks = self._world.asks
            call = asks.send_call(asks.asker(text), text) if text.startswith(SAY) else None
            if call is not None:
                asks.begin_call(call)
            try:
                response = await super().complete(request)
            finally:
                if call is not None:
                    call.ended_at = time.time()
            self._world.cut_calls -= 1
            return response

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        self._files.read()
        messages = [_message_of(message) for message in body["messages"]]
        if messages[-1].content.startswith(SAY):
            return {"content": f"reply {self._world.calls} to {messages[-1].content}"}
        calls, text = answer_of(self._world, messages, has_tools=bool(body.get("tools")))
        if not calls:
            return {"content": text}
        functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
        ids = [call.id for call in calls]
        return {
            "tool_calls": [
                {"id": call_id, "type": "function", "function": function}
                for call_id, function in zip(ids, functions, strict=True)
            ]
        }


def _message_of(message: dict[str, Any]) -> ChatMessage:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content)
    calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()]
    fields = {"role": message["role"], "content": content, "tool_calls": calls}
    return ChatMessage.model_validate({**fields, "tool_call_id": message.get("tool_call_id")})


class ProcessMesh:
    """A mesh on SQLite, PostgreSQL or Dapr that is killed with SIGKILL."""

    is_simulated = False

    def __init__(
        self, world: World, folder: Path, make: Callable[[dict[str, str]], KilledMesh], *, parks: bool
    ) -> None:
        self.missing: tuple[str, ...] = ()
        self._world = world
        self._folder = folder
        self._files = WorldFiles(folder, world)
        self._provider = WorldProvider(world, self._files)
        self._stack = AsyncExitStack()
        self._make = make
        self._parks = parks
        self._killed: KilledMesh | None = None
        self._chance = random.Random(f"process {world.seed}")

    # Its processes

    async def start(self, missing: Sequence[str] = ()) -> None:
        self.missing = tuple(missing)
        self._world.incarnation += 1
        self._write()
        if self._killed is not None:
            await self._started(self._killed.kill())
            return
        await self._stack.enter_async_context(self._provider)
        prices = {"price": PRICE / (2 * _PROMPT_TOKENS), "price2": PRICE / (2 * _COMPLETION_TOKENS)}
        (self._folder / "litellm.yaml").write_text(_CONFIG.format(url=self._provider.url, **prices))
        environment = {
            "MESH_AGENTS__DIR": str(self._folder / "actors"),
            "MESH_MODELS__CONFIG": str(self._folder / "litellm.yaml"),
            "MESH_MODELS__ADAPTER": "router",
            "MESH_MODELS__PARK": str(self._parks).lower(),
            "MESH_APPROVALS__RULES": '[{"tool": "launch", "ask": "once"}]',
            "PYTHONPATH": str(ROOT),
            FOLDER: str(self._folder),
        }
        make = self._stack.enter_async_context(self._make(environment))
        self._killed = await self._started(make)

    async def _started(self, start: Awaitable[_StartT]) -> _StartT:
        try:
            return await start
        except TimeoutError as error:
            self._killed = None
            raise StartTimedOut(f"a mesh has not started in {READY_SECONDS:g} s") from error

    def _write(self) -> None:
        """Write the code of the next process. An agent that is missing has no class in it."""
        self._files.write_program(self._world.program)
        names = [name for name in agent_names(self._world.program) if name not in self.missing]
        text = _ACTORS
        for name in names:
            below = tuple(agent for agent in names if depth_of(agent) == depth_of(name) + 1)
            text += _ACTOR.format(name=name, below=below)
        (self._folder / "actors").mkdir(exist_ok=True)
        (self._folder / "actors" / "walkers.py").write_text(text)

    async def kill(self) -> None:
        """Freeze what runs, until what it has sent has arrived; the next start kills it.

        On Dapr, another begins at once in the place of one that was killed, and needs its code by then.
        """
        if self._killed is not None:
            self._killed.freeze()
            await self.until_idle()

    stop = kill

    async def close(self) -> None:
        if self._killed is not None:
            self._killed.thaw()
        await self._stack.aclose()

    def lose_lease(self) -> None:
        raise NotImplementedError("a walk on real processes draws no such act")

    # Its time

    def now(self) -> datetime:
        return datetime.now(UTC)

    def set_clock(self, seconds: float) -> None:
        raise NotImplementedError("a walk on real processes draws no such act")

    async def until_idle(self) -> None:
        await asyncio.sleep(_SETTLING_SECONDS)
        self._files.read()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds * PACE)

    async def reach(self, moment: Moment, *, is_kill: bool) -> str:
        match moment.kind:
            case "idle":
                await self.until_idle()
            case "quiet":
                await self.pass_time(20)
            case "seconds":
                await self.pass_time(moment.count)
            case "effects" | "points":
                await asyncio.sleep(self._chance.uniform(0, 0.6))
        return ""

    def release(self) -> None:
        """Nothing is held."""

    # Its callers

    @property
    def _client(self) -> Any:
        assert self._killed is not None
        return self._killed.running.client

    async def submit(self, agent: str, text: str, **fields: Any) -> str:
        return (await self._client.submit(agent, text, **fields)).task_id

    async def see(self, task_id: str) -> TaskView:
        return await self._client.task(task_id)

    async def tasks(self, tenant: str = "default") -> list[TaskSummary]:
        if tenant != "default":
            return []
        return sorted(await self._client.tasks(limit=_MAX_TASKS), key=lambda task: task.seq)

    async def inbox(self, tenant: str = "default") -> list[Question]:
        self._files.read()
        return [] if tenant != "default" else await self._client.inbox(limit=_MAX_TASKS)

    async def answer(
        self, task_id: str, key: str, value: Any, by: str = APPROVER, tenant: str = "default"
    ) -> None:
        if tenant != "default":
            raise NotFound("a mesh without keys has one tenant")
        await self._client.answer(task_id, value, key=key)

    async def cancel(self, task_id: str) -> None:
        await self._client.cancel(task_id)

    async def retry(self, task_id: str, begin: str | None, *, dry_run: bool = False) -> RetryResult:
        return await self._client.retry(task_id, begin=begin, dry_run=dry_run)

    async def fork(self, task_id: str, step: str) -> ForkResult:
        return await self._client.fork(task_id, step)

    async def steps(self, task_id: str) -> dict[str, str]:
        steps = await self._client.steps(task_id)
        last = max((step.attempt for step in steps), default=0)
        done = [step for step in steps if step.attempt == last and step.status == "done"]
        return {step.path: f"{step.kind} {step.name}" for step in done}

    async def publish(self, topic: str) -> None:
        await self._client.publish(topic, "came")

    async def events(self) -> list[Event]:
        self._files.read()
        return await self._client.events(limit=_MAX_EVENTS)

    async def costs(self) -> Costs:
        return await self._client.costs("task")


async def walk_on(plan: Plan, folder: Path, make: Callable[[dict[str, str]], KilledMesh]) -> History:
    """Walk on real processes, and return what happened."""
    world = World(plan.program, plan.seed, lies=plan.lies, checks=plan.checks)
    world.asks.settling_seconds = _SETTLING_SECONDS
    mesh = ProcessMesh(world, folder, make, parks=plan.parks)
    try:
        return await Walk(mesh, world, plan).run()
    finally:
        await mesh.close()
