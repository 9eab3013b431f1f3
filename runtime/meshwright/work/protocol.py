"""The messages by which work is claimed, ended, suspended and resumed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from meshwright.messages import Dispatch, Outcome, Plain, Task, Usage
from meshwright.money import ZERO, Amount

ORCHESTRATOR = "Orchestrator"


class Claim(Plain):
    """A worker with a free slot asks for a task. `gone` names an owner that it knows to have ended."""

    task_id: str
    owner: str
    gone: str | None = None


class Work(Plain):
    """A task granted to a worker: only who holds this fence may end it.

    `journaled` says that an earlier claim may have left steps; `history` how many entries the thread has;
    `seconds` what the run has had of its attempt's time before it waited; `usage` and `cost_usd` what its
    calls of models had come to by then, None where a worker that is gone may have made more.
    """

    dispatch: Dispatch
    fence: int
    owner: str
    journaled: bool
    history: int
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO

    @property
    def task(self) -> Task:
        """The task itself."""
        return self.dispatch.task

    @property
    def stream(self) -> str:
        """The stream of records that holds the attempt's steps."""
        return steps_stream(self.dispatch)

    @property
    def left_behind(self) -> str:
        """The stream of records that says what claims of the attempt left behind, which no step tells."""
        return f"{self.stream}/left-behind"


class Completed(Plain):
    """The end of an attempt, and what the thread is to remember of it (`history`: role and text)."""

    task_id: str
    fence: int
    outcome: Outcome
    history: tuple[dict[str, Any], ...] = ()


class Suspend(Plain):
    """The work gives up slot and claim until `key` is answered; the answer becomes the result of `step`.

    With `child` set, that task is given to the orchestrator in the same commit, and its outcome is the
    answer. `known` tells a person what they are asked. `last` is the last step within this one, if any.
    `seconds` is what the run has had of its attempt's time, `usage` and `cost_usd` what all calls of models
    in the attempt have come to.
    """

    task_id: str
    fence: int
    key: str
    step: int
    kind: str
    request_hash: str
    last: int | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    child: Task | None = None
    known: dict[str, Any] = Field(default_factory=dict)


class Answer(Plain):
    """What a suspended run was waiting for."""

    task_id: str
    key: str
    value: Any = None


class Cancel(Plain):
    """End an attempt before its time; `status` is the outcome it gets."""

    task_id: str
    reason: str = "cancelled on request"


class Stop(Plain):
    """Signal to the worker that works, here or in another process: end this work now."""

    task_id: str
    fence: int
    owner: str | None = None


class Accept(Plain):
    """A task for the orchestrator. `request_hash` tells a repeat from another request under the same id."""

    task: Task
    request_hash: str = ""


def steps_stream(dispatch: Dispatch) -> str:
    """The stream of an attempt's steps: a new attempt starts with an empty journal."""
    return f"steps/{dispatch.task.task_id}/{dispatch.task.generation}/{dispatch.attempt}"
