"""The calls on tasks: give one and wait for it, as clients and a mesh under test do; many at once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload
from urllib.parse import quote

from meshwright.core.errors import InvalidInput
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import AnswerT, Outcome, Receipt, TaskRequest, answer_schema
from meshwright.edges.client.transports import RequestSender

if TYPE_CHECKING:  # what a method returns it imports itself: the whole mesh hangs on these modules
    from meshwright.core.messages import TaskStatus
    from meshwright.core.money import OnEmpty
    from meshwright.core.task_events import WaitKind
    from meshwright.engine.events.inbox import Question
    from meshwright.engine.events.tasks import DeadLetters
    from meshwright.engine.work.protocol import Begin
    from meshwright.mesh.orchestration.cancel_plan import CancelPlan
    from meshwright.mesh.orchestration.reruns import AnswerResult, CancelResult, ForkResult, RetryResult
    from meshwright.mesh.orchestration.retry_plan import RetryPlan
    from meshwright.money.task_costs import TaskTree

MAX_TASKS = 500  # of one page
_AT_ONCE = 50  # in one request


class TaskFields(TypedDict, total=False):
    """The fields of a task except its agent, text, payload and shape. All may be left out."""

    thread_id: str | None
    """The conversation that it continues. Default: one of its own."""
    budget_usd: Decimal | str | None
    """US dollars that it may cost, with all that it delegates."""
    capability: str | None
    """The best agent that has it gets the task."""
    task_id: str | None
    """The id of the task, unique within the tenant. Default: the mesh makes one."""
    priority: int
    """0 to 10, 5 by default. Higher runs sooner."""
    timeout: float | None
    """Seconds that a step may take. Default: the agent's."""
    deadline: float | None
    """Seconds that the task may take, without waits for people and money. Default: the agent's, else one
    day."""
    limits: Mapping[str, Any] | None
    """Lower limits of its run than the agent's, such as `{"max_steps": 20}`."""
    after: str | None
    """The id of a task whose end it waits for."""
    repository: str | None
    """The `[trees.NAME]` that it works on. Default: the only one."""
    outside: bool
    """Whether strangers may have written its text: a person approves changes then."""
    on_empty: OnEmpty
    """The reaction to an empty budget: `fail` (the default), `wait`, `ask` or `cheaper`."""
    idempotency_key: str | None
    """A key of yours: a second request with it gets the task of the first."""


class TaskCalls(ABC):
    """Give a task to an agent, wait for its outcome, answer its questions."""

    async def submit(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: type[Any] | dict[str, Any] | None = None,
        **fields: Unpack[TaskFields],
    ) -> Receipt:
        """Give a task to an agent, or to the best one for a `capability`; it is durable when this returns.

        `text` is the request, `payload` goes beside it; for the `shape` of its answer see `ask`. A
        TaskRequest may stand in place of all but `shape` and `idempotency_key`. Raises InvalidInput,
        NotFound, NoAgentAvailable, Overloaded.
        """
        key = fields.pop("idempotency_key", None)
        others = {"payload": payload, "shape": answer_schema(shape), **fields}
        return await self._submit(_make_request(agent_id, text, others), key)

    @overload
    async def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        **fields: Unpack[TaskFields],
    ) -> Outcome: ...
    @overload
    async def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: type[AnswerT],
        **fields: Unpack[TaskFields],
    ) -> AnswerT: ...
    @overload
    async def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: dict[str, Any],
        **fields: Unpack[TaskFields],
    ) -> dict[str, Any]: ...

    async def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: Any = None,
        **fields: Unpack[TaskFields],
    ) -> Any:
        """Give a task as `submit` does, and wait: returns its outcome, or the answer in a `shape`.

        The `shape` is a pydantic model or a JSON schema, in which the agent's model answers, `dict[str, Any]`
        for the result as it is, or `str` for its text. With one TaskFailed is raised where the task failed,
        or answered otherwise. The task continues if the wait is cancelled.
        """
        key = fields.pop("idempotency_key", None)
        others = {"payload": payload, "shape": answer_schema(shape), **fields}
        outcome = await self._ask(_make_request(agent_id, text, others), key)
        if shape is None:
            return outcome
        return outcome.read(dict[str, Any] if isinstance(shape, dict) else shape)

    @overload
    async def outcome(self, task: Receipt | str) -> Outcome: ...
    @overload
    async def outcome(self, task: Receipt | str, *, shape: type[AnswerT]) -> AnswerT: ...

    async def outcome(self, task: Receipt | str, *, shape: type[AnswerT] | None = None) -> Outcome | AnswerT:
        """Wait for the outcome of a task that `submit` gave or that has this id; for a `shape` see `ask`.

        Raises NotFound.
        """
        outcome = await self._outcome(task.task_id if isinstance(task, Receipt) else task)
        return outcome if shape is None else outcome.read(shape)

    @abstractmethod
    async def _submit(self, request: TaskRequest | dict[str, Any], idempotency_key: str | None) -> Receipt:
        """Submit a task, given whole or by its fields."""

    async def _ask(self, request: TaskRequest | dict[str, Any], idempotency_key: str | None) -> Outcome:
        """Submit a task, and wait for its outcome."""
        return await self._outcome((await self._submit(request, idempotency_key)).task_id)

    @abstractmethod
    async def _outcome(self, task_id: str) -> Outcome:
        """Wait for the outcome of a task."""


