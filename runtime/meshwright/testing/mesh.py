"""A whole mesh in memory for one test, a model that says what the test tells it, and time to be moved."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import sys
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from meshwright.agents.agent import Agent
from meshwright.agents.prompts.event_types import PromptRejected
from meshwright.agents.prompts.sources import BUILT_IN
from meshwright.client import Client
from meshwright.core.access import ALL_ROLES
from meshwright.core.clock import Clock
from meshwright.core.errors import MeshError, ModelError, PromptError
from meshwright.core.events import Event
from meshwright.core.messages import Caller, Outcome, Receipt, TaskRequest
from meshwright.core.money import ZERO
from meshwright.core.settings import load_settings
from meshwright.core.step_events import ToolCalled
from meshwright.edges.client.calls import TaskCalls, resolve_wait
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.engine.events.inbox_sources import WholeInbox
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Database
from meshwright.engine.stores.memory import Faults, InMemoryStore, MemoryData
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.offline_model import stream_words
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, OnDelta, Price, ToolCall
from meshwright.models.prices import Prices
from meshwright.money.allowances import invalid_field

_PATIENCE_SECONDS = 30.0  # real ones, that a test waits for an outcome
_SHOWN_EVENTS = 5
_SETTLING_PASSES = 100  # passes of the event loop in which what is due may run before time goes on
_IDLE_PASSES = 3  # those that a duty with nothing to do needs to go back to sleep
_BEGINNINGS, _FAILURES = ("task.accepted", "task.retried"), ("task.failed", "task.timed_out")
_ENDS = ("task.succeeded", "task.cancelled", *_FAILURES)
Reply = str | ToolCall | Sequence[ToolCall] | ModelReply | ModelError | Callable[[ModelRequest], ModelReply]
"""An answer as text, one or more tools to call, a whole reply, an error to raise, or what makes a reply."""

_COMPRESSOR = "context-service"
_MAX_SHOWN_CHARS = 200  # of a request, in an error


class ScriptEnded(ModelError):
    """A test's scripted model has no more replies."""


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    """A reply that asks for a tool; the model gives the call its id."""
    return ToolCall(id="", name=name, arguments=json.dumps(arguments))


