"""The knowledge of a run that an agent which it delegates to may need."""

from __future__ import annotations

import json
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import SenderContext, Task
from meshwright.core.redaction import redact
from meshwright.models.port import ToolCall
from meshwright.run.context import MAX_PASSED_ON, MAX_PASSED_ON_CHARS, Delegation
from meshwright.run.files import DELEGATE_TOOL
from meshwright.run.tool_calls import is_journaled
from meshwright.tools.limited import cut
from meshwright.tools.tool import Tool

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
        self._constraints = (*came_with.constraints, *_constraints_of(task))
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

    def learn(self, tool: Tool, call: ToolCall, result: Any) -> None:
        """Learn that a call failed; or that it did not, though it had before.

        Arguments that do not fit the tool are a mistake of the model's, and no failure that others repeat.
        """
        failed = isinstance(result, dict) and is_journaled(result) and result["error"] is not None
        if call.name == DELEGATE_TOOL:
            if failed:  # a resumed run does not delegate again, and learns of it here
                self.learn_failed(_agent_in(call.arguments), str(result["error"]))
            return
        called = f"{call.name}({cut(redact(call.arguments), _MAX_ARGUMENTS_CHARS)})"
        self._failures.pop(called, None)
        if failed:
            try:
                tool.validated(call.arguments)
            except InvalidInput:
                return
            self._fail(called, str(result["error"]))

    def learn_failed(self, to: str, error: str) -> None:
        """Learn that an agent, or an agent with a capability, did not do what it was asked."""
        self._fail(to, error)

    def _fail(self, what: str, error: str) -> None:
        self._failures.pop(what, None)
        self._failures[what] = f"{what} failed: {cut(redact(error), _MAX_ERROR_CHARS)}"

    def for_delegate(self, wanted: Delegation) -> SenderContext | None:
        """All that goes with a delegated task; None where there is nothing. The newest failures are kept."""
        failures = [*self._earlier_failures, *self._failures.values()][-_MAX_FAILURES:]
        while sum(map(len, failures)) > _MAX_CHARS:
            failures = failures[1:]
        known = SenderContext(
            constraints=tuple(dict.fromkeys((*self._constraints, *wanted.constraints))),
            known_failures=tuple(dict.fromkeys(failures)),
            questions=tuple(dict.fromkeys((*self._questions, *wanted.questions))),
            workflow_state=self._progress,
        )
        return None if known == SenderContext() else known


def _agent_in(arguments: str) -> str:
    """The agent that a call of `delegate` names."""
    try:
        return str(json.loads(arguments)["agent_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return DELEGATE_TOOL


def _constraints_of(task: Task) -> tuple[str, ...]:
    """The constraints that a task's payload names: a text, or a list of texts."""
    given = task.payload.get("constraints")
    texts = given if isinstance(given, list) else [given]
    named = [text for text in texts if isinstance(text, str) and text.strip()]
    return tuple(cut(text, MAX_PASSED_ON_CHARS) for text in named[:MAX_PASSED_ON])