def _make_request(
    agent_id: str | TaskRequest, text: str, fields: Mapping[str, Any]
) -> TaskRequest | dict[str, Any]:
    others = {name: value for name, value in fields.items() if value is not None}
    if isinstance(agent_id, TaskRequest):
        shape = others.pop("shape", None)
        if text or others:
            raise InvalidInput(
                "a TaskRequest is given, and more beside it",
                remedy="Put all of the task into the TaskRequest",
            )
        if shape is None:
            return agent_id
        return {**agent_id.model_dump(mode="json", exclude_defaults=True), "shape": shape}
    if agent_id and not re.fullmatch(ID_PATTERN, agent_id):
        raise InvalidInput(
            f"{agent_id!r} is no id of an agent",
            remedy='The agent is named before the text: ask("my-agent", "What is a turn?")',
            field="agent_id",
        )
    if "payload" in others:
        others["payload"] = dict(others["payload"])
    if text:
        payload = others.get("payload", {})
        if payload.get("text", text) != text:
            raise InvalidInput(
                "the text and payload['text'] differ", remedy="Give one of both", field="payload.text"
            )
        others["payload"] = {**payload, "text": text}
    return {"agent_id": agent_id, **others} if agent_id else others


def resolve_wait(question: Question | str, key: str) -> tuple[str, str]:
    """The id of the task that waits for an answer, and the key under which it does."""
    if not isinstance(question, str):
        return question.task_id, question.wait_id
    if not key:
        raise InvalidInput(
            "an answer names no question",
            remedy="Give a question as inbox() lists it, or the id of a task and the key of its wait",
            field="key",
        )
    return question, key


class CriteriaFields(TypedDict, total=False):
    """The fields by which tasks are found, and events and costs of tasks.

    `prompt` is that of a call of a model: `NAME`, or `NAME@DIGEST` for a version, of which the first
    characters are enough, `tag` one of such a call. `error` is the type of the error by which they failed;
    `text` has words of their request, title, questions, answer or error; `"a phrase"` is exact, `word*` is a
    beginning.
    """

    agent_id: str | None
    capability: str | None
    status: TaskStatus | None
    thread_id: str | None
    parent_task_id: str | None
    requested_by: str | None
    model: str | None
    prompt: str | None
    tag: str | None
    error: str | None
    text: str | None


class FilterFields(CriteriaFields, total=False):
    """The same, what a task waits for now, and the time of its last change: a time, or a text like `24h`.

    `waits_for_model` is the group or the deployment of a model that it waits for. `dead` are those that
    failed or timed out. `lacks` names fields without a value: `agent_id`, `error`, or both by comma.
    """

    waits_for: WaitKind | None
    waits_for_model: str | None
    dead: bool | None
    lacks: str | None
    since: datetime | str | None
    until: datetime | str | None