class ScriptedModel:
    """Gives the replies of its script, one a call, and keeps the requests.

        model.replies(tool_call("fetch_page", url="https://example.org"), "It greets the world.")

    Replies go to any caller, or to one agent alone (`to`). The context-service gets only what is meant
    for it, and otherwise does without a model. A call too many raises ScriptEnded.
    """

    name = "scripted"

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[ModelRequest] = []
        self.ended: ScriptEnded | None = None
        """The error of the first call too many, if there was one."""
        self._scripts: defaultdict[str | None, deque[Reply]] = defaultdict(deque)
        self._calls = 0
        self.replies(*replies)

    def replies(self, *replies: Reply, to: str | None = None) -> None:
        """Add to the script: of one agent, by its id, or of all."""
        self._scripts[to].extend(replies)

    @property
    def unsaid(self) -> int:
        """How many replies of the script are left."""
        return sum(map(len, self._scripts.values()))

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Give the next reply of the script; a stream of it comes word by word."""
        reply = self._reply(request)
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Nothing to give back."""

    def _reply(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        reply = self._next(request)
        if callable(reply):
            return reply(request)
        if isinstance(reply, ModelError):
            raise reply
        if isinstance(reply, ModelReply):
            return reply
        if isinstance(reply, str):
            return ModelReply(content=reply, model=self.name, cost_usd=Decimal(0))
        calls = [reply] if isinstance(reply, ToolCall) else reply
        return ModelReply(
            tool_calls=tuple(map(self._with_id, calls)),
            model=self.name,
            cost_usd=Decimal(0),
            finish_reason="tool_calls",
        )

    def _next(self, request: ModelRequest) -> Reply:
        own = self._scripts[request.user]
        if own:
            return own.popleft()
        if request.user == _COMPRESSOR:
            raise ModelRefused("the script has nothing for the context-service, which does without")
        if self._scripts[None]:
            return self._scripts[None].popleft()
        error = ScriptEnded(
            f"the script has no reply to call {len(self.requests)}, by {request.user}: {_shown(request)}",
            remedy='add one with model.replies("...")',
        )
        self.ended = self.ended or error
        raise error

    def _with_id(self, call: ToolCall) -> ToolCall:
        self._calls += 1
        return call if call.id else call.model_copy(update={"id": f"call_{self._calls}"})


def _shown(request: ModelRequest) -> str:
    last = request.messages[-1]
    text = f"{last.role}: {last.content}"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "..."


class _ScriptPrices(Prices):
    """Reserves nothing for a call that has no price."""

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price:
        """The highest price, or nothing."""
        return super().upper_bound(request, prompt_tokens) or Price(input=ZERO, output=ZERO)


class _ScriptedAdapter(Adapter):
    """A scripted model in a mesh, whose budgets it fits."""

    def prices(self, default: Price | None) -> Prices:
        """By the names of models, else `default`."""
        return _ScriptPrices(default=default)


class OutcomeUnderTest(Outcome):
    """The outcome of a task in a test: the text of a failed one is its error."""

    @property
    def text(self) -> str:
        """The answer as text. Raises TaskFailed where there is none since the task failed."""
        text = super().text
        return text if text or self.success else self.read(str)


class Events(list[Event]):
    """Some of what happened, in order."""

    @property
    def names(self) -> list[str]:
        """The tool of each `tool.called`; the type of any other event."""
        return [
            event.event_type if (called := ToolCalled.read(event)) is None else called.tool for event in self
        ]

    @property
    def payloads(self) -> list[Any]:
        """The payload of each event, as plain data."""
        return [event.payload for event in self]


class MeshUnderTest(TaskCalls):
    """A running mesh, with what tests ask of it, by the calls of `Client`. `model` answers its agents.

    `outcome`, and so `ask`, raises ScriptEnded where the task failed since the scripted model ran out of
    replies, PromptError where an agent ran on a built-in prompt, since its own is missing or broken (one that
    a test file defines for itself needs none), and MeshError after 30 seconds. The `text` of an outcome
    raises TaskFailed where the task failed without one.
    """

    def __init__(
        self, mesh: Mesh, model: Model, clock: Clock | None, agents: Sequence[type[Agent]] = ()
    ) -> None:
        self.mesh = mesh
        self.model = model
        self._clock = clock
        self._without_prompt = {agent.prompt for agent in agents if _is_of_tests(agent)}
        self._events: list[Event] = []
        self._returned: set[str] = set()  # the tasks whose outcome the test has
        mesh.runtime.listen("#", self._events.append)

    @property
    def client(self) -> Client:
        """A client of the mesh in this process: all that is not here, such as `task`, `inbox` and `retry`."""
        return Client.local(self.mesh)

    async def _submit(self, request: TaskRequest | dict[str, Any], idempotency_key: str | None) -> Receipt:
        try:
            task = request if isinstance(request, TaskRequest) else TaskRequest(**request)
        except ValidationError as error:
            raise invalid_field(error) from None
        return await self.mesh.get(Tasks).submit(task, idempotency_key=idempotency_key)

    async def _outcome(self, task_id: str) -> OutcomeUnderTest:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                outcome = await self.mesh.get(Tasks).outcome(task_id)
        except TimeoutError:
            last = ", ".join(self.events(task_id=task_id).names[-_SHOWN_EVENTS:])
            raise MeshError(
                f"task {task_id} has no outcome after {_PATIENCE_SECONDS:.0f} s; its last events: {last}",
                remedy="where it waits for the clock, move that by mesh.advance(seconds)",
            ) from None
        self._returned.add(task_id)
        self._check_prompts()
        if not outcome.success and isinstance(self.model, ScriptedModel) and self.model.ended is not None:
            raise self.model.ended
        return OutcomeUnderTest(**{name: getattr(outcome, name) for name in outcome.__struct_fields__})

    def _check_prompts(self) -> None:
        for event in (*self.events("prompt.fallback"), *self.events("prompt.rejected")):
            rejected = PromptRejected.from_payload(event.payload)
            missing, name = not Path(rejected.path).exists(), rejected.name
            if name not in BUILT_IN and not (missing and name in self._without_prompt):
                problem = f"an agent ran without its own prompt: {rejected.error}"
                raise PromptError(problem, remedy=rejected.remedy or "")

    def events(self, event_type: str | None = None, *, task_id: str | None = None) -> Events:
        """The events so far, or those of a type or a task."""
        return Events(
            event
            for event in self._events
            if event_type in (None, event.event_type) and task_id in (None, event.task_id)
        )

    async def questions(self, count: int = 1) -> list[Question]:
        """Wait until so many questions wait for people, and return all that do, the oldest first.

        Raises TaskFailed where the last task that was open has failed and its outcome was not asked for,
        MeshError after 30 seconds.
        """
        news = asyncio.Event()
        stop = self.mesh.runtime.listen("#", lambda event: news.set(), ("task.waiting", *_FAILURES))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while len(questions := (await self.mesh.get(Inbox).page(Caller().tenant_id)).items) < count:
                    await _settle()  # a task that the test has begun beside this is accepted
                    if task_id := self._last_failure():
                        (await self._outcome(task_id)).read(str)
                    await news.wait()
                    news.clear()
        except TimeoutError:
            raise MeshError(f"no {count} questions wait for people after {_PATIENCE_SECONDS:.0f} s") from None
        finally:
            stop()
        return list(questions)

    def _last_failure(self) -> str | None:
        """The task that failed last, if none is open now."""
        open_tasks, failed = set[str | None](), None
        for event in self._events:
            if event.event_type in _BEGINNINGS:
                open_tasks.add(event.task_id)
                failed = None
            elif event.event_type in _ENDS:
                open_tasks.discard(event.task_id)
                failed = event.task_id if event.event_type in _FAILURES else None
        return None if open_tasks or failed in self._returned else failed

    async def answer(
        self, question: Question | str, value: Any, *, key: str = "", by: str = "tester"
    ) -> None:
        """Answer a question as `Client.answer` does, as the caller `by`. Raises what `Tasks.answer` does."""
        caller = Caller(requested_by=by, roles=ALL_ROLES)
        if not isinstance(question, str) and question.source:
            await self.mesh.get(WholeInbox).answer(question, value, caller)
            return
        task_id, wait_id = resolve_wait(question, key)
        await self.mesh.get(Tasks).answer(task_id, wait_id, value, caller)

    async def advance(self, seconds: float) -> None:
        """Move the clock, and let run what is due. Only for a mesh with a ManualClock."""
        if not isinstance(self._clock, ManualClock):
            raise TypeError("this mesh runs on real time: build it by mesh_for(..., clock=ManualClock())")
        await self._clock.advance(seconds)


def _is_of_tests(agent: type[Agent]) -> bool:
    """Whether an agent is defined in a test file, or beside one in a folder of tests."""
    path = Path(sys.modules[agent.__module__].__file__ or "")
    return path.name.startswith(("test_", "conftest")) or "tests" in path.parts


@asynccontextmanager
async def mesh_for(
    *agents: type[Agent],
    model: Model | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    project: Path | None = None,
    **settings: Any,
) -> AsyncIterator[MeshUnderTest]:
    """Run a mesh in memory: with these agents, or without any named with those of the project.

    `model` is by default a ScriptedModel with nothing to say yet; `project` is the folder of prompts and
    settings, by default the working directory; `settings` are those of `Settings`. An error of the model ends
    the run, which waits for no provider; `models={"park": True}` lets it.

        async with mesh_for(Greeter, model=ScriptedModel("Hello!")) as mesh:
            outcome = await mesh.ask("greeter", "Say hello.")
    """
    project = project or Path.cwd()
    model = model or ScriptedModel()
    settings["models"] = {"park": False, **settings.get("models", {})}

    def runtime(deps: StoreDeps) -> Runtime:
        return memory_runtime(deps.clock, log=deps.log, database=deps.database, faults=faults)

    mesh = build_mesh(
        load_settings(project, store="memory", **settings),
        project=project,
        agents=agents or None,
        model=_ScriptedAdapter(model) if isinstance(model, ScriptedModel) else model,
        clock=clock,
        runtime=runtime,
    )
    under_test = MeshUnderTest(mesh, model, clock, agents)
    async with mesh:
        yield under_test


RuntimeT = TypeVar("RuntimeT", bound=Runtime)
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock to move by hand: nothing that waits for it waits in real time.

    It starts at `now`, or else at the beginning of 2026.
    """

    def __init__(self, now: datetime = BEGINNING) -> None:
        self._now = now
        self._passed = 0.0
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """The time now, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the beginning: those that it was moved ahead."""
        return self._passed

    def jump(self, seconds: float) -> None:
        """Set it forward or back: no time passes, and no sleep lasts longer."""
        change = timedelta(seconds=seconds)
        self._now += change
        if seconds < 0:
            self._sleepers = [(when + change, n, alarm) for when, n, alarm in self._sleepers]

    async def sleep_until(self, when: datetime) -> None:
        """Return once the clock has been moved to that time, at once if it has passed."""
        if when <= self._now:
            await asyncio.sleep(0)
            return
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, next(self._order), alarm))
        await alarm

    async def advance(self, seconds: float) -> None:
        """Move ahead by that much, stopping wherever somebody sleeps until, so that what is due can run.

        Work that a turn starts in another thread or process may still be under way on return: wait for the
        event that tells its end.
        """
        end = self._now + timedelta(seconds=seconds)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._pass_until(self._sleepers[0][0])
            count = len(self._sleepers)
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, alarm = heapq.heappop(self._sleepers)
                if not alarm.done():  # the sleeper may have been cancelled
                    alarm.set_result(None)
            if not await self._is_idle(count):
                await _settle()
        self._pass_until(end)
        await _settle()

    async def _is_idle(self, count: int) -> bool:
        """Whether all sleepers went back to sleep at once and started nothing, as idle duties do."""
        ready = getattr(asyncio.get_running_loop(), "_ready", None)  # other loops do not say what is ready
        for _ in range(_IDLE_PASSES):
            await asyncio.sleep(0)
        return ready is not None and not ready and len(self._sleepers) >= count

    def _pass_until(self, when: datetime) -> None:
        self._passed += max(0.0, (when - self._now).total_seconds())
        self._now = max(self._now, when)


async def _settle() -> None:
    for _ in range(_SETTLING_PASSES):
        await asyncio.sleep(0)


def memory_runtime(
    clock: Clock | None = None,
    *,
    sort: type[RuntimeT] = Runtime,  # type: ignore[assignment]
    data: MemoryData | None = None,
    log: EventLog | None = None,
    database: Database | None = None,
    faults: Faults | None = None,
    **options: Any,
) -> RuntimeT:
    """A runtime in memory, of a subclass if you name a `sort`; the options are those of `Runtime`.

    Runtimes on the same `data` stand for workers that share a store. `log` gets every event, and its
    `database` is opened and closed with the runtime. `faults` brings about what may go wrong.
    """
    store = InMemoryStore(data, log=log, database=database, faults=faults)
    return sort(store, clock=clock, strict=True, **options)
