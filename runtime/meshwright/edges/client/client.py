"""The client. It returns the models that the mesh sends, and raises the mesh's errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import quote

from meshwright.core.capability import AgentInfo
from meshwright.core.clock import Backoff
from meshwright.core.encoding import Struct
from meshwright.core.errors import Conflict, MeshError, Overloaded, error_of_code
from meshwright.core.events import Event
from meshwright.core.files import File
from meshwright.core.ids import new_id
from meshwright.core.messages import ENDED, Outcome, Receipt, ScoreCard, TaskRequest, Usage
from meshwright.edges.client.administration import AdministrationCalls
from meshwright.edges.client.calls import (
    MAX_TASKS,
    BatchCalls,
    CriteriaFields,
    FilterFields,
    TaskCalls,
    resolve_wait,
    task_path,
)
from meshwright.edges.client.transports import (
    CALL_SECONDS,
    DEFAULT_URL,
    AsgiTransport,
    HttpTransport,
    RequestSender,
    Response,
)
from meshwright.engine.events.tasks import TaskSummary
from meshwright.mesh.identity.settings import KeysSettings

if TYPE_CHECKING:  # what a method returns it imports itself: the whole mesh hangs on these modules
    from meshwright.engine.events.answers import RevealedQuestion
    from meshwright.engine.events.inbox import Question, QuestionClaim
    from meshwright.engine.events.status import MeshStatus
    from meshwright.engine.events.task_lists import TaskOrder
    from meshwright.engine.work.record import StepSummary, StepView, TaskView
    from meshwright.mesh.mesh import Mesh
    from meshwright.parts.figures.records import Figures

MODEL_SECONDS = 600.0
MAX_EVENTS = 1000  # of one page
_STEPS_A_PAGE = 50  # with what was said
_MAX_WAITS = 256  # requests that wait for an outcome, on a connection each; of more the tasks are polled
_WAIT_SECONDS = 30.0  # of one request: proxies cut off what is silent for a minute
_PAUSES = 0.1, 5.0  # between two polls: the first, and the longest
ENDINGS = frozenset(f"task.{status}" for status in ENDED)
"""The types of a task's last event, whose payload is its outcome."""


class EventFields(CriteriaFields, total=False):
    """The fields by which events are filtered: their own, and those of their tasks."""

    task_id: str | None
    """Events of this task."""
    event_type: str | None
    """Events of this type, such as `task.accepted`."""
    trace_id: str | None
    """Events of this trace."""
    aggregate_id: str | None
    """Events of this actor."""
    idempotency_key: str | None
    """Events that were published with this key."""
    topic: str | None
    """Events on this topic."""
    deployment: str | None
    """Model calls that this deployment answered or failed in."""
    failed_at: str | None
    """Model calls in which this deployment failed."""


class _Accepted(Struct):
    """The fields that a receipt and the view of a task have in common."""

    task_id: str


class Completion(Struct):
    """The answer of a model."""

    content: str
    """The text."""
    model: str
    """The model that answered."""
    usage: Usage
    """The tokens of the call."""