class BatchCalls:
    """The part of the client that does something with many tasks at once."""

    _connection: RequestSender

    async def retry(
        self,
        task_id: str,
        *,
        begin: Begin | None = None,
        deadline: float | None = None,
        dry_run: bool = False,
    ) -> RetryResult:
        """Work again on a task that failed, timed out or was cancelled, under the same id.

        From the `journal` finished steps stay, and cost nothing again; from the `start` none do. Without
        `begin` the fault says which. `deadline` is in seconds from now, by default as long as before. A
        `dry_run` changes nothing. Raises NotFound, Conflict, NoAgentAvailable, Overloaded.
        """
        from meshwright.mesh.orchestration.reruns import RetryResult

        body = {"begin": begin, "deadline": deadline, "dry_run": dry_run}
        return await self._connection.get(RetryResult, f"{task_path(task_id)}/retry", "POST", body=body)

    async def retry_plan(self, task_id: str) -> RetryPlan:
        """Show which steps a retry keeps and repeats, and what these cost before; first the usual way.

        Raises NotFound, Conflict for a task that is open or has succeeded.
        """
        from meshwright.mesh.orchestration.retry_plan import RetryPlan

        return await self._connection.get(RetryPlan, f"{task_path(task_id)}/retry")

    async def cancel_plan(self, task_id: str) -> CancelPlan:
        """Show what ends with an open task, what stays as it is, and what it has cost so far.

        Raises NotFound, Conflict for a task that has ended.
        """
        from meshwright.mesh.orchestration.cancel_plan import CancelPlan

        return await self._connection.get(CancelPlan, f"{task_path(task_id)}/cancel")

    async def fork(
        self,
        task_id: str,
        step: str,
        *,
        attempt: int | None = None,
        deadline: float | None = None,
        dry_run: bool = False,
    ) -> ForkResult:
        """Make a task that goes on from a finished step of another's attempt, by default of the last.

        The other stays as it is, and the steps up to there cost nothing again. `deadline` is in seconds from
        now, by default as long as that of the other. Raises NotFound for a step that is not there, Conflict
        for one that failed or a task that is open, NoAgentAvailable, Overloaded.
        """
        from meshwright.mesh.orchestration.reruns import ForkResult

        body = {"step": step, "attempt": attempt, "deadline": deadline, "dry_run": dry_run}
        return await self._connection.get(ForkResult, f"{task_path(task_id)}/fork", "POST", body=body)

    async def retry_all(
        self,
        *,
        begin: Begin | None = None,
        deadline: float | None = None,
        everything: bool = False,
        dry_run: bool = False,
        limit: int = 500,
        **fields: Unpack[FilterFields],
    ) -> list[RetryResult]:
        """Work again on the newest tasks that agree with every one of the `fields`, or on all.

        Without a `status` those are meant that failed or timed out. A task that can't be worked on again is
        in the list, and says why (`refused`). Raises InvalidInput and NotFound as `cancel_all`.
        """
        from meshwright.mesh.orchestration.reruns import RetryPage

        body = {**fields, "begin": begin, "deadline": deadline, "all": everything, "dry_run": dry_run}
        return await self._pages(RetryPage, "/retry", body, limit)

    async def cancel_all(
        self,
        *,
        everything: bool = False,
        dry_run: bool = False,
        limit: int = 500,
        **fields: Unpack[FilterFields],
    ) -> list[CancelResult]:
        """Ask for the end of the newest open tasks that agree with every one of the `fields`, or of all.

        One that can't be cancelled, since it has ended, is in the list, and says so (`refused`). Raises
        InvalidInput where neither fields are given nor `everything`, NotFound for a value that never was.
        """
        from meshwright.mesh.orchestration.reruns import CancelPage

        body = {**fields, "all": everything, "dry_run": dry_run}
        return await self._pages(CancelPage, "/cancel", body, limit)

    async def answer_all(
        self,
        value: Any,
        *,
        id: str | None = None,
        kind: str | None = None,
        digest: str = "",
        anyway: bool = False,
        everything: bool = False,
        dry_run: bool = False,
        limit: int = 500,
        **fields: Unpack[FilterFields],
    ) -> list[AnswerResult]:
        """Give one answer to the oldest open questions of one kind, of the tasks that fit the `fields`.

        `id` is an end or a beginning of their ids, or of those of their tasks; `digest` that of the one which
        it names.
        One that somebody else has answered or claimed (unless `anyway`), or that the answer does not fit, is
        in the list, and says so (`refused`). Raises Conflict where there are several kinds and none is named
        (a `dry_run` of one shows its name), InvalidInput and NotFound as `cancel_all`.
        """
        from meshwright.mesh.orchestration.reruns import AnswerPage

        body = {**fields, "value": value, "id": id, "kind": kind, "all": everything, "dry_run": dry_run}
        if digest:
            body["digest"] = digest
        if anyway:
            body["anyway"] = True
        return await self._pages(AnswerPage, "/inbox/answer", body, limit)

    async def _pages(self, kind: Any, path: str, body: dict[str, Any], limit: int) -> list[Any]:
        items: list[Any] = []
        cursor: str | None = None
        while len(items) < limit:
            request = {**body, "cursor": cursor, "limit": min(limit - len(items), _AT_ONCE)}
            page = await self._connection.get(kind, path, "POST", body=request)
            items += page.items
            if (cursor := page.cursor) is None:
                break
        return items

    async def dead_letters(self, *, limit: int = 50, **fields: Unpack[FilterFields]) -> list[DeadLetters]:
        """The tasks that failed or timed out, by agent and type of error, the largest group first."""
        from meshwright.engine.events.tasks import DeadLetters

        path = "/dead-letters"
        return await self._connection.get_list(DeadLetters, path, fields, limit=limit, page=MAX_TASKS)

    async def tree(self, task_id: str) -> TaskTree:
        """A task and those that it delegated, with the cost of each and of all below it. Raises NotFound."""
        from meshwright.money.task_costs import TaskTree

        return await self._connection.get(TaskTree, f"{task_path(task_id)}/tree")

    async def export(self, task_id: str, *, contents: bool = True) -> dict[str, Any]:
        """A task with its steps and its tree as plain data, `{task, steps, tree}`, with secrets redacted.

        Without `contents` it has no word of what was asked, said and answered. Raises NotFound.
        """
        path, accept = f"{task_path(task_id)}/export", {"Accept": "application/json"}
        params = {"contents": str(contents).lower()}
        return await self._connection.call("GET", path, params=params, headers=accept)


def task_path(task_id: str) -> str:
    """The path of a task."""
    return f"/tasks/{quote(task_id, safe='')}"
