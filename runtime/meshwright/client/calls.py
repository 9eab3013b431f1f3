"""The calls that give a task and wait for it: the same of every client, and of a mesh under test."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from meshwright.core.errors import InvalidInput
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import AnswerT, Outcome, Receipt, TaskRequest, schema_of

if TYPE_CHECKING:
    from meshwright.core.money import OnEmpty
    from meshwright.events.inbox import Question


class TaskFields(TypedDict, total=False):
    """A task, but for its agent, text, payload and shape; `timeout` of a step and `deadline` are in seconds.

    `thread_id` is the conversation that it continues, `budget_usd` what it may cost. `limits` are those of
    its run, such as `{"max_steps": 20}`, where they are to be lower than the agent's. `after` is the id of a
    task whose end it waits for, `repository` the one of `[trees]` that it works on; `outside` says that
    strangers may have written its text.
    """

    thread_id: str | None
    budget_usd: Decimal | str | None
    capability: str | None
    task_id: str | None
    priority: int
    timeout: float | None
    deadline: float | None
    limits: Mapping[str, Any] | None
    after: str | None
    repository: str | None
    outside: bool
    on_empty: OnEmpty
    idempotency_key: str | None


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
        others = {"payload": payload, "shape": schema_of(shape), **fields}
        return await self._submit(_request_of(agent_id, text, others), key)

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
        receipt = await self.submit(agent_id, text, payload=payload, shape=shape, **fields)
        if shape is None:
            return await self.outcome(receipt)
        return await self.outcome(receipt, shape=dict[str, Any] if isinstance(shape, dict) else shape)

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

    @abstractmethod
    async def _outcome(self, task_id: str) -> Outcome:
        """Wait for the outcome of a task."""


def _request_of(
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


def wait_of(question: Question | str, key: str) -> tuple[str, str]:
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
