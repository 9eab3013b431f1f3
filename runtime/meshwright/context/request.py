"""What the context-service is asked, what it plans, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import to_json

from meshwright.context.memory import MemoryItem, within_budget
from meshwright.context.text import ELLIPSIS, clip, count_tokens
from meshwright.messages import Identifier, Plain, Task

_MAX_CONTEXT_TOKENS = 4000  # of memories and history together, before the context-service has its say
_HISTORY_SHARE = 2  # history takes at most half of the budget
_MESSAGE_SHARE = 4  # and one message a quarter of that
MAX_SUMMARY_CHARS = 16_000
MAX_ITEMS = 200  # of one list
_MAX_REQUEST_CHARS = 100_000  # all text of a request; keeps planning under 20 ms
MAX_DEPTH = 8  # of objects and lists within one field

CompressionMethod = Literal["deterministic", "model", "deterministic-fallback"]
Item = str | dict[str, Any]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, (str, dict)) else value


def _lines_or_many(value: object) -> object:
    return [line for line in value.splitlines() if line.strip()] if isinstance(value, str) else value


Items = Annotated[list[Item], BeforeValidator(_one_or_many), Field(max_length=MAX_ITEMS)]
Conversation = Annotated[list[Item], BeforeValidator(_lines_or_many), Field(max_length=MAX_ITEMS)]
_Priority = Annotated[int, Field(ge=0, le=10)] | Annotated[str, StringConstraints(max_length=32)]


class CompressRequest(BaseModel):
    """Everything that a sender knows and a receiver may need for one task.

    An item is a text, or an object whose `text` (or `content`) is the text and whose other fields say more
    about it, such as a memory's score; the rules decide which of those are told. Memories are in order of
    relevance, or carry a `score`; a conversation is oldest first, as one text a line each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sender: Identifier
    receiver: Identifier
    project_id: Identifier
    task_summary: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_SUMMARY_CHARS)
    ]
    priority: _Priority = 5
    workflow_state: str | dict[str, Any] = ""
    sender_memories: Items = Field(default_factory=list)
    sender_questions: Items = Field(default_factory=list)
    conversation_snippet: Conversation = Field(default_factory=list)
    constraints: Items = Field(default_factory=list)
    known_failures: Items = Field(default_factory=list)

    @model_validator(mode="after")
    def _within_limits(self) -> CompressRequest:
        if sum(_sizes([value for _, value in self], 0)) > _MAX_REQUEST_CHARS:
            raise ValueError(f"a request may hold {_MAX_REQUEST_CHARS} characters of text; send less of it")
        return self


def _sizes(value: object, depth: int) -> Iterator[int]:
    """The length of each text within a value. Raises ValueError where it is nested too deep."""
    if depth > MAX_DEPTH + 1:
        raise ValueError(f"an item may be nested {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        yield sum(map(len, value))
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _sizes(each, depth + 1)
    else:
        yield len(str(value))


class Plan(Plain):
    """What the rules make of a request.

    `text` is the deterministic text, whole. `input_tokens` is what the request would have been without
    rules. `verbatim` are the texts that a shorter version must hold word for word; empty under the ceiling.
    """

    version: int = 1
    text: str
    input_tokens: int
    output_tokens: int
    token_ceiling: int
    verbatim: list[str] = Field(default_factory=list)

    @property
    def over_ceiling(self) -> bool:
        """Whether the text is to be compressed by a model."""
        return self.output_tokens > self.token_ceiling


class CompressStats(Plain):
    """What compression came to: tokens before and after, their ratio, and how long it took."""

    input_tokens: int
    output_tokens: int
    ratio: float
    duration_ms: float


class CompressResponse(Plain):
    """The context to give to the receiver, and how it was made.

    `method` is `deterministic` (by rules alone, the text was under the ceiling), `model` (a model made it
    shorter, and it was found valid) or `deterministic-fallback` (it was over the ceiling, and `error` says
    why there is no valid shorter text: this is the one by rules, whole).
    """

    success: bool
    compressed_context: str
    method: CompressionMethod
    stats: CompressStats
    validation_passed: bool
    error: str | None = None


def context_request(
    *,
    sender: str,
    receiver: str,
    task: Task,
    project_id: str = "default",
    history: Sequence[Mapping[str, Any]] = (),
    memories: Sequence[MemoryItem] = (),
    questions: Sequence[str] = (),
    constraints: Sequence[str] = (),
    known_failures: Sequence[str] = (),
    max_tokens: int = _MAX_CONTEXT_TOKENS,
) -> CompressRequest:
    """Ask for the context of an agent's run at a task.

    `history` is the thread's messages `{role, content}`, oldest first, and `memories` what was recalled, in
    order of relevance; of both goes in what `max_tokens` leave room for. `sender` is who asks the agent:
    the one that delegated to it, or the orchestrator.
    """
    chosen = build_agent_context(history, memories, max_tokens=max_tokens)
    # Built here, from checked parts: checking it again would be half the cost of a short request.
    return CompressRequest.model_construct(
        sender=sender,
        receiver=receiver,
        project_id=project_id,
        task_summary=_summary(task),
        priority=task.priority,
        workflow_state="",
        sender_memories=chosen.memories,
        sender_questions=list(questions),
        conversation_snippet=chosen.messages,
        constraints=list(constraints),
        known_failures=list(known_failures),
    )


def _summary(task: Task) -> str:
    """The request in words; where there are none, the payload as it is."""
    text = task.text.strip() or to_json(task.payload).decode()
    return text if len(text) <= MAX_SUMMARY_CHARS else text[: MAX_SUMMARY_CHARS - 1] + ELLIPSIS


@dataclass(frozen=True, slots=True)
class _AgentContext:
    """The memories, most relevant first, and the messages, oldest first, that fit a budget."""

    memories: list[str]
    messages: list[dict[str, str]]


def build_agent_context(
    history: Sequence[Mapping[str, Any]],
    memories: Sequence[MemoryItem],
    *,
    max_tokens: int = _MAX_CONTEXT_TOKENS,
) -> _AgentContext:
    """Choose what fits: the latest messages in half of the budget, and memories in what that leaves.

    Messages are `{role, content}`, oldest first; a long one is cut short. Memories come in order of
    relevance, and the least relevant are dropped first.
    """
    messages = recent_messages(history, max_tokens // _HISTORY_SHARE)
    left = max_tokens - sum(count_tokens(message["content"]) for message in messages)
    return _AgentContext([item.text for item in within_budget(memories, left)], messages)


def recent_messages(history: Sequence[Mapping[str, Any]], max_tokens: int) -> list[dict[str, str]]:
    """The latest messages that have at most so many tokens together, oldest first."""
    chosen: list[dict[str, str]] = []
    left = max_tokens
    longest = max(1, max_tokens // _MESSAGE_SHARE)
    for message in reversed(history):
        content = clip(str(message["content"]), longest)
        left -= count_tokens(content)
        if left < 0:
            break
        chosen.append({"role": str(message["role"]), "content": content})
    return chosen[::-1]
