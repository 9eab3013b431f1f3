"""The async client. Its results are the models that the mesh itself sends, its errors the mesh's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack
from urllib.parse import quote

from meshwright.backoff import Backoff
from meshwright.capability import AgentInfo
from meshwright.client.transports import AsgiTransport, HttpTransport, MeshUnreachable, Request
from meshwright.errors import Draining, MeshError, ModelError, Overloaded, StoreUnavailable
from meshwright.events.tasks import TaskSummary
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.costs import By, Costs
from meshwright.ledger.keys import Key, NewKey
from meshwright.messages import ENDED, Event, Outcome, Plain, Receipt, ScoreCard, TaskStatus, Usage, new_id
from meshwright.work.record import TaskView

if TYPE_CHECKING:
    from meshwright.mesh import Mesh

DEFAULT_URL = "http://127.0.0.1:8000"
RETRY_SECONDS = 30.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
CALL_SECONDS, MODEL_SECONDS = 60.0, 600.0
MAX_TASKS, MAX_EVENTS = 500, 1000  # of one page
NO_CONTENT = 204
TRANSIENT = (MeshUnreachable, Draining, StoreUnavailable)
ENDINGS = frozenset(f"task.{status}" for status in ENDED)
"""The types of a task's last event, whose payload is its outcome."""


class TaskFields(TypedDict, total=False):
    """A task: what it names, and its times in seconds (`timeout` of one attempt, `deadline` of all)."""

    capability: str | None
    agent_id: str | None
    payload: dict[str, Any]
    priority: int
    timeout: float
    deadline: float | None
    thread_id: str | None
    task_id: str | None
    budget_usd: Decimal | str | None
    idempotency_key: str | None


class EventFields(TypedDict, total=False):
    """What events must have in common."""

    task_id: str | None
    agent_id: str | None
    event_type: str | None
    trace_id: str | None
    aggregate_id: str | None
    idempotency_key: str | None
    topic: str | None


class Completion(Plain):
    """What a model answered."""

    content: str
    model: str
    usage: Usage


