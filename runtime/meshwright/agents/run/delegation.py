"""Requests of a run to other agents, and the knowledge of the run that these may need."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from meshwright.agents.run.files import DELEGATE_TOOL
from meshwright.agents.run.tool_calls import is_journaled
from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import AgentError, DelegationFailed, InvalidInput, TaskFailed
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Outcome, SenderContext, Task
from meshwright.core.money import is_amount
from meshwright.core.redaction import redact

MAX_PASSED_ON = 20  # constraints, and questions, of one delegation
MAX_PASSED_ON_CHARS = 2_000  # of each


_AnswerT = TypeVar("_AnswerT", bound=BaseModel | dict[str, Any] | Outcome | str, default=str, covariant=True)


@dataclass(frozen=True, slots=True)
class Delegation(Generic[_AnswerT]):
    """A task for another agent, named or chosen by `capability`."""

    agent_id: str = ""
    """The agent. "": chosen by `capability`."""
    text: str = ""
    """The request."""
    _: KW_ONLY
    payload: Mapping[str, Any] | None = None
    """Further fields beside the text."""
    shape: type[_AnswerT] | None = None
    """The pydantic model in which the other agent's model answers; `dict[str, Any]` for the result as it is,
    `Outcome` for the whole outcome with its files, None for its text."""
    thread_id: str | None = None
    """The conversation that it continues. None: one of its own."""
    budget_usd: Decimal | str | None = None
    """US dollars that it may cost of the budgets above it. None: no limit of its own."""
    capability: str = ""
    """The capability, in place of an agent."""
    timeout: float | None = None
    """Seconds that a step of it may take. None: the other agent's."""
    deadline: float | None = None
    """Seconds that all of it may take. None: until the deadline of this task."""
    constraints: Sequence[str] = ()
    """Constraints of its work, beside those that this run came with: at most 20, each of 2,000 characters."""
    questions: Sequence[str] = ()
    """Questions that are still open: at most 20, each of 2,000 characters."""

    def __post_init__(self) -> None:
        if bool(self.agent_id) == bool(self.capability):
            raise AgentError(
                "a delegation names no agent"
                if not self.agent_id
                else "a delegation names agent and capability",
                remedy="Give either agent_id or capability",
            )
        if self.text and self.data["text"] != self.text:
            raise AgentError("the text of a delegation and its payload['text'] differ", remedy="Give one")
        if self.thread_id is not None and not re.fullmatch(ID_PATTERN, self.thread_id):
            raise AgentError(f"the thread_id of a delegation is {self.thread_id!r}", remedy='Write "order-7"')
        for name, seconds in (("timeout", self.timeout), ("deadline", self.deadline)):
            if seconds is not None and seconds <= 0:
                raise AgentError(
                    f"the {name} of a delegation is not positive", remedy="Give seconds, or none"
                )

        for name, texts in (("constraints", self.constraints), ("questions", self.questions)):
            if not _are_short_texts(texts):
                raise AgentError(
                    f"the {name} of a delegation are no list of at most {MAX_PASSED_ON} texts, "
                    f"each of {MAX_PASSED_ON_CHARS:,} characters at most",
                    remedy=f'Write {name}=["No service may be needed."]',
                )

    @property
    def whom(self) -> str:
        """The agent, or the capability, that is asked."""
        return self.agent_id or self.capability

    @property
    def data(self) -> dict[str, Any]:
        """The payload of its task."""
        payload = self.payload or {}
        return {"text": self.text, **payload} if self.text or not payload else dict(payload)

    @property
    def request(self) -> dict[str, Any]:
        """The request of its step, as the journal has it."""
        extra = {"capability": self.capability, "payload": self.payload}
        extra |= {"timeout": self.timeout, "deadline": self.deadline}
        extra |= {"constraints": [*self.constraints], "questions": [*self.questions]}
        extra["budget_usd"] = None if self.budget_usd is None else str(self.budget_usd)
        extra["thread_id"] = self.thread_id
        options = {name: value for name, value in extra.items() if value}
        return {"agent_id": self.agent_id, "text": self.text, **options}

    @property
    def budget(self) -> Decimal | None:
        """Its share of the budgets above it; None for as much as they have."""
        if self.budget_usd is None:
            return None
        try:
            budget = Decimal(self.budget_usd)
        except InvalidOperation:
            budget = Decimal(-1)
        if not is_amount(budget):
            raise AgentError(f"the budget_usd of a delegation is {self.budget_usd!r}", remedy='Write "0.50"')
        return budget

    def read_answer(self, outcome: Outcome) -> Any:
        """The answer. Raises DelegationFailed where there is none, or one of another shape."""
        try:
            return outcome.read(self.shape or str)
        except TaskFailed as error:
            raise DelegationFailed(error.message) from error


