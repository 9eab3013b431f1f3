"""The answers of operations on many tasks or questions: how it went with each."""

from __future__ import annotations

from meshwright.core.encoding import Struct
from meshwright.core.messages import Fault, TaskStatus


class CancelResult(Struct):
    """A task that ends, or would: its `status` now. `refused` is why it isn't cancelled."""

    schema_name = "Cancelled"
    task_id: str
    status: TaskStatus
    agent_id: str | None = None
    is_dry: bool = False
    refused: Fault | None = None


class CancelPage(Struct):
    """The tasks of a page that end, or not; `cursor` asks for those that follow."""

    items: tuple[CancelResult, ...]
    cursor: str | None = None


class AnswerResult(Struct):
    """A question that was answered, or would be. `refused` is why it isn't, such as another's answer."""

    schema_name = "Answered"
    id: str
    task_id: str
    wait_id: str
    kind: str
    question: str = ""
    is_dry: bool = False
    refused: Fault | None = None


class AnswerPage(Struct):
    """The questions of a page that were answered, or not; `cursor` asks for those that follow."""

    items: tuple[AnswerResult, ...]
    cursor: str | None = None