class Client:
    """A mesh to talk to.

        async with Client("http://127.0.0.1:8000") as mesh:
            outcome = await mesh.ask("What is a turn?", agent_id="simple-agent")

    `api_key` is a key or the admin token; a mesh without keys needs none from its own machine. `timeout`
    bounds a call, in seconds. If a mesh that has answered before stops, or the connection to it breaks,
    calls that are safe to repeat are repeated for up to 30 s, and streams resume where they broke.

    Raises the mesh's own errors (MeshError) with their remedies, and MeshUnreachable if none answers.
    """

    def __init__(
        self, url: str = DEFAULT_URL, api_key: str | None = None, *, timeout: float = CALL_SECONDS
    ) -> None:
        self._transport: HttpTransport | AsgiTransport = HttpTransport(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._reached = False

    @classmethod
    def local(cls, mesh: Mesh) -> Self:
        """A client of a running mesh in this process, without a socket; it holds the mesh's admin token."""
        from meshwright.edges.http.app import create_app

        token = mesh.settings.keys.admin_token
        client = cls(api_key=token.get_secret_value() if token else None)
        client._transport = AsgiTransport(create_app(mesh))
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Tasks continue."""
        await self._transport.close()

    async def is_alive(self) -> bool:
        """Whether a mesh answers."""
        try:
            async with self._transport.send(self._request("GET", "/healthz")) as response:
                return response.status == 200
        except MeshUnreachable:
            return False

    async def submit(self, text: str | None = None, **fields: Unpack[TaskFields]) -> Receipt:
        """Submit a task to an agent (`agent_id`), or to the best one for a `capability`.

        `text` is the request in words: `payload["text"]`. The task is durable when this returns.
        """
        body: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        if text is not None:
            body["payload"] = {**body.get("payload", {}), "text": text}
        key = body.pop("idempotency_key", None)
        if key is None:
            body.setdefault("task_id", new_id())  # makes it safe to send again
        headers = {"Idempotency-Key": key} if key else {}
        return Receipt.model_validate(
            await self._call("POST", "/tasks", body=body, headers=headers, repeats=True)
        )

    async def ask(self, text: str, **fields: Unpack[TaskFields]) -> Outcome:
        """Submit a task and wait for its outcome. The task continues if the wait is cancelled."""
        return await self.outcome((await self.submit(text, **fields)).task_id)

    async def outcome(self, task_id: str) -> Outcome:
        """Wait for the outcome of a task. Raises NotFound."""
        if outcome := (await self.task(task_id)).outcome:
            return outcome
        async with aclosing(self.follow(task_id)) as events:
            async for event in events:
                if event.event_type in ENDINGS:
                    return Outcome.model_validate(event.payload)
        raise MeshError(f"the events of task {task_id} end without its outcome")

    async def task(self, task_id: str) -> TaskView:
        """A task with its attempts and outcome. Raises NotFound."""
        return TaskView.model_validate(await self._call("GET", _task_path(task_id)))

    async def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        capability: str | None = None,
        task_id: str | None = None,
        limit: int = 50,
    ) -> list[TaskSummary]:
        """The newest tasks first. `task_id` is the beginning or the end of their ids."""
        fields = {"status": status, "capability": capability, "task_id": task_id}
        found, cursor = list[TaskSummary](), None
        while len(found) < limit:
            page = {"limit": min(limit - len(found), MAX_TASKS), "cursor": cursor}
            answer = await self._call("GET", "/tasks", params={**fields, **page})
            found += map(TaskSummary.model_validate, answer["items"])
            if (cursor := answer.get("cursor")) is None:
                break
        return found

    async def cancel(self, task_id: str) -> TaskView:
        """Ask for the end of a task; its outcome follows when its agent has let go. Raises NotFound."""
        path = f"{_task_path(task_id)}/cancel"
        return TaskView.model_validate(await self._call("POST", path, repeats=True))

    async def answer(self, task_id: str, key: str, value: Any) -> TaskView:
        """Answer what a task waits for, under the `key` of its `task.waiting` event. Raises NotFound."""
        body = {"key": key, "value": value}
        return TaskView.model_validate(await self._call("POST", f"{_task_path(task_id)}/answer", body=body))

    async def follow(self, task_id: str, *, after_seq: int = 0) -> AsyncGenerator[Event]:
        """The events of a task as they happen, from its first to its last. Raises NotFound.

        Pieces of an answer (`model.delta`) have no `seq`, since the log does not have them.
        """
        async with aclosing(self._resumed(f"{_task_path(task_id)}/events", {}, after_seq)) as events:
            async for event in events:
                yield event
                if event.event_type in ENDINGS:
                    return

    async def stream(
        self, *, after_seq: int | None = None, **fields: Unpack[EventFields]
    ) -> AsyncGenerator[Event]:
        """Events as they are committed, from now on or after a `seq`: each once, and none left out."""
        begin = await self.last_seq() if after_seq is None else after_seq
        async with aclosing(self._resumed("/events/stream", fields, begin)) as events:
            async for event in events:
                yield event

    async def events(
        self,
        *,
        limit: int = 100,
        after_seq: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        **fields: Unpack[EventFields],
    ) -> list[Event]:
        """The last events that match, oldest first."""
        wanted = {**fields, "after_seq": after_seq, "since": since, "until": until, "order": "desc"}
        found, before = list[Event](), None
        while len(found) < limit:
            page = {"limit": min(limit - len(found), MAX_EVENTS), "before_seq": before}
            answer = await self._call("GET", "/events", params={**wanted, **page})
            found += map(Event.model_validate, answer["items"])
            if (before := answer["next_seq"]) is None:
                break
        return found[::-1]

    async def last_seq(self) -> int:
        """The `seq` of the newest event, or 0."""
        newest = await self.events(limit=1)
        return newest[0].seq or 0 if newest else 0

    async def agents(self) -> list[AgentInfo]:
        """Registered agents, with their capabilities and status."""
        return [AgentInfo.model_validate(item) for item in await self._items("/agents")]

    async def scores(self, capability: str) -> list[ScoreCard]:
        """How agents score for a capability, best first. Raises NotFound."""
        path = f"/agents/score/{quote(capability, safe='')}"
        return [ScoreCard.model_validate(item) for item in await self._items(path)]

    async def budgets(self) -> list[BudgetView]:
        """What each budget allows, and what of it is spent and reserved."""
        return [BudgetView.model_validate(item) for item in await self._items("/budgets")]

    async def costs(self, by: By = "agent", *, since: datetime | str | None = None) -> Costs:
        """What model calls cost, most expensive first. `since` is a time, or a duration such as `24h`."""
        return Costs.model_validate(await self._call("GET", "/costs", params={"by": by, "since": since}))

    async def models(self) -> list[str]:
        """The models that callers may name."""
        return [model["id"] for model in (await self._call("GET", "/v1/models"))["data"]]

    async def complete(
        self, messages: str | Sequence[Mapping[str, Any]], *, model: str = "quality", **options: Any
    ) -> Completion:
        """Have a model answer without an agent: `quality` or `fast`. Never repeated, since it costs."""
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        body = {"model": model, "messages": said, **options}
        answer = await self._call("POST", "/complete", body=body, timeout=MODEL_SECONDS)
        return Completion.model_validate(answer)

    async def keys(self) -> list[Key]:
        """Keys, oldest first, without their secrets. Managing keys needs the admin token."""
        return [Key.model_validate(item) for item in await self._items("/keys")]

    async def keys_required(self) -> bool:
        """Whether callers need a key."""
        return (await self._call("GET", "/keys"))["required"]

    async def create_key(
        self, agent_id: str, *, tenant_id: str = "default", budget: str | None = None, force: bool = False
    ) -> NewKey:
        """Create a key, whose secret is shown this once. `budget` is like `5.00/day`.

        Creating the first key makes keys mandatory. `force` allows an agent that the mesh does not have.
        """
        body = {"agent_id": agent_id, "tenant_id": tenant_id, "budget": budget, "force": force}
        return NewKey.model_validate(await self._call("POST", "/keys", body=body))

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key. Raises NotFound."""
        path = f"/keys/{quote(key_id, safe='')}"
        return Key.model_validate(await self._call("DELETE", path, repeats=True))

    async def open_keys(self) -> int:
        """Revoke all keys, and require none until another is created. Returns how many were revoked."""
        return (await self._call("POST", "/keys/open"))["revoked"]

    async def _items(self, path: str) -> list[Any]:
        return (await self._call("GET", path))["items"]

    async def _call(self, method: str, path: str, *, repeats: bool = False, **options: Any) -> Any:
        """The JSON of an answer. Reads, and what `repeats` without harm, are sent again after a failure."""
        request, tries = self._request(method, path, **options), _Retries()
        while True:
            try:
                async with self._transport.send(request) as response:
                    self._reached = True
                    text = b"".join([chunk async for chunk in response.chunks])
                if response.status >= 400:
                    raise _error_of(self._transport.url + path, response.status, text)
                return json.loads(text)
            except TRANSIENT as error:
                if not self._reached or not (repeats or method == "GET"):
                    raise
                await tries.pause_after(error)

    async def _resumed(self, path: str, fields: Mapping[str, Any], after_seq: int) -> AsyncGenerator[Event]:
        """The events of a stream, resumed after the last one seen when the connection breaks."""
        tries, problem = _Retries(), MeshError(f"{path} ends at once")
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)}
            request = self._request("GET", path, params=fields, headers=headers, timeout=None)
            try:
                async with self._transport.send(request) as response:
                    self._reached = True
                    if response.status == NO_CONTENT:
                        return
                    if response.status != 200:
                        text = b"".join([chunk async for chunk in response.chunks])
                        raise _error_of(self._transport.url + path, response.status, text)
                    async with aclosing(_server_events(response.chunks)) as events:
                        async for event in events:
                            tries = _Retries()
                            after_seq = event.seq or after_seq
                            yield event
            except TRANSIENT as error:
                if not self._reached:
                    raise
                problem = error
            await tries.pause_after(problem)

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        timeout: float | None = CALL_SECONDS,
    ) -> Request:
        query = {name: _text(value) for name, value in (params or {}).items() if value is not None}
        content = b"" if body is None else json.dumps(body, default=str).encode()
        kind = {"Content-Type": "application/json"} if content else {}
        limit = self._timeout if timeout == CALL_SECONDS else timeout
        return Request(method, path, query, {**self._headers, **kind, **(headers or {})}, content, limit)