def _are_short_texts(texts: object) -> bool:
    return (
        isinstance(texts, Sequence)
        and not isinstance(texts, str)
        and len(texts) <= MAX_PASSED_ON
        and all(isinstance(text, str) and 0 < len(text) <= MAX_PASSED_ON_CHARS for text in texts)
    )


_MAX_FAILURES = 10
_MAX_ERROR_CHARS = 500
_MAX_ARGUMENTS_CHARS = 200
_MAX_CHARS = 20_000  # of all that is passed on, but for constraints


class Knowledge:
    """The failed calls, open questions and progress of a run, and what its task came with.

    A resumed run comes to know the same from its journal.
    """

    def __init__(self, task: Task) -> None:
        came_with = task.sender_context or SenderContext()
        self._constraints = (*came_with.constraints, *_read_constraints(task))
        self._earlier_failures = came_with.known_failures
        self._failures: dict[str, str] = {}
        self._questions: list[str] = []
        self._progress = ""

    def say_progress(self, text: str) -> None:
        """Note how far the work is."""
        self._progress = cut(text, _MAX_ERROR_CHARS)

    def ask(self, question: str) -> None:
        """Note that a person is asked; it stays open where there is no answer in time."""
        self._questions.append(cut(question, _MAX_ERROR_CHARS))

    def answered(self, question: str) -> None:
        """Note that a question has its answer."""
        self._questions.remove(cut(question, _MAX_ERROR_CHARS))

    def learn(self, tool: Tool, arguments: str, result: Any) -> None:
        """Learn that a call failed; or that it did not, though it had before.

        Arguments that do not fit the tool are a mistake of the model's, and no failure that others repeat.
        """
        failed = isinstance(result, dict) and is_journaled(result) and result["error"] is not None
        if tool.name == DELEGATE_TOOL:
            if failed:  # a resumed run does not delegate again, and learns of it here
                self.learn_failed(_agent_in(arguments), str(result["error"]))
            return
        if not failed and not self._failures:  # most runs: the arguments may be long
            return
        invocation = f"{tool.name}({cut(redact(arguments), _MAX_ARGUMENTS_CHARS)})"
        self._failures.pop(invocation, None)
        if failed:
            try:
                tool.validated(arguments)
            except InvalidInput:
                return
            self.learn_failed(invocation, str(result["error"]))

    def learn_failed(self, what: str, error: str) -> None:
        """Learn that a call, an agent, or an agent with a capability, did not do what it was asked."""
        self._failures.pop(what, None)
        self._failures[what] = f"{what} failed: {cut(redact(error), _MAX_ERROR_CHARS)}"

    def for_delegate(self, delegation: Delegation) -> SenderContext | None:
        """All that goes with a delegated task; None where there is nothing. The newest failures are kept."""
        failures = [*self._earlier_failures, *self._failures.values()][-_MAX_FAILURES:]
        while sum(map(len, failures)) > _MAX_CHARS:
            failures = failures[1:]
        context = SenderContext(
            constraints=tuple(dict.fromkeys((*self._constraints, *delegation.constraints))),
            known_failures=tuple(dict.fromkeys(failures)),
            questions=tuple(dict.fromkeys((*self._questions, *delegation.questions))),
            workflow_state=self._progress,
        )
        return None if context == SenderContext() else context


def _agent_in(arguments: str) -> str:
    try:
        return str(json.loads(arguments)["agent_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return DELEGATE_TOOL


def _read_constraints(task: Task) -> tuple[str, ...]:
    entry = task.payload.get("constraints")
    entries = entry if isinstance(entry, list) else [entry]
    texts = [text for text in entries if isinstance(text, str) and text.strip()]
    return tuple(cut(text, MAX_PASSED_ON_CHARS) for text in texts[:MAX_PASSED_ON])