class Client(TaskCalls, BatchCalls, AdministrationCalls):
    """A mesh to talk to.

        async with Client("http://127.0.0.1:8000") as mesh:
            outcome = await mesh.ask("simple-agent", "What is a turn?")

    `api_key` is a key or the admin token; a mesh without keys needs none from its own machine, and its own
    user needs none over `socket_path`, the `mesh.sock` of its data folder, which then takes the place of the
    URL. `tenant` is the one to act for, with credentials of all tenants.

    `timeout` bounds a call, in seconds. If a mesh that has answered before stops, or the connection to it
    breaks, calls that are safe to repeat are repeated for up to 30 s, and streams resume where they broke.

    Raises the mesh's own errors (MeshError) with their remedies, MeshUnreachable if none answers, and
    ClientClosed after its end.
    """

    _waits = 0

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = CALL_SECONDS,
        socket_path: str | PathLike[str] | None = None,
        tenant: str | None = None,
    ) -> None:
        super().__init__(RequestSender(HttpTransport(url, socket_path), api_key, timeout, tenant))

    @classmethod
    def local(cls, mesh: Mesh, *, tenant: str | None = None) -> Self:
        """A client of a running mesh in this process, without a socket; it holds the mesh's admin token."""
        from meshwright.edges.http.app import create_app

        token = mesh.settings[KeysSettings].admin_token
        client = cls()
        transport, secret = AsgiTransport(create_app(mesh)), token.get_secret_value() if token else None
        client._connection = RequestSender(transport, secret, CALL_SECONDS, tenant)
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Tasks continue."""
        await self._connection.close()

    async def is_alive(self) -> bool:
        """Whether a mesh answers."""
        return await self._connection.is_alive()

    async def call(self, method: str, path: str, *, body: Any = None, **params: Any) -> Any:
        """Call any route of the HTTP API; returns the JSON of its answer, or None where it has none."""
        return await self._connection.call(method, path, body=body, params=params)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Response]:
        """Open any route of the HTTP API: its status, and its body in the `chunks` in which it comes.

        For other protocols that the mesh speaks. Nothing is sent again. `BlockingClient` has no such method.
        """
        async with self._connection.open(method, path, body=body, headers=headers) as response:
            yield response

    async def items(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """All items that a route of the HTTP API lists, page by page."""
        return [item async for item in self._connection.items(path, params)]

    async def _submit(self, request: TaskRequest | dict[str, Any], idempotency_key: str | None) -> Receipt:
        return self._connection.read(
            Receipt.model_validate, "/tasks", await self._post_task(request, idempotency_key)
        )

    async def _post_task(
        self, request: TaskRequest | dict[str, Any], idempotency_key: str | None, **options: Any
    ) -> Any:
        is_whole = isinstance(request, TaskRequest)
        body = request.model_dump(mode="json", exclude_defaults=True) if is_whole else request
        if idempotency_key is None:
            body.setdefault("task_id", new_id())  # makes it safe to send again
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._connection.call(
            "POST", "/tasks", body=body, headers=headers, repeats=True, **options
        )

    async def _ask(self, request: TaskRequest | dict[str, Any], idempotency_key: str | None) -> Outcome:
        with self._waiting() as (_, options):
            view = await self._post_task(request, idempotency_key, **options)
        if isinstance(view, dict) and view.get("outcome"):
            return self._connection.read(Outcome.model_validate, "/tasks", view["outcome"])
        receipt = self._connection.read(_Accepted.model_validate, "/tasks", view)
        return await self._outcome(receipt.task_id)

    async def _outcome(self, task_id: str) -> Outcome:
        from meshwright.engine.work.record import TaskView

        path, pauses = task_path(task_id), Backoff(*_PAUSES, jitter=0.5)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            with self._waiting() as (seconds, options):
                try:
                    view = await self._connection.get(TaskView, path, **options)
                except Overloaded:  # other programs of the same caller wait too
                    view = await self.task(task_id)
            if view.outcome:
                return view.outcome
            if loop.time() - started < (seconds or math.inf):  # it could not wait, or answered a question
                await asyncio.sleep(pauses.next())

    @contextmanager
    def _waiting(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """The seconds that a request may wait for an outcome, and its options; 0 where too many do."""
        seconds = _WAIT_SECONDS if self._waits < _MAX_WAITS else 0.0
        self._waits += 1
        try:
            yield seconds, {"params": {"wait": seconds}, "wait_seconds": seconds} if seconds else {}
        finally:
            self._waits -= 1

    async def _follow(self, task_id: str, generation: int, after_seq: int = 0) -> AsyncGenerator[Event]:
        path = f"{task_path(task_id)}/events"
        async with aclosing(self._connection.events(path, {}, after_seq)) as events:
            async for event in events:
                yield event
                if event.event_type in ENDINGS and event.fields.get("generation", 1) >= generation:
                    return

    async def task(self, task_id: str) -> TaskView:
        """A task with its attempts and outcome. Raises NotFound."""
        from meshwright.engine.work.record import TaskView

        return await self._connection.get(TaskView, task_path(task_id))

    async def file(self, task_id: str, number: int = 1) -> File:
        """A file of a task's outcome with its bytes, counted from 1; one that is elsewhere has a `url`.

        Raises NotFound.
        """
        accept = {"Accept": "application/json"}
        return await self._connection.get(File, f"{task_path(task_id)}/files/{number}", headers=accept)

    async def tasks(
        self,
        *,
        task_id: str | None = None,
        order: TaskOrder = "created",
        limit: int = 50,
        **fields: Unpack[FilterFields],
    ) -> list[TaskSummary]:
        """The newest tasks first, or by `order="changed"` those that changed last.

        `task_id` is the beginning or the end of their ids. Raises NotFound for a value of the `fields` that
        there never was.
        """
        params = {**fields, "task_id": task_id, "order": order}
        return await self._connection.get_list(TaskSummary, "/tasks", params, limit=limit, page=MAX_TASKS)

    async def steps(self, task_id: str, *, attempt: int | None = None) -> list[StepSummary]:
        """The steps of an agent for a task: those of one attempt, or of all. Raises NotFound."""
        from meshwright.engine.work.record import StepSummary

        path = f"{task_path(task_id)}/steps"
        return await self._connection.get_list(StepSummary, path, {"attempt": attempt}, page=MAX_TASKS)

    async def step(
        self, task_id: str, path: str, *, attempt: int | None = None, max_chars: int | None = None
    ) -> StepView:
        """One step with what was said, by default of the last attempt. Raises NotFound.

        A text over `max_chars` characters is cut, and says so.
        """
        from meshwright.engine.work.record import StepView

        params = {"attempt": attempt, "max_chars": max_chars}
        return await self._connection.get(
            StepView, f"{task_path(task_id)}/steps/{quote(path, safe='')}", params=params
        )

    async def transcript(
        self, task_id: str, *, attempt: int | None = None, max_chars: int | None = None
    ) -> AsyncGenerator[StepView]:
        """All steps with what was said, the messages of each being those that no step before it had.

        Raises NotFound.
        """
        from meshwright.engine.work.record import StepView

        params = {"attempt": attempt, "max_chars": max_chars, "contents": "true"}
        path = f"{task_path(task_id)}/steps"
        async for item in self._connection.items(path, params, page=_STEPS_A_PAGE):
            yield StepView.model_validate(item)

    async def cancel(self, task_id: str) -> TaskView:
        """Ask for the end of a task; its outcome follows when its agent has let go. Raises NotFound."""
        from meshwright.engine.work.record import TaskView

        return await self._connection.get(TaskView, f"{task_path(task_id)}/cancel", "POST", repeats=True)

    async def answer(
        self, question: Question | str, value: Any, *, key: str = "", anyway: bool = False
    ) -> TaskView | None:
        """Answer a question as `inbox` lists it, or by the id of its task and its `wait_id` as `key`.

        Returns the task as it is then; None for an item of the inbox that is no task's. Raises NotFound where
        the task does not wait for that, Conflict where that was answered or has expired, InvalidInput for a
        value that does not fit its `answer_schema`, and Forbidden. A question as listed is refused with
        Conflict if it is another by then, and so is one that another caller has claimed, unless `anyway`.
        """
        if not isinstance(question, str) and question.source:
            await self._decide(question, value)  # it has no claim
            return None
        from meshwright.engine.work.record import TaskView

        task_id, wait_id = resolve_wait(question, key)
        body = {"key": wait_id, "value": value}
        if anyway:
            body["anyway"] = True
        if not isinstance(question, str) and question.digest:
            body["digest"] = question.digest
        path = f"{task_path(task_id)}/answer"
        return TaskView.model_validate(await self._connection.call("POST", path, body=body))

    async def claim(self, question: Question | str) -> QuestionClaim:
        """Say that you are looking at a question, as `inbox` lists it or by its id; once more renews that.

        Answers of others are refused meanwhile, unless they are given `anyway`. Raises Conflict where another
        caller has claimed it or it has ended, NotFound, and Forbidden for those who may not answer it.
        """
        return await self._change_claim(question, "claim")

    async def release_claim(self, question: Question | str) -> QuestionClaim:
        """End your claim of a question. Raises what `claim` raises."""
        return await self._change_claim(question, "release")

    async def _change_claim(self, question: Question | str, verb: str) -> QuestionClaim:
        from meshwright.engine.events.inbox import QuestionClaim

        question_id = question if isinstance(question, str) else question.id
        path = f"/inbox/{quote(question_id, safe='')}/{verb}"
        return await self._connection.get(QuestionClaim, path, "POST")

    async def reveal(self, question: Question | str, *, key: str = "") -> RevealedQuestion:
        """The hidden parts of a question that the caller may answer; the mesh records who reads them.

        Takes and raises what `answer` does.
        """
        from meshwright.engine.events.answers import RevealedQuestion

        task_id, wait_id = resolve_wait(question, key)
        path = f"{task_path(task_id)}/reveal"
        return await self._connection.get(RevealedQuestion, path, "POST", body={"key": wait_id})

    async def _decide(self, question: Question, value: Any) -> None:
        """Answer an item of the inbox that is no task's."""
        answered = await self.answer_all(value, id=question.id, digest=question.digest or "")
        if not answered:
            raise Conflict(f"That is open no longer: {question.question}", field="id")
        for one in answered:
            if one.refused is not None:
                kind = error_of_code(one.refused.type, MeshError) or Conflict
                raise kind(one.refused.message, field="id")

    async def inbox(
        self, *, id: str | None = None, ended: bool = False, limit: int = 50, **fields: Unpack[FilterFields]
    ) -> list[Question]:
        """Questions that wait for people: doubts first, then the oldest; with `ended` all, by age.

        `id` is the beginning or the end of an id, or of the id of a task. The `fields` are those of the tasks
        that ask. Raises NotFound for a value of them that there never was.
        """
        from meshwright.engine.events.inbox import Question

        params = {**fields, "id": id, "ended": ended}
        return await self._connection.get_list(Question, "/inbox", params, limit=limit, page=MAX_TASKS)

    async def follow(self, task_id: str, *, after_seq: int = 0) -> AsyncGenerator[Event]:
        """The events of a task as they happen, from its first to its last. Raises NotFound.

        Pieces of an answer (`model.delta`) have no `seq`, since the log does not have them.
        """
        generation = await self._connection.field("generation", "GET", task_path(task_id))
        async with aclosing(self._follow(task_id, generation, after_seq)) as events:
            async for event in events:
                yield event

    async def stream(
        self, *, after_seq: int | None = None, **fields: Unpack[EventFields]
    ) -> AsyncGenerator[Event]:
        """Events as they are committed, from now on or after a `seq`: each once, and none left out."""
        begin = await self.last_seq() if after_seq is None else after_seq
        async with aclosing(self._connection.events("/events/stream", fields, begin)) as events:
            async for event in events:
                yield event

    async def events(
        self,
        *,
        limit: int = 100,
        after_seq: int | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        **fields: Unpack[EventFields],
    ) -> list[Event]:
        """The last events that match, oldest first. Raises NotFound for a task's value that never was."""
        query = {**fields, "after_seq": after_seq, "since": since, "until": until, "order": "desc"}
        events, before = list[Event](), None
        while len(events) < limit:
            page = {"limit": min(limit - len(events), MAX_EVENTS), "before_seq": before}
            answer = await self._connection.page("/events", {**query, **page})
            events += map(Event.model_validate, answer["items"])
            if (before := answer.get("next_seq")) is None:
                break
        return events[::-1]

    async def publish(
        self,
        topic: str,
        event_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> str:
        """Publish an event to a topic that begins with `app.`; returns its id. It is durable then.

        The log has its type with `app.` before it.
        """
        body = {"topic": topic, "event_type": event_type, "payload": dict(payload or {})}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        repeats = idempotency_key is not None
        return await self._connection.field(
            "id", "POST", "/events", body=body, headers=headers, repeats=repeats
        )

    async def last_seq(self) -> int:
        """The `seq` of the newest event, or 0."""
        newest = await self.events(limit=1)
        return newest[0].seq or 0 if newest else 0

    async def agents(self) -> list[AgentInfo]:
        """Registered agents, with their capabilities and status."""
        return await self._connection.get_list(AgentInfo, "/agents")

    async def scores(self, capability: str) -> list[ScoreCard]:
        """How agents score for a capability, best first. Raises NotFound."""
        return await self._connection.get_list(ScoreCard, f"/agents/score/{quote(capability, safe='')}")

    async def status(self) -> MeshStatus:
        """Open tasks by status, what they wait for, and the deployments that are left alone."""
        from meshwright.engine.events.status import MeshStatus

        return await self._connection.get(MeshStatus, "/status")

    async def figures(self) -> Figures:
        """Agents, workers, models, what is parked, stuck or dead, and the disk, in numbers."""
        from meshwright.parts.figures.records import Figures

        return await self._connection.get(Figures, "/figures")

    async def models(self) -> list[str]:
        """The models that callers may name."""
        return [model["id"] for model in await self._connection.field("data", "GET", "/v1/models")]

    async def complete(
        self, messages: str | Sequence[Mapping[str, Any]], *, model: str = "quality", **options: Any
    ) -> Completion:
        """Have a model answer without an agent: `quality` or `fast`. Never repeated, since it costs."""
        items = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        body = {"model": model, "messages": items, **options}
        return await self._connection.get(Completion, "/complete", "POST", body=body, timeout=MODEL_SECONDS)