class _Retries:
    """The pauses between tries, until it has been too long."""

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=0.5)
        self._until = asyncio.get_running_loop().time() + RETRY_SECONDS

    async def pause_after(self, error: MeshError) -> None:
        """Wait before the next try, or raise the error if time is up."""
        if asyncio.get_running_loop().time() > self._until:
            raise error
        await asyncio.sleep(self._backoff.next())


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _task_path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


async def _server_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Event]:
    """The events of a stream, however it is cut into chunks. Their data names id and type as well."""
    rest, data = b"", list[bytes]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif not name and not value and data:
                yield Event.model_validate_json(b"\n".join(data))
                data.clear()


def _error_of(url: str, status: int, text: bytes) -> MeshError:
    """The error that a problem document describes."""
    try:
        problem = json.loads(text)
        message = problem.get("detail") or problem["title"]
    except (ValueError, AttributeError, KeyError):
        return MeshError(
            f"{url} answered {status} in no way that a mesh does",
            remedy="Check that --url or MESH_URL is the address of a mesh",
        )
    kind = _kinds().get(problem.get("code"), MeshError)
    error = _made(kind, str(message), {name: problem.get(name) or "" for name in ("remedy", "field")})
    error.status = status
    wait_seconds = problem.get("retry_after_seconds")
    if isinstance(error, Overloaded | ModelError) and wait_seconds is not None:
        error.retry_after_seconds = wait_seconds
    return error


def _kinds(base: type[MeshError] = MeshError) -> dict[str, type[MeshError]]:
    """The errors that this process knows, by their name on the wire."""
    kinds = {base.__name__: base}
    for kind in base.__subclasses__():
        kinds |= _kinds(kind)
    return kinds


def _made(kind: type[MeshError], message: str, advice: Mapping[str, str]) -> MeshError:
    """An error of a kind, or of its nearest base where the kind needs more than a problem document says."""
    try:
        return kind(message, **advice)
    except TypeError:
        return _made(kind.__bases__[0], message, advice)
