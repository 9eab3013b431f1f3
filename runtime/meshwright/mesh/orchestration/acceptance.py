"""Makes tasks of requests, counts how many are open, and gives outcomes to their waiters."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.agents.trees.settings import WORKSPACE
from meshwright.core import topics
from meshwright.core.encoding import Struct, encode, is_deeper
from meshwright.core.errors import HostError, InvalidInput, Overloaded, TooLarge
from meshwright.core.events import Event
from meshwright.core.ids import derived_id, new_id
from meshwright.core.limits import DEADLINE_SECONDS
from meshwright.core.messages import ENDED, Caller, Outcome, Receipt, Task, TaskRequest, TaskVariant
from meshwright.core.task_events import TaskAccepted, TaskWaiting
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.people import asks_person
from meshwright.engine.work.protocol import TaskKey
from meshwright.engine.work.record import unknown_task
from meshwright.mesh.orchestration.tenants import Tenants

_KeyT = TypeVar("_KeyT")
_MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """How large a payload may be, in bytes of JSON, and how deeply nested."""

    max_payload_bytes: int = 262_144
    max_payload_depth: int = 32


_AS_REQUESTED = sorted(
    TaskRequest.model_fields.keys()
    & {*Task.__struct_fields__} - {"task_id", "capability", "payload", "repository", "thread_id"}
)
"""The fields of a request that its task has as they are."""
_as_requested = attrgetter(*_AS_REQUESTED)


def make_task(
    request: TaskRequest,
    caller: Caller,
    *,
    now: datetime,
    limits: PayloadLimits,
    deadline_seconds: float = DEADLINE_SECONDS,
    idempotency_key: str | None = None,
    variants: tuple[TaskVariant, ...] = (),
) -> Task:
    """Make the task of a request. The same key of the same caller always gives the same task id.

    Raises InvalidInput or TooLarge, naming the field.
    """
    if request.capability is None and request.agent_id is None:
        raise InvalidInput(
            "neither a capability nor an agent is named", remedy="name one", field="capability"
        )
    if request.on_empty != "fail" and request.budget_usd is None:
        raise InvalidInput(
            "on_empty is for the budget that the task brings, and it brings none",
            remedy="Set budget_usd (--budget); other budgets have an on_empty of their own",
            field="on_empty",
        )
    payload = _checked_payload(request.payload, limits)
    task_id = request.task_id or new_id()
    if idempotency_key is not None:
        _check_key(idempotency_key)
        task_id = request.task_id or derived_id(caller.tenant_id, caller.source, idempotency_key)
    return Task(
        task_id=task_id,
        capability=request.capability or "",
        payload=payload,
        budgets=caller.budgets,
        repository=request.repository or "",
        deadline_at=now + timedelta(seconds=request.deadline or deadline_seconds),
        requested_by=caller.requested_by,
        tenant_id=caller.tenant_id,
        thread_id=request.thread_id or task_id,
        idempotency_key=idempotency_key,
        created_at=now,
        variants=variants,
        **dict(zip(_AS_REQUESTED, _as_requested(request), strict=True)),
    )


def check_repository(name: str, repositories: Collection[str]) -> None:
    """Raise InvalidInput for a repository that the settings do not have."""
    names = repositories or (WORKSPACE,)
    if name not in names:
        remedy = f"Name one of {', '.join(names)}, or add [trees.{name}] to mesh.toml"
        raise InvalidInput(f"there is no repository {name!r}", remedy=remedy, field="repository")


def _checked_payload(payload: dict[str, Any], limits: PayloadLimits) -> dict[str, Any]:
    """A copy of a payload, as plain data: what its sender does with its own changes no task.

    Raises TooLarge over a limit, InvalidInput if it is not JSON, or its `text` (the request) is no text.
    """
    if not isinstance(payload.get("text", ""), str):
        raise InvalidInput(
            "payload.text is the request, and must be text",
            remedy="put other data beside it, under another name",
            field="payload.text",
        )
    if is_deeper(payload.values(), limits.max_payload_depth - 1):
        raise TooLarge(
            f"the payload is nested over {limits.max_payload_depth} deep",
            remedy="flatten it",
            field="payload",
        )
    try:
        data = to_json(payload)
        copy = from_json(data, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput(
            f"the payload is not JSON: {error}", remedy="send what JSON can hold", field="payload"
        ) from error
    if len(data) > limits.max_payload_bytes:
        raise TooLarge(
            f"the payload has {len(data):,} bytes, {limits.max_payload_bytes:,} are allowed",
            remedy="send a reference instead, or raise max_payload_bytes",
            field="payload",
        )
    return copy


def _check_key(key: str) -> None:
    if not (1 <= len(key) <= _MAX_KEY_CHARS and key.isprintable()):
        raise InvalidInput(
            "the idempotency key cannot be used",
            remedy=f"send 1 to {_MAX_KEY_CHARS} printable characters",
            field="Idempotency-Key",
        )


def hash_request(request: TaskRequest, caller: Caller, idempotency_key: str | None = None) -> str:
    """Returns the hash that tells a repeat from another request of a task id; "" where that was made up."""
    if request.task_id is None and idempotency_key is None:
        return ""
    body = {"request": request, "tenant": caller.tenant_id, "source": caller.source}
    return hashlib.sha256(to_json(body)).hexdigest()[:32]


OPENED = frozenset(["task.accepted", "task.retried"])
FINAL = frozenset(f"task.{status}" for status in ENDED)
WAITING = "task.waiting"

Thread = tuple[str, str]
"""A tenant and one of its threads."""


class Admission:
    """Counts the open tasks, and refuses a task from outside where there are too many, or too many a minute.

    Tasks that agents delegate count, and are never refused. The event log has the count: it belongs to the
    process that keeps the log, and is right from the start. A task is counted before its acceptance
    is durable, so that tasks accepted at the same time cannot exceed a limit together.
    """

    def __init__(
        self, runtime: Runtime, log: EventLog, tenants: Tenants, *, max_open_tasks: int, max_thread_tasks: int
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._tenants = tenants
        self._max_open_tasks = max_open_tasks
        self._max_thread_tasks = max_thread_tasks
        self._open: dict[TaskKey, Thread | None] = {}
        self._threads: Counter[Thread] = Counter()
        self._of_tenants: Counter[str] = Counter()
        self._unconfirmed: set[TaskKey] = set()
        self._ended_meanwhile: set[TaskKey] | None = None
        self._unlisten: Callable[[], None] = lambda: None

    @property
    def open_tasks(self) -> int:
        """How many tasks are open."""
        return len(self._open)

    @property
    def open_of_tenants(self) -> Mapping[str, int]:
        """How many tasks of each tenant are open; tenants without one are left out."""
        return self._of_tenants

    async def start(self) -> None:
        """Count the open tasks that the log knows, and follow events from now on."""
        self._ended_meanwhile = set()
        self._unlisten = self._runtime.listen(
            topics.TASK_PROGRESS, self._on_event, {*OPENED, *FINAL}, sealed=True
        )
        for tenant_id, task_id, thread_id in await self._log.open_tasks():
            key = TaskKey(tenant_id, task_id)
            if key not in self._ended_meanwhile:
                self._add(key, thread_id)
        self._ended_meanwhile = None

    async def stop(self) -> None:
        """Count no more."""
        self._unlisten()
        self._open.clear()
        self._threads.clear()
        self._of_tenants.clear()

    async def admit(self, task: Task, accept: Callable[[], Awaitable[Receipt]]) -> Receipt:
        """Have a task accepted if there is room for it. A task that is open already needs none.

        Raises Overloaded or StorageExceeded without a call of `accept`, and what that raises.
        """
        key = TaskKey(task.tenant_id, task.task_id)
        if key in self._open:
            return await accept()
        await self._tenants.take(task.tenant_id, "tasks_per_minute")
        self._require_room(task)
        self._add(key, task.thread_id)
        self._unconfirmed.add(key)
        try:
            receipt = await accept()
        except BaseException:  # where it was accepted all the same, its event will say so
            self._withdraw(key)
            raise
        if receipt.status in ENDED:  # the repeat of a task that has ended
            self._withdraw(key)
        self._unconfirmed.discard(key)
        return receipt

    def _require_room(self, task: Task) -> None:
        if len(self._open) >= self._max_open_tasks:
            raise Overloaded(
                f"The mesh has {len(self._open):,} open tasks, and may have {self._max_open_tasks:,}",
                remedy="Send the task again when some have ended, cancel some, or raise max_open_tasks",
            )
        self._tenants.require_room(task.tenant_id, self._of_tenants[task.tenant_id])
        in_thread = self._threads[task.tenant_id, task.thread_id]
        if in_thread >= self._max_thread_tasks:
            raise Overloaded(
                f"Thread {task.thread_id} has {in_thread:,} open tasks, and may have "
                f"{self._max_thread_tasks:,}",
                remedy="Send the task again when some have ended, use another thread_id, or raise "
                "max_thread_tasks",
                field="thread_id",
            )

    def _on_event(self, event: Event) -> None:
        if event.task_id is None:
            return
        key = TaskKey(event.tenant_id, event.task_id)
        self._unconfirmed.discard(key)
        if event.event_type not in OPENED:
            self._remove(key)
            if self._ended_meanwhile is not None:
                self._ended_meanwhile.add(key)
        elif key not in self._open:  # most were counted ahead
            self._add(key, TaskAccepted.from_payload(event.payload).thread_id or None)

    def _add(self, key: TaskKey, thread_id: str | None) -> None:
        if key in self._open:
            return
        self._of_tenants[key.tenant_id] += 1
        has_company = thread_id is not None and thread_id != key.task_id
        thread = self._open[key] = (key.tenant_id, thread_id) if has_company else None
        if thread is not None:
            self._threads[thread] += 1

    def _remove(self, key: TaskKey) -> None:
        if key not in self._open:
            return
        _count_down(self._of_tenants, key.tenant_id)
        thread = self._open.pop(key)
        if thread is not None:
            _count_down(self._threads, thread)

    def _withdraw(self, key: TaskKey) -> None:
        if key in self._unconfirmed:
            self._unconfirmed.discard(key)
            self._remove(key)


def _count_down(counter: Counter[_KeyT], key: _KeyT) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


class _Owner(Struct):
    tenant_id: str = "default"


class _Ending(Struct):
    """The fields of a task record that outcome waiters read."""

    task: _Owner | None = None
    outcome: Outcome | None = None


class OutcomeWaiters:
    """The waiters of this process, task by task."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: dict[TaskKey, dict[asyncio.Future[Outcome | None], bool]] = {}

    async def wait(self, task_id: str, tenant_id: str) -> Outcome:
        """Wait for the outcome of a task. Raises NotFound, and the error by which the wait is ended."""
        key = TaskKey(tenant_id, task_id)
        waiter = self._begin(key, questions=False)
        try:
            outcome = await self.outcome(task_id, tenant_id) or await waiter
        finally:
            self._leave(key, waiter)
        assert outcome is not None  # without `questions`
        return outcome

    @contextmanager
    def watch(
        self, task_id: str, tenant_id: str, *, questions: bool = False
    ) -> Iterator[asyncio.Future[Outcome | None]]:
        """A future that gets the outcome of a task, if that ends from now on, or the error that ends waits.

        With `questions` it gets None, then or as soon as the task begins to wait for a person.
        """
        key = TaskKey(tenant_id, task_id)
        waiter = self._begin(key, questions=questions)
        try:
            yield waiter
        finally:
            self._leave(key, waiter)

    def _begin(self, key: TaskKey, *, questions: bool) -> asyncio.Future[Outcome | None]:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[waiter] = questions
        return waiter

    def _leave(self, key: TaskKey, waiter: asyncio.Future[Outcome | None]) -> None:
        waiters = self._waiting[key]
        del waiters[waiter]
        if not waiters:
            del self._waiting[key]

    async def outcome(self, task_id: str, tenant_id: str) -> Outcome | None:
        """The outcome of a task, if it has ended. Raises NotFound."""
        ref = TaskKey(tenant_id, task_id).ref
        ending = await self._runtime.recent(ref, _Ending)
        if ending is None or ending.outcome is not None:  # it may be erased by now
            ending = await self._runtime.read(ref, _Ending)
        if ending is None or ending.task is None or ending.task.tenant_id != tenant_id:
            raise unknown_task(task_id)
        return ending.outcome

    def end(self, error: HostError) -> None:
        """End every wait by an error."""
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # seen: what it waits for may have been read meanwhile

    def notify(self, event: Event) -> None:
        """Tell the waiters of a task about its last event, or that it waits for a person."""
        waiters = self._waiting.get(TaskKey(event.tenant_id, event.task_id or ""))
        if not waiters:
            return
        is_end = event.event_type != WAITING
        if not is_end and not asks_person(TaskWaiting.from_payload(event.payload)):
            return
        outcome = None
        for waiter, questions in waiters.items():
            if waiter.done() or not (is_end or questions):
                continue
            if not questions:
                outcome = outcome or Outcome.model_validate_json(encode(event.payload))
            waiter.set_result(None if questions else outcome)
